//! The real `rbee-keeper` process against a small HTTP server that plays queen: exit codes, checked pictures,
//! dropped connections, Ctrl-C.

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
    CompleteEvent, ErrorCode, Event, EventKind, ImageResult, JobId, JobResponse, Operation, OutputFormat,
    Timings, WorkerId,
};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use tokio::{net::TcpListener, process::Command, time::timeout};

/// The longest that any of these processes may run.
const PATIENCE: Duration = Duration::from_secs(60);
/// What the stand-in serves as a picture; keeper does not decode it.
const PICTURE: &[u8] = b"\x89PNG not really";

/// What the stand-in does with one GET of the event stream.
#[derive(Clone)]
enum Stream {
    /// These events, then the connection ends.
    Events(Vec<EventKind>),
    /// These events, then silence.
    Hang(Vec<EventKind>),
    /// These events, then the connection breaks in the middle of a chunk.
    Broken(Vec<EventKind>),
}

#[derive(Default)]
struct Seen {
    posted: Vec<Value>,
    after: Vec<Option<String>>,
    authorization: Vec<Option<String>>,
    deleted: Vec<String>,
}

#[derive(Clone)]
struct StandIn {
    refusal: Option<(StatusCode, &'static str)>,
    streams: Arc<Mutex<VecDeque<Stream>>>,
    seen: Arc<Mutex<Seen>>,
    url: String,
}

impl StandIn {
    async fn start(streams: impl IntoIterator<Item = Stream>) -> Self {
        Self::start_with(None, streams).await
    }

    async fn start_with(
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

    fn keeper(&self, folder: &Path, args: &[&str]) -> Command {
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
    let (events, ending) = match stream {
        Stream::Events(events) => (events, None),
        Stream::Hang(events) => (events, Some(false)),
        Stream::Broken(events) => (events, Some(true)),
    };
    let mut text = String::from(": hello\n\n");
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
        text.push_str(&format!("id: {seq}\ndata: {value}\n\n"));
    }
    let chunks = futures::stream::iter([Ok(Bytes::from(text))]);
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

fn keeper(queen: &str, folder: &Path, args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_rbee-keeper"));
    command
        .args(["--queen", queen])
        .args(args)
        .current_dir(folder)
        .env_remove("RBEE_TOKEN")
        .env_remove("RBEE_MAX_INPUT")
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .kill_on_drop(true);
    command
}

async fn finish(mut command: Command) -> (i32, String, String) {
    let Output { status, stdout, stderr } =
        timeout(PATIENCE, command.output()).await.expect("keeper ends").expect("keeper starts");
    let text = |bytes| String::from_utf8(bytes).unwrap();
    (status.code().expect("keeper exits by itself"), text(stdout), text(stderr))
}

fn accepted() -> EventKind {
    EventKind::Accepted { model: "tiny".into(), seed: 7, position: 0 }
}

fn progress(step: u32) -> EventKind {
    EventKind::Progress { step, total: 2, percent: step as f32 * 50.0, eta_ms: 0 }
}

fn complete(pictures: usize, sha256: &str) -> EventKind {
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
        warnings: vec!["the prompt was cut".into()],
    })
}

fn right_sha256() -> String {
    Sha256::digest(PICTURE).iter().map(|byte| format!("{byte:02x}")).collect()
}

const GENERATE: [&str; 4] = ["image", "generate", "--prompt", "a red circle"];

fn generate<'a>(more: &[&'a str]) -> Vec<&'a str> {
    [&GENERATE[..], more].concat()
}

#[tokio::test]
async fn a_finished_job_leaves_a_picture_and_exits_0() {
    let queen =
        StandIn::start([Stream::Events(vec![accepted(), progress(2), complete(1, &right_sha256())])]).await;
    let folder = tempfile::tempdir().unwrap();
    let args = generate(&["--token", "secret", "--steps", "2", "--output", "circle.png"]);
    let (code, stdout, stderr) = finish(queen.keeper(folder.path(), &args)).await;
    assert_eq!(code, 0, "{stderr}");
    assert_eq!(stdout, "circle.png\n");
    assert!(
        stderr.contains("step 2/2 (100 %)") && stderr.contains("warning: the prompt was cut"),
        "{stderr}"
    );
    assert_eq!(std::fs::read(folder.path().join("circle.png")).unwrap(), PICTURE);
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1);
    let seen = queen.seen.lock().unwrap();
    assert_eq!(seen.authorization, [Some("Bearer secret".to_owned())]);
    assert_eq!(seen.posted[0]["steps"], 2);
    assert_eq!(seen.posted[0]["output"]["format"], "png");
    assert!(seen.posted[0]["seed"].is_u64(), "a job that is posted again must be the same job");
}

