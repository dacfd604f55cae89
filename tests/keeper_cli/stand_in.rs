//! A small HTTP server that plays queen, a `rbee-keeper` process, and what both need.

use std::{
    collections::VecDeque,
    path::Path,
    process::{Output, Stdio},
    sync::{Arc, Mutex},
    time::Duration,
};

use axum::{
    Json, Router,
    body::{Body, Bytes},
    extract::{Path as UrlPath, State},
    http::{HeaderMap, StatusCode},
    response::{IntoResponse, Response},
    routing::{delete, get, post},
};
use sd_worker_rbee::contract::{
    CompleteEvent, Event, EventKind, ImageResult, JobId, JobResponse, Operation, OutputFormat, Timings,
    WorkerId,
};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use tokio::{net::TcpListener, process::Command, time::timeout};

/// The longest that any of these processes may run.
pub const PATIENCE: Duration = Duration::from_secs(60);
/// What the stand-in serves as a picture; keeper does not decode it.
pub const PICTURE: &[u8] = b"\x89PNG not really";

/// What the stand-in does with one GET of the event stream.
#[derive(Clone)]
pub enum Stream {
    /// These events, then the connection ends.
    Events(Vec<EventKind>),
    /// These events, then silence.
    Hang(Vec<EventKind>),
    /// These events, then the connection breaks in the middle of a chunk.
    Broken(Vec<EventKind>),
    /// These events with a pause before each, then the connection ends.
    Slow(Vec<EventKind>),
}

#[derive(Default)]
pub struct Seen {
    pub posted: Vec<Value>,
    pub after: Vec<Option<String>>,
    pub authorization: Vec<Option<String>>,
    pub deleted: Vec<String>,
}

#[derive(Clone)]
pub struct StandIn {
    refusal: Option<(StatusCode, &'static str)>,
    streams: Arc<Mutex<VecDeque<Stream>>>,
    pub seen: Arc<Mutex<Seen>>,
    pub url: String,
}

impl StandIn {
    pub async fn start(streams: impl IntoIterator<Item = Stream>) -> Self {
        Self::start_with(None, streams).await
    }

    pub async fn start_with(
        refusal: Option<(StatusCode, &'static str)>,
        streams: impl IntoIterator<Item = Stream>,
    ) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let queen = Self {
            refusal,
            streams: Arc::new(Mutex::new(streams.into_iter().collect())),
            seen: Arc::default(),
            url: format!("http://{}", listener.local_addr().unwrap()),
        };
        let router = Router::new()
            .route("/v1/jobs", post(submit))
            .route("/v1/jobs/{id}/stream", get(stream))
            .route("/v1/jobs/{id}", delete(cancel))
            .route("/v1/jobs/{id}/images/{index}", get(|| async { PICTURE }))
            .with_state(queen.clone());
        tokio::spawn(async move { axum::serve(listener, router).await });
        queen
    }

    pub fn keeper(&self, folder: &Path, args: &[&str]) -> Command {
        keeper(&self.url, folder, args)
    }
}

async fn submit(State(queen): State<StandIn>, headers: HeaderMap, body: Bytes) -> Response {
    let operation = Operation::parse(None, &body).expect("keeper sends what the contract says");
    let body: Value = serde_json::from_slice(&body).unwrap();
    let job = JobId::new(body["job_id"].as_str().unwrap()).unwrap();
    assert_eq!(body["operation"], operation.capability().operation());
    {
        let mut seen = queen.seen.lock().unwrap();
        seen.posted.push(body);
        seen.authorization.push(headers.get("authorization").map(|v| v.to_str().unwrap().to_owned()));
    }
    match queen.refusal {
        Some((status, message)) => {
            (status, Json(json!({"error": {"code": "busy", "message": message, "retryable": true}})))
                .into_response()
        }
        None => Json(JobResponse::new(job)).into_response(),
    }
}

async fn stream(State(queen): State<StandIn>, UrlPath(id): UrlPath<String>, headers: HeaderMap) -> Response {
    let after = headers.get("last-event-id").map(|v| v.to_str().unwrap().to_owned());
    let first = after.as_ref().map_or(0, |after| after.parse::<u64>().unwrap() + 1);
    queen.seen.lock().unwrap().after.push(after);
    let Some(stream) = queen.streams.lock().unwrap().pop_front() else {
        return (StatusCode::NOT_FOUND, "no more streams").into_response();
    };
    let pause = if matches!(stream, Stream::Slow(_)) { Duration::from_millis(400) } else { Duration::ZERO };
    let (events, ending) = match stream {
        Stream::Events(events) | Stream::Slow(events) => (events, None),
        Stream::Hang(events) => (events, Some(false)),
        Stream::Broken(events) => (events, Some(true)),
    };
    let mut texts = vec![String::from(": hello\n\n")];
    for (seq, kind) in (first..).zip(events) {
        let event = Event {
            job_id: JobId::new(id.as_str()).unwrap(),
            worker_id: WorkerId::new("w1").unwrap(),
            attempt: 1,
            seq,
            kind,
        };
        let mut value = serde_json::to_value(event).unwrap();
        if value["type"] == "complete" {
            // What queen adds for upstream clients.
            value["image"] = json!("aGVsbG8=");
            value["format"] = json!("png");
        }
        texts.push(format!("id: {seq}\ndata: {value}\n\n"));
    }
    if pause.is_zero() {
        texts = vec![texts.concat()];
    }
    let chunks = futures::StreamExt::then(futures::stream::iter(texts), move |text| async move {
        tokio::time::sleep(pause).await;
        Ok(Bytes::from(text))
    });
    let rest: futures::stream::BoxStream<'static, Result<Bytes, std::io::Error>> = match ending {
        None => Box::pin(futures::stream::empty()),
        Some(false) => Box::pin(futures::stream::pending()),
        // What hyper has not sent when a body fails is never sent: the events go out first.
        Some(true) => Box::pin(futures::stream::unfold(0, |piece| async move {
            tokio::time::sleep(Duration::from_millis(100)).await;
            match piece {
                0 => Some((Ok(Bytes::from_static(b"id: 99\ndata: {\"half\"")), 1)),
                _ => Some((Err(std::io::Error::other("cable pulled")), 2)),
            }
        })),
    };
    let body = Body::from_stream(futures::StreamExt::chain(chunks, rest));
    ([("content-type", "text/event-stream")], body).into_response()
}

