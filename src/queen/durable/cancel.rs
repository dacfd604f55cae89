//! Cancelling a durable job: first it is on record in the store, then the worker that has it is asked, or it ends here.

use bytes::Bytes;

use super::{Durable, Log, away};
use crate::{
    bus::{AppendError, Entry, EventLog},
    contract::{Event, EventKind, JobId},
    http::ApiError,
    queen::{Queen, busy, ended_how, record::QUEEN_ID},
    storage::{Key, StorageError},
};

/// How often another event may come between reading the last one and writing the end.
const FENCE_TRIES: u32 = 20;

impl Queen {
    /// Cancels a job that the streams know. The worker that has it ends it within a step; if none has, it ends here.
    ///
    /// The marker in the store comes first: whoever gets the job next, should its worker die over the cancel, ends it by
    /// that. Nothing is promised when the store does not take it.
    pub(in crate::queen) async fn cancel_durably(&self, durable: &Durable, log: Log) -> Result<(), ApiError> {
        refuse_ended(&log)?;
        self.mark(&log.id).await?;
        // No worker has begun with it: one that begins now finds that it has ended.
        if log.last.is_none() && self.try_to_end(durable, &log).await? {
            return Ok(());
        }
        if self.shared.requester.cancel_and_ask(&log.id).await {
            return Ok(());
        }
        self.end_cancelled(durable, &log).await
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
        // It has ended. What follows spares a worker the look at it.
        if let Some(ticket) = log.ticket()
            && let Err(error) = durable.streams.delete_job(ticket.sequence, id).await
        {
            tracing::warn!(job = %id, %error, "the message of a cancelled job could not be removed");
        }
        if let Err(error) = self.shared.store.delete(&Key::Checkpoint { job: id.clone() }).await {
            tracing::warn!(job = %id, %error, "the checkpoint of a cancelled job could not be removed");
        }
        Ok(true)
    }

    /// Leaves word in the store.
    async fn mark(&self, id: &JobId) -> Result<(), StorageError> {
        let body = Bytes::from(serde_json::json!({ "job_id": id }).to_string());
        self.shared.store.put(&Key::Cancelled { job: id.clone() }, body, "application/json").await
    }

    /// Takes the word back that an earlier sending of the job was cancelled, before it is sent again.
    pub(super) async fn unmark(&self, id: &JobId) -> Result<(), StorageError> {
        self.shared.store.delete(&Key::Cancelled { job: id.clone() }).await
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
