//! Which worker a durable job goes to, where each has memory for one model: loads are few, and no model waits for ever.
//!
//! `cargo test --test pool placement -- --nocapture` prints how many there are.

use std::time::Duration;

use async_nats::Subscriber;
use futures::StreamExt;
use sd_worker_rbee::contract::{Capability, Event, EventKind, JobId};
use tokio::time::Instant;

use super::durable::Streams;
use crate::support::worker::{PATIENCE, Pool, WorkerProcess};

const NAMES: [&str; 4] = ["a", "b", "c", "d"];
/// Loading takes as long as four jobs of ten steps.
const LOAD_MS: u64 = 200;
const STEP_MS: u64 = 5;
const STEPS: u64 = 10;
const JOBS: usize = 120;

/// A worker with every model and memory for one, which has this one in it.
async fn worker(pool: &Pool, has: &str, switch_after: &str) -> WorkerProcess {
    let model = |name: &str| format!("{name}=sim://?step_ms={STEP_MS}&size=64&memory=6MiB&load_ms={LOAD_MS}");
    let models = NAMES.map(model).join(",");
    let more = [
        "--model-memory",
        "8MiB",
        "--capabilities",
        "generate",
        "--preload",
        has,
        "--switch-after",
        switch_after,
    ];
    pool.worker(&format!("has-{has}"), &models, &more).await
}

async fn put(pool: &Pool, streams: &Streams, model: &str, id: &str, steps: u64) {
    let subject = pool.subjects.jobs(Capability::Generate, model, &JobId::new(id).unwrap());
    streams.put_with(&subject, id, id, format!(r#"{{"prompt":"a","steps":{steps}}}"#)).await;
}

/// The events of every job, from now on.
async fn all_events(pool: &Pool) -> Subscriber {
    let events = pool.client.subscribe(pool.subjects.events_any()).await.unwrap();
    pool.client.flush().await.unwrap();
    events
}

async fn next(events: &mut Subscriber) -> Event {
    let message = tokio::time::timeout(PATIENCE, events.next()).await.expect("an event in time").unwrap();
    serde_json::from_slice(&message.payload).expect("an event")
}

/// Milliseconds that the models of so many jobs took to load, of those jobs that waited for it.
async fn loads(events: &mut Subscriber, jobs: usize) -> Vec<u64> {
    let (mut ended, mut loads) = (0, vec![]);
    while ended < jobs {
        match next(events).await.kind {
            EventKind::Complete(complete) => {
                ended += 1;
                loads.extend(Some(complete.timings_ms.load).filter(|load| *load >= LOAD_MS));
            }
            EventKind::Accepted { .. } | EventKind::Progress { .. } => {}
            other => panic!("{other:?}"),
        }
    }
    loads
}

/// Loads of `JOBS` jobs of models in no order, of which so many come in a second, or all at once; and how long that took.
async fn run(switch_after: &str, per_second: Option<u32>) -> (usize, Duration) {
    let pool = Pool::new().await;
    let mut workers = vec![];
    for name in NAMES {
        workers.push(worker(&pool, name, switch_after).await);
    }
    let (streams, mut events) = (Streams::of(&pool), all_events(&pool).await);
    let begun = Instant::now();
    let mut draw = 1u32;
    for number in 0..JOBS {
        if let Some(rate) = per_second {
            tokio::time::sleep_until(begun + Duration::from_secs(1) * number as u32 / rate).await;
        }
        // The upper bits of a linear congruential generator (Numerical Recipes).
        draw = draw.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        let model = NAMES[(draw >> 30) as usize];
        put(&pool, &streams, model, &format!("j{number}"), STEPS).await;
    }
    (loads(&mut events, JOBS).await.len(), begun.elapsed())
}

#[tokio::test]
async fn jobs_go_to_workers_that_have_their_model_and_few_models_are_loaded() {
    // Four workers draw 80 such jobs in a second at most.
    for (load, per_second) in [("all at once", None), ("40 a second", Some(40))] {
        let (before, took_before) = run("0s", per_second).await;
        let (after, took_after) = run("30s", per_second).await;
        eprintln!(
            "{JOBS} jobs of {} models, {load}: --switch-after 0s: {before} loads, {took_before:.1?}; 30s: {after} loads, \
             {took_after:.1?}",
            NAMES.len()
        );
        assert!(before >= JOBS / 3 && after <= before / 4, "{load}: {before} loads, and then {after}");
    }
}

#[tokio::test]
async fn jobs_of_other_models_are_passed_over_for_no_longer_than_they_may() {
    let pool = Pool::new().await;
    let _worker = worker(&pool, "a", "1s").await;
    let (streams, mut events) = (Streams::of(&pool), all_events(&pool).await);
    // Work for ten seconds.
    for number in 0..100 {
        put(&pool, &streams, "a", &format!("a{number}"), 20).await;
    }
    tokio::time::sleep(Duration::from_millis(300)).await;
    let sent = Instant::now();
    for model in ["b", "c", "d"] {
        put(&pool, &streams, model, model, 1).await;
    }
    let (mut waiting, mut own) = (vec!["b", "c", "d"], 0);
    while !waiting.is_empty() {
        let EventKind::Accepted { model, .. } = next(&mut events).await.kind else { continue };
        waiting.retain(|waits| *waits != model);
        own += usize::from(model == "a");
    }
    // The bound, a job of a, and two others with their models.
    let bound = Duration::from_millis(1000 + 100 + 2 * (LOAD_MS + STEP_MS));
    assert!(sent.elapsed() < bound + Duration::from_secs(2), "{:?}", sent.elapsed());
    assert!(own > 5, "{own} jobs of the model in memory came first");
    // And those of the first model go on.
    while !matches!(next(&mut events).await.kind, EventKind::Accepted { model, .. } if model == "a") {}
}

#[tokio::test]
async fn of_idle_workers_the_one_that_has_the_model_gets_the_job() {
    let pool = Pool::new().await;
    let _workers = [worker(&pool, "a", "30s").await, worker(&pool, "b", "30s").await];
    let (streams, mut events) = (Streams::of(&pool), all_events(&pool).await);
    for number in 0..2 {
        // What a worker has asked of the other's queue, it has asked after that by now.
        tokio::time::sleep(Duration::from_millis(2700)).await;
        for model in ["a", "b"] {
            put(&pool, &streams, model, &format!("{model}{number}"), STEPS).await;
        }
        assert_eq!(loads(&mut events, 2).await, [0; 0], "round {number}");
    }
    // A model that no worker has is loaded by one that is idle.
    put(&pool, &streams, "c", "c", STEPS).await;
    assert_eq!(loads(&mut events, 1).await.len(), 1);
}
