//! A worker of which the test decides every word: for what a real one does once in a thousand jobs.

use std::time::Duration;

use async_nats::{Client, HeaderMap, Message, Subscriber};
use bytes::Bytes;
use futures::StreamExt;
use sd_worker_rbee::contract::{
    Capability, CompleteEvent, Event, EventKind, ImageResult, JobId, Operation, OutputFormat, Subjects,
    Timings, WorkerId, WorkerInfo, WorkerStatus, headers,
};
use tokio::task::JoinHandle;

/// A worker that takes every job on the shared subject and on its own.
pub struct FakeWorker {
    pub id: WorkerId,
    client: Client,
    subjects: Subjects,
    jobs: Subscriber,
    direct: Subscriber,
    heartbeat: JoinHandle<()>,
}

/// A job that it was sent.
pub struct FakeJob {
    pub operation: Operation,
    pub id: JobId,
    pub body: Bytes,
    pub subject: String,
    worker: WorkerId,
    client: Client,
    reply: String,
    seq: u64,
}

impl FakeWorker {
    /// A worker with these models, whose heartbeats begin at once.
    pub async fn start(url: &str, prefix: &str, id: &str, models: &[&str]) -> Self {
        let client = async_nats::connect(url).await.expect("NATS");
        let subjects = Subjects::new(prefix).expect("a prefix");
        let id = WorkerId::new(id).expect("an id");
        let jobs = client.queue_subscribe(subjects.image_any(), "workers".into()).await.expect("a door");
        let direct = client.subscribe(subjects.direct_any(&id)).await.expect("a door");
        let info = info(&id, models);
        let (subject, beat) = (subjects.heartbeat(&id), client.clone());
        let heartbeat = tokio::spawn(async move {
            loop {
                let body = serde_json::to_vec(&info).expect("JSON");
                beat.publish(subject.clone(), body.into()).await.expect("a heartbeat");
                tokio::time::sleep(Duration::from_millis(200)).await;
            }
        });
        client.flush().await.expect("a flush");
        Self { id, client, subjects, jobs, direct, heartbeat }
    }

    /// The next job, which must come soon.
    pub async fn job(&mut self) -> FakeJob {
        let next = async {
            tokio::select! {
                message = self.jobs.next() => message,
                message = self.direct.next() => message,
            }
        };
        let message = tokio::time::timeout(Duration::from_secs(10), next).await.expect("a job in time");
        self.read(message.expect("a connection"))
    }

    /// Whether no job comes for a while.
    pub async fn gets_nothing(&mut self, while_waiting: Duration) -> bool {
        tokio::time::timeout(while_waiting, self.jobs.next()).await.is_err()
    }

    /// Cancels that this pool is asked for.
    pub async fn cancels(&self) -> Subscriber {
        let cancels = self.client.subscribe(self.subjects.cancel_any()).await.expect("a subscription");
        self.client.flush().await.expect("a flush");
        cancels
    }

    /// No heartbeats any more, as if it were dead.
    pub fn fall_silent(&self) {
        self.heartbeat.abort();
    }

    fn read(&self, message: Message) -> FakeJob {
        let capability: Option<Capability> = self.subjects.capability_of(&message.subject);
        let operation = Operation::parse(capability, &message.payload).expect("an operation");
        let id = JobId::new(operation.job_id().expect("queen gives every job an id")).expect("an id");
        FakeJob {
            operation,
            id,
            body: message.payload,
            subject: message.subject.to_string(),
            worker: self.id.clone(),
            client: self.client.clone(),
            reply: message.reply.expect("an inbox").to_string(),
            seq: 0,
        }
    }
}

impl Drop for FakeWorker {
    fn drop(&mut self) {
        self.heartbeat.abort();
    }
}

impl FakeJob {
    /// Sends the next event.
    pub async fn send(&mut self, kind: EventKind) {
        let event = self.event(kind);
        self.seq += 1;
        self.send_event(&event).await;
    }

    pub fn event(&self, kind: EventKind) -> Event {
        Event { job_id: self.id.clone(), worker_id: self.worker.clone(), attempt: 1, seq: self.seq, kind }
    }

    pub async fn send_event(&self, event: &Event) {
        let body = serde_json::to_vec(event).expect("JSON");
        let mut header = HeaderMap::new();
        header.insert(headers::JOB_EVENT, event.kind.name());
        self.client.publish_with_headers(self.reply.clone(), header, body.into()).await.expect("an event");
        self.client.flush().await.expect("a flush");
    }

    /// The same message, as another worker would answer it.
    pub fn answered_by(mut self, worker: &str) -> Self {
        self.worker = WorkerId::new(worker).expect("an id");
        self
    }

    pub async fn accept(&mut self) {
        self.send(EventKind::Accepted { model: "m".into(), seed: 1, position: 0 }).await;
    }

    pub async fn progress(&mut self, step: u32) {
        self.send(EventKind::Progress { step, total: 9, percent: 0.0, eta_ms: 0 }).await;
    }

    pub async fn complete(&mut self) {
        self.send(complete(&self.id)).await;
        self.end().await;
    }

    /// The empty message after the last reply.
    pub async fn end(&self) {
        let mut header = HeaderMap::new();
        header.insert(headers::JOB_EVENT, headers::EVENT_END);
        self.client.publish_with_headers(self.reply.clone(), header, Bytes::new()).await.expect("an end");
        self.client.flush().await.expect("a flush");
    }
}

/// What a job with one picture ends in.
pub fn complete(id: &JobId) -> EventKind {
    EventKind::Complete(CompleteEvent {
        model: "m".into(),
        images: vec![ImageResult {
            key: format!("jobs/{id}/0.png"),
            url: String::new(),
            format: OutputFormat::Png,
            width: 8,
            height: 8,
            bytes: 3,
            sha256: String::new(),
            seed: 1,
        }],
        timings_ms: Timings::default(),
        mask: None,
        warnings: vec![],
    })
}

/// A worker that can do all with these models, and has its one slot free.
pub fn info(id: &WorkerId, models: &[&str]) -> WorkerInfo {
    WorkerInfo {
        id: id.clone(),
        hive_id: None,
        model_id: models[0].into(),
        models: models.iter().map(|&m| m.into()).collect(),
        device: "cpu".into(),
        status: WorkerStatus::Ready,
        capabilities: Capability::ALL.to_vec(),
        slots: 1,
        free_slots: 1,
        implementation: "fake".into(),
        version: "0".into(),
        limits: None,
        loras: None,
        segmenter: false,
        schedulers: vec![],
        native_sizes: Default::default(),
        licenses: Default::default(),
        titles: Default::default(),
        resolutions: Default::default(),
        resident: vec![],
        jobs_done: 0,
        step_ms: None,
    }
}
