//! Reading a stream in order, across outages of the server: from the beginning and then as it grows, or what is new alone.
//!
//! The consumer is an ephemeral one that pushes. It is made anew whenever a message is missing, the server falls silent,
//! or the connection was made again: a server that was started again has forgotten it. From the beginning, it goes on
//! after the last message that was read. What is new is told with every such gap, which its reader fills.

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
    messages: mpsc::Receiver<Read>,
}

impl Ordered {
    /// The next message; `None` when the connection is closed for good.
    pub async fn next(&mut self) -> Option<Delivered> {
        loop {
            match self.messages.recv().await? {
                Read::Next(delivered) => return Some(delivered),
                // Whoever reads from the beginning has no gaps.
                Read::Anew => {}
            }
        }
    }
}

/// What is heard of the messages that come from now on.
#[derive(Debug)]
pub(super) enum News {
    /// Messages that were stored before this moment may have been missed; what comes after it is told.
    Gap,
    /// A message.
    Message(StreamMessage),
}

/// The messages that come on a subject. Dropped, it removes its consumer.
#[derive(Debug)]
pub(super) struct Live {
    messages: mpsc::Receiver<Read>,
}

impl Live {
    /// Listens to what is stored in `stream` on `subject` from now on. It begins with a gap, when the consumer is there.
    pub fn listen(context: Context, stream: String, subject: String) -> Self {
        let range = Range { stream, subject, headers_only: false };
        let (reader, messages) = Reader::new(context, range, Start::Now);
        tokio::spawn(reader.run(None));
        Self { messages }
    }

    /// What is next; `None` when the connection is closed for good.
    pub async fn next(&mut self) -> Option<News> {
        Some(match self.messages.recv().await? {
            Read::Anew => News::Gap,
            Read::Next(delivered) => News::Message(delivered.message),
        })
    }
}

impl Streams {
    /// Reads a range from its beginning.
    ///
    /// # Errors
    /// When JetStream does not make the consumer. Later failures are tried again for as long as it takes.
    pub(super) async fn read(&self, range: Range) -> Result<Ordered, BusError> {
        let (reader, messages) = Reader::new(self.context.clone(), range, Start::After(0));
        let consumer = reader.make().await?;
        tokio::spawn(reader.run(Some(consumer)));
        Ok(Ordered { messages })
    }
}

/// Where a consumer begins.
#[derive(Debug, Clone, Copy)]
enum Start {
    /// After the message of this number in the stream, the last one that was read.
    After(u64),
    /// With what comes from now on.
    Now,
}

/// What a reader hands on.
#[derive(Debug)]
enum Read {
    /// A consumer of what comes from now on was made.
    Anew,
    Next(Delivered),
}

struct Reader {
    context: Context,
    client: Client,
    range: Range,
    start: Start,
    sender: mpsc::Sender<Read>,
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
    fn new(context: Context, range: Range, start: Start) -> (Self, mpsc::Receiver<Read>) {
        let (sender, messages) = mpsc::channel(AHEAD);
        let client = context.client();
        (Self { context, client, range, start, sender }, messages)
    }

    async fn make(&self) -> Result<Consumer, BusError> {
        Consumer::make(&self.context, &self.range, self.start).await
    }

    async fn run(mut self, mut made: Option<Consumer>) {
        loop {
            let consumer = match made.take() {
                Some(consumer) => Some(consumer),
                None => self.make_in_time().await,
            };
            let Some(mut consumer) = consumer else { return };
            let open = self.tell_of_gap().await && self.forward(&mut consumer).await;
            remove(&self.context, &self.range.stream, &consumer.name).await;
            if !open {
                return;
            }
        }
    }

    /// A consumer, however long JetStream is away; `None` when nobody waits for it any more.
    async fn make_in_time(&self) -> Option<Consumer> {
        loop {
            if self.client.connection_state() == State::Connected {
                match self.make().await {
                    Ok(consumer) => return Some(consumer),
                    Err(error) => tracing::debug!(%error, "a stream cannot be read on at present"),
                }
            }
            tokio::select! {
                () = self.sender.closed() => return None,
                () = tokio::time::sleep(PAUSE) => {}
            }
        }
    }

    /// Whether there is still somebody to be told.
    async fn tell_of_gap(&self) -> bool {
        match self.start {
            Start::After(_) => true,
            Start::Now => self.sender.send(Read::Anew).await.is_ok(),
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
                    if let Start::After(last) = &mut self.start {
                        *last = delivered.message.sequence;
                    }
                    if self.sender.send(Read::Next(*delivered)).await.is_err() {
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
    async fn make(context: &Context, range: &Range, start: Start) -> Result<Self, BusError> {
        let client = context.client();
        let connections = connections(&client);
        let inbox = client.new_inbox();
        let messages = super::subscribe(&client, &inbox).await?;
        let deliver_policy = match start {
            Start::After(0) => DeliverPolicy::All,
            Start::After(last) => DeliverPolicy::ByStartSequence { start_sequence: last + 1 },
            Start::Now => DeliverPolicy::New,
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

/// How often the client has connected.
pub(super) fn connections(client: &Client) -> u64 {
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
