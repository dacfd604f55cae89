//! Reading a stream in order, from the beginning and then as it grows, across outages of the server.
//!
//! The consumer is an ephemeral one that pushes. It is made anew after the last message that was read whenever a message
//! is missing, the server falls silent, or the connection was made again: a server that was started again has forgotten it.

use std::{sync::atomic::Ordering, time::Duration};

use async_nats::{
    Client, Message, StatusCode, Subscriber,
    connection::State,
    jetstream::{
        Context,
        consumer::{AckPolicy, DeliverPolicy, push},
        message::StreamMessage,
    },
};
use bytes::Bytes;
use futures::StreamExt;
use tokio::{sync::mpsc, time::Instant};

use super::{BusError, Streams};

/// The server says this often that it is there when it has nothing else to say.
const HEARTBEAT: Duration = Duration::from_secs(2);
/// After this long without a word the consumer is made again.
const SILENCE: Duration = Duration::from_secs(5);
/// How often it is looked whether the connection is another one by now.
const LOOK_EVERY: Duration = Duration::from_millis(250);
/// The pause after a consumer could not be made.
const PAUSE: Duration = Duration::from_millis(500);
/// A consumer that nobody listens to any more goes after this long, should we not be there to remove it.
const GONE_AFTER: Duration = Duration::from_secs(10);
/// Messages that are read ahead of who takes them.
const AHEAD: usize = 16;
/// On a sign of life: the number of the last message that the consumer delivered.
const LAST_DELIVERED: &str = "Nats-Last-Consumer";
/// On a sign of life: where to answer so that delivery goes on.
const STALLED: &str = "Nats-Consumer-Stalled";

/// What is read.
#[derive(Debug, Clone)]
pub(super) struct Range {
    /// The stream.
    pub stream: String,
    /// The subject.
    pub subject: String,
    /// Without bodies.
    pub headers_only: bool,
}

/// A message of the stream.
#[derive(Debug)]
pub(super) struct Delivered {
    /// The message.
    pub message: StreamMessage,
    /// Messages of the range that are behind it.
    pub pending: u64,
}

/// The messages of a range. Dropped, it removes its consumer.
#[derive(Debug)]
pub(super) struct Ordered {
    messages: mpsc::Receiver<Delivered>,
}

impl Ordered {
    /// The next message; `None` when the connection is closed for good.
    pub async fn next(&mut self) -> Option<Delivered> {
        self.messages.recv().await
    }
}

impl Streams {
    /// Reads a range from its beginning.
    ///
    /// # Errors
    /// When JetStream does not make the consumer. Later failures are tried again for as long as it takes.
    pub(super) async fn read(&self, range: Range) -> Result<Ordered, BusError> {
        let (sender, messages) = mpsc::channel(AHEAD);
        let (context, client) = (self.context.clone(), self.context.client());
        let consumer = Consumer::make(&context, &range, 0).await?;
        let reader = Reader { context, client, range, last: 0, sender };
        tokio::spawn(reader.run(consumer));
        Ok(Ordered { messages })
    }
}

struct Reader {
    context: Context,
    client: Client,
    range: Range,
    /// The number of the last message in the stream that was read.
    last: u64,
    sender: mpsc::Sender<Delivered>,
}

struct Consumer {
    name: String,
    messages: Subscriber,
    /// Messages that it delivered.
    delivered: u64,
    /// Of the client, when the consumer was made.
    connections: u64,
}

/// What a message from the server is.
enum Word {
    Next(Box<Delivered>),
    Alive,
    /// Something is missing.
    Gap,
}

impl Reader {
    async fn run(mut self, mut consumer: Consumer) {
        loop {
            let open = self.forward(&mut consumer).await;
            remove(&self.context, &self.range.stream, &consumer.name).await;
            if !open {
                return;
            }
            consumer = loop {
                if self.client.connection_state() == State::Connected {
                    match Consumer::make(&self.context, &self.range, self.last).await {
                        Ok(consumer) => break consumer,
                        Err(error) => tracing::debug!(%error, "a stream cannot be read on at present"),
                    }
                }
                tokio::select! {
                    () = self.sender.closed() => return,
                    () = tokio::time::sleep(PAUSE) => {}
                }
            };
        }
    }

