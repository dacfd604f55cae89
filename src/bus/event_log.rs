//! The events of a durable job, as a log that one worker writes at a time.
//!
//! Each event is stored only if the last one of the job is still that which the writer knows. A worker that was taken
//! for dead finds out with its next event that another has the job, and says nothing more of it.

use std::{sync::Arc, time::SystemTime};

use async_nats::jetstream::{
    self,
    context::PublishErrorKind,
    message::{OutboundMessage, PublishMessage, StreamMessage},
    stream::{LastRawMessageError, LastRawMessageErrorKind},
};
use futures::{FutureExt, future::BoxFuture};

use super::{BusError, QueuedJob, Streams, sink};
use crate::contract::{ErrorCode, Event, EventKind, JobId, WorkerId, headers};

/// Room, in bytes, for the headers of an event.
const HEADROOM: usize = 2048;
/// Characters of a request's fingerprint in its log.
const REQUEST_MARK: usize = 32;

/// An event that is stored.
#[derive(Debug, Clone, PartialEq)]
pub struct Logged {
    /// The event; what stands in for it when it cannot be read.
    pub event: Event,
    /// Whether it was read. One of a later version, or of nobody of ours, is not: what can be told of it is.
    pub is_read: bool,
    /// Its number in the stream: what the next one is appended after.
    pub sequence: u64,
    /// Attempts of the job that failed, the present one counted until it is given back.
    pub failures: u32,
    /// The attempt was given back: nobody has the job.
    pub given_back: bool,
    /// The number in the stream of jobs of the message that the writer holds.
    pub queued: Option<u64>,
    /// The beginning of the request's fingerprint, as [`request_mark`] gives it.
    pub request: Option<String>,
    /// W3C trace context of its writer.
    pub traceparent: Option<String>,
    /// When it was stored, by the server's clock: to be compared with times of that clock alone.
    pub stored_at: SystemTime,
}

/// An event to be stored, with what its log says besides.
#[derive(Debug, Clone)]
pub struct Entry {
    /// The event.
    pub event: Arc<Event>,
    /// See [`Logged::failures`].
    pub failures: u32,
    /// See [`Logged::given_back`].
    pub given_back: bool,
    /// See [`Logged::queued`].
    pub queued: Option<u64>,
    /// See [`Logged::request`].
    pub request: Option<String>,
    /// W3C trace context of the job.
    pub traceparent: Option<String>,
}

impl Entry {
    /// An event of which there is no more to say.
    pub fn of(event: Event) -> Self {
        let event = Arc::new(event);
        Self { event, failures: 0, given_back: false, queued: None, request: None, traceparent: None }
    }
}

/// What a log says of a request: 32 hexadecimal digits of its fingerprint, too many to meet by chance.
pub fn request_mark(fingerprint: &str) -> String {
    fingerprint.chars().take(REQUEST_MARK).collect()
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
    /// Whether jobs have logs at all.
    fn is_kept(&self) -> bool;

    /// The message of a job that is in the queue.
    fn in_queue<'a>(&'a self, job: &'a JobId) -> BoxFuture<'a, Result<Option<QueuedJob>, BusError>>;

    /// The last event of a job, if it has one.
    fn last<'a>(&'a self, job: &'a JobId) -> BoxFuture<'a, Result<Option<Logged>, BusError>>;

    /// Stores the first event of a job whose log is empty; its number. In any other log it is fenced, its own event of an
    /// earlier try included.
    fn begin<'a>(&'a self, entry: &'a Entry) -> BoxFuture<'a, Result<u64, AppendError>>;

    /// Stores an event after the one with number `after` in the stream (0: there is none); its number.
    fn append<'a>(&'a self, entry: &'a Entry, after: u64) -> BoxFuture<'a, Result<u64, AppendError>>;
}

impl EventLog for Streams {
    fn is_kept(&self) -> bool {
        !self.options.core
    }

    fn in_queue<'a>(&'a self, job: &'a JobId) -> BoxFuture<'a, Result<Option<QueuedJob>, BusError>> {
        self.job_in_queue(job).boxed()
    }

    fn last<'a>(&'a self, job: &'a JobId) -> BoxFuture<'a, Result<Option<Logged>, BusError>> {
        async move {
            Ok(self.last_on(&self.subjects.events(job)).await?.map(|message| read_or_stood_in(&message, job)))
        }
        .boxed()
    }

    fn begin<'a>(&'a self, entry: &'a Entry) -> BoxFuture<'a, Result<u64, AppendError>> {
        self.try_append(entry, 0).boxed()
    }

