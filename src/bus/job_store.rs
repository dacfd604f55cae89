//! Durable jobs on their way into the stream, and what can be told of one that no worker has yet.

use std::time::Duration;

use async_nats::{
    HeaderMap,
    connection::State,
    jetstream::{
        self, ErrorCode,
        context::{PublishError, PublishErrorKind},
        message::{PublishMessage, StreamMessage},
        stream::{DeleteMessageErrorKind, LastRawMessageErrorKind, RawMessageErrorKind, Stream},
    },
};
use bytes::Bytes;

use super::{
    BusError, Streams,
    event_log::{is_nobody, is_of_a_missing_stream},
};
use crate::contract::{Capability, JobId, Ticket, headers};

/// How often a message is published whose acknowledgement does not come. Its id makes that safe.
const TRIES: u32 = 3;
/// The pause before it is published again after the connection broke.
const PAUSE: Duration = Duration::from_millis(300);
/// Room, in bytes, for the headers of a job that becomes a dead letter: it must fit into a message then too.
const HEADROOM: usize = 4096;
/// What the server says of a second message on a subject. It has one code for this and for a stream that is full.
const PER_SUBJECT: &str = "per subject";

/// A job for the stream.
#[derive(Debug, Clone)]
pub struct Sending {
    /// The job.
    pub job: JobId,
    /// Where it goes: see [`Streams::subject_of_job`].
    pub subject: String,
    /// The operation, with its id and its model.
    pub body: Bytes,
    /// Of a job that is sent again after it ended: the number of the event that ended it.
    pub after: Option<u64>,
    /// Of a job whose message the server lost: the number that it had.
    pub lost: Option<u64>,
    /// The client that sent it.
    pub owner: Option<String>,
    /// W3C trace context of the job.
    pub traceparent: Option<String>,
}

/// A job that is in the queue.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct QueuedJob {
    /// The message's number.
    pub sequence: u64,
    /// What its subject asks for, if there is such a capability.
    pub capability: Option<Capability>,
    /// The token of the model on its subject.
    pub model: String,
    /// The operation.
    pub body: Bytes,
}

/// The stream has the job.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Sent {
    /// The message's number.
    pub sequence: u64,
    /// It was there before: this sending of the job is another's, or ours whose acknowledgement was lost.
    pub duplicate: bool,
}

/// Why the stream does not have a job, or may not.
#[derive(Debug, thiserror::Error)]
pub enum SendError {
    /// No room. The job was not taken.
    #[error("the queue is full: {0}")]
    Full(String),
    /// It does not fit into a message.
    #[error("the job has {bytes} bytes, at most {limit} fit into a message of this NATS server")]
    TooLarge {
        /// Size of the body in bytes.
        bytes: usize,
        /// The most that is taken, in bytes.
        limit: usize,
    },
    /// The stream is not there, or JetStream is not. The job was not taken.
    #[error("JetStream is away: {0}")]
    Away(String),
    /// Nobody said whether it was taken.
    #[error("JetStream did not confirm the job: {0}")]
    Unconfirmed(String),
    /// JetStream refused it.
    #[error("JetStream refused the job: {0}")]
    Refused(String),
}

/// A ticket as it is stored.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoredTicket {
    /// The ticket.
    pub ticket: Ticket,
    /// Its number in the stream of events.
    pub sequence: u64,
}

impl Streams {
    /// Where a job for that model goes.
    pub fn subject_of_job(&self, capability: Capability, model: &str, job: &JobId) -> String {
        self.subjects.jobs(capability, model, job)
    }

    /// Whether NATS is reachable now.
    pub fn is_connected(&self) -> bool {
        self.context.client().connection_state() == State::Connected
    }

    /// Puts a job into the stream; when this returns it is stored.
    ///
    /// # Errors
    /// See [`SendError`]; after [`SendError::Unconfirmed`] the same sending may be repeated.
    pub async fn send_job(&self, sending: &Sending) -> Result<Sent, SendError> {
        let limit = self.context.client().max_payload().saturating_sub(HEADROOM);
        let bytes = sending.body.len();
        if bytes > limit {
            return Err(SendError::TooLarge { bytes, limit });
        }
        self.number_anew().await.map_err(|error| SendError::Away(error.to_string()))?;
        let mut tries = 0;
        loop {
            tries += 1;
            let message = PublishMessage::build().payload(sending.body.clone()).headers(sending.headers());
            let error = match self.publish(message.outbound_message(sending.subject.clone())).await {
                Ok(ack) => {
                    self.numbers.given(ack.sequence);
                    return Ok(Sent { sequence: ack.sequence, duplicate: ack.duplicate });
                }
                Err(error) => error,
            };
            // It waits or runs already; or it did a moment ago, and the next try finds its place free.
            if is_there_already(&error)
                && let Some(there) = self.job_in_queue(&sending.job).await.map_err(unconfirmed)?
            {
                return Ok(Sent { sequence: there.sequence, duplicate: true });
            }
            match error.kind() {
                _ if is_there_already(&error) && tries < TRIES => {}
                PublishErrorKind::TimedOut | PublishErrorKind::BrokenPipe
                    if tries < TRIES && self.is_connected() =>
                {
                    tracing::warn!(job = %sending.job, %error, "a job was not confirmed; publishing it again");
                    tokio::time::sleep(PAUSE).await;
                }
                _ => return Err(send_error(&error, bytes, limit)),
            }
        }
    }

