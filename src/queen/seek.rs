//! A job looks for a worker: it is sent, and sent again with the same id, until one accepts it or time is up.

use std::time::{Duration, Instant};

use bytes::Bytes;
use tokio::sync::oneshot;

use super::{Shared, follow::Runner, record::Record, route::Wish};
use crate::{
    bus::{BusError, Exchange, Reply, Target},
    contract::{ErrorCode, Event, EventKind},
    http::ApiError,
    units::random_unit,
};

/// How long a worker has to accept a job before it is sent again.
pub const ACCEPT_WITHIN: Duration = Duration::from_secs(2);
/// The first pause is a random time up to this; the bound doubles with each.
pub const FIRST_PAUSE: Duration = Duration::from_millis(100);
/// The bound of a pause at most.
pub const LONGEST_PAUSE: Duration = Duration::from_secs(2);

/// A job on its way to a worker.
pub struct Seek<'a> {
    pub shared: &'a Shared,
    pub record: &'a Record,
    pub wish: Wish,
    pub body: Bytes,
    /// Told of the first answer, for a client that is to hear at once when nobody is there.
    pub first: Option<oneshot::Sender<Result<(), ApiError>>>,
}

/// Why a sending came to nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Why {
    NoResponders,
    Busy,
    Silence,
    WrongModel,
}

/// What was heard.
enum Heard {
    /// And the number of the event that says so.
    Accepted(Runner, u64),
    /// The job has ended; its record says how.
    Ended,
    TryAgain(Why),
    /// Nothing within the time.
    Nothing,
}