#[tokio::test]
async fn without_output_pictures_are_named_by_the_job() {
    let queen = StandIn::start([Stream::Events(vec![complete(2, &right_sha256())])]).await;
    let folder = tempfile::tempdir().unwrap();
    let (code, stdout, stderr) = finish(queen.keeper(folder.path(), &generate(&["--n", "2"]))).await;
    assert_eq!(code, 0, "{stderr}");
    let job = queen.seen.lock().unwrap().posted[0]["job_id"].as_str().unwrap().to_owned();
    assert_eq!(stdout, format!("{job}-0.png\n{job}-1.png\n"));
    for name in stdout.lines() {
        assert_eq!(std::fs::read(folder.path().join(name)).unwrap(), PICTURE);
    }
}

#[tokio::test]
async fn with_json_standard_output_is_one_line_per_event() {
    let queen =
        StandIn::start([Stream::Events(vec![accepted(), progress(1), complete(1, &right_sha256())])]).await;
    let folder = tempfile::tempdir().unwrap();
    let (code, stdout, stderr) =
        finish(queen.keeper(folder.path(), &generate(&["--json", "-o", "a.png"]))).await;
    assert_eq!((code, stderr.as_str()), (0, ""));
    let lines: Vec<Value> = stdout.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let types: Vec<&str> = lines.iter().map(|line| line["type"].as_str().unwrap()).collect();
    assert_eq!(types, ["accepted", "progress", "complete"]);
    assert_eq!(lines[2]["files"], json!(["a.png"]));
    assert_eq!(lines[2]["image"], Value::Null, "the picture is in the file, not on the terminal");
}

#[tokio::test]
async fn inputs_travel_in_base64() {
    let queen = StandIn::start([Stream::Events(vec![complete(1, &right_sha256())])]).await;
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("in.png"), b"in").unwrap();
    std::fs::write(folder.path().join("mask.png"), b"mask").unwrap();
    let args =
        ["image", "inpaint", "--prompt", "a", "--input", "in.png", "--mask", "mask.png", "--strength", "0.5"];
    let args = [&args[..], &["--guidance-interval", "0.1,0.8"]].concat();
    let (code, _, stderr) = finish(queen.keeper(folder.path(), &args)).await;
    assert_eq!(code, 0, "{stderr}");
    let posted = queen.seen.lock().unwrap().posted[0].clone();
    assert_eq!(posted["init_image"], "aW4=");
    assert_eq!(posted["mask_image"], "bWFzaw==");
    assert_eq!(posted["strength"], 0.5);
    assert_eq!(posted["guidance_interval"], json!([0.1, 0.8]));
}

#[tokio::test]
async fn what_is_wrong_before_sending_exits_2_and_sends_nothing() {
    let queen = StandIn::start([]).await;
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("big.png"), [1; 2048]).unwrap();
    let transform = ["image", "transform", "--prompt", "a", "--input"];
    for (args, said) in [
        (generate(&["--output", "missing/a.png"]), "there is no folder missing"),
        (generate(&["--output", "a.gif"]), ".gif"),
        (generate(&["--guidance-scale", "NaN"]), "finite"),
        (generate(&["--guidance-interval", "0.8,0.1"]), "from < to"),
        (generate(&["--queen", "ftp://x"]), "scheme"),
        (vec!["image", "generate"], "--prompt"),
        ([&transform[..], &["none.png"]].concat(), "cannot read none.png"),
        ([&transform[..], &["big.png", "--max-input", "1KiB"]].concat(), "at most 1024"),
    ] {
        let (code, stdout, stderr) = finish(queen.keeper(folder.path(), &args)).await;
        assert_eq!((code, stdout.as_str()), (2, ""), "{args:?}: {stderr}");
        assert!(stderr.contains(said), "{args:?}: {stderr}");
    }
    assert!(queen.seen.lock().unwrap().posted.is_empty());
}

#[tokio::test]
async fn a_failed_job_exits_1_and_says_why() {
    let failure = EventKind::error(ErrorCode::Storage, "jobs/j/0.png: connection refused");
    let queen = StandIn::start([Stream::Events(vec![accepted(), failure])]).await;
    let folder = tempfile::tempdir().unwrap();
    let (code, _, stderr) = finish(queen.keeper(folder.path(), &GENERATE)).await;
    assert_eq!(code, 1);
    assert!(stderr.contains("the job failed (storage): jobs/j/0.png: connection refused"), "{stderr}");
}

