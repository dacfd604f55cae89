//! The events of all jobs, each handed to one queen of the pool, until one says that it is done with it: what is told to
//! others is told from here, so that it is neither lost with a queen nor told by each.
//!
//! It is one durable consumer of the stream of events, made by the first queen that posts webhooks. Its place outlives
//! every queen. An event that nobody is done with comes again.

use std::time::Duration;

use async_nats::jetstream::{
    self, AckKind,
    consumer::{AckPolicy, DeliverPolicy, PullConsumer, pull},
    message::StreamMessage,
};
use futures::StreamExt;
use tokio::time::Instant;

use super::{BusError, Logged, Streams, event_log::logged, ordered::connections};

/// The consumer's name. Servers keep what it has done under it.
pub const OUTBOX: &str = "webhooks";
/// How long a queen has for an event, before another gets it: longer than an attempt takes.
pub const OUTBOX_ACK_WAIT: Duration = Duration::from_secs(30);
/// Events that may wait to be told again at one time. Beyond them none comes, so that queens give up before.
const MAX_WAITING: i64 = 100_000;
/// From so many on they crowd out others.
const CROWD: usize = 75_000;
/// How often it is looked how many wait.
const LOOK_EVERY: Duration = Duration::from_secs(10);
/// Events that are asked for at one time.
const BATCH: usize = 64;
/// How long a request stands, and how often the server says that it does.
const ASK_FOR: Duration = Duration::from_secs(30);
const HEARTBEAT: Duration = Duration::from_secs(5);

/// Events, as they come to this queen.
pub struct Outbox {
    streams: Streams,
    consumer: PullConsumer,
    messages: pull::Stream,
    looked: Option<Instant>,
    is_crowded: bool,
}

/// An event that is this queen's to tell. Dropped without a word, it comes again to one of them.
pub struct Posting {
    /// The event.
    pub logged: Logged,
    /// How often it came, from 1.
    pub times: u64,
    message: jetstream::Message,
    /// Connections that the client had made when it came.
    connections: u64,
}

impl Streams {
    /// Sees to it that the outbox is there: what is stored from then on is told.
    ///
    /// # Errors
    /// [`BusError::Mismatch`] where it is one that forgets; [`BusError::JetStream`] for what may pass.
    pub async fn ensure_outbox(&self) -> Result<(), BusError> {
        self.outbox_consumer().await.map(drop)
    }

    /// Opens the outbox, which is made when it is missing.
    ///
    /// # Errors
    /// As [`Self::ensure_outbox`].
    pub async fn outbox(&self) -> Result<Outbox, BusError> {
        let consumer = self.outbox_consumer().await?;
        let messages = consumer
            .stream()
            .max_messages_per_batch(BATCH)
            .expires(ASK_FOR)
            .heartbeat(HEARTBEAT)
            .messages()
            .await
            .map_err(|error| BusError::jetstream(what(self), error))?;
        Ok(Outbox { streams: self.clone(), consumer, messages, looked: None, is_crowded: false })
    }

    async fn outbox_consumer(&self) -> Result<PullConsumer, BusError> {
        let wanted = pull::Config {
            durable_name: Some(OUTBOX.to_owned()),
            deliver_policy: DeliverPolicy::New,
            ack_policy: AckPolicy::Explicit,
            ack_wait: OUTBOX_ACK_WAIT,
            filter_subject: self.subjects.events_any(),
            max_ack_pending: MAX_WAITING,
            ..pull::Config::default()
        };
        let stream = self.context.get_stream_no_info(&self.events).await;
        let stream = stream.map_err(|error| BusError::jetstream(what(self), error))?;
        let consumer = stream.get_or_create_consumer(OUTBOX, wanted.clone()).await;
        let consumer = consumer.map_err(|error| BusError::jetstream(what(self), error))?;
        let found = &consumer.cached_info().config;
        let of = |policy: AckPolicy, filter: &str| format!("ack policy {policy:?}, filter {filter}");
        let (wanted, found) =
            (of(wanted.ack_policy, &wanted.filter_subject), of(found.ack_policy, &found.filter_subject));
        if wanted != found {
            return Err(BusError::Mismatch { what: what(self), wanted, found });
        }
        Ok(consumer)
    }
}

impl Outbox {
    /// The next event. Can be dropped and called again.
    ///
    /// # Errors
    /// When the outbox must be opened anew: the server fell silent, or the consumer is gone.
    pub async fn next(&mut self) -> Result<Posting, BusError> {
        loop {
            let message = match self.messages.next().await {
                Some(Ok(message)) => message,
                Some(Err(error)) => return Err(BusError::jetstream(what(&self.streams), error)),
                None => {
                    let reason = "the server hands nothing on any more".to_owned();
                    return Err(BusError::JetStream { doing: what(&self.streams), reason });
                }
            };
            match self.posting(&message) {
                Ok(posting) => return Ok(posting),
                Err(error) => {
                    // A later version wrote it, or nobody of ours: there is nothing that could be told.
                    tracing::debug!(%error, "an event that cannot be read is told to nobody");
                    settle(&message, AckKind::Ack).await;
                }
            }
        }
    }

    /// Whether so many events wait to be told again that new ones may soon have no room.
    pub async fn is_crowded(&mut self) -> bool {
        if self.looked.is_none_or(|at| at.elapsed() >= LOOK_EVERY) {
            self.looked = Some(Instant::now());
            match self.consumer.info().await {
                Ok(info) => self.is_crowded = info.num_ack_pending >= CROWD,
                Err(error) => tracing::debug!(%error, "how many webhooks wait cannot be seen at present"),
            }
        }
        self.is_crowded
    }

    fn posting(&self, message: &jetstream::Message) -> Result<Posting, BusError> {
        let info = message
            .info()
            .map_err(|error| BusError::JetStream { doing: what(&self.streams), reason: error.to_string() })?;
        let stored = StreamMessage {
            subject: message.subject.clone(),
            sequence: info.stream_sequence,
            headers: message.headers.clone().unwrap_or_default(),
            payload: message.payload.clone(),
            time: info.published,
        };
        Ok(Posting {
            logged: logged(&stored)?,
            times: u64::try_from(info.delivered).unwrap_or(1),
            message: message.clone(),
            connections: connections(&self.streams.context.client()),
        })
    }
}

impl Posting {
    /// It needs to be told no more.
    pub async fn done(self) {
        self.settle(AckKind::Ack).await;
    }

    /// It comes again after this long, to one of the queens.
    pub async fn again(self, after: Duration) {
        self.settle(AckKind::Nak(Some(after))).await;
    }

    /// A settlement names a number alone, and a server that lost its last messages gives their numbers to others: over
    /// another connection nothing is said, and the event comes again.
    async fn settle(self, kind: AckKind) {
        if connections(&self.message.context.client()) == self.connections {
            settle(&self.message, kind).await;
        }
    }
}

/// What is not heard by the server comes again.
async fn settle(message: &jetstream::Message, kind: AckKind) {
    if let Err(error) = message.ack_with(kind).await {
        tracing::debug!(%error, "an event of the outbox could not be settled; it will come again");
    }
}

fn what(streams: &Streams) -> String {
    format!("consumer {OUTBOX} of stream {}", streams.events)
}
