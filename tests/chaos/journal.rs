//! The streams, read by the test itself: nothing of the project's own code stands between.

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use async_nats::jetstream::{self, Context, consumer::pull, stream::Stream};
use futures::{StreamExt, TryStreamExt};
use serde_json::Value;

use super::evidence::{Left, Letter, Stored};

/// Longer than a reconnect after the last outage of a run.
const PATIENCE: Duration = Duration::from_secs(60);

/// A reader of a pool's streams, on a connection of its own that no fault touches.
pub struct Journal {
    context: Context,
    prefix: String,
}

/// A message of a stream.
struct Message {
    subject: String,
    headers: async_nats::HeaderMap,
    value: Value,
}

/// How the stream of jobs stands. Two that are the same: nothing has moved in between.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Standing {
    pub jobs_left: u64,
    pub ack_pending: u64,
    pub last_event: u64,
    /// Deliveries so far.
    pub delivered: u64,
}

impl Journal {
    pub async fn connect(port: u16, prefix: &str) -> Self {
        let options = async_nats::ConnectOptions::new().retry_on_initial_connect();
        let client = options.connect(format!("nats://127.0.0.1:{port}")).await.expect("NATS");
        Self { context: jetstream::new(client), prefix: prefix.to_owned() }
    }

    /// Tries until the server answers: it may just have been started.
    async fn insist<T, E: std::fmt::Debug>(&self, what: &str, work: impl AsyncFn() -> Result<T, E>) -> T {
        let until = Instant::now() + PATIENCE;
        loop {
            let error = match tokio::time::timeout(Duration::from_secs(10), work()).await {
                Ok(Ok(done)) => return done,
                Ok(Err(error)) => format!("{error:?}"),
                Err(_) => "no answer".into(),
            };
            assert!(Instant::now() < until, "{what}: {error}");
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    }

    async fn stream(&self, name: &str) -> Stream {
        let name = format!("{}-{name}", self.prefix);
        self.insist(&name, async || self.context.get_stream(&name).await).await
    }

    pub async fn standing(&self) -> Standing {
        let jobs = self.stream("JOBS").await;
        let consumers: Vec<_> =
            self.insist("consumers", async || jobs.consumers().try_collect::<Vec<_>>().await).await;
        Standing {
            jobs_left: jobs.cached_info().state.messages,
            ack_pending: consumers.iter().map(|info| info.num_ack_pending as u64).sum(),
            delivered: consumers.iter().map(|info| info.delivered.consumer_sequence).sum(),
            last_event: self.stream("EVENTS").await.cached_info().state.last_sequence,
        }
    }

    /// How the consumers of jobs stand, one a line.
    pub async fn consumers(&self) -> String {
        let jobs = self.stream("JOBS").await;
        let consumers: Vec<_> =
            self.insist("consumers", async || jobs.consumers().try_collect::<Vec<_>>().await).await;
        let line = |info: &async_nats::jetstream::consumer::Info| {
            format!(
                "  consumer {}: delivered up to {}, acknowledged up to {}, {} given out, {} waiting, {} pulls\n",
                info.name,
                info.delivered.stream_sequence,
                info.ack_floor.stream_sequence,
                info.num_ack_pending,
                info.num_pending,
                info.num_waiting
            )
        };
        consumers.iter().map(line).collect()
    }

    /// Every message of a stream, from the first to the one that is the last by now.
    async fn messages(&self, name: &str) -> Vec<Message> {
        let stream = self.stream(name).await;
        let state = stream.cached_info().state.clone();
        if state.messages == 0 {
            return vec![];
        }
        let read = async || -> Result<Vec<Message>, String> {
            let config = pull::OrderedConfig::default();
            let consumer = stream.create_consumer(config).await.map_err(|e| e.to_string())?;
            let mut messages = consumer.messages().await.map_err(|e| e.to_string())?;
            let mut found = vec![];
            while let Some(message) = messages.next().await {
                let message = message.map_err(|e| e.to_string())?;
                let info = message.info().map_err(|e| e.to_string())?;
                let (sequence, is_last) = (info.stream_sequence, info.pending == 0);
                found.push(Message {
                    subject: message.subject.to_string(),
                    headers: message.headers.clone().unwrap_or_default(),
                    value: serde_json::from_slice(&message.payload).unwrap_or(Value::Null),
                });
                // The message of the last number may have been removed.
                if is_last || sequence >= state.last_sequence {
                    return Ok(found);
                }
            }
            Err("the stream ended too early".into())
        };
        self.insist(name, read).await
    }

    /// Events by job and the newest ticket of each; what is neither is a complaint.
    pub async fn events(&self) -> (BTreeMap<String, Vec<Stored>>, BTreeMap<String, Value>, Vec<String>) {
        let (mut events, mut tickets, mut complaints) = (BTreeMap::new(), BTreeMap::new(), vec![]);
        for message in self.messages("EVENTS").await {
            let subject = message.subject.strip_prefix(&format!("{}.", self.prefix)).unwrap_or_default();
            match subject.split_once('.') {
                Some(("queued", job)) => drop(tickets.insert(job.to_owned(), message.value)),
                Some(("events", job)) if message.value["job_id"] == job => match Stored::new(message.value) {
                    Some(event) => events.entry(job.to_owned()).or_insert_with(Vec::new).push(event),
                    None => complaints.push(format!("what is stored on {} is no event", message.subject)),
                },
                _ => complaints.push(format!("{} has no business in the stream", message.subject)),
            }
        }
        (events, tickets, complaints)
    }

    /// The jobs that are still in their stream.
    pub async fn jobs_left(&self) -> Vec<Left> {
        // A work queue lets nobody read it but its consumers: message by message, those that are gone left out.
        let stream = self.stream("JOBS").await;
        let state = stream.cached_info().state.clone();
        let mut left = vec![];
        for sequence in state.first_sequence..=state.last_sequence {
            if left.len() as u64 == state.messages {
                break;
            }
            if let Ok(message) = stream.get_raw_message(sequence).await {
                let job = message.headers.get("Job-Id").map(|value| value.as_str().to_owned());
                left.push(Left { job: job.unwrap_or_default(), sequence });
            }
        }
        left
    }

    pub async fn letters(&self) -> Vec<Letter> {
        let header = |message: &Message, name: &str| {
            message.headers.get(name).map(|value| value.as_str().to_owned()).unwrap_or_default()
        };
        let letters = self.messages("DLQ").await;
        letters
            .iter()
            .map(|l| Letter { job: header(l, "Job-Id"), code: header(l, "Job-Error-Code") })
            .collect()
    }
}
