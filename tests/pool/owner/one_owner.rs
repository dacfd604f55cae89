//! Whoever does not own a job changes nothing of it: requests with its id, copies of its message, the same job twice.

use std::time::{Duration, Instant};

use async_nats::jetstream::stream;
use sd_worker_rbee::contract::{Capability, ErrorCode, EventKind};
use serde_json::json;

use super::{Owned, SLOW, SOON, drawing, named, takers};
use crate::support::{
    wire,
    worker::{End, Replies},
};

const BAD: &str = r#"{"job_id":"j"}"#;
const OTHER: &str = r#"{"job_id":"j","prompt":"another","steps":2,"seed":1}"#;

/// The sender of a request that is not the job hears why, and that it may not have the id.
async fn is_refused(mut replies: Replies, names: &str) {
    match replies.end().await {
        End::Failed(ErrorCode::InvalidRequest, message) => assert!(message.contains(names), "{message}"),
        other => panic!("{other:?}"),
    }
}

/// The job has been drawn by this worker alone, and its picture is that of the same job under another id.
async fn is_its_own_picture(pool: &Owned, worker: &str, model: &str, steps: u32) {
    let (events, complete) = pool.draws("j").await;
    assert_eq!(takers(&events), [worker], "{events:?}");
    let mut twin = named(drawing(steps), "twin");
    twin["model"] = json!(model);
    pool.queen.submit(&twin).await;
    let (_, twin) = pool.draws("twin").await;
    assert_eq!(complete.images[0].sha256, twin.images[0].sha256, "another's picture");
    let seen = pool.queen.stream("j").await;
    assert_eq!(seen.last().unwrap().data, "[DONE]", "{seen:?}");
    assert_eq!(pool.dead_letters().await, []);
}

#[tokio::test]
async fn requests_with_the_id_of_a_job_that_waits_leave_it_alone() {
    let pool = Owned::start(&["--models", "late"]).await;
    let _b = pool.worker("b", SLOW, &[]).await;
    let mut body = named(drawing(3), "j");
    body["model"] = json!("late");
    pool.queen.submit(&body).await;
    is_refused(pool.pool.generate(BAD).await, "`prompt`").await;
    is_refused(pool.pool.generate(OTHER).await, "`job_id`").await;
    assert_eq!(pool.queen.get("/v1/jobs/j").await.1["status"], "queued");
    let _c = pool.worker("c", "late=sim://?step_ms=5&size=64", &[]).await;
    is_its_own_picture(&pool, "c", "late", 3).await;
}

#[tokio::test]
async fn requests_with_the_id_of_a_job_that_waits_behind_another_leave_it_alone() {
    let pool = Owned::start(&[]).await;
    let a = pool.worker("a", SLOW, &[]).await;
    pool.queen.submit(&named(drawing(30), "busy")).await;
    pool.runs("busy").await;
    pool.queen.submit(&named(drawing(3), "j")).await;
    is_refused(pool.pool.direct(&a.id, BAD).await, "`prompt`").await;
    // Whether it is looked at without a free slot is the worker's own business.
    let (code, message) = pool.pool.direct(&a.id, OTHER).await.end().await.failed();
    assert!(matches!(code, ErrorCode::Busy | ErrorCode::InvalidRequest), "{code:?}: {message}");
    assert_eq!(pool.queen.get("/v1/jobs/j").await.1["status"], "queued");
    is_its_own_picture(&pool, "a", "sim", 3).await;
}

#[tokio::test]
async fn requests_with_the_id_of_a_job_that_runs_leave_it_alone() {
    let pool = Owned::start(&[]).await;
    let a = pool.worker("a", SLOW, &[]).await;
    pool.queen.submit(&named(drawing(40), "j")).await;
    pool.runs("j").await;
    let b = pool.worker("b", SLOW, &[]).await;
    is_refused(pool.pool.direct(&b.id, BAD).await, "`prompt`").await;
    is_refused(pool.pool.direct(&b.id, OTHER).await, "`job_id`").await;
    is_refused(pool.pool.direct(&a.id, BAD).await, "`prompt`").await;
    is_refused(pool.pool.direct(&a.id, OTHER).await, "`job_id`").await;
    is_refused(pool.pool.request(Capability::Transform, BAD).await, "`").await;
    is_its_own_picture(&pool, "a", "sim", 40).await;
}

#[tokio::test]
async fn requests_with_the_id_of_a_job_that_has_ended_leave_it_alone() {
    let pool = Owned::start(&[]).await;
    let _a = pool.worker("a", SLOW, &[]).await;
    let b = pool.worker("b", "two=sim://?step_ms=5&size=64", &[]).await;
    pool.queen.submit(&named(drawing(3), "j")).await;
    pool.draws("j").await;
    is_refused(pool.pool.direct(&b.id, BAD).await, "`prompt`").await;
    is_refused(pool.pool.direct(&b.id, OTHER).await, "`job_id`").await;
    is_refused(pool.pool.generate(BAD).await, "`prompt`").await;
    is_refused(pool.pool.generate(OTHER).await, "`job_id`").await;
    is_its_own_picture(&pool, "a", "sim", 3).await;
}