    fn append<'a>(&'a self, entry: &'a Entry, after: u64) -> BoxFuture<'a, Result<u64, AppendError>> {
        async move {
            let mut after = after;
            // An end is told without its details rather than not at all.
            let shortened = (sink::to_json(&entry.event).len() + HEADROOM > self.context.client().max_payload())
                .then(|| sink::shortened(&entry.event))
                .flatten()
                .map(|event| Entry { event: Arc::new(event), ..entry.clone() });
            let entry = shortened.as_ref().unwrap_or(entry);
            loop {
                match self.try_append(entry, after).await {
                    Err(AppendError::Fenced) => {}
                    done => return done,
                }
                match self.last(&entry.event.job_id).await? {
                    // Our own event may be the one, when its acknowledgement was lost and it was sent again.
                    Some(last) if last.is_read && last.event == *entry.event => return Ok(last.sequence),
                    // What nobody of ours wrote takes a job from nobody.
                    Some(last) if !last.is_read && last.sequence > after => after = last.sequence,
                    Some(_) => return Err(AppendError::Fenced),
                    // The log was emptied. Whoever writes first goes on; that is seen by everybody else.
                    None if after > 0 => {
                        tracing::warn!(job_id = %entry.event.job_id, "the events of a running job were removed");
                        after = 0;
                    }
                    None => return Err(AppendError::Fenced),
                }
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
        if entry.given_back {
            map.insert(headers::JOB_GIVEN_BACK, "1");
        }
        if let Some(queued) = entry.queued {
            map.insert(headers::JOB_QUEUED, queued.to_string());
        }
        if let Some(request) = &entry.request {
            map.insert(headers::JOB_REQUEST, request.as_str());
        }
        let message = PublishMessage::build()
            .payload(sink::to_json(event).into())
            .headers(map)
            .expected_last_subject_sequence(after);
        match self.publish(message.outbound_message(subject.clone())).await {
            Err(error) if error.kind() == PublishErrorKind::StreamNotFound => {
                self.mend();
                Err(BusError::NoStream(self.events.clone()).into())
            }
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
        let stream = self.context.get_stream_no_info(&self.events).await;
        let stream = stream.map_err(|error| BusError::jetstream(format!("reading {subject}"), error))?;
        match stream.get_last_raw_message_by_subject(subject).await {
            Ok(message) => Ok(Some(message)),
            Err(error) if is_of_a_missing_stream(&error) => {
                self.mend();
                Err(BusError::NoStream(self.events.clone()))
            }
            Err(error) if error.kind() == LastRawMessageErrorKind::NoMessageFound => Ok(None),
            Err(error) if is_nobody(&error) => Err(BusError::NoJetStream),
            Err(error) => Err(BusError::jetstream(format!("reading {subject}"), error)),
        }
    }
}

/// Whether nobody answers requests to JetStream: there is none in the server, or not for our account.
pub(super) fn is_nobody(error: &(dyn std::error::Error + 'static)) -> bool {
    std::iter::successors(Some(error), |error| error.source()).any(|error| {
        error
            .downcast_ref::<jetstream::context::RequestError>()
            .is_some_and(|error| error.kind() == jetstream::context::RequestErrorKind::NoResponders)
    })
}

pub(super) fn is_of_a_missing_stream(error: &LastRawMessageError) -> bool {
    matches!(error.kind(), LastRawMessageErrorKind::JetStream(error) if error.error_code() == jetstream::ErrorCode::STREAM_NOT_FOUND)
}

/// The event in a message of the stream. One that cannot be read is stood in for by what its headers and its body say:
/// whether it is an end, and its numbers. Nothing waits for ever because of it.
pub(super) fn read_or_stood_in(message: &StreamMessage, job: &JobId) -> Logged {
    let read = serde_json::from_slice::<Event>(&message.payload).ok().filter(|event| event.job_id == *job);
    let is_read = read.is_some();
    with_headers(message, read.unwrap_or_else(|| stand_in(message, job)), is_read)
}

/// The event in a message of the stream.
///
/// # Errors
/// When it cannot be read.
pub(super) fn logged(message: &StreamMessage) -> Result<Logged, BusError> {
    let event = serde_json::from_slice(&message.payload).map_err(|error| {
        let doing = format!("reading event {} on {}", message.sequence, message.subject);
        BusError::jetstream(doing, error)
    })?;
    Ok(with_headers(message, event, true))
}

fn with_headers(message: &StreamMessage, event: Event, is_read: bool) -> Logged {
    let header = |name| message.headers.get(name).map(|value| value.as_str());
    Logged {
        event,
        is_read,
        sequence: message.sequence,
        // The events of a job without a log have no such header, and no attempts.
        failures: header(headers::JOB_FAILURES).and_then(|count| count.parse().ok()).unwrap_or(0),
        given_back: header(headers::JOB_GIVEN_BACK).is_some(),
        queued: header(headers::JOB_QUEUED).and_then(|sequence| sequence.parse().ok()),
        request: header(headers::JOB_REQUEST).map(str::to_owned),
        traceparent: header(headers::TRACEPARENT).map(str::to_owned),
        stored_at: SystemTime::from(message.time),
    }
}

fn stand_in(message: &StreamMessage, job: &JobId) -> Event {
    #[derive(Default, serde::Deserialize)]
    #[serde(default)]
    struct Envelope {
        r#type: String,
        worker_id: String,
        attempt: u32,
        seq: Option<u64>,
    }
    let envelope: Envelope = serde_json::from_slice(&message.payload).unwrap_or_default();
    let kind = match envelope.r#type.as_str() {
        "complete" | "error" | "cancelled" => EventKind::error(
            ErrorCode::Internal,
            format!("the job ended in `{}`, which cannot be read here", envelope.r#type),
        ),
        _ => EventKind::Progress { step: 0, total: 0, percent: 0.0, eta_ms: 0 },
    };
    Event {
        job_id: job.clone(),
        worker_id: WorkerId::new(envelope.worker_id).unwrap_or_else(|_| "unknown".parse().expect("an id")),
        attempt: envelope.attempt.max(1),
        // No job has more events than the stream: what comes next has a higher number.
        seq: envelope.seq.unwrap_or(message.sequence),
        kind,
    }
}
