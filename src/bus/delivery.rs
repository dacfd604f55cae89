//! A durable job in a worker's hands: kept from others by signs of life, and settled once.

use std::{
    fmt,
    sync::Arc,
    time::{Duration, SystemTime},
};

use async_nats::{
    HeaderMap,
    jetstream::{self, AckKind, message::OutboundMessage},
};
use futures::{FutureExt, future::BoxFuture};
use tokio::task::JoinHandle;

use super::{BusError, Streams, ordered::connections};
use crate::contract::{ErrorCode, JobId, headers};

/// Signs of life within the time after which a job is given to another.
const SIGNS_PER_ACK_WAIT: u32 = 3;
/// How often a settlement is tried again that was not confirmed.
const SETTLE_TRIES: u32 = 3;

/// What becomes of the message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Settle {
    /// The job has ended; the message goes.
    Done,
    /// Nobody could do the job; the message goes.
    Gone,
    /// Another worker gets it, after this long.
    Again(Duration),
}

/// Where the message came from.
pub trait Handle: Send + Sync + 'static {
    /// Tells that the job is being worked on.
    fn in_progress(&self) -> BoxFuture<'_, ()>;

    /// Settles the message, and waits for the confirmation.
    fn settle(&self, how: Settle) -> BoxFuture<'_, Result<(), BusError>>;

    /// Stores a copy of the message among the dead letters.
    fn bury<'a>(
        &'a self,
        job: &'a JobId,
        code: ErrorCode,
        message: &'a str,
    ) -> BoxFuture<'a, Result<(), BusError>>;
}

/// A message of the queue. As long as it lives, the server hears that the job is being worked on; dropped without being
/// settled, it is given to another worker when the server has heard nothing for long enough.
pub struct Delivery {
    /// How often it was delivered, from 1.
    pub times: u64,
    /// The message's number in the stream.
    pub sequence: u64,
    /// When the stream took it, by the server's clock: to be compared with times of that clock alone.
    pub accepted_at: SystemTime,
    /// See [`headers::JOB_AFTER`].
    pub after: Option<u64>,
    handle: Arc<dyn Handle>,
    signs: JoinHandle<()>,
}

impl Delivery {
    /// A delivery whose signs of life are this far apart.
    pub(super) fn new(
        handle: Arc<dyn Handle>,
        times: u64,
        sequence: u64,
        accepted_at: SystemTime,
        after: Option<u64>,
        sign_every: Duration,
    ) -> Self {
        let told = handle.clone();
        let signs = tokio::spawn(async move {
            loop {
                tokio::time::sleep(sign_every).await;
                told.in_progress().await;
            }
        });
        Self { times, sequence, accepted_at, after, handle, signs }
    }

    /// Settles the message and ends the signs of life. What is not confirmed comes again, and is found done then.
    pub async fn settle(self, how: Settle) {
        let mut tries = 0;
        while let Err(error) = self.handle.settle(how).await {
            tries += 1;
            if tries == SETTLE_TRIES {
                return tracing::warn!(?how, %error, "a job could not be settled; it will come again");
            }
        }
    }

    /// Stores a copy of the message among the dead letters; it must be settled all the same.
    ///
    /// # Errors
    /// When JetStream does not take it.
    pub async fn bury(&self, job: &JobId, code: ErrorCode, message: &str) -> Result<(), BusError> {
        self.handle.bury(job, code, message).await
    }
}

impl Drop for Delivery {
    fn drop(&mut self) {
        self.signs.abort();
    }
}

impl fmt::Debug for Delivery {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Delivery").field("times", &self.times).field("after", &self.after).finish()
    }
}

/// A message of JetStream.
struct FromStream {
    streams: Streams,
    message: jetstream::Message,
    /// Its number.
    sequence: u64,
    /// Connections that the client had made when it came.
    connections: u64,
}