    /// The message of a job, if it is in the queue, whatever it asks for.
    ///
    /// # Errors
    /// When JetStream does not answer.
    pub async fn job_in_queue(&self, job: &JobId) -> Result<Option<QueuedJob>, BusError> {
        let doing = || format!("looking for job {job} in {}", self.jobs);
        let stream = self.context.get_stream_no_info(&self.jobs).await;
        let stream = stream.map_err(|error| BusError::jetstream(doing(), error))?;
        let subject = self.subjects.job_in_queue(job);
        match stream.get_last_raw_message_by_subject(&subject).await {
            Err(error) if is_of_a_missing_stream(&error) => {
                self.mend();
                Err(BusError::NoStream(self.jobs.clone()))
            }
            Ok(message) => {
                let (capability, model, _) = self.subjects.parse_job(&message.subject);
                let (sequence, model, body) = (message.sequence, model.unwrap_or_default(), message.payload);
                Ok(Some(QueuedJob { sequence, capability, model, body }))
            }
            Err(error) if error.kind() == LastRawMessageErrorKind::NoMessageFound => Ok(None),
            Err(error) if is_nobody(&error) => Err(BusError::NoJetStream),
            Err(error) => Err(BusError::jetstream(doing(), error)),
        }
    }

    /// The body of a job's message, if it is still in the stream.
    ///
    /// # Errors
    /// When JetStream does not answer.
    pub async fn job_at(&self, sequence: u64, job: &JobId) -> Result<Option<Bytes>, BusError> {
        // A stream that was removed and made again counts from 1: the number alone may be another job's.
        let message = self.message_at(sequence).await?.filter(|message| {
            let (_, _, named) = self.subjects.parse_job(&message.subject);
            named.as_ref() == Some(job)
        });
        Ok(message.map(|message| message.payload))
    }

    /// The subject of the message with this number, if it is still in the stream of jobs.
    pub(super) async fn subject_at(&self, sequence: u64) -> Result<Option<String>, BusError> {
        Ok(self.message_at(sequence).await?.map(|message| message.subject.to_string()))
    }

    async fn message_at(&self, sequence: u64) -> Result<Option<StreamMessage>, BusError> {
        let doing = || format!("reading message {sequence} of {}", self.jobs);
        let stream = self.context.get_stream_no_info(&self.jobs).await;
        let stream = stream.map_err(|error| BusError::jetstream(doing(), error))?;
        match stream.get_raw_message(sequence).await {
            Ok(message) => Ok(Some(message)),
            Err(error) if error.kind() == LastRawMessageErrorKind::NoMessageFound => Ok(None),
            Err(error) => Err(BusError::jetstream(doing(), error)),
        }
    }

    /// The first message on a subject from number `from` on.
    pub(super) async fn next_of<I>(
        &self,
        stream: &Stream<I>,
        from: u64,
        subject: &str,
    ) -> Result<Option<StreamMessage>, BusError> {
        match stream.raw_message_builder().sequence(from).next_by_subject(subject).send().await {
            Ok(message) => Ok(Some(message)),
            Err(error) if error.kind() == RawMessageErrorKind::NoMessageFound => Ok(None),
            Err(error) => Err(BusError::jetstream(format!("reading {subject}"), error)),
        }
    }

    /// Takes a job's message out of the stream; whether it was there.
    ///
    /// # Errors
    /// When JetStream does not answer.
    pub async fn delete_job(&self, sequence: u64, job: &JobId) -> Result<bool, BusError> {
        if self.job_at(sequence, job).await?.is_none() {
            return Ok(false);
        }
        self.remove_job(sequence).await
    }

    /// Takes a message out of the stream, whatever it is; whether it was there.
    pub(super) async fn remove_job(&self, sequence: u64) -> Result<bool, BusError> {
        let doing = || format!("removing message {sequence} of {}", self.jobs);
        let stream = self.context.get_stream_no_info(&self.jobs).await;
        let stream = stream.map_err(|error| BusError::jetstream(doing(), error))?;
        match stream.delete_message(sequence).await {
            Ok(there) => Ok(there),
            // Acknowledged a moment ago.
            Err(error) if matches!(error.kind(), DeleteMessageErrorKind::JetStream(_)) => Ok(false),
            Err(error) => Err(BusError::jetstream(doing(), error)),
        }
    }

