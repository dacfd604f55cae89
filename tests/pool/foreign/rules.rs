//! What all doors share: who leaves, how long a call waits, how many wait, and what is sent again.

use std::time::Duration;

use futures::StreamExt;
use sd_worker_rbee::contract::EventKind;
use serde_json::json;
use tokio::{io::AsyncWriteExt, net::TcpStream};

use super::{FAST, GENERATIONS, Pool, prompt, request, sent};
use crate::support::{
    fake_pool::{Pool as FakePool, with},
    fake_worker::FakeJob,
};

/// Nothing comes for so long: it does not come.
const SILENCE: Duration = Duration::from_millis(700);

/// A call that waits, and its job.
async fn waiting(
    pool: &FakePool,
    worker: &mut crate::support::fake_worker::FakeWorker,
    key: Option<&str>,
) -> (tokio::task::JoinHandle<super::Answer>, FakeJob) {
    let mut call = request(&pool.queen, GENERATIONS).body(prompt().to_string());
    if let Some(key) = key {
        call = call.header("idempotency-key", key);
    }
    let call = tokio::spawn(sent(call));
    let mut job = worker.job().await;
    job.accept().await;
    (call, job)
}

#[tokio::test]
async fn a_client_that_leaves_takes_its_job_with_it_unless_it_gave_an_id() {
    let pool = FakePool::start(&[]).await;
    let mut worker = pool.worker("w", &["m"]).await;
    let mut cancels = worker.cancels().await;
    let (call, mut job) = waiting(&pool, &mut worker, None).await;
    call.abort();
    let cancel = tokio::time::timeout(Duration::from_secs(10), cancels.next()).await.unwrap().unwrap();
    assert!(cancel.subject.contains(job.id.as_str()), "{}", cancel.subject);
    job.send(EventKind::Cancelled { step: 1 }).await;
    job.end().await;

    let (call, mut job) = waiting(&pool, &mut worker, Some("mine")).await;
    call.abort();
    let cancelled = async { while !cancels.next().await.expect("a connection").subject.contains("mine") {} };
    assert!(tokio::time::timeout(SILENCE, cancelled).await.is_err(), "it may be come back for");
    pool.store_picture(&job).await;
    job.complete().await;
    let again =
        request(&pool.queen, GENERATIONS).header("idempotency-key", "mine").body(prompt().to_string());
    let again = sent(again).await;
    assert_eq!((again.status, again.header("x-job-id")), (200, "mine"), "{again:?}");
    assert!(worker.gets_nothing(SILENCE).await, "it is drawn once");
    let other = with(prompt(), "prompt", "a blue square").to_string();
    let other = sent(request(&pool.queen, GENERATIONS).header("idempotency-key", "mine").body(other)).await;
    assert_eq!((other.status, &other.refused().2), (400, &json!("Idempotency-Key")));
}

#[tokio::test]
async fn a_queen_may_be_told_to_draw_to_the_end_what_nobody_waits_for() {
    let pool = FakePool::start(&["--keep-abandoned"]).await;
    let mut worker = pool.worker("w", &["m"]).await;
    let mut cancels = worker.cancels().await;
    let (call, job) = waiting(&pool, &mut worker, None).await;
    call.abort();
    assert!(tokio::time::timeout(SILENCE, cancels.next()).await.is_err());
    let (_, view) = pool.queen.get(&format!("/v1/jobs/{}", job.id)).await;
    assert_eq!(view["status"], "running");
}

#[tokio::test]
async fn a_client_that_closes_its_half_is_taken_to_have_left() {
    let pool = FakePool::start(&[]).await;
    let mut worker = pool.worker("w", &["m"]).await;
    let mut cancels = worker.cancels().await;
    let address = pool.queen.url.strip_prefix("http://").unwrap();
    let mut connection = TcpStream::connect(address).await.unwrap();
    let body = prompt().to_string();
    let head =
        format!("POST {GENERATIONS} HTTP/1.1\r\nhost: {address}\r\ncontent-length: {}\r\n\r\n", body.len());
    connection.write_all(format!("{head}{body}").as_bytes()).await.unwrap();
    worker.job().await.accept().await;
    connection.shutdown().await.unwrap();
    assert!(tokio::time::timeout(Duration::from_secs(10), cancels.next()).await.unwrap().is_some());
}

#[tokio::test]
async fn a_call_waits_so_long_and_is_told_where_its_job_is() {
    let pool = FakePool::start(&["--sync-timeout", "1s"]).await;
    let mut worker = pool.worker("w", &["m"]).await;
    let mut cancels = worker.cancels().await;
    let (call, job) = waiting(&pool, &mut worker, None).await;
    let sent_along: serde_json::Value = serde_json::from_slice(&job.body).unwrap();
    assert_eq!(sent_along["deadline_ms"], 1000);
    let answer = call.await.unwrap();
    let (status, code, _, message) = answer.refused();
    assert_eq!((status, code.as_str(), answer.header("x-should-retry")), (504, "deadline_exceeded", "false"));
    assert_eq!(answer.header("x-job-id"), job.id.as_str());
    assert!(message.contains(job.id.as_str()) && message.contains("it is cancelled"), "{message}");
    assert!(tokio::time::timeout(Duration::from_secs(5), cancels.next()).await.unwrap().is_some());

    let (call, job) = waiting(&pool, &mut worker, Some("slow")).await;
    let sent_along: serde_json::Value = serde_json::from_slice(&job.body).unwrap();
    assert!(sent_along["deadline_ms"].is_null(), "it may be come back for");
    let (_, _, _, message) = call.await.unwrap().refused();
    assert!(message.contains("GET /v1/jobs/slow"), "{message}");
}

