//! How many jobs a client may send, and how many other requests: a bucket for each, which fills at a steady rate.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use axum::{
    extract::{Request, State},
    http::Method,
    middleware::Next,
    response::{IntoResponse, Response},
};

use super::{auth::Client, foreign};
use crate::{contract::HttpCode, http::ApiError};

/// The clients that are remembered. Beyond them all others share one bucket, so that the limit holds for many addresses.
const MAX_CLIENTS: usize = 10_000;
/// How often clients that have been quiet are looked for while as many are remembered as may.
const TIDY_EVERY: Duration = Duration::from_secs(1);

/// The limits of a client. Cheap to clone; clones count together.
#[derive(Clone)]
pub(super) struct RateLimits {
    /// Of what makes work for the pool: every POST. `None`: any number.
    pub jobs: Option<RateLimit>,
    /// Of all other requests.
    pub others: Option<RateLimit>,
}

/// One limit. Cheap to clone; clones count together.
#[derive(Clone)]
pub(super) struct RateLimit {
    /// Requests a second.
    rate: f64,
    /// Requests at once, after a pause.
    burst: f64,
    buckets: Arc<Mutex<Buckets>>,
}

struct Buckets {
    of: HashMap<Client, Bucket>,
    others: Bucket,
    tidied: Instant,
}

/// What was left at a moment.
#[derive(Clone, Copy)]
struct Bucket {
    left: f64,
    at: Instant,
}

impl RateLimit {
    /// `rate` requests a second, `burst` at once; both above 0.
    pub fn new(rate: f64, burst: u32) -> Self {
        Self::at(rate, burst, Instant::now())
    }

    fn at(rate: f64, burst: u32, now: Instant) -> Self {
        let burst = f64::from(burst);
        let others = Bucket { left: burst, at: now };
        let buckets = Buckets { of: HashMap::new(), others, tidied: now };
        Self { rate, burst, buckets: Arc::new(Mutex::new(buckets)) }
    }

    /// Takes one request out of the client's bucket, or says when there will be one in it.
    fn take(&self, client: &Client, now: Instant) -> Result<(), Duration> {
        let buckets = &mut *self.buckets.lock().unwrap_or_else(PoisonError::into_inner);
        let full = Bucket { left: self.burst, at: now };
        if buckets.of.len() >= MAX_CLIENTS && now.duration_since(buckets.tidied) >= TIDY_EVERY {
            buckets.tidied = now;
            // A full bucket is what a client has that was never seen.
            buckets.of.retain(|_, bucket| self.filled(*bucket, now) < self.burst);
        }
        let bucket = if buckets.of.len() < MAX_CLIENTS || buckets.of.contains_key(client) {
            buckets.of.entry(client.clone()).or_insert(full)
        } else {
            &mut buckets.others
        };
        let left = self.filled(*bucket, now);
        if left < 1.0 {
            *bucket = Bucket { left, at: now };
            return Err(Duration::from_secs_f64((1.0 - left) / self.rate));
        }
        *bucket = Bucket { left: left - 1.0, at: now };
        Ok(())
    }

    fn filled(&self, bucket: Bucket, now: Instant) -> f64 {
        (bucket.left + now.duration_since(bucket.at).as_secs_f64() * self.rate).min(self.burst)
    }
}

/// Refuses a request of a client that has sent too many, before its body is read. Not one to /health, which load balancers
/// send from where clients may be too.
pub(super) async fn limit(State(limits): State<RateLimits>, request: Request, next: Next) -> Response {
    let limit = match *request.method() {
        Method::POST if !foreign::only_looks(request.uri().path()) => limits.jobs,
        _ if request.uri().path() == "/health" => None,
        _ => limits.others,
    };
    if let Some(limit) = limit
        && let Some(client) = request.extensions().get::<Client>()
        && let Err(wait) = limit.take(client, Instant::now())
    {
        tracing::debug!(?client, method = %request.method(), "too many requests");
        let message = format!("more than {} requests a second of one client; try again later", limit.rate);
        return ApiError::of_request(HttpCode::RateLimited, message).with_retry_after(wait).into_response();
    }
    next.run(request).await
}

#[cfg(test)]
mod tests {
    use super::*;

    fn client(number: u32) -> Client {
        Client::At(std::net::Ipv4Addr::from_bits(number).into())
    }

    #[test]
    fn a_client_has_its_burst_and_then_its_rate() {
        let start = Instant::now();
        let limit = RateLimit::at(2.0, 3, start);
        let (a, b) = (client(1), client(2));
        for _ in 0..3 {
            assert_eq!(limit.take(&a, start), Ok(()));
        }
        assert_eq!(limit.take(&a, start), Err(Duration::from_millis(500)));
        assert_eq!(limit.take(&b, start), Ok(()), "another client has its own");
        let later = start + Duration::from_millis(500);
        assert_eq!(limit.take(&a, later), Ok(()));
        assert!(limit.take(&a, later).is_err(), "a refusal costs nothing, and half a second fills one");
        let hour = start + Duration::from_secs(3600);
        assert_eq!((0..10).filter(|_| limit.take(&a, hour).is_ok()).count(), 3, "never more than the burst");
    }

    #[test]
    fn more_clients_than_may_be_remembered_share_one_bucket() {
        let start = Instant::now();
        let limit = RateLimit::at(1.0, 2, start);
        let many = 0..u32::try_from(MAX_CLIENTS).unwrap();
        assert!(many.clone().all(|number| limit.take(&client(number), start).is_ok()));
        let strangers = many.end..many.end + 50;
        assert_eq!(strangers.filter(|number| limit.take(&client(*number), start).is_ok()).count(), 2);
        assert_eq!(limit.take(&client(0), start), Ok(()), "who is remembered has its own");
        assert_eq!(limit.buckets.lock().unwrap().of.len(), MAX_CLIENTS);
        let later = start + Duration::from_secs(1);
        assert_eq!(limit.take(&client(many.end), later), Ok(()));
        assert!(limit.buckets.lock().unwrap().of.len() <= 2, "the quiet ones are forgotten");
    }
}