    /// Hands messages on until the consumer is of no use any more (true), or nobody takes them (false).
    async fn forward(&mut self, consumer: &mut Consumer) -> bool {
        let mut heard = Instant::now();
        let mut look = tokio::time::interval(LOOK_EVERY);
        loop {
            let message = tokio::select! {
                () = self.sender.closed() => return false,
                message = consumer.messages.next() => message,
                _ = look.tick() => {
                    let another = connections(&self.client) != consumer.connections;
                    if another || heard.elapsed() >= SILENCE {
                        return true;
                    }
                    continue;
                }
            };
            let Some(message) = message else { return false };
            heard = Instant::now();
            match consumer.read(message, &self.client).await {
                Word::Alive => {}
                Word::Gap => return true,
                Word::Next(delivered) => {
                    self.last = delivered.message.sequence;
                    if self.sender.send(*delivered).await.is_err() {
                        return false;
                    }
                    // A slow reader is no silence of the server's.
                    heard = Instant::now();
                }
            }
        }
    }
}

impl Consumer {
    /// A consumer of what is behind number `last` of the stream.
    async fn make(context: &Context, range: &Range, last: u64) -> Result<Self, BusError> {
        let client = context.client();
        let connections = connections(&client);
        let inbox = client.new_inbox();
        let messages = super::subscribe(&client, &inbox).await?;
        let deliver_policy = match last {
            0 => DeliverPolicy::All,
            last => DeliverPolicy::ByStartSequence { start_sequence: last + 1 },
        };
        let config = push::Config {
            deliver_subject: inbox,
            deliver_policy,
            ack_policy: AckPolicy::None,
            max_deliver: 1,
            filter_subject: range.subject.clone(),
            headers_only: range.headers_only,
            flow_control: true,
            idle_heartbeat: HEARTBEAT,
            inactive_threshold: GONE_AFTER,
            num_replicas: 1,
            memory_storage: true,
            ..push::Config::default()
        };
        let made = context.create_consumer_on_stream(config, &range.stream).await;
        let made = made.map_err(|error| BusError::jetstream(format!("reading {}", range.subject), error))?;
        let name = made.cached_info().name.clone();
        Ok(Self { name, messages, delivered: 0, connections })
    }

    async fn read(&mut self, message: Message, client: &Client) -> Word {
        if message.status == Some(StatusCode::IDLE_HEARTBEAT) {
            return self.sign_of_life(&message, client).await;
        }
        if message.status.is_some() {
            return Word::Gap;
        }
        let message =
            async_nats::jetstream::Message { message, context: async_nats::jetstream::new(client.clone()) };
        let Ok(info) = message.info() else { return Word::Gap };
        if info.consumer_sequence != self.delivered + 1 {
            return Word::Gap;
        }
        self.delivered = info.consumer_sequence;
        let (sequence, pending, time) = (info.stream_sequence, info.pending, info.published);
        let message = message.message;
        let message = StreamMessage {
            subject: message.subject,
            sequence,
            headers: message.headers.unwrap_or_default(),
            payload: message.payload,
            time,
        };
        Word::Next(Box::new(Delivered { message, pending }))
    }

    /// Answers flow control, and sees whether all arrived that was delivered.
    async fn sign_of_life(&self, message: &Message, client: &Client) -> Word {
        let header =
            |name| message.headers.as_ref().and_then(|map| map.get(name)).map(|value| value.as_str());
        let stalled = header(STALLED).map(|subject| subject.to_owned().into());
        if let Some(subject) = message.reply.clone().or(stalled) {
            // Lost with the connection, it would be of no use on the next one.
            let _ = client.publish(subject, Bytes::new()).await;
        }
        match header(LAST_DELIVERED).and_then(|number| number.parse::<u64>().ok()) {
            Some(number) if number != self.delivered => Word::Gap,
            _ => Word::Alive,
        }
    }
}

fn connections(client: &Client) -> u64 {
    client.statistics().connects.load(Ordering::Relaxed)
}

/// Removes a consumer. One that cannot be removed goes by itself soon.
async fn remove(context: &Context, stream: &str, consumer: &str) {
    if context.client().connection_state() == State::Connected
        && let Err(error) = context.delete_consumer_from_stream(consumer, stream).await
    {
        tracing::debug!(%consumer, %error, "a consumer could not be removed");
    }
}
