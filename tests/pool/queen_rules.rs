//! What queen makes of a pool, over a real nats-server and with a worker of which the test decides every word.

use std::time::Duration;

use crate::support::{
    fake_pool::{Pool, generation, is_error, with},
    fake_worker::complete,
    queen::types,
};
use futures::StreamExt;
use sd_worker_rbee::{
    contract::{ErrorCode, Event, EventKind},
    storage::StoredResult,
};
use serde_json::{Value, json};

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
    second = second.answered_by("other");
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
    let result = StoredResult { fingerprint: job.operation.fingerprint(), owner: None, event };
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
