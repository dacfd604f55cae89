//! A pool with many jobs on a server of its own, and the question whether each of them ended once.

use std::{
    path::Path,
    time::{Duration, Instant},
};

use async_nats::jetstream;
use sd_worker_rbee::contract::{CompleteEvent, Event, EventKind, JobId};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use crate::support::{
    queen::QueenProcess,
    worker::{Pool, WorkerProcess},
};

/// A job takes about a quarter of a second.
const MODEL: &str = "sim=sim://?step_ms=10&size=64";
const STEPS: u32 = 20;
/// All jobs are over by then. A message that a server takes for delivered is sent again after 24 s.
const ALL_WITHIN: Duration = Duration::from_secs(90);
const SIZES: [&str; 6] =
    ["--jobs-max-bytes", "16MiB", "--events-max-bytes", "16MiB", "--dlq-max-bytes", "4MiB"];
const SOON: [&str; 2] = ["--ack-wait", "1s"];

/// Two workers, a queen, and a client that sends jobs.
pub struct Crowd {
    pub pool: Pool,
    pub queen: QueenProcess,
    pub workers: Vec<WorkerProcess>,
    context: jetstream::Context,
    /// Jobs that queen answered with their ids.
    pub accepted: Vec<String>,
    sent: usize,
}

fn job(id: &str) -> Value {
    let seed: u32 = id.bytes().map(u32::from).sum();
    json!({
        "operation": "image_generation", "prompt": "a", "steps": STEPS, "seed": seed, "model": "sim", "job_id": id,
    })
}

impl Crowd {
    /// A pool on these servers; `more` for queen and workers.
    pub async fn start(url: &str, more: &[&str]) -> Self {
        let pool = Pool::on(url).await;
        let store = pool.store.path().to_str().unwrap().to_owned();
        let arguments = [&SIZES[..], &SOON, &["--models", "sim"], more].concat();
        let queen = QueenProcess::start_with(url, &pool.prefix, &store, &arguments, vec![]);
        let mut workers = vec![];
        for id in ["a", "b"] {
            let more = [&SOON[..], &["--slots", "2"], more].concat();
            workers.push(pool.worker(id, MODEL, &more).await);
        }
        let context = jetstream::new(pool.client.clone());
        Self { pool, queen, workers, context, accepted: vec![], sent: 0 }
    }

    /// Sends one more job, again and again until queen takes it.
    pub async fn send(&mut self) {
        let id = format!("j{}", self.sent);
        self.sent += 1;
        self.insist(&id).await;
        self.accepted.push(id);
    }

    async fn insist(&self, id: &str) {
        let until = Instant::now() + ALL_WITHIN;
        loop {
            let (status, answer) = self.queen.post(&job(id)).await;
            if status == 200 {
                return;
            }
            assert!(status == 503 && Instant::now() < until, "`{id}`: {status} {answer}");
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    }

    async fn status(&self, id: &str) -> String {
        let until = Instant::now() + ALL_WITHIN;
        loop {
            match self.queen.get(&format!("/v1/jobs/{id}")).await {
                (200, view) => return view["status"].as_str().expect("a status").to_owned(),
                (404, _) => return "unknown".into(),
                (status, answer) => {
                    assert!(status == 503 && Instant::now() < until, "`{id}`: {status} {answer}")
                }
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    }

    /// How many have been drawn.
    pub async fn done(&self) -> usize {
        let mut done = 0;
        for id in &self.accepted {
            done += usize::from(self.status(id).await == "completed");
        }
        done
    }

    /// Waits until every job is drawn, and is in no queue any more.
    pub async fn all_are_drawn(&self) {
        let until = Instant::now() + ALL_WITHIN;
        for id in &self.accepted {
            loop {
                let status = self.status(id).await;
                if status == "completed" {
                    break;
                }
                let open = ["unknown", "queued", "running"].contains(&status.as_str());
                assert!(open && Instant::now() < until, "`{id}` is {status}: {:?}", self.log(id).await);
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        }
        // The server's count is not asked: after a cut, 2.9.10 counts messages that nobody can read or remove.
        for id in &self.accepted {
            while self.waits(id).await {
                assert!(Instant::now() < until, "the message of `{id}` is left in the queue");
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        }
    }

    /// Jobs that are not known any more, or wait in no queue: what a power cut took.
    pub async fn lost(&self) -> Vec<String> {
        let mut lost = vec![];
        for id in &self.accepted {
            let status = self.status(id).await;
            if status == "unknown"
                || ["queued", "running"].contains(&status.as_str()) && !self.waits(id).await
            {
                lost.push(id.clone());
            }
        }
        lost
    }

    /// Whether a message of the job is in the queue.
    async fn waits(&self, id: &str) -> bool {
        let stream = self.context.get_stream(self.pool.subjects.stream("JOBS")).await.expect("JOBS");
        let subject = format!("{}.jobs.image.generate.sim.{id}", self.pool.prefix);
        stream.get_last_raw_message_by_subject(&subject).await.is_ok()
    }

    /// Sends jobs again as their clients would.
    pub async fn send_again(&self, ids: &[String]) {
        for id in ids {
            self.insist(id).await;
        }
    }

    pub async fn messages(&self, name: &str) -> u64 {
        let name = self.pool.subjects.stream(name);
        let until = Instant::now() + ALL_WITHIN;
        loop {
            match self.context.get_stream(&name).await {
                Ok(stream) => return stream.cached_info().state.messages,
                Err(error) => assert!(Instant::now() < until, "{name}: {error}"),
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    }

    async fn log(&self, id: &str) -> Vec<Event> {
        let subject = self.pool.subjects.events(&JobId::new(id).unwrap());
        let stream = self.context.get_stream(self.pool.subjects.stream("EVENTS")).await.expect("EVENTS");
        let (mut events, mut from) = (vec![], 1);
        while let Ok(message) =
            stream.raw_message_builder().sequence(from).next_by_subject(&subject).send().await
        {
            from = message.sequence + 1;
            events.push(serde_json::from_slice(&message.payload).expect("an event"));
        }
        events
    }

    /// Every job has one end, which is its last event and a success whose pictures are in the store; none is a dead letter.
    /// A job of whose log nothing is left is known by its result in the store.
    pub async fn each_ended_once(&self) {
        for id in &self.accepted {
            let events = self.log(id).await;
            if events.is_empty() {
                assert!(self.pool.job_folder(id).join("result.json").is_file(), "`{id}`");
                continue;
            }
            let ends = events.iter().filter(|event| event.kind.is_terminal()).count();
            assert_eq!(ends, 1, "`{id}`: {events:?}");
            let EventKind::Complete(complete) = &events.last().unwrap().kind else {
                panic!("`{id}` did not complete: {events:?}")
            };
            is_stored(self.pool.store.path(), complete);
        }
        assert_eq!(self.messages("DLQ").await, 0);
    }
}

#[track_caller]
fn is_stored(store: &Path, complete: &CompleteEvent) {
    assert!(!complete.images.is_empty());
    for image in &complete.images {
        let bytes = std::fs::read(store.join(&image.key)).unwrap_or_else(|e| panic!("{}: {e}", image.key));
        let hash: String = Sha256::digest(&bytes).iter().map(|byte| format!("{byte:02x}")).collect();
        assert_eq!(hash, image.sha256, "{} is another picture", image.key);
    }
}
