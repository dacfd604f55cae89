//! Real worker processes, and a requester that reads every reply.

use std::{
    fs::File,
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus, Stdio},
    time::{Duration, Instant},
};

use async_nats::{Client, HeaderMap, Message, StatusCode, Subscriber};
use futures::StreamExt;
use sd_worker_rbee::contract::{
    Capability, CompleteEvent, ErrorCode, Event, EventKind, JobId, Subjects, WorkerId, WorkerInfo, headers,
};
use tempfile::TempDir;

use super::nats::{NatsServer, prefix};

/// Nothing in these tests takes longer.
pub const PATIENCE: Duration = Duration::from_secs(30);

/// A pool of its own: a prefix, a store, a client.
pub struct Pool {
    pub url: String,
    pub prefix: String,
    pub store: TempDir,
    pub client: Client,
    pub subjects: Subjects,
}

/// A worker's process, killed at the end of the test.
pub struct WorkerProcess {
    child: Child,
    log: PathBuf,
    _folder: TempDir,
    pub id: WorkerId,
}

/// How the replies to a request ended.
#[derive(Debug, Clone, PartialEq)]
pub enum End {
    Done(CompleteEvent),
    Failed(ErrorCode, String),
    Cancelled,
    NoResponders,
}

/// The replies to one request.
pub struct Replies {
    inbox: Subscriber,
    pub events: Vec<Event>,
    pub headers: Vec<HeaderMap>,
}

impl Pool {
    pub async fn new() -> Self {
        Self::on(&NatsServer::shared().url()).await
    }

    pub async fn on(url: &str) -> Self {
        let prefix = prefix();
        let subjects = Subjects::new(&prefix).expect("a prefix");
        let options = sd_worker_rbee::bus::NatsOptions::new(url);
        let client = sd_worker_rbee::bus::connect(&options, "test").await.expect("NATS");
        let store = TempDir::new().expect("a folder");
        Self { url: url.to_owned(), prefix, store, client, subjects }
    }

    /// Starts a worker with this model; more flags in `more`.
    pub fn spawn(&self, id: &str, model: &str, more: &[&str]) -> WorkerProcess {
        WorkerProcess::start(&self.url, &self.prefix, self.store.path(), id, model, more)
    }

    /// As [`Self::spawn`], and waits until it takes jobs.
    pub async fn worker(&self, id: &str, model: &str, more: &[&str]) -> WorkerProcess {
        let worker = self.spawn(id, model, more);
        worker.wait_for_log(" ready ").await;
        worker
    }

    /// Sends a body to any worker.
    pub async fn request(&self, capability: Capability, body: impl AsRef<[u8]>) -> Replies {
        self.request_on(&self.subjects.image(capability), body, None).await
    }

    pub async fn generate(&self, body: impl AsRef<[u8]>) -> Replies {
        self.request(Capability::Generate, body).await
    }

