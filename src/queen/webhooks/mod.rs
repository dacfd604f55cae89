//! Webhooks: events of jobs, posted to a URL that the job's sender named, signed as Standard Webhooks 1.0.0 says.
//!
//! An attempt has the same way for every job: `target` says whether the URL may be posted to at all, `places` whether its
//! receiver has room now, `payload` what is posted and `secrets` how it is signed; `poster` posts it to addresses that
//! `network` lets through, and `schedule` says what follows from the answer.
//!
//! Events of durable jobs come from the outbox of the pool (`bus/outbox`), one queen's at a time, and go back there until
//! they are taken (`durable`). Those of jobs that only this queen has are in its memory (`remembered`). Nobody who draws
//! or serves waits for any of it.

mod durable;
mod network;
mod options;
mod payload;
mod places;
mod poster;
mod remembered;
mod schedule;
mod secrets;
mod target;

use std::{
    sync::atomic::{AtomicBool, Ordering},
    time::{Duration, SystemTime},
};

use tokio::sync::Semaphore;

use super::{Queen, durable::away};
use crate::{
    bus::Streams,
    contract::{ContractError, Event, EventKind, JobId, Operation, Webhook},
    http::ApiError,
};

use durable::Lately;
use places::Places;
use poster::{Outcome, Poster};
use schedule::Next;
use target::{Rules, Target};

pub use options::WebhookOptions;
pub(super) use secrets::{Secrets, SecretsError};

/// How long an event waits whose receiver has as many under way as it may: this to twice this.
const NO_PLACE: Duration = Duration::from_secs(3);

/// What all webhooks share.
pub(super) struct Webhooks {
    secrets: Secrets,
    rules: Rules,
    poster: Poster,
    places: Places,
    /// How long an event is posted again and again.
    retry_for: Duration,
    /// The outbox of durable jobs is there.
    is_kept: AtomicBool,
    lately: Lately,
    /// Events in memory that wait to be told again.
    remembered: Semaphore,
}

/// An event that is posted.
struct Told<'a> {
    event: &'a Event,
    /// When it was stored, or happened.
    at: SystemTime,
    webhook: &'a Webhook,
    /// Whose the job is.
    owner: Option<&'a str>,
}

/// What came of an attempt.
enum Attempt {
    /// Nothing was sent: there is no place for this host.
    NoPlace(String),
    Made {
        outcome: Outcome,
        host: String,
    },
}

impl Webhooks {
    /// Webhooks that are signed with these secrets.
    ///
    /// # Errors
    /// When the client cannot be made.
    pub fn new(options: &WebhookOptions, secrets: Secrets) -> Result<Self, reqwest::Error> {
        Ok(Self {
            secrets,
            rules: Rules::new(&options.webhook_allow),
            poster: Poster::new(&options.webhook_allow, options.webhook_timeout)?,
            places: Places::new(options.webhook_concurrency, options.webhook_per_host),
            retry_for: options.webhook_retry_for,
            is_kept: AtomicBool::new(false),
            lately: Lately::default(),
            remembered: Semaphore::new(remembered::MAX_WAITING),
        })
    }

    /// Sees to it that what becomes of a durable job is kept until it is told.
    pub async fn are_kept(&self, streams: &Streams) -> Result<(), ApiError> {
        if !self.is_kept.load(Ordering::Relaxed) {
            streams.ensure_outbox().await.map_err(|error| away(&error))?;
            self.is_kept.store(true, Ordering::Relaxed);
        }
        Ok(())
    }

    /// Refuses what would never be posted.
    fn check(&self, webhook: &Webhook, owner: Option<&str>) -> Result<(), String> {
        if !self.secrets.sign_for(owner) {
            return Err(
                "there is no secret for this client's webhooks (--webhook-secret-file); leave it out".into(),
            );
        }
        self.rules.target(&webhook.url).map(drop)
    }
}

impl Queen {
    /// Takes the webhook out of a request that may have one.
    ///
    /// # Errors
    /// The field that is wrong.
    pub(super) fn take_webhook(&self, operation: &mut Operation) -> Result<Option<Webhook>, ApiError> {
        let Some(webhooks) = &self.shared.webhooks else {
            return match operation.webhook_fields().first() {
                None => Ok(None),
                Some(field) => {
                    let reason = "this queen posts no webhooks (it has no --webhook-secret-file); read the job's stream, \
                                  or leave it out";
                    Err(ContractError::field(*field, reason).into())
                }
            };
        };
        let webhook = operation.take_webhook()?;
        if let Some(webhook) = &webhook {
            let checked = webhooks.check(webhook, self.asker.name().as_deref());
            checked.map_err(|reason| ContractError::field("webhook_url", reason))?;
        }
        Ok(webhook)
    }

    /// Posts an event once, if its receiver has a place.
    async fn post(&self, webhooks: &Webhooks, told: &Told<'_>) -> Attempt {
        let Target { url, host, is_open } = match webhooks.rules.target(&told.webhook.url) {
            Ok(target) => target,
            // Taken by a queen with other rules.
            Err(reason) => return Attempt::Made { outcome: Outcome::Forbidden(reason), host: String::new() },
        };
        let Some(place) = webhooks.places.take(&host) else { return Attempt::NoPlace(host) };
        let event = self.renewed(told.event.clone()).await;
        let id = webhook_id(&event);
        let body = payload::of(event, told.at);
        let Some(signed) = webhooks.secrets.sign(told.owner, &id, SystemTime::now(), &body) else {
            // The file has changed since, and may change again.
            let outcome = Outcome::failed("no secret is left to sign it with");
            return Attempt::Made { outcome, host };
        };
        let outcome = webhooks.poster.post(url, is_open, signed, body).await;
        place.done(&outcome);
        Attempt::Made { outcome, host }
    }
}

/// By what a receiver knows an event that it gets twice.
fn webhook_id(event: &Event) -> String {
    format!("{}_{}", event.job_id, event.seq)
}

/// A little more than this, so that what comes back does not come back all at once.
fn spread(pause: Duration) -> Duration {
    pause.mul_f64(1.0 + crate::units::random_unit())
}

/// Logs what came of an attempt. Of a URL only the host is told: paths and queries may hold secrets.
fn log(job: &JobId, kind: &EventKind, host: &str, outcome: &Outcome, next: Next) {
    let event = kind.name();
    match next {
        Next::Done => tracing::info!(job_id = %job, event, host, "a webhook is taken"),
        Next::Again(after) => {
            let seconds = after.as_secs();
            tracing::info!(job_id = %job, event, host, %outcome, again_in_s = seconds, "a webhook is not taken");
        }
        Next::GiveUp => tracing::warn!(job_id = %job, event, host, %outcome, "a webhook is given up"),
    }
}
