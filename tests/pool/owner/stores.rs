//! A store that is slow, and a worker that is stopped while it stores: a job runs once, tells of itself, and its end
//! names the pictures that are there.

use std::{
    path::PathBuf,
    sync::atomic::{AtomicU32, Ordering},
    time::{Duration, Instant},
};

use axum::http::Method;
use futures::StreamExt;
use sd_worker_rbee::contract::{CompleteEvent, Event, EventKind};
use serde_json::{Value, json};

use super::{Owned, SIZES, drawing, ends, is_stored, named, takers};
use crate::support::{
    queen::QueenProcess,
    s3::S3Server,
    s3_gate::{Pass, S3Gate},
    worker::{PATIENCE, Pool, WorkerProcess},
};

/// A sign of life comes every 5 s, or a little later.
const SILENCE: Duration = Duration::from_secs(8);
static BUCKETS: AtomicU32 = AtomicU32::new(0);

/// A place in the S3 server that is this test's own.
struct Place {
    server: &'static S3Server,
    bucket: String,
}

impl Place {
    fn new() -> Self {
        let (server, bucket) =
            (S3Server::shared(), format!("owner-{}", BUCKETS.fetch_add(1, Ordering::Relaxed)));
        server.bucket(&bucket);
        Self { server, bucket }
    }

    fn url(&self) -> String {
        format!("s3://{}/pool", self.bucket)
    }

    /// Where its objects are.
    fn folder(&self) -> PathBuf {
        self.server.data().join(&self.bucket).join("pool")
    }

    async fn worker(
        &self,
        pool: &Pool,
        id: &str,
        model: &str,
        gate: Option<&S3Gate>,
        more: &[&str],
    ) -> WorkerProcess {
        let environment = gate.map_or_else(|| self.server.environment(), S3Gate::environment);
        let worker =
            WorkerProcess::start_with(&pool.url, &pool.prefix, &self.url(), id, model, more, environment);
        worker.wait_for_log(" ready ").await;
        worker
    }

    /// A pool whose queen reaches the store directly.
    async fn pool(&self, more: &[&str]) -> Owned {
        Owned::start_with(Pool::new().await, &self.url(), more, self.server.environment())
    }

    /// `result.json` of a job.
    fn result(&self, id: &str) -> CompleteEvent {
        let text = std::fs::read(self.folder().join(format!("jobs/{id}/result.json"))).expect("a result");
        let result: Value = serde_json::from_slice(&text).unwrap();
        let event: Event = serde_json::from_value(result["event"].clone()).unwrap();
        match event.kind {
            EventKind::Complete(complete) => complete,
            other => panic!("{other:?}"),
        }
    }
}

fn is_picture(method: &Method, path: &str) -> bool {
    method == Method::PUT && path.contains("/jobs/j/") && path.ends_with(".png")
}

