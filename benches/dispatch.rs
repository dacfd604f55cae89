//! What the pool adds to a job: a real nats-server, a real worker, a model that takes no time, a store in memory.
//!
//! `cargo bench --bench dispatch` prints jobs per second through 64 slots, and milliseconds per job through one.

#[path = "../tests/support/mod.rs"]
mod support;

use std::time::{Duration, Instant};

use futures::future::join_all;
use sd_worker_rbee::contract::Capability;
use support::{
    nats::NatsServer,
    process::Leashed,
    worker::{End, Pool},
};
use tempfile::TempDir;

const ROUNDS: usize = 5;
const JOBS_THROUGH_64: usize = 6_400;
const JOBS_THROUGH_ONE: usize = 500;
const REQUEST: &str = r#"{"prompt":"a","steps":1,"stream":false}"#;
/// A door is armed again a moment after its job: the requester's pause before it asks again.
const PAUSE: Duration = Duration::from_micros(200);

/// A worker with so many slots.
async fn worker(pool: &Pool, folder: &TempDir, slots: usize) -> Leashed {
    let slots = slots.to_string();
    let arguments = [
        "--model",
        "sim://?step_ms=0&size=64",
        "--nats-url",
        &pool.url,
        "--subject-prefix",
        &pool.prefix,
        "--store-url",
        "memory://",
        "--slots",
        &slots,
    ];
    let log = folder.path().join("worker.log");
    let worker = Leashed::start(env!("CARGO_BIN_EXE_sd-worker-cpu"), &arguments, &log);
    let until = Instant::now() + Duration::from_secs(30);
    while !worker.log().contains(" ready ") {
        assert!(Instant::now() < until, "{}", worker.log());
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    worker
}

/// One job to its end, asked for until it is taken; how often it was asked for.
async fn job(pool: &Pool) -> usize {
    let mut asked = 0;
    loop {
        asked += 1;
        match pool.request(Capability::Generate, REQUEST).await.end().await {
            End::Done(_) => return asked,
            End::NoResponders | End::Failed(..) => tokio::time::sleep(PAUSE).await,
            End::Cancelled => panic!("nobody cancels"),
        }
    }
}

/// Jobs per second, and requests per job, with `together` requesters.
async fn round(pool: &Pool, together: usize, jobs: usize) -> (f64, f64) {
    let begun = Instant::now();
    let each = jobs / together;
    let asked = join_all((0..together).map(|_| async {
        let mut asked = 0;
        for _ in 0..each {
            asked += job(pool).await;
        }
        asked
    }))
    .await;
    let done = (each * together) as f64;
    (done / begun.elapsed().as_secs_f64(), asked.iter().sum::<usize>() as f64 / done)
}

async fn measure(slots: usize, jobs: usize) {
    let pool = Pool::on(&NatsServer::shared().url()).await;
    let folder = TempDir::new().expect("a temporary folder");
    let _worker = worker(&pool, &folder, slots).await;
    round(&pool, slots, jobs / 10).await;
    let mut rounds = vec![];
    for _ in 0..ROUNDS {
        rounds.push(round(&pool, slots, jobs).await);
    }
    rounds.sort_by(|a, b| a.0.total_cmp(&b.0));
    let (rate, asked) = rounds[ROUNDS / 2];
    println!(
        "{slots} slots, {slots} requesters: median {rate:.0} jobs/s ({:.2} ms per job), least {:.0}, most {:.0}; {asked:.2} requests per job",
        1000.0 / rate,
        rounds[0].0,
        rounds[ROUNDS - 1].0,
    );
}

#[tokio::main]
async fn main() {
    measure(64, JOBS_THROUGH_64).await;
    measure(1, JOBS_THROUGH_ONE).await;
}
