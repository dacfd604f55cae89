//! What those are told whose job is not taken.

use std::sync::Arc;

use super::admit::Refusal;
use crate::{
    bus::{Delivery, Outgoing, To},
    contract::{Event, EventKind, JobId},
    worker::{own::end_unrun, shared::Context},
};

/// A request: its sender is told, and nobody else.
pub async fn refuse(
    context: &Context,
    job_id: JobId,
    reply: Option<String>,
    traceparent: Option<String>,
    refusal: Refusal,
) {
    let Some(reply) = reply else { return };
    let worker_id = context.identity.worker_id.clone();
    let kind = EventKind::error(refusal.code, refusal.message);
    let event = Event { job_id: job_id.clone(), worker_id: worker_id.clone(), attempt: 1, seq: 0, kind };
    let outgoing = |event: Option<Arc<Event>>| Outgoing {
        to: To::Reply(reply.clone()),
        event,
        job_id: job_id.clone(),
        worker_id: worker_id.clone(),
        traceparent: traceparent.clone(),
    };
    context.sink.deliver(&[outgoing(Some(Arc::new(event))), outgoing(None)]).await;
}

/// A job of the queue that no worker could do: it ends, and its message goes.
pub async fn refuse_queued(
    context: &Context,
    id: &JobId,
    delivery: Delivery,
    refusal: Refusal,
    traceparent: Option<String>,
) {
    let kind = EventKind::error(refusal.code, refusal.message);
    end_unrun(context, id, None, delivery, kind, traceparent).await;
}
