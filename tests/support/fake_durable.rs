//! A queen whose jobs are durable, and a worker for them of which the test decides every word.

use std::time::Duration;

use async_nats::{
    Client, HeaderMap,
    jetstream::{
        self, AckKind,
        consumer::{AckPolicy, PullConsumer, pull},
    },
};
use bytes::Bytes;
use futures::StreamExt;
use sd_worker_rbee::{
    bus::{AppendError, Entry, EventLog, StreamOptions, Streams},
    contract::{
        Capability, ErrorCode, Event, EventKind, JobId, Operation, OutputFormat, Subjects, WorkerId,
        WorkerInfo, headers,
    },
    storage::{Key, Store, StoreOptions, StoredResult},
};
use tempfile::TempDir;

use super::{
    fake_worker::complete,
    nats::{NatsServer, prefix},
    queen::QueenProcess,
};

/// Streams reserve their bytes on the server, which has many.
pub const SMALL: [&str; 6] =
    ["--jobs-max-bytes", "4MiB", "--events-max-bytes", "4MiB", "--dlq-max-bytes", "4MiB"];

/// What queens and workers share: subjects, streams, a store.
pub struct DurablePool {
    pub url: String,
    pub prefix: String,
    pub subjects: Subjects,
    pub client: Client,
    pub jetstream: jetstream::Context,
    pub streams: Streams,
    pub store: Store,
    folder: TempDir,
}

impl DurablePool {
    pub async fn start() -> Self {
        Self::start_on(NatsServer::shared()).await
    }

    pub async fn start_on(server: &NatsServer) -> Self {
        let (folder, prefix, url) = (TempDir::new().unwrap(), prefix(), server.url());
        let client = async_nats::connect(&url).await.expect("NATS");
        let subjects = Subjects::new(&prefix).unwrap();
        let sizes = StreamOptions {
            jobs_max_bytes: 4 << 20,
            events_max_bytes: 4 << 20,
            dlq_max_bytes: 4 << 20,
            ..StreamOptions::default()
        };
        let streams = Streams::new(client.clone(), subjects.clone(), sizes);
        let store = Store::open(&StoreOptions::new(folder.path().join("store").to_str().unwrap())).unwrap();
        let jetstream = jetstream::new(client.clone());
        Self { url, prefix, subjects, client, jetstream, streams, store, folder }
    }

    /// A queen of this pool; there may be several.
    pub fn queen(&self, arguments: &[&str]) -> QueenProcess {
        self.queen_with(arguments, vec![])
    }

    /// As [`Self::queen`], with these variables.
    pub fn queen_with(&self, arguments: &[&str], environment: Vec<(String, String)>) -> QueenProcess {
        let store = self.folder.path().join("store");
        let arguments = [&SMALL, arguments].concat();
        QueenProcess::start_with(&self.url, &self.prefix, store.to_str().unwrap(), &arguments, environment)
    }

    pub async fn stream(&self, name: &str) -> jetstream::stream::Stream {
        self.jetstream.get_stream(self.subjects.stream(name)).await.expect("the stream")
    }

    /// Messages in a stream.
    pub async fn messages(&self, name: &str) -> u64 {
        self.stream(name).await.cached_info().state.messages
    }

    /// One heartbeat of a worker with these models.
    pub async fn heartbeat(&self, id: &str, models: &[&str]) {
        let id = WorkerId::new(id).unwrap();
        let capabilities = vec![Capability::Generate];
        let info = WorkerInfo { capabilities, ..super::fake_worker::info(&id, models) };
        let body = serde_json::to_vec(&info).unwrap();
        self.client.publish(self.subjects.heartbeat(&id), body.into()).await.expect("a heartbeat");
        self.client.flush().await.expect("a flush");
    }

    /// A worker that pulls jobs of this model.
    pub async fn worker(&self, id: &str, model: &str) -> DurableWorker {
        let name = Streams::consumer_name(Capability::Generate, model);
        let config = pull::Config {
            durable_name: Some(name.clone()),
            ack_policy: AckPolicy::Explicit,
            ack_wait: Duration::from_secs(30),
            max_deliver: 10_000,
            filter_subject: self.subjects.jobs_of(Capability::Generate, model),
            ..pull::Config::default()
        };
        let consumer = self.stream("JOBS").await.get_or_create_consumer(&name, config).await;
        let (streams, store) = (self.streams.clone(), self.store.clone());
        let (client, subjects) = (self.client.clone(), self.subjects.clone());
        let id = WorkerId::new(id).unwrap();
        DurableWorker { id, consumer: consumer.expect("a consumer"), streams, store, client, subjects }
    }
}

/// A worker that pulls, and does what it is told.
pub struct DurableWorker {
    pub id: WorkerId,
    consumer: PullConsumer,
    streams: Streams,
    store: Store,
    client: Client,
    subjects: Subjects,
}

/// A job that it holds.
pub struct HeldJob {
    pub operation: Operation,
    pub id: JobId,
    pub headers: HeaderMap,
    pub message: jetstream::Message,
    pub attempt: u32,
    pub seq: u64,
    worker: WorkerId,
    /// What the next event is appended after.
    fence: u64,
    streams: Streams,
    store: Store,
    client: Client,
    subjects: Subjects,
}

