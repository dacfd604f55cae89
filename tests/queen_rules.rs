//! What queen makes of a pool, over a real nats-server and with a worker of which the test decides every word.

mod support;

use std::time::Duration;

use bytes::Bytes;
use futures::StreamExt;
use sd_worker_rbee::{
    contract::{ErrorCode, Event, EventKind, OutputFormat},
    storage::{Key, Store, StoreOptions, StoredResult},
};
use serde_json::{Value, json};
use support::{
    fake_worker::{FakeJob, FakeWorker, complete},
    nats::{NatsServer, prefix},
    queen::{QueenProcess, types},
};
use tempfile::TempDir;

/// A queen with its own subjects and its own store.
struct Pool {
    queen: QueenProcess,
    store: Store,
    prefix: String,
    _folder: TempDir,
}

impl Pool {
    async fn start(arguments: &[&str]) -> Self {
        let folder = TempDir::new().unwrap();
        let url = folder.path().join("store").to_str().unwrap().to_owned();
        let prefix = prefix();
        let queen = QueenProcess::start(&NatsServer::shared().url(), &prefix, &url, arguments);
        let store = Store::open(&StoreOptions::new(url)).unwrap();
        Self { queen, store, prefix, _folder: folder }
    }

    /// A worker that queen has heard of.
    async fn worker(&self, id: &str, models: &[&str]) -> FakeWorker {
        let worker = FakeWorker::start(&NatsServer::shared().url(), &self.prefix, id, models).await;
        for _ in 0..200 {
            let (_, workers) = self.queen.get("/v1/workers").await;
            if workers["workers"].as_array().unwrap().iter().any(|w| w["id"] == id) {
                return worker;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        panic!("queen does not hear of {id}");
    }

    async fn store_picture(&self, job: &FakeJob) {
        let key = Key::Image { job: job.id.clone(), index: 0, format: OutputFormat::Png };
        self.store.put(&key, Bytes::from_static(b"png"), "image/png").await.unwrap();
    }
}

fn generation() -> Value {
    json!({"operation": "image_generation", "prompt": "a red circle"})
}

fn with(mut body: Value, field: &str, value: impl Into<Value>) -> Value {
    body[field] = value.into();
    body
}

fn is_error(line: &Value, code: &str, part: &str) -> bool {
    line["type"] == "error" && line["code"] == code && line["message"].as_str().unwrap().contains(part)
}

#[tokio::test]
async fn every_stream_of_a_job_has_every_event_and_the_picture() {
    let pool = Pool::start(&[]).await;
    let mut worker = pool.worker("w", &["m"]).await;
    let id = pool.queen.submit(&with(generation(), "stream", false)).await;
    let mut job = worker.job().await;
    assert_eq!(job.id.as_str(), id);
    assert!(!String::from_utf8_lossy(&job.body).contains("stream"), "queen wants every event");
    let (_, view) = pool.queen.get(&format!("/v1/jobs/{id}")).await;
    assert_eq!((&view["status"], &view["event"]), (&json!("queued"), &Value::Null));

    job.accept().await;
    job.progress(1).await;
    let early = pool.queen.stream(&id);
    let finish = async {
        tokio::time::sleep(Duration::from_millis(200)).await;
        job.progress(2).await;
        // A worker says again what may have been lost with a connection.
        let again = job.event(EventKind::Cancelled { step: 2 });
        job.send_event(&Event { seq: 1, ..again }).await;
        pool.store_picture(&job).await;
        job.complete().await;
    };
    let (early, ()) = tokio::join!(early, finish);
    let expected = ["accepted", "progress", "progress", "complete", "[DONE]"];
    assert_eq!(types(&early), expected);
    let complete = early[3].json();
    assert_eq!((&complete["image"], &complete["format"]), (&json!("cG5n"), &json!("png")));
    assert_eq!(complete["images"][0]["key"], format!("jobs/{id}/0.png"));

    assert_eq!(types(&pool.queen.stream(&id).await), expected, "a late stream has them all");
    assert_eq!(types(&pool.queen.stream_after(&id, Some(1)).await), expected[2..]);
    assert_eq!(types(&pool.queen.stream_after(&id, Some(3)).await), expected[3..], "the end is told again");
    let (_, view) = pool.queen.get(&format!("/v1/jobs/{id}")).await;
    assert_eq!((&view["status"], &view["event"]["seq"]), (&json!("completed"), &json!(3)));

    let picture = reqwest::get(format!("{}/v1/jobs/{id}/images/0", pool.queen.url)).await.unwrap();
    assert_eq!(picture.headers()["content-type"], "image/png");
    assert_eq!(picture.bytes().await.unwrap(), "png");
    for (path, status) in [("images/1", 404), ("images/x", 400), ("nonsense", 404)] {
        let (answered, body) = pool.queen.get(&format!("/v1/jobs/{id}/{path}")).await;
        assert_eq!(answered, status, "{path}: {body}");
        assert!(body["error"]["message"].is_string(), "{body}");
    }
}

#[tokio::test]
async fn without_a_worker_a_job_is_refused_at_once() {
    let pool = Pool::start(&[]).await;
    let started = std::time::Instant::now();
    let (status, body) = pool.queen.post(&with(generation(), "job_id", "j")).await;
    assert!(started.elapsed() < Duration::from_secs(2));
    assert_eq!(
        (status, &body["error"]["code"], &body["error"]["retryable"]),
        (503, &json!("busy"), &json!(true))
    );
    let message = body["error"]["message"].as_str().unwrap();
    assert!(message.contains("no worker is up") && message.contains("sd-worker-cpu --model"), "{message}");
    assert_eq!(pool.queen.get("/v1/jobs/j").await.0, 404, "there is no such job");
    let (_, health) = pool.queen.get("/health").await;
    assert_eq!(health, json!({"status": "degraded", "nats": "connected", "durable": false, "workers": 0}));
}

#[tokio::test]
async fn a_busy_pool_is_asked_again_with_the_same_id() {
    let pool = Pool::start(&[]).await;
    let mut worker = pool.worker("w", &["m"]).await;
    let id = pool.queen.submit(&generation()).await;
    let mut body = None;
    for _ in 0..3 {
        let mut job = worker.job().await;
        assert_eq!(job.id.as_str(), id);
        assert_eq!(body.get_or_insert(job.body.clone()), &job.body);
        job.send(EventKind::error(ErrorCode::Busy, "no slot")).await;
        job.end().await;
    }
    let mut job = worker.job().await;
    job.accept().await;
    job.complete().await;
    assert_eq!(types(&pool.queen.stream(&id).await), ["accepted", "complete", "[DONE]"]);
}

#[tokio::test]
async fn a_pool_that_stays_busy_ends_the_job_in_time() {
    let pool = Pool::start(&["--queue-timeout", "1s"]).await;
    let mut worker = pool.worker("w", &["m"]).await;
    let id = pool.queen.submit(&generation()).await;
    let answer = async {
        loop {
            worker.job().await.send(EventKind::error(ErrorCode::Busy, "no slot")).await;
        }
    };
    let lines = tokio::select! {
        lines = pool.queen.stream(&id) => lines,
        () = answer => unreachable!(),
    };
    assert!(is_error(&lines[0].json(), "busy", "no worker took the job within 1s"), "{lines:?}");
    assert_eq!(lines[0].json()["retryable"], true);
    assert!(lines[1].data.starts_with("[ERROR] no worker took the job"), "{lines:?}");

    // What failed for now may be sent again under its name, and its numbers go on.
    assert_eq!(pool.queen.submit(&with(generation(), "job_id", id.clone())).await, id);
    let mut job = worker.job().await;
    job.accept().await;
    job.complete().await;
    let lines = pool.queen.stream(&id).await;
    assert_eq!(types(&lines), ["accepted", "complete", "[DONE]"]);
    assert_eq!(lines[0].id, Some(1));
}

#[tokio::test]
async fn a_job_that_is_accepted_twice_has_one_story_and_one_end() {
    let pool = Pool::start(&[]).await;
    let mut slow = pool.worker("slow", &["m"]).await;
    let id = pool.queen.submit(&generation()).await;
    let mut first = slow.job().await;
    // No answer within 2 s: it is sent again, and both workers have it.
    let mut second = slow.job().await;
    assert_eq!((first.id.as_str(), second.id.as_str()), (id.as_str(), id.as_str()));
    first.accept().await;
    first.progress(1).await;
    second = second.as_of("other");
    second.accept().await;
    second.progress(7).await;
    first.send(EventKind::error(ErrorCode::ShuttingDown, "going")).await;
    first.end().await;
    second.progress(8).await;
    second.complete().await;
    let lines = pool.queen.stream(&id).await;
    assert_eq!(types(&lines), ["accepted", "progress", "progress", "complete", "[DONE]"]);
    let of: Vec<_> = lines[..4].iter().map(|l| l.json()["worker_id"].as_str().unwrap().to_owned()).collect();
    assert_eq!(of, ["slow", "slow", "other", "other"]);
    let numbers: Vec<_> = lines[..4].iter().map(|l| l.id.unwrap()).collect();
    assert!(numbers.is_sorted() && numbers[1] < numbers[2], "{numbers:?}");
}

#[tokio::test]
async fn a_worker_that_falls_silent_ends_its_job_in_an_error_that_names_it() {
    let pool = Pool::start(&["--worker-silence", "1s"]).await;
    let mut worker = pool.worker("mortal", &["m"]).await;
    let id = pool.queen.submit(&generation()).await;
    let mut job = worker.job().await;
    job.accept().await;
    worker.fall_silent();
    let lines = pool.queen.stream(&id).await;
    assert_eq!(types(&lines), ["accepted", "error", &lines[2].data]);
    assert!(is_error(&lines[1].json(), "internal", "worker `mortal` has been silent"), "{lines:?}");
    assert_eq!(
        (&lines[1].json()["retryable"], &lines[1].json()["worker_id"]),
        (&json!(true), &json!("mortal"))
    );
    job.complete().await;
    assert_eq!(types(&pool.queen.stream(&id).await).len(), 3, "one end, whatever comes later");
    assert_eq!(pool.queen.get("/v1/workers").await.1, json!({"workers": []}));
}

#[tokio::test]
async fn a_job_whose_result_is_stored_is_done_even_if_nobody_said_so() {
    let pool = Pool::start(&["--worker-silence", "1s"]).await;
    let mut worker = pool.worker("w", &["m"]).await;
    let id = pool.queen.submit(&generation()).await;
    let mut job = worker.job().await;
    job.accept().await;
    pool.store_picture(&job).await;
    let event = job.event(complete(&job.id));
    let result = StoredResult { fingerprint: job.operation.fingerprint(), event };
    pool.store.put_result(&job.id, &result).await.unwrap();
    worker.fall_silent();
    assert_eq!(types(&pool.queen.stream(&id).await), ["accepted", "complete", "[DONE]"]);
}

#[tokio::test]
async fn a_job_that_ends_without_an_end_is_an_error() {
    let pool = Pool::start(&[]).await;
    let mut worker = pool.worker("w", &["m"]).await;
    let id = pool.queen.submit(&generation()).await;
    let mut job = worker.job().await;
    job.accept().await;
    job.end().await;
    let lines = pool.queen.stream(&id).await;
    assert!(is_error(&lines[1].json(), "internal", "without saying how the job ended"), "{lines:?}");
}

#[tokio::test]
async fn a_job_is_cancelled_running_or_waiting() {
    let pool = Pool::start(&[]).await;
    let mut worker = pool.worker("w", &["m"]).await;
    let mut cancels = worker.cancels().await;

    let id = pool.queen.submit(&generation()).await;
    let mut job = worker.job().await;
    job.accept().await;
    while pool.queen.get(&format!("/v1/jobs/{id}")).await.1["status"] != "running" {}
    assert_eq!(pool.queen.delete(&format!("/v1/jobs/{id}")).await.0, 202);
    let told = cancels.next().await.unwrap();
    assert!(told.subject.ends_with(&format!("control.job.{id}.cancel")));
    job.send(EventKind::Cancelled { step: 3 }).await;
    assert_eq!(types(&pool.queen.stream(&id).await), ["accepted", "cancelled", "[CANCELLED]"]);
    let (status, body) = pool.queen.delete(&format!("/v1/jobs/{id}")).await;
    assert_eq!(status, 409, "{body}");
    assert!(body["error"]["message"].as_str().unwrap().contains("has ended: cancelled"), "{body}");

    let id = pool.queen.submit(&generation()).await;
    let mut job = worker.job().await;
    assert_eq!(pool.queen.delete(&format!("/v1/jobs/{id}")).await.0, 202);
    assert_eq!(types(&pool.queen.stream(&id).await), ["cancelled", "[CANCELLED]"]);
    // Whoever takes it too late is told as well.
    let told = |m: &async_nats::Message| m.subject.contains(&id);
    while !told(&cancels.next().await.unwrap()) {}
    job.accept().await;
    while !told(&cancels.next().await.unwrap()) {}

    assert_eq!(pool.queen.delete("/v1/jobs/nobody").await.0, 404);
}

#[tokio::test]
async fn an_id_is_one_request() {
    let pool = Pool::start(&[]).await;
    let mut worker = pool.worker("w", &["m"]).await;
    let body = with(generation(), "job_id", "mine");
    for _ in 0..2 {
        assert_eq!(pool.queen.submit(&body).await, "mine");
    }
    let mut job = worker.job().await;
    job.accept().await;
    assert!(worker.gets_nothing(Duration::from_millis(300)).await, "it is run once");
    let (status, answer) = pool.queen.post(&with(body, "prompt", "a blue square")).await;
    assert_eq!((status, &answer["error"]["code"]), (400, &json!("invalid_request")));
    assert!(answer["error"]["message"].as_str().unwrap().starts_with("`job_id`"), "{answer}");
}

#[tokio::test]
async fn a_job_that_queen_has_forgotten_is_answered_from_the_store() {
    let pool = Pool::start(&[]).await;
    let mut worker = pool.worker("w", &["m"]).await;
    let body = with(generation(), "job_id", "old");
    pool.queen.submit(&body).await;
    let mut job = worker.job().await;
    pool.store_picture(&job).await;
    let result =
        StoredResult { fingerprint: job.operation.fingerprint(), event: job.event(complete(&job.id)) };
    pool.store.put_result(&job.id, &result).await.unwrap();
    job.complete().await;

    let store = pool.store.location().to_owned();
    let fresh = QueenProcess::start(&NatsServer::shared().url(), &pool.prefix, &store, &[]);
    let (_, view) = fresh.get("/v1/jobs/old").await;
    assert_eq!(view["status"], "completed");
    assert!(view["event"]["images"][0]["url"].as_str().unwrap().starts_with("file:///"), "{view}");
    assert_eq!(types(&fresh.stream("old").await), ["complete", "[DONE]"]);
    let picture = reqwest::get(format!("{}/v1/jobs/old/images/0", fresh.url)).await.unwrap();
    assert_eq!(picture.bytes().await.unwrap(), "png");
    assert_eq!(fresh.delete("/v1/jobs/old").await.0, 409);
    assert_eq!(fresh.submit(&body).await, "old");
    assert_eq!(fresh.post(&with(body, "seed", 7)).await.0, 400);
    assert!(worker.gets_nothing(Duration::from_millis(300)).await, "nothing is computed again");
}

#[tokio::test]
async fn a_model_is_routed_and_one_that_nobody_has_is_refused() {
    let pool = Pool::start(&[]).await;
    let mut small = pool.worker("small", &["tiny", "shapes"]).await;
    let mut large = pool.worker("large", &["shapes", "sdxl"]).await;
    for (model, worker, subject) in [
        ("tiny", &mut small, "worker.small.image.generate"),
        ("sdxl", &mut large, "worker.large.image.generate"),
    ] {
        pool.queen.submit(&with(generation(), "model", model)).await;
        let mut job = worker.job().await;
        assert!(job.subject.ends_with(subject), "{}", job.subject);
        job.accept().await;
    }
    pool.queen.submit(&with(generation(), "worker_id", "large")).await;
    assert!(large.job().await.subject.ends_with("worker.large.image.generate"));
    pool.queen.submit(&with(generation(), "model", "shapes")).await;
    let job = tokio::select! { job = small.job() => job, job = large.job() => job };
    assert!(job.subject.ends_with(".image.generate") && !job.subject.contains("worker."), "{}", job.subject);

    let (status, body) = pool.queen.post(&with(generation(), "model", "flux")).await;
    assert_eq!((status, &body["error"]["code"]), (404, &json!("unsupported_model")));
    assert!(body["error"]["message"].as_str().unwrap().ends_with("sdxl, shapes, tiny"), "{body}");
    let (status, body) = pool.queen.post(&with(generation(), "worker_id", "gone")).await;
    assert_eq!(status, 503, "{body}");
    assert_eq!(body["error"]["message"], "worker `gone` is not up");
}

#[tokio::test]
async fn a_large_input_travels_as_a_reference() {
    use base64::{Engine as _, engine::general_purpose::STANDARD};
    let pool = Pool::start(&[]).await;
    let mut worker = pool.worker("w", &["m"]).await;
    let picture = vec![7u8; 3 << 20];
    let body = json!({"operation": "image_inpaint", "prompt": "a", "init_image": STANDARD.encode(&picture), "mask_image": "AAAA"});
    pool.queen.submit(&body).await;
    let job = worker.job().await;
    let sent: Value = serde_json::from_slice(&job.body).unwrap();
    let reference = sent["init_image"].as_str().unwrap().strip_prefix("object:").expect("a reference");
    let key = Key::parse_reference(reference).unwrap();
    assert_eq!(pool.store.get(&key, 4 << 20).await.unwrap(), picture);
    assert_eq!(sent["mask_image"], "AAAA", "a small one travels as it is");
}

#[tokio::test]
async fn a_bad_request_is_answered_with_what_is_wrong() {
    let pool = Pool::start(&["--max-body", "100KiB", "--max-input", "10KiB"]).await;
    let _worker = pool.worker("w", &["m"]).await;
    let transform = |image: String| {
        json!({"operation": "image_transform", "prompt": "a", "init_image": image}).to_string()
    };
    for (body, status, code, part) in [
        (String::new(), 400, "invalid_request", "empty"),
        ("{".into(), 400, "invalid_request", "not JSON"),
        (r#"{"prompt":"a"}"#.into(), 400, "invalid_request", "`operation`"),
        (
            r#"{"operation":"image_upscale","prompt":"a"}"#.into(),
            400,
            "unsupported_operation",
            "image_upscale",
        ),
        (with(generation(), "steps", 0).to_string(), 400, "invalid_request", "`steps`"),
        (with(generation(), "guidence", 1).to_string(), 400, "invalid_request", "`guidence`"),
        (with(generation(), "job_id", "a/b").to_string(), 400, "invalid_request", "`job_id`"),
        (transform("A".repeat(60 << 10)), 413, "payload_too_large", "`init_image`"),
        (transform("A".repeat(101 << 10)), 413, "payload_too_large", "at most 102400 bytes"),
    ] {
        let shown: String = body.chars().take(80).collect();
        let (answered, answer) = pool.queen.post_text(body).await;
        assert_eq!((answered, &answer["error"]["code"]), (status, &json!(code)), "{shown}: {answer}");
        assert!(answer["error"]["message"].as_str().unwrap().contains(part), "{shown}: {answer}");
    }
    assert_eq!(pool.queen.get("/v1/jobs/a%2Fb").await.0, 400);
    assert_eq!(pool.queen.get("/v1/jobs/unknown/stream").await.0, 404);
    assert_eq!(pool.queen.delete("/health").await.0, 405);
}

#[tokio::test]
async fn sigterm_ends_streams_and_queen_with_exit_code_0() {
    let mut pool = Pool::start(&[]).await;
    let mut worker = pool.worker("w", &["m"]).await;
    let held = pool.queen.submit(&generation()).await;
    let mut job = worker.job().await;
    job.accept().await;
    let waiting = pool.queen.submit(&generation()).await;
    worker.job().await;
    let (url, streams) = (pool.queen.url.clone(), [held, waiting]);
    let streams = streams.map(|id| tokio::spawn(reqwest::get(format!("{url}/v1/jobs/{id}/stream"))));
    tokio::time::sleep(Duration::from_millis(300)).await;
    let [held, waiting] = streams.map(|s| async { s.await.unwrap().unwrap().text().await.unwrap() });
    let (held, waiting) = (tokio::spawn(held), tokio::spawn(waiting));
    let status = pool.queen.terminate(Duration::from_secs(8));
    assert!(status.success(), "{status}");
    let held = held.await.unwrap();
    assert!(held.contains("accepted") && !held.contains("error"), "its worker goes on: {held}");
    assert!(waiting.await.unwrap().contains("shutting_down"), "nobody has it");
}

#[tokio::test]
async fn with_a_token_file_the_token_is_asked_for() {
    let folder = TempDir::new().unwrap();
    let file = folder.path().join("token");
    std::fs::write(&file, "sesame\n").unwrap();
    let pool = Pool::start(&["--token-file", file.to_str().unwrap()]).await;
    let get = |path: &str, token: Option<&str>| {
        let request = reqwest::Client::new().get(format!("{}{path}", pool.queen.url));
        let request = match token {
            Some(token) => request.bearer_auth(token),
            None => request,
        };
        async { request.send().await.unwrap().status().as_u16() }
    };
    assert_eq!(get("/health", None).await, 200);
    assert_eq!(get("/v1/workers", None).await, 401);
    assert_eq!(get("/v1/workers", Some("sesam")).await, 401);
    assert_eq!(get("/v1/workers", Some("sesame")).await, 200);
    assert_eq!(pool.queen.post(&generation()).await.0, 401);
}