    /// Sends a body until a worker takes it, and reads to the end.
    pub async fn insist(&self, body: &str) -> End {
        for _ in 0..200 {
            let end = self.generate(body).await.end().await;
            if end != End::NoResponders && !matches!(end, End::Failed(ErrorCode::Busy, _)) {
                return end;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        panic!("no worker takes {body}")
    }

    pub async fn direct(&self, worker: &WorkerId, body: impl AsRef<[u8]>) -> Replies {
        self.request_on(&self.subjects.direct(worker, Capability::Generate), body, None).await
    }

    pub async fn request_on(
        &self,
        subject: &str,
        body: impl AsRef<[u8]>,
        headers: Option<HeaderMap>,
    ) -> Replies {
        let reply = self.client.new_inbox();
        let inbox = self.client.subscribe(reply.clone()).await.expect("an inbox");
        let body = body.as_ref().to_vec().into();
        let headers = headers.unwrap_or_default();
        self.client
            .publish_with_reply_and_headers(subject.to_owned(), reply, headers, body)
            .await
            .expect("a request");
        Replies { inbox, events: vec![], headers: vec![] }
    }

    /// Every event of a job that does not go to an inbox, from now on.
    pub async fn events(&self, job: &str) -> Subscriber {
        let subject = self.subjects.events(&JobId::new(job).expect("an id"));
        let events = self.client.subscribe(subject).await.expect("a subscription");
        self.client.flush().await.expect("a flush");
        events
    }

    /// Asks for a job to be cancelled; the id of the worker that answers.
    pub async fn cancel(&self, job: &str) -> Option<String> {
        let subject = self.subjects.cancel(&JobId::new(job).expect("an id"));
        let request = async_nats::Request::new().timeout(Some(Duration::from_millis(700)));
        let answer = self.client.send_request(subject, request).await.ok()?;
        let body: serde_json::Value = serde_json::from_slice(&answer.payload).expect("JSON");
        Some(body["worker_id"].as_str().expect("a worker id").to_owned())
    }

    /// Heartbeats from now on.
    pub async fn heartbeats(&self, id: &WorkerId) -> Subscriber {
        let beats = self.client.subscribe(self.subjects.heartbeat(id)).await.expect("a subscription");
        self.client.flush().await.expect("a flush");
        beats
    }

    /// The job's folder in the store.
    pub fn job_folder(&self, job: &str) -> PathBuf {
        self.store.path().join("jobs").join(job)
    }
}

/// The next heartbeat for which this is true.
pub async fn heartbeat(beats: &mut Subscriber, wanted: impl Fn(&WorkerInfo) -> bool) -> WorkerInfo {
    let look = async {
        loop {
            let message = beats.next().await.expect("a connection");
            let info: WorkerInfo = serde_json::from_slice(&message.payload).expect("a heartbeat");
            if wanted(&info) {
                return info;
            }
        }
    };
    tokio::time::timeout(PATIENCE, look).await.expect("a heartbeat in time")
}

/// The event in a message on `events.<job>`.
pub async fn next_event(events: &mut Subscriber) -> Event {
    let message = tokio::time::timeout(PATIENCE, events.next()).await.expect("an event in time");
    serde_json::from_slice(&message.expect("a connection").payload).expect("an event")
}

impl Replies {
    /// The next event; `Err` at the end.
    pub async fn next(&mut self) -> Result<Event, End> {
        let message = tokio::time::timeout(PATIENCE, self.inbox.next())
            .await
            .expect("a reply in time")
            .expect("a connection");
        match read(&message) {
            Read::Event(event) => {
                self.events.push(event.clone());
                self.headers.push(message.headers.clone().unwrap_or_default());
                Ok(event)
            }
            Read::NoResponders => Err(End::NoResponders),
            Read::End => {
                self.headers.push(message.headers.clone().unwrap_or_default());
                Err(self.last())
            }
        }
    }

    /// Reads to the end. There is exactly one terminal event, the last.
    pub async fn end(&mut self) -> End {
        loop {
            if let Err(end) = self.next().await {
                let terminal = self.events.iter().filter(|event| event.kind.is_terminal()).count();
                assert_eq!(terminal, usize::from(end != End::NoResponders), "{:?}", self.events);
                return end;
            }
        }
    }

    /// Waits for an event of this name.
    pub async fn wait_for(&mut self, name: &str) -> Event {
        loop {
            match self.next().await {
                Ok(event) if event.kind.name() == name => return event,
                Ok(_) => {}
                Err(end) => panic!("ended before `{name}`: {end:?}"),
            }
        }
    }

    /// Whether nothing comes for a while.
    pub async fn is_silent(&mut self, for_: Duration) -> bool {
        tokio::time::timeout(for_, self.inbox.next()).await.is_err()
    }

    pub fn names(&self) -> Vec<&'static str> {
        self.events.iter().map(|event| event.kind.name()).collect()
    }

    fn last(&self) -> End {
        match &self.events.last().expect("an event before the end").kind {
            EventKind::Complete(complete) => End::Done(complete.clone()),
            EventKind::Error { code, message, .. } => End::Failed(*code, message.clone()),
            EventKind::Cancelled { .. } => End::Cancelled,
            other => panic!("ended after {other:?}"),
        }
    }
}

impl End {
    #[track_caller]
    pub fn done(self) -> CompleteEvent {
        match self {
            Self::Done(complete) => complete,
            other => panic!("not complete: {other:?}"),
        }
    }

