//! A job has one owner: who may run it, say of it, and end it, with real workers, queens, a nats-server and stores.

mod clocks;
mod earlier;
mod mixed;
mod one_owner;
mod readers;
mod stores;
mod streams_gone;
mod wrong_messages;

use std::{
    path::Path,
    time::{Duration, Instant},
};

use async_nats::{
    HeaderMap,
    jetstream::{self, context::PublishError, publish::PublishAck, stream},
};
use futures::StreamExt;
use sd_worker_rbee::contract::{CompleteEvent, Event, EventKind, JobId};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use crate::support::{
    fake_pool::generation,
    queen::QueenProcess,
    wire,
    worker::{PATIENCE, Pool, WorkerProcess},
};

/// The sizes that the workers of the tests give their streams.
const SIZES: [&str; 6] =
    ["--jobs-max-bytes", "16MiB", "--events-max-bytes", "16MiB", "--dlq-max-bytes", "4MiB"];
/// A job is given to another worker this soon.
const SOON: [&str; 2] = ["--ack-wait", "1s"];
const FAST: &str = "sim=sim://?step_ms=5&size=64";
const SLOW: &str = "sim=sim://?step_ms=100&size=64";

/// A queen, and what somebody sees of its pool who looks on.
struct Owned {
    pool: Pool,
    queen: QueenProcess,
    context: jetstream::Context,
}

impl Owned {
    /// A queen that knows the model `sim`.
    async fn start(more: &[&str]) -> Self {
        let pool = Pool::new().await;
        let store = pool.store.path().to_str().unwrap().to_owned();
        Self::start_with(pool, &store, more, vec![])
    }

    /// A queen that knows the models of workers that it has heard of, and no other.
    async fn without_catalogue() -> Self {
        let pool = Pool::new().await;
        let store = pool.store.path().to_str().unwrap().to_owned();
        let queen = QueenProcess::start_with(&pool.url, &pool.prefix, &store, &SIZES, vec![]);
        let context = jetstream::new(pool.client.clone());
        Self { pool, queen, context }
    }

    fn start_with(pool: Pool, store: &str, more: &[&str], environment: Vec<(String, String)>) -> Self {
        let arguments = [&SIZES[..], &["--models", "sim"], more].concat();
        let queen = QueenProcess::start_with(&pool.url, &pool.prefix, store, &arguments, environment);
        let context = jetstream::new(pool.client.clone());
        Self { pool, queen, context }
    }

    /// A worker that takes jobs, and that queen has heard of.
    async fn worker(&self, id: &str, model: &str, more: &[&str]) -> WorkerProcess {
        let worker = self.pool.worker(id, model, more).await;
        self.hears_of(id).await;
        worker
    }

