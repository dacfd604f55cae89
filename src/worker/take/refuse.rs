//! Durable jobs that are not run: refused by what they say, or by an id that stands for another.

use std::sync::Arc;

use crate::{
    bus::{AppendError, Delivery, Entry, Settle},
    contract::{ErrorCode, Event, EventKind, JobId},
    worker::{
        own::{AWAY_FOR, CLAIM_TRIES, Found, found},
        shared::Context,
    },
};

/// A durable job that is refused by what it says: its sender is told, and the message goes.
pub async fn refuse(
    context: &Context,
    id: &JobId,
    delivery: Delivery,
    code: ErrorCode,
    message: String,
    traceparent: Option<String>,
) {
    for _ in 0..CLAIM_TRIES {
        let last = match context.log.last(id).await {
            Ok(last) => last,
            Err(error) => {
                tracing::warn!(job_id = %id, %error, "a job's log is out of reach; the job waits");
                return delivery.settle(Settle::Again(AWAY_FOR)).await;
            }
        };
        let (last, attempt, seq) = match found(last, delivery.after) {
            Found::Ended(_) => return delivery.settle(Settle::Done).await,
            Found::WornOut(last) => (last.sequence, last.event.attempt, last.event.seq + 1),
            Found::Open { last, attempt, seq, .. } => (last, attempt, seq),
        };
        let event = Event {
            job_id: id.clone(),
            worker_id: context.identity.worker_id.clone(),
            attempt,
            seq,
            kind: EventKind::error(code, message.clone()),
        };
        let entry = Entry { event: Arc::new(event), failures: 0, traceparent: traceparent.clone() };
        match context.log.append(&entry, last).await {
            Ok(_) => return delivery.settle(Settle::Gone).await,
            Err(AppendError::Fenced) => {}
            Err(AppendError::Bus(error)) => {
                tracing::warn!(job_id = %id, %error, "an event could not be stored; the job waits");
                return delivery.settle(Settle::Again(AWAY_FOR)).await;
            }
        }
    }
    delivery.settle(Settle::Again(AWAY_FOR)).await;
}

/// A message whose id stands for another job: it is kept among the dead letters, and that job hears nothing of it.
pub async fn set_aside(id: &JobId, delivery: Delivery, message: &str) {
    tracing::warn!(job_id = %id, message, "a job is set aside");
    match delivery.bury(id, ErrorCode::InvalidRequest, message).await {
        Ok(()) => delivery.settle(Settle::Gone).await,
        Err(error) => {
            tracing::error!(job_id = %id, %error, "a dead letter could not be stored");
            delivery.settle(Settle::Again(AWAY_FOR)).await;
        }
    }
}
