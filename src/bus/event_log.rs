//! The events of a durable job, as a log that one worker writes at a time.
//!
//! Each event is stored only if the last one of the job is still that which the writer knows. A worker that was taken
//! for dead finds out with its next event that another has the job, and says nothing more of it.

use std::sync::Arc;

use async_nats::jetstream::{
    context::PublishErrorKind,
    message::{OutboundMessage, PublishMessage, StreamMessage},
    stream::LastRawMessageErrorKind,
};
use futures::{FutureExt, future::BoxFuture};

use super::{BusError, Streams, sink};
use crate::contract::{Event, JobId, headers};

/// An event that is stored.
#[derive(Debug, Clone, PartialEq)]
pub struct Logged {
    /// The event.
    pub event: Event,
    /// Its number in the stream: what the next one is appended after.
    pub sequence: u64,
    /// Attempts of the job that failed, the present one counted until it is given back.
    pub failures: u32,
}

/// An event to be stored.
#[derive(Debug, Clone)]
pub struct Entry {
    /// The event.
    pub event: Arc<Event>,
    /// See [`Logged::failures`].
    pub failures: u32,
    /// W3C trace context of the job.
    pub traceparent: Option<String>,
}

/// Why an event was not stored.
#[derive(Debug, thiserror::Error)]
pub enum AppendError {
    /// Another one was, after the one that the writer knew: the job is another's, or has ended.
    #[error("the job has another event by now")]
    Fenced,
    /// JetStream did not take it, or did not say so.
    #[error(transparent)]
    Bus(#[from] BusError),
}

/// The logs of jobs.
pub trait EventLog: Send + Sync + 'static {
    /// The last event of a job, if it has one.
    fn last<'a>(&'a self, job: &'a JobId) -> BoxFuture<'a, Result<Option<Logged>, BusError>>;

    /// Stores an event after the one with number `after` in the stream (0: there is none); its number.
    fn append<'a>(&'a self, entry: &'a Entry, after: u64) -> BoxFuture<'a, Result<u64, AppendError>>;
}

impl EventLog for Streams {
    fn last<'a>(&'a self, job: &'a JobId) -> BoxFuture<'a, Result<Option<Logged>, BusError>> {
        async move {
            let Some(message) = self.last_on(&self.subjects.events(job)).await? else { return Ok(None) };
            logged(&message).map(Some)
        }
        .boxed()
    }

    fn append<'a>(&'a self, entry: &'a Entry, after: u64) -> BoxFuture<'a, Result<u64, AppendError>> {
        async move {
            let event = &entry.event;
            match self.try_append(entry, after).await {
                Err(AppendError::Fenced) => {}
                done => return done,
            }
            // Our own event may be the one, when its acknowledgement was lost and it was sent again.
            match self.last(&event.job_id).await? {
                Some(last) if last.event == **event => Ok(last.sequence),
                _ => Err(AppendError::Fenced),
            }
        }
        .boxed()
    }
}

impl Streams {
    async fn try_append(&self, entry: &Entry, after: u64) -> Result<u64, AppendError> {
        let event = &entry.event;
        let subject = self.subjects.events(&event.job_id);
        let mut map = sink::event_headers(event, entry.traceparent.as_deref());
        map.insert(headers::JOB_FAILURES, entry.failures.to_string());
        let message = PublishMessage::build()
            .payload(sink::to_json(event).into())
            .headers(map)
            .expected_last_subject_sequence(after);
        let message = message.outbound_message(subject.clone());
        match self.publish(message).await {
            Err(error) if error.kind() == PublishErrorKind::WrongLastSequence => Err(AppendError::Fenced),
            Err(error) => Err(BusError::jetstream(format!("storing an event on {subject}"), error).into()),
            Ok(ack) => Ok(ack.sequence),
        }
    }

    /// Publishes and waits for the acknowledgement.
    pub(super) async fn publish(
        &self,
        message: OutboundMessage,
    ) -> Result<async_nats::jetstream::publish::PublishAck, async_nats::jetstream::context::PublishError>
    {
        use async_nats::jetstream::context::traits::Publisher;
        self.context.publish_message(message).await?.await
    }

    /// The last message on a subject of the stream of events.
    pub(super) async fn last_on(&self, subject: &str) -> Result<Option<StreamMessage>, BusError> {
        let failed = |error| BusError::jetstream(format!("reading {subject}"), error);
        let stream = self.context.get_stream_no_info(&self.events).await;
        let stream = stream.map_err(|error| BusError::jetstream(format!("reading {subject}"), error))?;
        match stream.get_last_raw_message_by_subject(subject).await {
            Ok(message) => Ok(Some(message)),
            Err(error) if error.kind() == LastRawMessageErrorKind::NoMessageFound => Ok(None),
            Err(error) => Err(failed(error)),
        }
    }
}

/// The event in a message of the stream.
pub(super) fn logged(message: &StreamMessage) -> Result<Logged, BusError> {
    let event = serde_json::from_slice(&message.payload).map_err(|error| {
        let doing = format!("reading event {} on {}", message.sequence, message.subject);
        BusError::jetstream(doing, error)
    })?;
    // A core job's events have no such header, and no attempts.
    let failures = message.headers.get(headers::JOB_FAILURES).and_then(|count| count.as_str().parse().ok());
    Ok(Logged { event, sequence: message.sequence, failures: failures.unwrap_or(0) })
}
