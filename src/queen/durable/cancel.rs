//! Cancelling a durable job: by the worker that has it, or here when none does.

use std::{sync::Arc, time::Duration};

use bytes::Bytes;

use super::{Durable, Log, away};
use crate::{
    bus::{AppendError, Entry, EventLog},
    contract::{Event, EventKind, JobId},
    http::ApiError,
    queen::{Queen, busy, ended_how, record::QUEEN_ID},
    storage::Key,
};

/// How often a job is looked at whose worker said that it stops it.
const SEE_EVERY: Duration = Duration::from_secs(2);
/// How often at most: a worker that still answers then is alive, and will stop at its next step.
const SEE_TIMES: u32 = 60;
/// How often another event may come between reading the last one and writing the end.
const FENCE_TRIES: u32 = 20;

impl Queen {
    /// Cancels a job that the streams know. The worker that has it ends it within a step; if none has, it ends here.
    pub(in crate::queen) async fn cancel_durably(
        &self,
        durable: &Arc<Durable>,
        log: Log,
    ) -> Result<(), ApiError> {
        refuse_ended(&log)?;
        // No worker has begun with it: one that begins now finds that it has ended.
        if log.last.is_none() && self.try_to_end(durable, &log).await? {
            return Ok(());
        }
        if !self.shared.requester.cancel_and_ask(&log.id).await {
            return self.end_cancelled(durable, &log).await;
        }
        // It may die before it has.
        let (queen, durable) = (self.clone(), durable.clone());
        tokio::spawn(async move {
            if let Err(error) = queen.see_it_end(&durable, &log).await {
                tracing::warn!(job = %log.id, error = %error.message, "whether a job was cancelled is not known");
            }
        });
        Ok(())
    }

    async fn see_it_end(&self, durable: &Durable, log: &Log) -> Result<(), ApiError> {
        for _ in 0..SEE_TIMES {
            tokio::time::sleep(SEE_EVERY).await;
            let now = durable.look(&log.id).await?;
            // Ended, or even sent again since then, which is another story.
            if now.ended().is_some() || sending(&now) != sending(log) {
                return Ok(());
            }
            if !self.shared.requester.cancel_and_ask(&log.id).await {
                return match self.end_cancelled(durable, log).await {
                    Err(error) if error.status == 409 => Ok(()),
                    done => done,
                };
            }
        }
        Ok(())
    }

    /// Ends a job that no worker has, or that one has which does not answer: whatever that one says later is refused.
    async fn end_cancelled(&self, durable: &Durable, log: &Log) -> Result<(), ApiError> {
        let id = &log.id;
        for _ in 0..FENCE_TRIES {
            let now = durable.look(id).await?;
            refuse_ended(&now)?;
            if sending(&now) != sending(log) {
                return Err(ApiError::has_ended(id, "it was sent again since"));
            }
            if self.try_to_end(durable, &now).await? {
                return Ok(());
            }
        }
        Err(busy(&format!("job `{id}` has a new event each time that it is to be ended")))
    }

    /// Ends a job, if its last event is still that which `log` has; whether it is.
    async fn try_to_end(&self, durable: &Durable, log: &Log) -> Result<bool, ApiError> {
        let id = &log.id;
        let entry = Entry { failures: failures(log), ..Entry::of(end_of(log)) };
        let after = log.last_ever.as_ref().map_or(0, |last| last.sequence);
        match durable.streams.append(&entry, after).await {
            Ok(_) => {}
            Err(AppendError::Fenced) => return Ok(false),
            Err(AppendError::Bus(error)) => return Err(away(&error)),
        }
        // It has ended. What follows spares a worker the look at it, today and when its events are forgotten.
        if let Some(ticket) = log.ticket()
            && let Err(error) = durable.streams.delete_job(ticket.sequence, id).await
        {
            tracing::warn!(job = %id, %error, "the message of a cancelled job could not be removed");
        }
        self.mark(id).await;
        if let Err(error) = self.shared.store.delete(&Key::Checkpoint { job: id.clone() }).await {
            tracing::warn!(job = %id, %error, "the checkpoint of a cancelled job could not be removed");
        }
        Ok(true)
    }

    /// Leaves word in the store, for a worker that gets the message after the events were forgotten.
    async fn mark(&self, id: &JobId) {
        let body = Bytes::from(serde_json::json!({ "job_id": id }).to_string());
        let key = Key::Cancelled { job: id.clone() };
        if let Err(error) = self.shared.store.put(&key, body, "application/json").await {
            tracing::warn!(job = %id, %error, "that a job is cancelled could not be stored");
        }
    }
}

fn refuse_ended(log: &Log) -> Result<(), ApiError> {
    match log.ended() {
        Some(status) => Err(ApiError::has_ended(&log.id, ended_how(status))),
        None => Ok(()),
    }
}

/// Which sending of the job it is.
fn sending(log: &Log) -> Option<u64> {
    log.ticket().map(|ticket| ticket.sequence)
}

fn failures(log: &Log) -> u32 {
    log.last.as_ref().map_or(0, |last| last.failures)
}

/// The event that ends the job.
fn end_of(log: &Log) -> Event {
    let number = |last: u64| last + 1;
    let seq = match &log.last_ever {
        Some(last) => number(last.event.seq),
        None => log.past().map_or(0, number),
    };
    let last = log.last.as_ref().map(|last| &last.event);
    let step = match last.map(|event| &event.kind) {
        Some(EventKind::Progress { step, .. }) => *step,
        _ => 0,
    };
    let attempt = last.map_or(1, |event| event.attempt);
    Event {
        job_id: log.id.clone(),
        worker_id: QUEEN_ID.parse().expect("a valid id"),
        attempt,
        seq,
        kind: EventKind::Cancelled { step },
    }
}