#[tokio::test]
async fn a_refusal_of_queen_exits_1() {
    let queen = StandIn::start_with(Some((StatusCode::BAD_REQUEST, "`steps`: 0 is out of bounds")), []).await;
    let folder = tempfile::tempdir().unwrap();
    let (code, _, stderr) = finish(queen.keeper(folder.path(), &GENERATE)).await;
    assert_eq!(code, 1);
    assert!(stderr.contains("`steps`: 0 is out of bounds"), "{stderr}");
}

#[tokio::test]
async fn no_queen_exits_3() {
    let port = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap().port();
    let folder = tempfile::tempdir().unwrap();
    let (code, _, stderr) =
        finish(keeper(&format!("http://127.0.0.1:{port}"), folder.path(), &GENERATE)).await;
    assert_eq!(code, 3);
    assert!(stderr.contains("cannot reach queen") && stderr.contains("refused"), "{stderr}");
}

#[tokio::test]
async fn no_worker_exits_4() {
    let busy = Stream::Events(vec![EventKind::error(ErrorCode::Busy, "every worker is busy")]);
    for queen in [
        StandIn::start_with(Some((StatusCode::SERVICE_UNAVAILABLE, "every worker is busy")), []).await,
        StandIn::start([busy]).await,
    ] {
        let folder = tempfile::tempdir().unwrap();
        let (code, _, stderr) = finish(queen.keeper(folder.path(), &GENERATE)).await;
        assert_eq!(code, 4);
        assert!(stderr.contains("every worker is busy"), "{stderr}");
    }
}

#[tokio::test]
async fn a_picture_that_is_not_the_one_that_was_stored_is_not_written() {
    let wrong = right_sha256().replace(|c: char| c.is_ascii_digit(), "a");
    let queen = StandIn::start([Stream::Events(vec![complete(1, &wrong)])]).await;
    let folder = tempfile::tempdir().unwrap();
    let (code, stdout, stderr) = finish(queen.keeper(folder.path(), &GENERATE)).await;
    assert_eq!((code, stdout.as_str()), (1, ""));
    assert!(stderr.contains("sha256"), "{stderr}");
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0);
}

#[tokio::test]
async fn a_dropped_connection_goes_on_behind_the_last_event() {
    let queen = StandIn::start([
        Stream::Broken(vec![accepted(), progress(1)]),
        Stream::Events(vec![]),
        Stream::Events(vec![progress(2), complete(1, &right_sha256())]),
    ])
    .await;
    let folder = tempfile::tempdir().unwrap();
    let (code, stdout, stderr) = finish(queen.keeper(folder.path(), &generate(&["--json"]))).await;
    assert_eq!(code, 0, "{stderr}");
    let seqs: Vec<u64> = stdout
        .lines()
        .map(|line| serde_json::from_str::<Value>(line).unwrap()["seq"].as_u64().unwrap())
        .collect();
    assert_eq!(seqs, [0, 1, 2, 3]);
    assert_eq!(queen.seen.lock().unwrap().after, [None, Some("1".into()), Some("1".into())]);
}

#[tokio::test]
async fn a_timeout_cancels_the_job_and_exits_1() {
    let queen = StandIn::start([Stream::Hang(vec![accepted()])]).await;
    let folder = tempfile::tempdir().unwrap();
    let (code, _, stderr) = finish(queen.keeper(folder.path(), &generate(&["--timeout", "300ms"]))).await;
    assert_eq!(code, 1, "{stderr}");
    let seen = queen.seen.lock().unwrap();
    assert_eq!(seen.deleted, [seen.posted[0]["job_id"].as_str().unwrap()]);
}

#[cfg(unix)]
#[tokio::test]
async fn ctrl_c_cancels_the_job_and_exits_130() {
    let queen = StandIn::start([Stream::Hang(vec![accepted()])]).await;
    let folder = tempfile::tempdir().unwrap();
    let child = queen.keeper(folder.path(), &GENERATE).spawn().unwrap();
    let pid = child.id().unwrap().to_string();
    timeout(PATIENCE, async {
        while queen.seen.lock().unwrap().after.is_empty() {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    })
    .await
    .expect("keeper follows the job");
    assert!(Command::new("kill").args(["-INT", &pid]).status().await.unwrap().success());
    let output = timeout(PATIENCE, child.wait_with_output()).await.expect("keeper ends").unwrap();
    assert_eq!(output.status.code(), Some(130), "{}", String::from_utf8_lossy(&output.stderr));
    let seen = queen.seen.lock().unwrap();
    assert_eq!(seen.deleted, [seen.posted[0]["job_id"].as_str().unwrap()]);
}