    /// The ticket of a job, and its number.
    ///
    /// # Errors
    /// When JetStream does not answer, or what is there is no ticket.
    pub async fn stored_ticket(&self, job: &JobId) -> Result<Option<StoredTicket>, BusError> {
        let subject = self.subjects.ticket(job);
        let Some(message) = self.last_on(&subject).await? else { return Ok(None) };
        let ticket = serde_json::from_slice(&message.payload)
            .map_err(|error| BusError::jetstream(format!("reading {subject}"), error))?;
        Ok(Some(StoredTicket { ticket, sequence: message.sequence }))
    }

    /// Writes the ticket of a job if the last one is still that with number `after` (0: there is none); whether it is.
    ///
    /// # Errors
    /// When JetStream does not take it.
    pub async fn put_ticket_after(&self, ticket: &Ticket, after: u64) -> Result<bool, BusError> {
        let subject = self.subjects.ticket(&ticket.job_id);
        let body = serde_json::to_vec(ticket).expect("a ticket has string keys only");
        let mut tries = 0;
        loop {
            tries += 1;
            let message =
                PublishMessage::build().payload(body.clone().into()).expected_last_subject_sequence(after);
            match self.publish(message.outbound_message(subject.clone())).await {
                Ok(_) => return Ok(true),
                Err(error) if error.kind() == PublishErrorKind::WrongLastSequence => {
                    // Our own may be the one, when its acknowledgement was lost.
                    let last = self.stored_ticket(&ticket.job_id).await?;
                    return Ok(last.is_some_and(|last| last.ticket == *ticket));
                }
                Err(error) if tries < TRIES => {
                    tracing::warn!(job = %ticket.job_id, %error, "a ticket was not confirmed");
                    tokio::time::sleep(PAUSE).await;
                }
                Err(error) => return Err(BusError::jetstream(format!("storing {subject}"), error)),
            }
        }
    }
}

impl Sending {
    fn headers(&self) -> HeaderMap {
        let mut map = HeaderMap::new();
        // Each sending has an id of its own: the server remembers those of messages that are gone.
        let mut id = self.job.to_string();
        if let Some(after) = self.after {
            id.push_str(&format!(":r{after}"));
        }
        if let Some(lost) = self.lost {
            id.push_str(&format!(":l{lost}"));
        }
        map.insert(headers::MESSAGE_ID, id);
        map.insert(headers::JOB_ID, self.job.as_str());
        if let Some(after) = self.after {
            map.insert(headers::JOB_AFTER, after.to_string());
        }
        if let Some(owner) = &self.owner {
            map.insert(headers::JOB_OWNER, owner.as_str());
        }
        if let Some(trace) = &self.traceparent {
            map.insert(headers::TRACEPARENT, trace.as_str());
        }
        map
    }
}

fn send_error(error: &PublishError, bytes: usize, limit: usize) -> SendError {
    let text = || BusError::jetstream("publishing", error).to_string();
    match error.kind() {
        PublishErrorKind::MaxPayloadExceeded => SendError::TooLarge { bytes, limit },
        PublishErrorKind::StreamNotFound => SendError::Away(error.to_string()),
        PublishErrorKind::TimedOut | PublishErrorKind::BrokenPipe => {
            SendError::Unconfirmed(error.to_string())
        }
        PublishErrorKind::WrongLastMessageId
        | PublishErrorKind::WrongLastSequence
        | PublishErrorKind::MaxAckPending
        | PublishErrorKind::Other => {
            let source = std::error::Error::source(error);
            match source.and_then(|source| source.downcast_ref::<jetstream::Error>()) {
                Some(refusal) if is_full(refusal) => SendError::Full(refusal.to_string()),
                // It answered, and the answer is no.
                Some(refusal) => SendError::Refused(refusal.to_string()),
                None => SendError::Unconfirmed(text()),
            }
        }
    }
}

fn unconfirmed(error: BusError) -> SendError {
    SendError::Unconfirmed(error.to_string())
}

/// The stream has a message of the job.
pub(super) fn is_there_already(error: &PublishError) -> bool {
    let source = std::error::Error::source(error);
    let refusal = source.and_then(|source| source.downcast_ref::<jetstream::Error>());
    refusal.is_some_and(|refusal| refusal.to_string().contains(PER_SUBJECT))
}

/// No room in the stream (its own limit is told by the code of a store that failed), or none in the server or account.
fn is_full(error: &jetstream::Error) -> bool {
    matches!(
        error.error_code(),
        ErrorCode::STREAM_STORE_FAILED
            | ErrorCode::STORAGE_RESOURCES_EXCEEDED
            | ErrorCode::ACCOUNT_RESOURCES_EXCEEDED
            | ErrorCode::INSUFFICIENT_RESOURCES
    )
}