async fn cancel(State(queen): State<StandIn>, UrlPath(id): UrlPath<String>) -> StatusCode {
    queen.seen.lock().unwrap().deleted.push(id);
    StatusCode::NO_CONTENT
}

pub fn keeper(queen: &str, folder: &Path, args: &[&str]) -> Command {
    let mut command = Command::new(program());
    forget_environment(&mut command);
    command
        .args(["--queen", queen])
        .args(args)
        .current_dir(folder)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .kill_on_drop(true);
    command
}

/// The keeper: the one that cargo has just built, or another by SD_KEEPER.
pub fn program() -> String {
    std::env::var("SD_KEEPER").unwrap_or_else(|_| env!("CARGO_BIN_EXE_rbee-keeper").into())
}

/// What the shell of whoever runs the tests has set must not decide.
pub fn forget_environment(command: &mut Command) {
    for (name, _) in std::env::vars() {
        if name.starts_with("RBEE_") || name.to_ascii_lowercase().ends_with("_proxy") {
            command.env_remove(name);
        }
    }
    // Nor what is in the home folder.
    command.env("XDG_CONFIG_HOME", "/nowhere");
}

/// A keeper that a shell starts: `script` is what the shell runs, with keeper and its arguments as `"$0" "$@"`.
pub fn in_shell(script: &str, queen: &str, folder: &Path, args: &[&str]) -> Command {
    let mut command = Command::new("sh");
    forget_environment(&mut command);
    command
        .args(["-c", script, &program(), "--queen", queen])
        .args(args)
        .current_dir(folder)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .kill_on_drop(true);
    command
}

/// Waits until something is so.
pub async fn until(what: &str, is_so: impl Fn() -> bool) {
    let wait = async {
        while !is_so() {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    timeout(PATIENCE, wait).await.unwrap_or_else(|_| panic!("{what} within {PATIENCE:?}"));
}

pub async fn finish(mut command: Command) -> (i32, String, String) {
    let Output { status, stdout, stderr } =
        timeout(PATIENCE, command.output()).await.expect("keeper ends").expect("keeper starts");
    let text = |bytes| String::from_utf8(bytes).unwrap();
    (status.code().expect("keeper exits by itself"), text(stdout), text(stderr))
}

pub fn accepted() -> EventKind {
    EventKind::Accepted { model: "tiny".into(), seed: 7, position: 0 }
}

pub fn progress(step: u32) -> EventKind {
    EventKind::Progress { step, total: 2, percent: step as f32 * 50.0, eta_ms: u64::from(2 - step) * 75_000 }
}

pub fn complete(pictures: usize, sha256: &str) -> EventKind {
    let image = |index| ImageResult {
        key: format!("jobs/j/{index}.png"),
        url: "file:///nowhere".into(),
        format: OutputFormat::Png,
        width: 8,
        height: 8,
        bytes: PICTURE.len() as u64,
        sha256: sha256.into(),
        seed: 7,
    };
    EventKind::Complete(CompleteEvent {
        model: "tiny".into(),
        images: (0..pictures).map(image).collect(),
        timings_ms: Timings::default(),
        mask: None,
        warnings: vec!["the prompt was cut".into()],
    })
}

pub fn right_sha256() -> String {
    Sha256::digest(PICTURE).iter().map(|byte| format!("{byte:02x}")).collect()
}

pub const GENERATE: [&str; 4] = ["image", "generate", "--prompt", "a red circle"];

pub fn generate<'a>(more: &[&'a str]) -> Vec<&'a str> {
    [&GENERATE[..], more].concat()
}