impl Seek<'_> {
    /// Sends the job until a worker accepts it: who, and the number of the event that says so.
    /// `None`: it has ended, or is forgotten because nobody is there.
    pub async fn run(mut self, exchange: &mut Exchange) -> Option<(Runner, u64)> {
        let give_up = Instant::now() + self.shared.options.queue_timeout;
        let mut bound = FIRST_PAUSE;
        let mut permit = None;
        loop {
            let route =
                self.shared.fleet.with_taking(|workers| self.wish.route(workers, super::random_below));
            let target = match route {
                Ok(route) => route.target,
                Err(error) => return self.end(error),
            };
            let sending = match exchange.send(&target, self.wish.capability, self.body.clone()).await {
                Ok(sending) => sending,
                Err(error) => return self.end(refused(&error)),
            };
            let until = Instant::now() + ACCEPT_WITHIN;
            let why = match self.listen(exchange, &target, Some(sending), until).await {
                Heard::Accepted(runner, seq) => return Some((runner, seq)),
                Heard::Ended => return None,
                Heard::TryAgain(why) => why,
                Heard::Nothing => Why::Silence,
            };
            let nobody = why == Why::NoResponders && !self.has_taker();
            if nobody {
                let error = ApiError::new(ErrorCode::Busy, self.nobody());
                return match self.first.take() {
                    // The client is still there to be told; there is no job then.
                    Some(first) => first.send(Err(error)).err().and_then(|unheard| self.end(unheard.err()?)),
                    None => self.end(error),
                };
            }
            self.tell_first();
            if Instant::now() >= give_up {
                let within = self.shared.options.queue_timeout;
                let message = format!("no worker took the job within {within:?}: {}", why.words());
                return self.end(ApiError::new(ErrorCode::Busy, message));
            }
            if permit.is_none() {
                permit = self.shared.retrying.clone().try_acquire_owned().ok();
                if permit.is_none() {
                    let message = format!(
                        "{}, and {} jobs are waiting already; send it again",
                        why.words(),
                        self.shared.options.max_retrying
                    );
                    return self.end(ApiError::new(ErrorCode::Busy, message));
                }
            }
            let pause = bound.mul_f64(random_unit());
            bound = (bound * 2).min(LONGEST_PAUSE);
            let until = (Instant::now() + pause).min(give_up);
            match self.listen(exchange, &target, None, until).await {
                Heard::Accepted(runner, seq) => return Some((runner, seq)),
                Heard::Ended => return None,
                Heard::TryAgain(_) | Heard::Nothing => {}
            }
        }
    }

    /// Reads replies until one decides. Only an answer to the sending `latest` sends the job again; that a worker
    /// accepted an earlier one counts all the same.
    async fn listen(
        &mut self,
        exchange: &mut Exchange,
        target: &Target,
        latest: Option<u32>,
        until: Instant,
    ) -> Heard {
        loop {
            let reply = tokio::select! {
                reply = exchange.next() => reply,
                () = tokio::time::sleep_until(until.into()) => return Heard::Nothing,
                () = self.record.cancel.cancelled() => {
                    self.record.push_own(None, EventKind::Cancelled { step: 0 });
                    self.recall(exchange).await;
                    return Heard::Ended;
                }
                () = self.shared.stopping.cancelled() => {
                    let message = "queen is shutting down and no worker had the job; send it again";
                    self.record.fail(None, ErrorCode::ShuttingDown, message);
                    self.tell_first();
                    return Heard::Ended;
                }
            };
            match reply {
                None => {
                    self.record.fail(None, ErrorCode::Internal, "the connection to NATS was closed");
                    return Heard::Ended;
                }
                Some(Reply::NoResponders { sending }) if Some(sending) == latest => {
                    return Heard::TryAgain(Why::NoResponders);
                }
                Some(Reply::NoResponders { .. } | Reply::End { .. }) => {}
                Some(Reply::Event { sending, event }) => {
                    if let Some(heard) = self.event(target, latest, sending, *event) {
                        return heard;
                    }
                }
            }
        }
    }

    fn event(&mut self, target: &Target, latest: Option<u32>, sending: u32, event: Event) -> Option<Heard> {
        let again = match &event.kind {
            EventKind::Accepted { .. } => {
                let runner = Runner { sending, worker: event.worker_id.clone() };
                let seq = event.seq;
                self.record.push(event);
                self.tell_first();
                return Some(Heard::Accepted(runner, seq));
            }
            // Of a worker whose `accepted` was lost.
            EventKind::Progress { .. } | EventKind::Preview { .. } => return None,
            EventKind::Error { code: ErrorCode::Busy | ErrorCode::ShuttingDown, .. } => Some(Why::Busy),
            // A worker without the model caught it on the shared subject, though another has it.
            EventKind::Error { code: ErrorCode::UnsupportedModel, .. }
                if *target == Target::Any && self.has_taker() =>
            {
                Some(Why::WrongModel)
            }
            EventKind::Error { .. } | EventKind::Complete(_) | EventKind::Cancelled { .. } => None,
        };
        match again {
            Some(why) if Some(sending) == latest => Some(Heard::TryAgain(why)),
            Some(_) => None,
            None => {
                self.record.push(event);
                self.tell_first();
                Some(Heard::Ended)
            }
        }
    }

    /// Stops a worker that takes the job after it was cancelled, if one does.
    async fn recall(&self, exchange: &mut Exchange) {
        let until = tokio::time::Instant::now() + ACCEPT_WITHIN;
        let job = &self.record.id;
        loop {
            if let Err(error) = self.shared.requester.cancel(job).await {
                tracing::warn!(%job, %error, "a cancel could not be sent");
            }
            match tokio::time::timeout_at(until, exchange.next()).await {
                Ok(Some(Reply::Event { event, .. })) if !event.kind.is_terminal() => {}
                _ => return,
            }
        }
    }

    fn has_taker(&self) -> bool {
        self.shared.fleet.with_taking(|workers| self.wish.has_taker(workers))
    }

    fn nobody(&self) -> String {
        let subject = self.wish.capability;
        match &self.wish.worker {
            Some(worker) => format!("worker `{worker}` is not up"),
            None => format!(
                "no worker is up, or all are busy (nobody listens on image.{subject}); \
                 start one: sd-worker-cpu --model <folder> --nats-url <queen's>"
            ),
        }
    }

    fn tell_first(&mut self) {
        if let Some(first) = self.first.take() {
            // The client may have gone.
            let _ = first.send(Ok(()));
        }
    }

    fn end<T>(&mut self, error: ApiError) -> Option<T> {
        self.record.fail(None, error.code, error.message);
        self.tell_first();
        None
    }
}

impl Why {
    fn words(self) -> &'static str {
        match self {
            Self::NoResponders => "no worker has a free slot",
            Self::Busy => "every worker is busy",
            Self::Silence => "no worker answered",
            Self::WrongModel => "the workers that have the model are busy",
        }
    }
}

fn refused(error: &BusError) -> ApiError {
    let code = match error {
        BusError::TooLarge { .. } => ErrorCode::PayloadTooLarge,
        _ => ErrorCode::Internal,
    };
    ApiError::new(code, error.to_string())
}