#[tokio::test]
async fn a_cancelled_job_is_a_conflict_that_is_not_sent_again() {
    let pool = FakePool::start(&[]).await;
    let mut worker = pool.worker("w", &["m"]).await;
    let (call, mut job) = waiting(&pool, &mut worker, None).await;
    job.send(EventKind::Cancelled { step: 1 }).await;
    job.end().await;
    let answer = call.await.unwrap();
    assert_eq!((answer.refused().0, answer.refused().1.as_str()), (409, "cancelled"));
    assert_eq!((answer.header("x-should-retry"), answer.header("x-job-id")), ("false", job.id.as_str()));

    let (call, mut job) = waiting(&pool, &mut worker, None).await;
    job.send(EventKind::error(sd_worker_rbee::contract::ErrorCode::OutOfMemory, "the device is full")).await;
    job.end().await;
    let answer = call.await.unwrap();
    assert_eq!((answer.refused().0, answer.header("x-should-retry")), (500, "true"));
}

#[tokio::test]
async fn calls_that_wait_are_counted() {
    let pool = FakePool::start(&["--max-waiting", "1"]).await;
    let mut worker = pool.worker("w", &["m"]).await;
    let (call, mut job) = waiting(&pool, &mut worker, None).await;
    let refused = sent(request(&pool.queen, GENERATIONS).body(prompt().to_string())).await;
    let (status, code, _, message) = refused.refused();
    assert_eq!((status, code.as_str(), refused.header("x-should-retry")), (503, "busy", "true"));
    assert!(message.contains("--max-waiting"), "{message}");
    pool.store_picture(&job).await;
    job.complete().await;
    assert_eq!(call.await.unwrap().status, 200);
    let (call, _job) = waiting(&pool, &mut worker, None).await;
    call.abort();
}

#[tokio::test]
async fn a_pool_that_has_no_place_yet_is_waited_for() {
    let pool = FakePool::start(&["--queue-timeout", "20s"]).await;
    let call = tokio::spawn(sent(request(&pool.queen, GENERATIONS).body(prompt().to_string())));
    tokio::time::sleep(Duration::from_millis(500)).await;
    assert!(!call.is_finished(), "nobody is there yet");
    let mut worker = pool.worker("w", &["m"]).await;
    let mut job = worker.job().await;
    pool.store_picture(&job).await;
    job.accept().await;
    job.complete().await;
    assert_eq!(call.await.unwrap().status, 200);

    let pool = FakePool::start(&["--queue-timeout", "1s"]).await;
    let answer = sent(request(&pool.queen, GENERATIONS).body(prompt().to_string())).await;
    assert_eq!((answer.refused().0, answer.header("x-should-retry")), (503, "true"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_queen_that_ends_tells_those_who_wait_to_ask_again() {
    let mut pool = FakePool::start(&[]).await;
    let mut worker = pool.worker("w", &["m"]).await;
    let mut cancels = worker.cancels().await;
    let (call, job) = waiting(&pool, &mut worker, None).await;
    assert!(pool.queen.terminate(Duration::from_secs(8)).success());
    let answer = call.await.unwrap();
    assert_eq!((answer.refused().0, answer.refused().1.as_str()), (503, "shutting_down"));
    assert_eq!((answer.header("x-should-retry"), answer.header("x-job-id")), ("true", job.id.as_str()));
    let cancel = tokio::time::timeout(Duration::from_secs(5), cancels.next()).await.unwrap().unwrap();
    assert!(cancel.subject.contains(job.id.as_str()), "another queen would have it drawn a second time");
}

#[tokio::test]
async fn a_stream_that_its_client_leaves_is_cancelled_too() {
    let pool = FakePool::start(&[]).await;
    let mut worker = pool.worker("w", &["m"]).await;
    let mut cancels = worker.cancels().await;
    let call = request(&pool.queen, GENERATIONS).body(with(prompt(), "stream", true).to_string());
    let call = tokio::spawn(async move { call.send().await });
    let mut job = worker.job().await;
    job.accept().await;
    let answer = call.await.unwrap().unwrap();
    assert_eq!(answer.headers()["x-job-id"], job.id.as_str());
    drop(answer);
    assert!(tokio::time::timeout(Duration::from_secs(10), cancels.next()).await.unwrap().is_some());
}

#[tokio::test]
async fn a_stream_of_a_job_that_fails_ends_in_an_error() {
    let pool = FakePool::start(&[]).await;
    let mut worker = pool.worker("w", &["m"]).await;
    let call = request(&pool.queen, GENERATIONS).body(with(prompt(), "stream", true).to_string());
    let call = tokio::spawn(sent(call));
    let mut job = worker.job().await;
    job.accept().await;
    job.send(EventKind::Cancelled { step: 1 }).await;
    job.end().await;
    let seen = super::events(&call.await.unwrap().text);
    assert_eq!((seen.len(), seen[0].0.as_str()), (1, "error"));
    assert_eq!(seen[0].1["error"]["code"], "cancelled");
}

#[tokio::test]
async fn the_same_key_is_the_same_picture_also_of_a_durable_job() {
    let (pool, _worker) = Pool::with_worker(&[], FAST).await;
    let call = || {
        request(&pool.queen, GENERATIONS).header("idempotency-key", "an order/7").body(prompt().to_string())
    };
    let (first, second) = tokio::join!(sent(call()), sent(call()));
    assert_eq!((first.status, second.status), (200, 200), "{first:?} {second:?}");
    let job = first.header("x-job-id");
    assert!(job.starts_with("key-"), "{job}");
    assert_eq!(job, second.header("x-job-id"));
    assert_eq!(first.json()["data"], second.json()["data"]);
}
