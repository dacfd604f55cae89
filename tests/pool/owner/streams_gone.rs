//! Streams, consumers and events that go away or cannot be read: the pool works again by itself, and jobs end once.

use std::time::{Duration, Instant};

use async_nats::jetstream::{self, AckKind, stream};
use futures::TryStreamExt;
use sd_worker_rbee::contract::EventKind;
use serde_json::json;

use super::{FAST, Owned, SLOW, SOON, drawing, ends, named, takers};
use crate::support::worker::{PATIENCE, WorkerProcess};

/// New jobs are drawn again within about 10 s.
const WORKS_AGAIN: Duration = Duration::from_secs(15);
/// What is no event, and one of a later version.
const UNREADABLE: [&str; 2] = [
    "\u{1}garbage",
    r#"{"type":"rested","job_id":"ID","worker_id":"w","attempt":1,"seq":0,"until":"tomorrow"}"#,
];

/// A pool with a job `j` that is in the middle of its 6 s, and a free slot.
async fn running() -> (Owned, WorkerProcess) {
    let pool = Owned::start(&SOON).await;
    let worker = pool.worker("a", SLOW, &[&SOON[..], &["--slots", "2"]].concat()).await;
    pool.queen.submit(&named(drawing(60), "j")).await;
    pool.runs("j").await;
    (pool, worker)
}

/// New jobs are done, and the one that ran has come to its end, which is one.
async fn is_well_again(pool: &Owned, worker: &mut WorkerProcess) {
    pool.works_within(WORKS_AGAIN, "new").await;
    let (events, _) = pool.draws("j").await;
    assert_eq!(ends(&events).len(), 1, "{events:?}");
    // Nothing of it is left that ends it once more.
    tokio::time::sleep(Duration::from_secs(3)).await;
    let later = pool.log("j").await;
    assert_eq!(ends(&later).len(), 1, "{later:?}");
    pool.works_within(WORKS_AGAIN, "newer").await;
    let (status, health) = pool.queen.get("/health").await;
    assert_eq!((status, &health["durable"]), (200, &json!(true)), "{health}");
    assert!(worker.is_running(), "{}", worker.log());
}

#[tokio::test]
async fn events_that_were_removed_while_a_job_runs_are_made_again() {
    let (pool, mut worker) = running().await;
    pool.context.delete_stream(pool.pool.subjects.stream("EVENTS")).await.unwrap();
    is_well_again(&pool, &mut worker).await;
}

#[tokio::test]
async fn events_that_were_removed_while_nothing_runs_are_made_again() {
    let pool = Owned::start(&SOON).await;
    let _worker = pool.worker("a", FAST, &SOON).await;
    pool.works_within(WORKS_AGAIN, "before").await;
    pool.context.delete_stream(pool.pool.subjects.stream("EVENTS")).await.unwrap();
    pool.works_within(WORKS_AGAIN, "after").await;
}

#[tokio::test]
async fn a_queue_that_was_removed_while_a_job_runs_is_made_again() {
    let (pool, mut worker) = running().await;
    pool.context.delete_stream(pool.pool.subjects.stream("JOBS")).await.unwrap();
    is_well_again(&pool, &mut worker).await;
}

#[tokio::test]
async fn dead_letters_that_were_removed_are_made_again() {
    let pool = Owned::start(&SOON).await;
    let _worker =
        pool.worker("a", "sim=sim://?step_ms=5&size=64&fail=non_finite&fail_prompt=broken", &SOON).await;
    pool.context.delete_stream(pool.pool.subjects.stream("DLQ")).await.unwrap();
    let mut broken = named(drawing(2), "j");
    broken["prompt"] = json!("broken");
    pool.queen.submit(&broken).await;
    pool.end("j").await;
    assert_eq!(pool.dead_letters().await.len(), 1);
    pool.works_within(WORKS_AGAIN, "after").await;
}

#[tokio::test]
async fn events_that_were_forgotten_while_a_job_runs_do_not_stop_it() {
    let (pool, mut worker) = running().await;
    pool.stream("EVENTS").await.purge().await.unwrap();
    is_well_again(&pool, &mut worker).await;
}

#[tokio::test]
async fn consumers_that_were_removed_while_a_job_runs_are_made_again() {
    let (pool, mut worker) = running().await;
    let jobs = pool.stream("JOBS").await;
    let names: Vec<String> = jobs.consumer_names().try_collect().await.unwrap();
    assert!(!names.is_empty());
    for name in names {
        jobs.delete_consumer(&name).await.unwrap();
    }
    is_well_again(&pool, &mut worker).await;
}