#[tokio::test]
async fn the_same_request_at_another_worker_is_busy_while_the_job_runs() {
    let pool = Owned::start(&[]).await;
    let _a = pool.worker("a", SLOW, &[]).await;
    let mut body = named(drawing(40), "j");
    body["model"] = json!("sim");
    pool.queen.submit(&body).await;
    pool.runs("j").await;
    let b = pool.worker("b", SLOW, &[]).await;
    for _ in 0..2 {
        let (code, message) = pool.pool.direct(&b.id, body.to_string()).await.end().await.failed();
        assert_eq!(code, ErrorCode::Busy, "{message}");
    }
    is_its_own_picture(&pool, "a", "sim", 40).await;
}

#[tokio::test]
async fn the_server_refuses_a_job_that_is_in_the_queue() {
    let pool = Owned::start(&SOON).await;
    let body = r#"{"prompt":"a","seed":7,"steps":40}"#;
    let _first = pool.worker("a", SLOW, &SOON).await;
    pool.put_job("generate", "j", body).await;
    let again = async |message: &str| {
        let (subject, headers) =
            (pool.job_subject("generate", "j"), [("Nats-Msg-Id", message), ("Job-Id", "j")]);
        let refused = pool.put(&subject, &headers, body).await;
        let error = format!("{:?}", refused.expect_err("it is in the queue"));
        assert!(error.contains("10077"), "{error}");
    };
    again("again-1").await;
    pool.runs("j").await;
    let _second = pool.worker("b", SLOW, &SOON).await;
    again("again-2").await;
    let (events, _) = pool.draws("j").await;
    assert_eq!(takers(&events), ["a"], "{events:?}");
    assert_eq!(pool.dead_letters().await, []);
    // After its end the subject is free; what ended is not run again.
    pool.put(&pool.job_subject("generate", "j"), &[("Nats-Msg-Id", "once more")], body).await.unwrap();
    pool.is_empty().await;
    assert_eq!(takers(&pool.end("j").await), ["a"]);
}

#[tokio::test]
async fn a_job_whose_ticket_is_lost_and_that_is_sent_again_runs_once() {
    let pool = Owned::start(&SOON).await;
    let _first = pool.worker("a", SLOW, &SOON).await;
    let _second = pool.worker("b", SLOW, &SOON).await;
    let body = named(drawing(60), "j");
    pool.queen.submit(&body).await;
    let taker = takers(&pool.runs("j").await)[0].to_owned();
    pool.stream("EVENTS").await.purge().filter(format!("{}.queued.j", pool.pool.prefix)).await.unwrap();
    // The server forgets the ids of messages, as it does after two minutes.
    let config = pool.stream("JOBS").await.cached_info().config.clone();
    let forgetful = stream::Config { duplicate_window: Duration::from_millis(100), ..config.clone() };
    pool.context.update_stream(forgetful).await.unwrap();
    tokio::time::sleep(Duration::from_millis(500)).await;
    pool.context.update_stream(config).await.unwrap();
    for _ in 0..2 {
        assert_eq!(pool.queen.submit(&body).await, "j");
        let (status, answer) = pool.queen.post(&named(drawing(61), "j")).await;
        assert_eq!((status, &answer["error"]["code"]), (400, &json!("invalid_request")), "{answer}");
    }
    is_its_own_picture(&pool, &taker, "sim", 60).await;
}

#[tokio::test]
async fn a_copy_on_another_subject_is_set_aside_and_not_run() {
    let pool = Owned::start(&[&SOON[..], &["--models", "other"]].concat()).await;
    let body = r#"{"prompt":"a red circle","seed":7,"steps":50}"#;
    let _a = pool.worker("a", SLOW, &SOON).await;
    let _b = pool.worker("b", "other=sim://?step_ms=5&size=64", &SOON).await;
    pool.put_job("generate", "j", body).await;
    pool.runs("j").await;
    let _c = pool.worker("c", SLOW, &SOON).await;
    let copies = [wire::job(&pool.pool.prefix, "generate", "other", "j"), pool.job_subject("transform", "j")];
    for (number, subject) in copies.iter().enumerate() {
        let id = format!("copy-{number}");
        pool.put(subject, &[("Nats-Msg-Id", &id), ("Job-Id", "j")], body).await.unwrap();
    }
    // Its end comes after its own time, and both copies are looked at by then or soon after.
    let (events, _) = pool.draws("j").await;
    assert_eq!(takers(&events), ["a"], "{events:?}");
    pool.is_empty().await;
    let events = pool.end("j").await;
    assert!(events.iter().all(|event| event.worker_id.as_str() == "a"), "{events:?}");
    let (_, view) = pool.queen.get("/v1/jobs/j").await;
    assert_eq!((&view["status"], &view["event"]["worker_id"]), (&json!("completed"), &json!("a")), "{view}");
}

#[tokio::test]
async fn a_worker_with_the_id_of_a_killed_one_takes_its_job_at_once() {
    let pool = Owned::start(&SOON).await;
    let first = pool.worker("a", SLOW, &SOON).await;
    pool.queen.submit(&named(drawing(50), "j")).await;
    pool.until("j", |event| matches!(event.kind, EventKind::Progress { step: 5.., .. })).await;
    first.kill();
    let _again = pool.pool.worker("a", SLOW, &SOON).await;
    let ready = Instant::now();
    pool.until("j", |event| event.kind.name() == "accepted" && event.attempt == 2).await;
    assert!(ready.elapsed() < Duration::from_secs(6), "{:?}", ready.elapsed());
    assert_eq!(takers(&pool.draws("j").await.0), ["a", "a"]);
}
