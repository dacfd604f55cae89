//! Events out: to the requester's inbox, to `events.<job_id>` and `previews.<job_id>`.
//!
//! What the client takes while NATS is away, or has written to a socket that dies, is lost without a word. So messages
//! are kept here until there is a connection, and published again when it was lost before the server had them; a reader
//! may then see one twice, with the same number.

use async_nats::{HeaderMap, Subject, client::PublishErrorKind};
use futures::{FutureExt, future::BoxFuture};

use super::{
    BusError, EventSink, Outgoing, To,
    barrier::{Barrier, Passed},
    connect::Link,
};
use crate::contract::{Event, EventKind, Subjects, headers};

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

    async fn publish(&self, message: &Outgoing) -> Result<(), BusError> {
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
    fn deliver<'a>(&'a self, messages: &'a [Outgoing]) -> BoxFuture<'a, Vec<usize>> {
        async move {
            loop {
                self.link.settled().await;
                let connections = self.link.connections();
                let mut too_large = vec![];
                for (position, message) in messages.iter().enumerate() {
                    match self.publish(message).await {
                        Ok(()) => {}
                        Err(error @ BusError::TooLarge { .. }) => {
                            tracing::warn!(job_id = %message.job_id, %error, "an event is too large");
                            too_large.push(position);
                        }
                        // A subject that cannot be published on, or a client that has ended: no repetition helps.
                        Err(error) => tracing::error!(job_id = %message.job_id, %error, "an event is lost"),
                    }
                }
                let passed = self.barrier.pass().await;
                match passed {
                    Passed::Yes if self.link.connections() == connections => return too_large,
                    Passed::NoAnswer => {
                        tracing::warn!(
                            "the server confirms nothing; may this user subscribe to its own inbox?"
                        );
                        return too_large;
                    }
                    Passed::Yes | Passed::ConnectionLost => {
                        tracing::info!(
                            events = messages.len(),
                            "the connection was lost before the server confirmed; publishing again"
                        );
                    }
                }
            }
        }
        .boxed()
    }
}

fn to_json(event: &Event) -> Vec<u8> {
    serde_json::to_vec(event).expect("an event has string keys and finite numbers only")
}

fn headers_of(message: &Outgoing) -> HeaderMap {
    let mut map = HeaderMap::new();
    map.insert(headers::JOB_ID, message.job_id.as_str());
    map.insert(headers::WORKER_ID, message.worker_id.as_str());
    if let Some(trace) = &message.traceparent {
        map.insert(headers::TRACEPARENT, trace.as_str());
    }
    let Some(event) = &message.event else {
        map.insert(headers::JOB_EVENT, headers::EVENT_END);
        return map;
    };
    map.insert(headers::JOB_EVENT, event.kind.name());
    map.insert(headers::JOB_SEQ, event.seq.to_string());
    if let EventKind::Error { code, message, .. } = &event.kind {
        map.insert(headers::SERVICE_ERROR_CODE, code.code());
        map.insert(headers::SERVICE_ERROR, header_text(message));
    }
    map
}

/// One line, and not too long.
fn header_text(text: &str) -> String {
    text.chars().take(MAX_HEADER_TEXT).map(|c| if c.is_control() { ' ' } else { c }).collect()
}