    async fn hears_of(&self, id: &str) {
        let until = Instant::now() + PATIENCE;
        loop {
            let (_, workers) = self.queen.get("/v1/workers").await;
            if workers["workers"].as_array().is_some_and(|all| all.iter().any(|worker| worker["id"] == id)) {
                return;
            }
            assert!(Instant::now() < until, "queen hears of `{id}`: {workers}");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    /// Puts a message onto any subject, with the server's answer.
    async fn put(
        &self,
        subject: &str,
        headers: &[(&str, &str)],
        body: impl AsRef<[u8]>,
    ) -> Result<PublishAck, PublishError> {
        let mut map = HeaderMap::new();
        for (name, value) in headers {
            map.insert(*name, *value);
        }
        let body = body.as_ref().to_vec().into();
        self.context.publish_with_headers(subject.to_owned(), map, body).await?.await
    }

    /// Puts a durable job into the queue as a person would.
    async fn put_job(&self, capability: &str, id: &str, body: impl AsRef<[u8]>) {
        let headers = [("Nats-Msg-Id", id), ("Job-Id", id)];
        self.put(&self.job_subject(capability, id), &headers, body).await.expect("the server keeps it");
    }

    fn job_subject(&self, capability: &str, id: &str) -> String {
        wire::job(&self.pool.prefix, capability, "sim", id)
    }

    async fn stream(&self, name: &str) -> stream::Stream {
        self.context.get_stream(self.pool.subjects.stream(name)).await.expect("the stream")
    }

    async fn messages(&self, name: &str) -> u64 {
        self.stream(name).await.cached_info().state.messages
    }

    /// The events of a job that are stored, without what is none. Empty too while there is no stream.
    async fn log(&self, id: &str) -> Vec<Event> {
        let subject = self.pool.subjects.events(&JobId::new(id).unwrap());
        let (mut events, mut from) = (vec![], 1);
        let Ok(stream) = self.context.get_stream_no_info(self.pool.subjects.stream("EVENTS")).await else {
            return events;
        };
        while let Ok(message) =
            stream.raw_message_builder().sequence(from).next_by_subject(&subject).send().await
        {
            from = message.sequence + 1;
            events.extend(serde_json::from_slice::<Event>(&message.payload));
        }
        events
    }

    /// Waits until this is true of an event of the job; all that are stored by then.
    async fn until(&self, id: &str, wanted: impl Fn(&Event) -> bool) -> Vec<Event> {
        let until = Instant::now() + PATIENCE;
        loop {
            let events = self.log(id).await;
            if events.iter().any(&wanted) {
                return events;
            }
            assert!(Instant::now() < until, "no such event of `{id}`: {events:?}");
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    /// Waits until the job runs, and has told of a step.
    async fn runs(&self, id: &str) -> Vec<Event> {
        self.until(id, |event| matches!(event.kind, EventKind::Progress { step: 1.., .. })).await
    }

    /// Waits for the end of the job, which is one, and for its message to be gone; its events.
    async fn end(&self, id: &str) -> Vec<Event> {
        self.until(id, |event| event.kind.is_terminal()).await;
        self.no_message_of(id).await;
        let events = self.log(id).await;
        assert_eq!(ends(&events).len(), 1, "{events:?}");
        assert!(events.last().unwrap().kind.is_terminal(), "{events:?}");
        events
    }

    /// As [`Self::end`], which is a success whose pictures are what it says.
    async fn completes(&self, id: &str) -> (Vec<Event>, CompleteEvent) {
        let events = self.end(id).await;
        let EventKind::Complete(complete) = events.last().unwrap().kind.clone() else {
            panic!("`{id}` did not complete: {events:?}")
        };
        let (status, view) = self.queen.get(&format!("/v1/jobs/{id}")).await;
        assert_eq!((status, &view["status"]), (200, &json!("completed")), "{view}");
        (events, complete)
    }

    /// As [`Self::completes`], in a store that is the pool's folder.
    async fn draws(&self, id: &str) -> (Vec<Event>, CompleteEvent) {
        let (events, complete) = self.completes(id).await;
        is_stored(self.pool.store.path(), &complete);
        (events, complete)
    }

    /// Waits until no message of the job is in the queue.
    async fn no_message_of(&self, id: &str) {
        let until = Instant::now() + PATIENCE;
        while self.message_of(id).await {
            assert!(Instant::now() < until, "a message of `{id}` is still there");
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    /// Whether a message of the job is in the queue.
    async fn message_of(&self, id: &str) -> bool {
        let Ok(stream) = self.context.get_stream_no_info(self.pool.subjects.stream("JOBS")).await else {
            return false;
        };
        let (every, mut from) = (format!("{}.jobs.>", self.pool.prefix), 1);
        while let Ok(message) =
            stream.raw_message_builder().sequence(from).next_by_subject(&every).send().await
        {
            from = message.sequence + 1;
            let named = message.headers.get("Job-Id").is_some_and(|value| value.as_str() == id);
            if named || message.subject.ends_with(&format!(".{id}")) {
                return true;
            }
        }
        false
    }

    /// Waits until nothing is in the queue.
    async fn is_empty(&self) {
        let until = Instant::now() + PATIENCE;
        while self.messages("JOBS").await > 0 {
            assert!(Instant::now() < until, "messages are left in the queue");
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    /// The dead letters: subject, error code, reason.
    async fn dead_letters(&self) -> Vec<(String, String, String)> {
        let stream = self.stream("DLQ").await;
        let (every, mut from, mut letters) = (format!("{}.dlq.>", self.pool.prefix), 1, vec![]);
        while let Ok(letter) =
            stream.raw_message_builder().sequence(from).next_by_subject(&every).send().await
        {
            from = letter.sequence + 1;
            let header = |name: &str| letter.headers.get(name).map(ToString::to_string).unwrap_or_default();
            letters.push((letter.subject.to_string(), header("Job-Error-Code"), header("Job-Error")));
        }
        letters
    }

    /// Asks for a new job until queen takes it, and waits for its picture; fails when this takes longer than `limit`.
    async fn works_within(&self, limit: Duration, id: &str) {
        let until = Instant::now() + limit;
        let mut body = drawing(2);
        body["job_id"] = json!(id);
        loop {
            let (status, answer) = self.queen.post(&body).await;
            if status == 200 {
                break;
            }
            assert!(Instant::now() < until, "queen does not take a job: {status} {answer}");
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
        while self.queen.get(&format!("/v1/jobs/{id}")).await.1["status"] != "completed" {
            assert!(Instant::now() < until, "`{id}` is not drawn: {:?}", self.log(id).await);
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    }

    /// Takes the next job of the consumer, as a worker would that says nothing of it.
    async fn pull(&self, capability: &str) -> jetstream::Message {
        let stream = self.stream("JOBS").await;
        let name = wire::consumer(capability, "sim");
        let consumer: jetstream::consumer::PullConsumer = stream.get_consumer(&name).await.expect(&name);
        let mut batch = consumer.batch().max_messages(1).expires(PATIENCE).messages().await.unwrap();
        batch.next().await.expect("a job in time").expect("a message")
    }
}

/// A job of so many steps, whose picture is always the same.
fn drawing(steps: u32) -> Value {
    let mut body = generation();
    body["steps"] = json!(steps);
    body["seed"] = json!(7);
    body
}

fn named(mut body: Value, id: &str) -> Value {
    body["job_id"] = json!(id);
    body
}

fn ends(events: &[Event]) -> Vec<&Event> {
    events.iter().filter(|event| event.kind.is_terminal()).collect()
}

/// Who accepted the job, in order.
fn takers(events: &[Event]) -> Vec<&str> {
    let taken = events.iter().filter(|event| event.kind.name() == "accepted");
    taken.map(|event| event.worker_id.as_str()).collect()
}

/// Every picture is in the store, under its key, with its bytes.
#[track_caller]
fn is_stored(store: &Path, complete: &CompleteEvent) {
    assert!(!complete.images.is_empty());
    for image in &complete.images {
        let bytes = std::fs::read(store.join(&image.key)).unwrap_or_else(|e| panic!("{}: {e}", image.key));
        assert_eq!(hex(&bytes), image.sha256, "{} is another picture", image.key);
    }
}

fn hex(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect()
}
