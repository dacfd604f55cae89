//! Machines whose clocks are an hour apart: how long a job has waited, and whether it stands still, is nobody's clock.
//!
//! nats-server reads the clock without the C library, so that its clock is that of the machine here: where it is the one
//! that is wrong, queen and worker are both so the other way.

use std::time::Duration;

use sd_worker_rbee::contract::{ErrorCode, EventKind};
use serde_json::json;

use super::{Owned, SOON, drawing, named, takers};
use crate::support::{
    clock::shifted,
    worker::{Pool, WorkerProcess},
};

const HOUR: i64 = 3600;

/// A pool whose queen and worker are ahead of the server by so many seconds does every job as it should.
async fn clocks_apart(queen: i64, worker: i64) {
    let set = |seconds: i64| if seconds == 0 { vec![] } else { shifted(seconds) };
    let pool = Pool::new().await;
    let store = pool.store.path().to_str().unwrap().to_owned();
    let pool = Owned::start_with(pool, &store, &SOON, set(queen));
    let mut late = named(drawing(2), "late");
    late["deadline_ms"] = json!(2_000);
    pool.queen.submit(&late).await;
    // It waits in fact for longer than it may.
    tokio::time::sleep(Duration::from_secs(3)).await;
    let more = [&SOON[..], &["--slots", "2"]].concat();
    let model = "sim=sim://?step_ms=100&size=64";
    let _worker =
        WorkerProcess::start_with(&pool.pool.url, &pool.pool.prefix, &store, "a", model, &more, set(worker));
    // Longer than it takes queen to look at the queue, while the other slot asks for jobs.
    for (id, steps) in [("long", 80), ("short", 2)] {
        let mut body = named(drawing(steps), id);
        body["deadline_ms"] = json!(60_000);
        pool.queen.submit(&body).await;
    }
    let events = pool.end("late").await;
    let last = &events.last().unwrap().kind;
    assert!(matches!(last, EventKind::Error { code: ErrorCode::DeadlineExceeded, .. }), "{events:?}");
    for id in ["short", "long"] {
        let (events, _) = pool.draws(id).await;
        assert_eq!(takers(&events), ["a"], "{events:?}");
    }
    let jobs = pool.stream("JOBS").await;
    assert_eq!(jobs.cached_info().state.last_sequence, 3, "each job was sent once:\n{}", pool.queen.log());
    assert_eq!(pool.dead_letters().await, []);
}

#[tokio::test]
async fn a_queen_an_hour_ahead_disturbs_no_job() {
    clocks_apart(HOUR, 0).await;
}

#[tokio::test]
async fn a_queen_an_hour_behind_disturbs_no_job() {
    clocks_apart(-HOUR, 0).await;
}

#[tokio::test]
async fn a_worker_an_hour_ahead_ends_no_job_too_early() {
    clocks_apart(0, HOUR).await;
}

#[tokio::test]
async fn a_worker_an_hour_behind_ends_no_job_too_late() {
    clocks_apart(0, -HOUR).await;
}

#[tokio::test]
async fn a_server_an_hour_ahead_disturbs_no_job() {
    clocks_apart(-HOUR, -HOUR).await;
}

#[tokio::test]
async fn a_server_an_hour_behind_disturbs_no_job() {
    clocks_apart(HOUR, HOUR).await;
}