#[tokio::test]
async fn a_store_that_answers_late_does_not_double_a_job() {
    let place = Place::new();
    let late = |method: &Method, path: &str| {
        let read = method == Method::GET || method == Method::HEAD;
        if read && path.contains("/jobs/j/") { Pass::Late(Duration::from_secs(6)) } else { Pass::Now }
    };
    let gate = S3Gate::start(place.server, late).await;
    let pool = Pool::new().await;
    let arguments = [&SIZES[..], &["--core"]].concat();
    let queen = QueenProcess::start_with(
        &pool.url,
        &pool.prefix,
        &place.url(),
        &arguments,
        place.server.environment(),
    );
    let model = super::SLOW;
    let _a = place.worker(&pool, "a", model, Some(&gate), &["--core"]).await;
    let _b = place.worker(&pool, "b", model, Some(&gate), &["--core"]).await;
    let until = Instant::now() + PATIENCE;
    while queen.get("/health").await.1["workers"] != 2 {
        assert!(Instant::now() < until, "two workers");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    // A second worker that looks for a result finds none for as long as the first draws.
    queen.submit(&named(drawing(40), "j")).await;
    let lines = queen.stream("j").await;
    assert_eq!(lines.last().unwrap().data, "[DONE]", "{lines:?}");
    // A second run would store its picture about as late as the first.
    tokio::time::sleep(Duration::from_secs(3)).await;
    assert_eq!((gate.count(&Method::PUT, ".png"), gate.count(&Method::PUT, "result.json")), (1, 1));
    let accepted = lines.iter().filter(|line| line.data.contains(r#""type":"accepted""#));
    assert_eq!(accepted.count(), 1, "{lines:?}");
}

/// A worker `a` is stopped while a request of its storing is held, `b` ends the job with another picture, the request
/// is served, and `a` goes on. What the job's end names must be there.
async fn stopped_while_storing(rule: fn(&Method, &str) -> Pass) {
    let place = Place::new();
    let gate = S3Gate::start(place.server, rule).await;
    // Longer than a pause of a machine under load.
    let soon = ["--ack-wait", "2s"];
    let pool = place.pool(&soon).await;
    // The same job is another picture at each: its size is the model's own.
    let first = place.worker(&pool.pool, "a", "sim=sim://?step_ms=5&size=64", Some(&gate), &soon).await;
    pool.queen.submit(&named(drawing(4), "j")).await;
    gate.holds().await;
    first.stop();
    let _second = place.worker(&pool.pool, "b", "sim=sim://?step_ms=5&size=128", None, &soon).await;
    let (events, complete) = pool.completes("j").await;
    assert_eq!(takers(&events).last(), Some(&"b"), "{events:?}");
    assert_eq!(complete.images[0].width, 128);
    is_stored(&place.folder(), &complete);
    gate.open().await;
    first.go_on();
    // It goes on where it was, if it does not know better.
    tokio::time::sleep(Duration::from_secs(3)).await;
    is_stored(&place.folder(), &complete);
    is_stored(&place.folder(), &place.result("j"));
    let later = pool.log("j").await;
    assert_eq!(later, events, "nothing is told after the end");
    let (_, view) = pool.queen.get("/v1/jobs/j").await;
    assert_eq!((&view["status"], &view["event"]["worker_id"]), (&json!("completed"), &json!("b")), "{view}");
}

#[tokio::test]
async fn a_worker_that_was_stopped_in_a_pictures_put_harms_no_picture() {
    stopped_while_storing(|method, path| if is_picture(method, path) { Pass::WhenOpened } else { Pass::Now })
        .await;
}

#[tokio::test]
async fn a_worker_that_was_stopped_before_the_result_does_not_write_it() {
    stopped_while_storing(
        |method, path| {
            if is_picture(method, path) { Pass::AnswerWhenOpened } else { Pass::Now }
        },
    )
    .await;
}

#[tokio::test]
async fn a_worker_that_was_stopped_in_the_results_put_leaves_a_result_that_is_true() {
    stopped_while_storing(|method, path| {
        let held = method == Method::PUT && path.ends_with("/jobs/j/result.json");
        if held { Pass::WhenOpened } else { Pass::Now }
    })
    .await;
}

/// A put that takes 12 s.
fn slow_put(method: &Method, path: &str) -> Pass {
    if is_picture(method, path) { Pass::Late(Duration::from_secs(12)) } else { Pass::Now }
}

#[tokio::test]
async fn a_long_upload_is_one_run_with_signs_of_life() {
    let place = Place::new();
    let gate = S3Gate::start(place.server, slow_put).await;
    let wait = ["--ack-wait", "3s"];
    let pool = place.pool(&wait).await;
    let model = "sim=sim://?step_ms=5&size=64";
    let _a = place.worker(&pool.pool, "a", model, Some(&gate), &wait).await;
    let _b = place.worker(&pool.pool, "b", model, Some(&gate), &wait).await;
    let mut events = pool.pool.events("j").await;
    pool.queen.submit(&named(drawing(4), "j")).await;
    loop {
        let message = tokio::time::timeout(SILENCE, events.next()).await.expect("a sign of life");
        let event: Event = serde_json::from_slice(&message.unwrap().payload).unwrap();
        if event.kind.is_terminal() {
            break;
        }
    }
    let (told, complete) = pool.completes("j").await;
    assert_eq!((takers(&told).len(), ends(&told).len()), (1, 1), "{told:?}");
    is_stored(&place.folder(), &complete);
    assert_eq!((gate.count(&Method::PUT, ".png"), gate.count(&Method::PUT, "result.json")), (1, 1));
    assert_eq!(pool.stream("JOBS").await.cached_info().state.last_sequence, 1, "it was sent once");
}

#[tokio::test]
async fn a_long_upload_of_a_request_has_signs_of_life() {
    let place = Place::new();
    let gate = S3Gate::start(place.server, slow_put).await;
    let pool = Pool::new().await;
    let model = "sim=sim://?step_ms=5&size=64";
    let _a = place.worker(&pool, "a", model, Some(&gate), &["--core"]).await;
    let mut replies = pool.generate(r#"{"prompt":"a","steps":4,"job_id":"j"}"#).await;
    while let Ok(next) = tokio::time::timeout(SILENCE, replies.next()).await.expect("a sign of life") {
        let terminal = replies.events.iter().filter(|event| event.kind.is_terminal()).count();
        assert!(terminal <= 1, "{next:?}");
    }
    assert_eq!(replies.names().last(), Some(&"complete"), "{:?}", replies.names());
    assert_eq!((gate.count(&Method::PUT, ".png"), gate.count(&Method::PUT, "result.json")), (1, 1));
}
