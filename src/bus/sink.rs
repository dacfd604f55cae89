//! Events out: to the requester's inbox, to `events.<job_id>` and `previews.<job_id>`.
//!
//! What the client takes while NATS is away, or has written to a socket that dies, is lost without a word. So messages
//! are kept here until there is a connection, and published again when it was lost before the server had them; a reader
//! may then see one twice, with the same number.

use std::sync::Arc;

use async_nats::{HeaderMap, Subject, client::PublishErrorKind};
use futures::{FutureExt, future::BoxFuture};

use super::{
    BusError, EventSink, Outgoing, To,
    barrier::{Barrier, Passed},
    connect::Link,
};
use crate::contract::{Event, EventKind, JobId, Subjects, WorkerId, headers};

/// The longest error message in a header, in characters (the body has it all).
const MAX_HEADER_TEXT: usize = 256;

/// Events to NATS. Cheap to clone.
#[derive(Debug, Clone)]
pub struct NatsSink {
    link: Link,
    barrier: Barrier,
    subjects: Subjects,
}

impl NatsSink {
    pub(super) fn new(link: Link, barrier: Barrier, subjects: Subjects) -> Self {
        Self { link, barrier, subjects }
    }

    /// Publishes one message. What went wrong is logged: no repetition would help.
    async fn publish(&self, message: &Outgoing) {
        let Err(error) = self.try_publish(message).await else { return };
        let job_id = &message.job_id;
        let shorter = match (&error, &message.event) {
            (BusError::TooLarge { .. }, Some(event)) => shortened(event),
            _ => None,
        };
        let Some(shorter) = shorter else {
            return tracing::error!(%job_id, %error, "an event is lost");
        };
        tracing::warn!(%job_id, %error, "the job's end is too large; sending it without its details");
        let message = Outgoing { event: Some(Arc::new(shorter)), ..message.clone() };
        if let Err(error) = self.try_publish(&message).await {
            tracing::error!(%job_id, %error, "the job's end is lost");
        }
    }

    async fn try_publish(&self, message: &Outgoing) -> Result<(), BusError> {
        let subject = match &message.to {
            To::Reply(reply) => reply.clone(),
            To::Events => self.subjects.events(&message.job_id),
            To::Previews => self.subjects.previews(&message.job_id),
        };
        let body = message.event.as_ref().map_or_else(Vec::new, |event| to_json(event));
        let bytes = body.len();
        let sent = self
            .link
            .client
            .publish_with_headers(Subject::from(subject.clone()), headers_of(message), body.into())
            .await;
        sent.map_err(|error| match error.kind() {
            PublishErrorKind::MaxPayloadExceeded => {
                BusError::TooLarge { subject, bytes, limit: self.link.client.max_payload() }
            }
            PublishErrorKind::InvalidSubject | PublishErrorKind::Send => {
                BusError::Publish { subject, reason: error.to_string() }
            }
        })
    }
}

impl EventSink for NatsSink {
    fn deliver<'a>(&'a self, messages: &'a [Outgoing]) -> BoxFuture<'a, ()> {
        async move {
            if messages.is_empty() {
                return;
            }
            loop {
                self.link.settled().await;
                let connections = self.link.connections();
                for message in messages {
                    self.publish(message).await;
                }
                match self.barrier.pass().await {
                    Passed::Yes if self.link.connections() == connections => return,
                    Passed::NoAnswer => {
                        tracing::warn!(
                            "the server confirms nothing; may this user subscribe to its own inbox?"
                        );
                        return;
                    }
                    Passed::Yes | Passed::ConnectionLost => {
                        tracing::info!(
                            messages = messages.len(),
                            "the connection was lost before the server confirmed; publishing again"
                        );
                    }
                }
            }
        }
        .boxed()
    }
}

/// A terminal event without what makes it long: `result.json` has it all. `None` for any other event.
pub fn shortened(event: &Event) -> Option<Event> {
    let kind = match &event.kind {
        EventKind::Accepted { .. } | EventKind::Progress { .. } | EventKind::Preview { .. } => return None,
        EventKind::Complete(complete) => {
            let mut complete = complete.clone();
            complete.images.iter_mut().for_each(|image| image.url.clear());
            complete.warnings = vec!["shortened to fit into a message; result.json has it all".into()];
            EventKind::Complete(complete)
        }
        EventKind::Error { code, message, .. } => EventKind::error(*code, header_text(message)),
        EventKind::Cancelled { step } => EventKind::Cancelled { step: *step },
    };
    Some(Event { kind, ..event.clone() })
}

pub(super) fn to_json(event: &Event) -> Vec<u8> {
    serde_json::to_vec(event).expect("an event has string keys and finite numbers only")
}

fn headers_of(message: &Outgoing) -> HeaderMap {
    let trace = message.traceparent.as_deref();
    let Some(event) = &message.event else {
        let mut map = job_headers(&message.job_id, &message.worker_id, trace);
        map.insert(headers::JOB_EVENT, headers::EVENT_END);
        return map;
    };
    event_headers(event, trace)
}

fn job_headers(job_id: &JobId, worker_id: &WorkerId, traceparent: Option<&str>) -> HeaderMap {
    let mut map = HeaderMap::new();
    map.insert(headers::JOB_ID, job_id.as_str());
    map.insert(headers::WORKER_ID, worker_id.as_str());
    if let Some(trace) = traceparent {
        map.insert(headers::TRACEPARENT, trace);
    }
    map
}

/// The headers of a message with this event.
pub(super) fn event_headers(event: &Event, traceparent: Option<&str>) -> HeaderMap {
    let mut map = job_headers(&event.job_id, &event.worker_id, traceparent);
    map.insert(headers::JOB_EVENT, event.kind.name());
    map.insert(headers::JOB_SEQ, event.seq.to_string());
    if let EventKind::Error { code, message, .. } = &event.kind {
        map.insert(headers::SERVICE_ERROR_CODE, code.http_status().to_string());
        map.insert(headers::SERVICE_ERROR, header_text(message));
    }
    map
}

/// One line, and not too long.
pub(super) fn header_text(text: &str) -> String {
    text.chars().take(MAX_HEADER_TEXT).map(|c| if c.is_control() { ' ' } else { c }).collect()
}