/// The delivery of a message of JetStream.
///
/// # Errors
/// When it is none: its reply subject says nothing of a stream.
pub(super) fn delivery(streams: &Streams, message: jetstream::Message) -> Result<Delivery, BusError> {
    let info = message.info().map_err(|error| BusError::JetStream {
        doing: format!("reading a message on {}", message.subject),
        reason: error.to_string(),
    })?;
    let (times, sequence) = (u64::try_from(info.delivered).unwrap_or(1), info.stream_sequence);
    let accepted_at = SystemTime::from(info.published);
    let after = header(message.headers.as_ref(), headers::JOB_AFTER).and_then(|seq| seq.parse().ok());
    let sign_every = streams.options.ack_wait / SIGNS_PER_ACK_WAIT;
    let (streams, connections) = (streams.clone(), connections(&streams.context.client()));
    let handle = Arc::new(FromStream { streams, message, sequence, connections });
    Ok(Delivery::new(handle, times, sequence, accepted_at, after, sign_every))
}

pub(super) fn header<'a>(map: Option<&'a HeaderMap>, name: &str) -> Option<&'a str> {
    Some(map?.get(name)?.as_str())
}

/// What the requester wrote, for a copy of a message. What told the stream what to do would be told to the next one too.
pub(super) fn own_headers(map: &HeaderMap) -> HeaderMap {
    let mut own = HeaderMap::new();
    for (name, values) in map.iter().filter(|(name, _)| !name.to_string().starts_with("Nats-")) {
        values.iter().for_each(|value| own.append(name.clone(), value.clone()));
    }
    own
}

impl FromStream {
    /// Whether the message's number is another job's by now. A settlement names a number alone, and a server that lost its
    /// last messages in a power cut gives their numbers to others: it would take those from the queue.
    async fn is_anothers(&self) -> Result<bool, BusError> {
        if connections(&self.streams.context.client()) == self.connections {
            return Ok(false);
        }
        let found = self.streams.subject_at(self.sequence).await?;
        // A message that is gone is settled all the same: its consumer may still wait for that.
        Ok(found.is_some_and(|subject| subject != self.message.subject.as_str()))
    }
}

impl Handle for FromStream {
    fn in_progress(&self) -> BoxFuture<'_, ()> {
        async move {
            if let Err(error) = self.message.ack_with(AckKind::Progress).await {
                tracing::warn!(%error, "a sign of life could not be sent");
            }
        }
        .boxed()
    }

    fn settle(&self, how: Settle) -> BoxFuture<'_, Result<(), BusError>> {
        let kind = match how {
            Settle::Done => AckKind::Ack,
            Settle::Gone => AckKind::Term,
            Settle::Again(delay) if delay.is_zero() => AckKind::Nak(None),
            Settle::Again(delay) => AckKind::Nak(Some(delay)),
        };
        async move {
            if self.is_anothers().await? {
                tracing::warn!(
                    sequence = self.sequence,
                    "NATS lost the message of the job; its number is another's"
                );
                return Ok(());
            }
            self.message.double_ack_with(kind).await.map_err(|error| BusError::JetStream {
                doing: format!("settling a message on {}", self.message.subject),
                reason: error.to_string(),
            })
        }
        .boxed()
    }

    fn bury<'a>(
        &'a self,
        job: &'a JobId,
        code: ErrorCode,
        why: &'a str,
    ) -> BoxFuture<'a, Result<(), BusError>> {
        async move {
            let message = &self.message;
            let subject = self.streams.subjects.dead_letter_of(&message.subject, job);
            let mut map = message.headers.as_ref().map(own_headers).unwrap_or_default();
            let sequence = message.info().map(|info| info.stream_sequence).unwrap_or_default();
            map.insert(headers::MESSAGE_ID, format!("{job}:dead:{sequence}"));
            map.insert(headers::JOB_ID, job.as_str());
            map.insert(headers::JOB_SUBJECT, message.subject.as_str());
            map.insert(headers::JOB_ERROR_CODE, code.code());
            map.insert(headers::JOB_ERROR, super::sink::header_text(why));
            let letter = OutboundMessage::new(subject.clone().into(), message.payload.clone(), Some(map));
            let stored = self.streams.publish(letter).await;
            stored
                .map(drop)
                .map_err(|error| BusError::jetstream(format!("storing a dead letter on {subject}"), error))
        }
        .boxed()
    }
}
