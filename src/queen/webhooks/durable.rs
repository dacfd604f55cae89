//! Events of durable jobs, from the outbox of the pool to their receivers.
//!
//! The event that ends a job, and the one that begins it, come again until a receiver has taken them. How a job goes is
//! told once at most, and now and then.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError, atomic::Ordering},
    time::{Duration, Instant, SystemTime},
};

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::{Attempt, NO_PLACE, Next, Told, Webhooks, log, schedule::Standing, spread};
use crate::{
    bus::{BusError, Logged, Posting, Streams},
    contract::{Event, EventKind, JobId},
    queen::{Queen, durable::Durable},
};

/// The pause before the outbox is opened again.
const OPEN_AGAIN: Duration = Duration::from_secs(2);
/// Jobs whose tickets are looked for at one time.
const LOOKED_UP: usize = 32;
/// How long an event waits when NATS cannot say whether it has a receiver.
const ASK_AGAIN: Duration = Duration::from_secs(5);
/// A ticket is written behind its job, and is there this long after the job's first event; and how long it is waited for.
const TICKET_WITHIN: Duration = Duration::from_secs(30);
const TICKET_PAUSE: Duration = Duration::from_secs(2);
/// The time between two webhooks of how a job goes.
const PROGRESS_EVERY: Duration = Duration::from_secs(1);
/// Jobs of which it is remembered when that was told last.
const MAX_LATELY: usize = 10_000;

/// When it was last told how jobs go.
#[derive(Debug, Default)]
pub(super) struct Lately(Mutex<HashMap<JobId, Instant>>);

impl Lately {
    /// Whether it is time to tell it of this job.
    pub fn is_due(&self, job: &JobId) -> bool {
        let mut told = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if told.get(job).is_some_and(|at| at.elapsed() < PROGRESS_EVERY) {
            return false;
        }
        if told.len() >= MAX_LATELY {
            told.retain(|_, at| at.elapsed() < PROGRESS_EVERY);
        }
        if told.len() < MAX_LATELY {
            told.insert(job.clone(), Instant::now());
            return true;
        }
        false
    }
}

impl Queen {
    /// Tells what becomes of durable jobs, for as long as queen runs.
    pub(in crate::queen) async fn tell_of_durable_jobs(self, webhooks: Arc<Webhooks>, durable: Arc<Durable>) {
        // What is under way goes on; what is not settled when queen ends is another's.
        let stopping = self.shared.stopping.clone();
        let mut told = None;
        loop {
            if durable.is_ready() && durable.streams.is_connected() {
                let handed_on = self.hand_on(&webhooks, &durable, &mut told);
                let Some(error) = stopping.run_until_cancelled(handed_on).await else { return };
                webhooks.is_kept.store(false, Ordering::Relaxed);
                let text = error.to_string();
                if told.as_ref() != Some(&text) {
                    tracing::warn!(%error, "webhooks of durable jobs are not posted at present");
                }
                told = Some(text);
            }
            if stopping.run_until_cancelled(tokio::time::sleep(OPEN_AGAIN)).await.is_none() {
                return;
            }
        }
    }

    /// Hands on what comes, until the outbox must be opened again. `told`: why it had to be before.
    async fn hand_on(
        &self,
        webhooks: &Arc<Webhooks>,
        durable: &Arc<Durable>,
        told: &mut Option<String>,
    ) -> BusError {
        let mut outbox = match durable.streams.outbox().await {
            Ok(outbox) => outbox,
            Err(error) => return error,
        };
        webhooks.is_kept.store(true, Ordering::Relaxed);
        if told.take().is_some() {
            tracing::info!("webhooks of durable jobs are posted");
        }
        let looking_up = Arc::new(Semaphore::new(LOOKED_UP));
        loop {
            let posting = match outbox.next().await {
                Ok(posting) => posting,
                Err(error) => return error,
            };
            match &posting.logged.event.kind {
                EventKind::Preview { .. } => posting.done().await,
                EventKind::Progress { .. } => {
                    self.tell_progress(webhooks, durable, &posting.logged);
                    posting.done().await;
                }
                EventKind::Accepted { .. }
                | EventKind::Complete(_)
                | EventKind::Error { .. }
                | EventKind::Cancelled { .. } => {
                    let is_crowded = outbox.is_crowded().await;
                    let turn = looking_up.clone().acquire_owned().await.expect("it is never closed");
                    let (queen, webhooks) = (self.clone(), webhooks.clone());
                    let streams = durable.streams.clone();
                    tokio::spawn(
                        async move { queen.tell(&webhooks, &streams, posting, is_crowded, turn).await },
                    );
                }
            }
        }
    }

    /// Posts an event that is kept until it is taken.
    async fn tell(
        &self,
        webhooks: &Webhooks,
        streams: &Streams,
        posting: Posting,
        is_crowded: bool,
        turn: OwnedSemaphorePermit,
    ) {
        let Logged { event, stored_at, queued, .. } = &posting.logged;
        let age = SystemTime::now().duration_since(*stored_at).unwrap_or_default();
        let ticket = match streams.stored_ticket(&event.job_id).await {
            Ok(Some(stored)) => stored.ticket,
            // A job of the queue, whose ticket is on its way. Any other has none.
            Ok(None) if queued.is_some() && age < TICKET_WITHIN => return posting.again(TICKET_PAUSE).await,
            Ok(None) => return posting.done().await,
            Err(error) => {
                tracing::debug!(job_id = %event.job_id, %error, "whether a job has a webhook cannot be seen");
                return posting.again(spread(ASK_AGAIN)).await;
            }
        };
        drop(turn);
        // The end of an earlier sending is none any more.
        let webhook = ticket.webhook.as_ref().filter(|webhook| webhook.wants(&event.kind));
        let Some(webhook) = webhook.filter(|_| !ticket.is_past(event.seq)) else {
            return posting.done().await;
        };
        let told = Told { event, at: *stored_at, webhook, owner: ticket.owner.as_deref() };
        let (outcome, host) = match self.post(webhooks, &told).await {
            Attempt::NoPlace(_) => return posting.again(spread(NO_PLACE)).await,
            Attempt::Made { outcome, host } => (outcome, host),
        };
        let standing = Standing { age, times: posting.times, retry_for: webhooks.retry_for, is_crowded };
        let next = standing.after(&outcome);
        log(&event.job_id, &event.kind, &host, &outcome, next);
        match next {
            Next::Again(after) => posting.again(after).await,
            Next::Done | Next::GiveUp => posting.done().await,
        }
    }

    /// Tells how a job goes, if somebody wants to know it now.
    fn tell_progress(&self, webhooks: &Arc<Webhooks>, durable: &Durable, logged: &Logged) {
        let job = &logged.event.job_id;
        let Some((webhook, owner)) = durable.register.progress_of(job) else { return };
        if webhooks.lately.is_due(job) {
            let (queen, webhooks) = (self.clone(), webhooks.clone());
            let (event, at): (Event, _) = (logged.event.clone(), logged.stored_at);
            tokio::spawn(async move {
                let told = Told { event: &event, at, webhook: &webhook, owner: owner.as_deref() };
                queen.post(&webhooks, &told).await;
            });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn how_a_job_goes_is_told_now_and_then_and_memory_is_bounded() {
        let lately = Lately::default();
        let id = |number: usize| JobId::new(format!("j{number}")).unwrap();
        assert!(lately.is_due(&id(0)) && !lately.is_due(&id(0)));
        let told = (1..MAX_LATELY + 10).filter(|number| lately.is_due(&id(*number))).count();
        assert_eq!(told, MAX_LATELY - 1);
    }
}