impl DurableWorker {
    /// The next job, which must come soon.
    pub async fn job(&self) -> HeldJob {
        let until = tokio::time::Instant::now() + Duration::from_secs(15);
        loop {
            let mut batch = self
                .consumer
                .batch()
                .max_messages(1)
                .expires(Duration::from_secs(2))
                .messages()
                .await
                .unwrap();
            if let Some(Ok(message)) = batch.next().await {
                return self.hold(message).await;
            }
            assert!(tokio::time::Instant::now() < until, "a job in time");
        }
    }

    /// Whether the queue of its model is empty.
    pub async fn gets_nothing(&self) -> bool {
        let mut batch = self.consumer.fetch().max_messages(1).messages().await.unwrap();
        batch.next().await.is_none()
    }

    async fn hold(&self, message: jetstream::Message) -> HeldJob {
        let (capability, ..) = self.subjects.parse_job(&message.subject);
        let operation = Operation::parse(capability, &message.payload).expect("an operation");
        let id = JobId::new(operation.job_id().expect("queen gives every job an id")).unwrap();
        let last = self.streams.last(&id).await.unwrap();
        HeldJob {
            operation,
            id,
            headers: message.headers.clone().unwrap_or_default(),
            message,
            attempt: last.as_ref().map_or(1, |last| last.event.attempt + 1),
            seq: last.as_ref().map_or(0, |last| last.event.seq + 1),
            worker: self.id.clone(),
            fence: last.map_or(0, |last| last.sequence),
            streams: self.streams.clone(),
            store: self.store.clone(),
            client: self.client.clone(),
            subjects: self.subjects.clone(),
        }
    }
}

impl HeldJob {
    pub fn event(&self, kind: EventKind) -> Event {
        Event {
            job_id: self.id.clone(),
            worker_id: self.worker.clone(),
            attempt: self.attempt,
            seq: self.seq,
            kind,
        }
    }

    /// Appends the next event, unless another has written one.
    pub async fn try_append(&mut self, kind: EventKind) -> Result<(), AppendError> {
        let entry = Entry { failures: 1, ..Entry::of(self.event(kind)) };
        self.fence = self.streams.append(&entry, self.fence).await?;
        self.seq += 1;
        Ok(())
    }

    /// The stream of events was made again: the next event is the first in it.
    pub fn begin_the_log_again(&mut self) {
        self.fence = 0;
    }

    pub async fn append(&mut self, kind: EventKind) {
        self.try_append(kind).await.expect("an event");
    }

    pub async fn accept(&mut self) {
        let model = self.operation.model().expect("queen gives every durable job a model").to_owned();
        self.append(EventKind::Accepted { model, seed: 1, position: 0 }).await;
    }

    pub async fn progress(&mut self, step: u32) {
        self.append(EventKind::Progress { step, total: 9, percent: 0.0, eta_ms: 0 }).await;
    }

    /// A preview takes a number, and is not stored.
    pub async fn preview(&mut self, step: u32) {
        let kind = EventKind::Preview {
            step,
            total: 9,
            percent: 0.0,
            image: "AA==".into(),
            format: OutputFormat::Jpeg,
        };
        self.publish_preview(&self.event(kind)).await;
        self.seq += 1;
    }

    pub async fn publish_preview(&self, event: &Event) {
        let body = serde_json::to_vec(event).unwrap();
        self.client.publish(self.subjects.previews(&self.id), body.into()).await.unwrap();
        self.client.flush().await.unwrap();
    }

    /// Stores a picture and the result, says so, and acknowledges.
    pub async fn complete(&mut self) {
        let key = Key::Image { job: self.id.clone(), index: 0, attempt: 1, format: OutputFormat::Png };
        self.store.put(&key, Bytes::from_static(b"png"), "image/png").await.unwrap();
        let event = self.event(complete(&self.id));
        let fingerprint = self.operation.fingerprint();
        let owner = self.headers.get(headers::JOB_OWNER).map(|owner| owner.as_str().to_owned());
        self.store.put_result(&self.id, &StoredResult { fingerprint, owner, event }).await.unwrap();
        self.append(complete(&self.id)).await;
        self.ack().await;
    }

    pub async fn ack(&self) {
        self.message.double_ack().await.expect("an acknowledgement");
    }

    /// Ends as a job does that failed for the last time: a dead letter, the error, and the message is gone.
    pub async fn die(&mut self, code: ErrorCode, why: &str) {
        let capability = self.operation.capability();
        let mut map = self.headers.clone();
        map.insert(headers::MESSAGE_ID, format!("{}:dead:{}", self.id, self.seq));
        map.insert(headers::JOB_SUBJECT, self.message.subject.as_str());
        map.insert(headers::JOB_ERROR_CODE, code.code());
        map.insert(headers::JOB_ERROR, why);
        map.insert(headers::JOB_ID, self.id.as_str());
        let jetstream = jetstream::new(self.client.clone());
        let subject = self.subjects.dead_letter(capability.token(), &self.id);
        let published = jetstream.publish_with_headers(subject, map, self.message.payload.clone()).await;
        published.unwrap().await.expect("a dead letter");
        self.append(EventKind::error(code, why)).await;
        self.message.ack_with(AckKind::Term).await.expect("a term");
        self.client.flush().await.unwrap();
    }
}