/// Stores what is no event of ours on the subject of the job's events.
async fn spoil(pool: &Owned, id: &str, text: &str) {
    let subject = format!("{}.events.{id}", pool.pool.prefix);
    pool.put(&subject, &[], text.replace("ID", id)).await.expect("it is stored");
}

/// Clients of the job come to its end.
async fn is_streamed(pool: &Owned) {
    let lines = pool.queen.stream("j").await;
    assert_eq!(lines.last().map(|line| line.data.as_str()), Some("[DONE]"), "{lines:?}");
}

#[tokio::test]
async fn a_running_job_ends_once_though_one_of_its_events_cannot_be_read() {
    for text in UNREADABLE {
        let (pool, mut worker) = running().await;
        spoil(&pool, "j", text).await;
        is_well_again(&pool, &mut worker).await;
        is_streamed(&pool).await;
    }
}

#[tokio::test]
async fn a_waiting_job_is_done_though_an_event_of_it_cannot_be_read() {
    for text in UNREADABLE {
        let pool = Owned::start(&SOON).await;
        pool.queen.submit(&named(drawing(2), "j")).await;
        spoil(&pool, "j", text).await;
        let _worker = pool.worker("a", FAST, &SOON).await;
        pool.works_within(WORKS_AGAIN, "new").await;
        assert_eq!(takers(&pool.draws("j").await.0), ["a"], "{text}");
        is_streamed(&pool).await;
    }
}

/// Holds a message as a worker does: with a sign of life now and then.
fn hold(message: jetstream::Message) -> tokio::task::JoinHandle<()> {
    tokio::spawn(async move {
        loop {
            message.ack_with(AckKind::Progress).await.expect("a sign of life");
            tokio::time::sleep(Duration::from_millis(300)).await;
        }
    })
}

#[tokio::test]
async fn an_event_that_cannot_be_read_does_not_keep_the_sweep_from_other_jobs() {
    for text in UNREADABLE {
        let pool = Owned::start(&SOON).await;
        // Its consumers stay.
        pool.worker("a", FAST, &SOON).await.kill();
        let mut held = vec![];
        for id in ["spoilt", "ended"] {
            pool.queen.submit(&named(drawing(2), id)).await;
            held.push(hold(pool.pull("generate").await));
        }
        spoil(&pool, "spoilt", text).await;
        let end = json!({
            "type": "cancelled", "job_id": "ended", "worker_id": "w", "attempt": 1, "seq": 0, "step": 0,
        });
        spoil(&pool, "ended", &end.to_string()).await;
        pool.no_message_of("ended").await;
        assert!(pool.message_of("spoilt").await, "a job without an end stays: {text}");
        held.iter().for_each(tokio::task::JoinHandle::abort);
    }
}

#[tokio::test]
async fn health_does_not_say_durable_while_the_streams_cannot_be_made() {
    let pool = Owned::start(&SOON).await;
    let _worker = pool.worker("a", FAST, &SOON).await;
    assert_eq!(pool.queen.get("/health").await.1["durable"], json!(true));
    let events = pool.pool.subjects.stream("EVENTS");
    // Another stream takes its subjects: ours cannot be made.
    pool.context.delete_stream(&events).await.unwrap();
    let config = stream::Config {
        name: format!("{events}-other"),
        subjects: vec![format!("{}.events.>", pool.pool.prefix)],
        ..stream::Config::default()
    };
    let until = Instant::now() + PATIENCE;
    while pool.context.create_stream(config.clone()).await.is_err() {
        // It was made again in between.
        assert!(Instant::now() < until, "the place of EVENTS");
        let _ = pool.context.delete_stream(&events).await;
    }
    let until = Instant::now() + WORKS_AGAIN;
    while pool.queen.get("/health").await.1["durable"] != json!(false) {
        assert!(Instant::now() < until, "{}", pool.queen.get("/health").await.1);
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
    pool.context.delete_stream(&config.name).await.unwrap();
    pool.works_within(WORKS_AGAIN, "after").await;
    assert_eq!(pool.queen.get("/health").await.1["durable"], json!(true));
    let events = pool.log("after").await;
    assert!(matches!(events.last().unwrap().kind, EventKind::Complete(_)), "{events:?}");
}