    #[track_caller]
    pub fn failed(self) -> (ErrorCode, String) {
        match self {
            Self::Failed(code, message) => (code, message),
            other => panic!("no error: {other:?}"),
        }
    }
}

/// A message on a reply subject.
pub enum Read {
    Event(Event),
    End,
    NoResponders,
}

pub fn read(message: &Message) -> Read {
    if message.status == Some(StatusCode::NO_RESPONDERS) {
        return Read::NoResponders;
    }
    if message.payload.is_empty() {
        let end = message.headers.as_ref().and_then(|map| map.get(headers::JOB_EVENT));
        assert_eq!(end.map(|value| value.as_str()), Some(headers::EVENT_END));
        return Read::End;
    }
    Read::Event(serde_json::from_slice(&message.payload).expect("an event"))
}

impl WorkerProcess {
    pub fn start(url: &str, prefix: &str, store: &Path, id: &str, model: &str, more: &[&str]) -> Self {
        let store = store.to_str().expect("a UTF-8 path");
        Self::start_with(url, prefix, store, id, model, more, vec![])
    }

    /// As [`start`](Self::start), with a store of whatever kind, and with these variables.
    pub fn start_with(
        url: &str,
        prefix: &str,
        store: &str,
        id: &str,
        model: &str,
        more: &[&str],
        environment: Vec<(String, String)>,
    ) -> Self {
        let folder = TempDir::new().expect("a folder");
        let log = folder.path().join("log");
        let file = File::create(&log).expect("a log file");
        let program =
            std::env::var("SD_WORKER").unwrap_or_else(|_| env!("CARGO_BIN_EXE_sd-worker-cpu").into());
        let mut command = Command::new(program);
        // What the shell of whoever runs the tests has set must not decide.
        for (name, _) in
            std::env::vars().filter(|(name, _)| name.starts_with("SD_") || name.starts_with("NATS_"))
        {
            command.env_remove(name);
        }
        // Every test has streams of its own, and what they may grow to is set aside on the server.
        let sizes =
            [("--jobs-max-bytes", "16MiB"), ("--events-max-bytes", "16MiB"), ("--dlq-max-bytes", "4MiB")];
        let basics = [("--nats-url", url), ("--store-url", store), ("--threads", "1")];
        for (flag, value) in basics.into_iter().chain(sizes) {
            if !more.contains(&flag) {
                command.args([flag, value]);
            }
        }
        let child = command
            .args(["--subject-prefix", prefix, "--worker-id", id, "--model", model])
            .args(more)
            .envs(environment)
            .env("RUST_LOG", "warn,sd_worker_rbee=debug")
            .stdin(Stdio::null())
            .stdout(file.try_clone().expect("a second handle"))
            .stderr(file)
            .spawn()
            .expect("the worker's program");
        Self { child, log, _folder: folder, id: WorkerId::new(id).expect("an id") }
    }

    pub fn log(&self) -> String {
        std::fs::read_to_string(&self.log).unwrap_or_default()
    }

    /// Waits for this text in the log.
    pub async fn wait_for_log(&self, text: &str) {
        let until = Instant::now() + PATIENCE;
        while !self.log().contains(text) {
            assert!(Instant::now() < until, "no `{text}` in the log:\n{}", self.log());
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    pub fn terminate(&self) {
        self.signal("-TERM");
    }

    pub fn hang_up(&self) {
        self.signal("-HUP");
    }

    pub fn kill(&self) {
        self.signal("-KILL");
    }

    pub fn stop(&self) {
        self.signal("-STOP");
    }

    pub fn go_on(&self) {
        self.signal("-CONT");
    }

    fn signal(&self, signal: &str) {
        let sent = Command::new("kill").args([signal, &self.child.id().to_string()]).status();
        assert!(sent.expect("kill").success());
    }

    /// Waits for the process to end.
    pub async fn exit(&mut self) -> ExitStatus {
        let until = Instant::now() + PATIENCE;
        loop {
            if let Some(status) = self.child.try_wait().expect("a child") {
                return status;
            }
            assert!(Instant::now() < until, "still running:\n{}", self.log());
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }

    pub fn is_running(&mut self) -> bool {
        self.child.try_wait().expect("a child").is_none()
    }
}

impl Drop for WorkerProcess {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        if std::thread::panicking() {
            eprintln!("--- log of {}:\n{}", self.id, self.log());
        }
    }
}
