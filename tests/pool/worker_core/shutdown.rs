//! The end of a worker: drained, stopped at once, killed at start; and what it says when it cannot start.

use std::{process::Command, time::Duration};

use sd_worker_rbee::contract::{ErrorCode, WorkerStatus};

use crate::support::{
    nats::NatsServer,
    worker::{End, Pool, heartbeat},
};

const SLOW: &str = "sim://?step_ms=50&size=64";

#[tokio::test]
async fn on_sigterm_the_running_job_completes_and_the_worker_exits_with_0() {
    let pool = Pool::new().await;
    let mut worker = pool.worker("a", SLOW, &[]).await;
    let mut beats = pool.heartbeats(&worker.id).await;
    let mut replies = pool.generate(r#"{"prompt":"a","steps":30}"#).await;
    replies.wait_for("progress").await;
    worker.terminate();
    heartbeat(&mut beats, |info| info.status == WorkerStatus::ShuttingDown && info.free_slots == 0).await;
    // While it drains nobody takes a job, and its own subject says why.
    assert_eq!(pool.generate(r#"{"prompt":"b"}"#).await.end().await, End::NoResponders);
    let (code, _) = pool.direct(&worker.id, r#"{"prompt":"b"}"#).await.end().await.failed();
    assert_eq!(code, ErrorCode::ShuttingDown);
    replies.end().await.done();
    assert_eq!(worker.exit().await.code(), Some(0), "{}", worker.log());
}

#[tokio::test]
async fn an_idle_worker_exits_with_0_at_once() {
    let pool = Pool::new().await;
    let mut worker = pool.worker("a", SLOW, &["--slots", "4"]).await;
    let told = std::time::Instant::now();
    worker.terminate();
    assert_eq!(worker.exit().await.code(), Some(0));
    assert!(told.elapsed() < Duration::from_secs(3), "{:?}", told.elapsed());
}

#[tokio::test]
async fn past_the_grace_time_a_core_job_is_told_that_the_worker_shuts_down() {
    let pool = Pool::new().await;
    let mut worker = pool.worker("a", SLOW, &["--grace", "300ms"]).await;
    let mut replies = pool.generate(r#"{"prompt":"a","steps":150}"#).await;
    replies.wait_for("progress").await;
    worker.terminate();
    let (code, _) = replies.end().await.failed();
    assert_eq!(code, ErrorCode::ShuttingDown);
    assert!(code.retryable());
    assert_eq!(worker.exit().await.code(), Some(0), "{}", worker.log());
}

#[tokio::test]
async fn a_second_sigterm_stops_at_once() {
    let pool = Pool::new().await;
    let mut worker = pool.worker("a", SLOW, &[]).await;
    let mut replies = pool.generate(r#"{"prompt":"a","steps":150}"#).await;
    replies.wait_for("progress").await;
    worker.terminate();
    worker.wait_for_log("draining").await;
    let told = std::time::Instant::now();
    worker.terminate();
    assert_eq!(worker.exit().await.code(), Some(143));
    assert!(told.elapsed() < Duration::from_secs(2), "{:?}", told.elapsed());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn workers_that_come_and_go_lose_no_request() {
    let pool = Pool::new().await;
    let _stays = pool.worker("stays", "sim://?step_ms=1&size=64", &["--slots", "4"]).await;
    let flood = async {
        let mut all = vec![];
        for number in 0..400 {
            let body = format!(r#"{{"prompt":"a","steps":2,"seed":{number},"stream":false}}"#);
            all.push(pool.generate(body).await);
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        all
    };
    let restarts = async {
        for round in 0..6 {
            let flags = ["--slots", "4"];
            let mut goes = pool.worker(&format!("goes{round}"), "sim://?step_ms=1&size=64", &flags).await;
            tokio::time::sleep(Duration::from_millis(100)).await;
            goes.terminate();
            assert_eq!(goes.exit().await.code(), Some(0), "{}", goes.log());
        }
    };
    let (all, ()) = tokio::join!(flood, restarts);
    let mut done = 0;
    for mut replies in all {
        // A lost request would never end.
        done += usize::from(matches!(replies.end().await, End::Done(_)));
    }
    assert!(done > 200, "{done}");
}

#[tokio::test]
async fn what_cannot_start_exits_with_1_and_says_what_to_do() {
    let pool = Pool::new().await;
    let file = pool.store.path().join("file");
    std::fs::write(&file, "").unwrap();
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let taken = listener.local_addr().unwrap().to_string();
    for (flags, said) in [
        (&["--store-url", file.to_str().unwrap()][..], "store"),
        (&["--nats-url", "nats://user:secret@127.0.0.1:1"], "--nats-user"),
        (&["--device", "3"], "--device"),
        (&["--http", &taken], "--http"),
    ] {
        let mut worker = pool.spawn("bad", "sim://", flags);
        assert_eq!(worker.exit().await.code(), Some(1), "{flags:?}\n{}", worker.log());
        assert!(worker.log().contains(said), "{flags:?}\n{}", worker.log());
        assert!(!worker.log().contains("secret"), "{}", worker.log());
    }
    let mut worker = pool.spawn("bad", "no/such/model", &[]);
    assert_eq!(worker.exit().await.code(), Some(2));
    assert!(worker.log().contains("no/such/model"), "{}", worker.log());
}

#[test]
fn a_build_without_the_gpu_says_how_it_is_built() {
    for (program, feature) in
        [(env!("CARGO_BIN_EXE_sd-worker-cuda"), "cuda"), (env!("CARGO_BIN_EXE_sd-worker-metal"), "metal")]
    {
        if (feature == "cuda" && cfg!(feature = "cuda")) || (feature == "metal" && cfg!(feature = "metal")) {
            continue;
        }
        let output = Command::new(program).args(["--model", "sim://"]).output().unwrap();
        assert_eq!(output.status.code(), Some(1));
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(
            said.contains(&format!("cargo build --release --features {feature} --bin sd-worker-{feature}")),
            "{said}"
        );
    }
}

#[tokio::test]
async fn a_worker_waits_for_nats_and_says_so() {
    let first = NatsServer::start();
    let port = first.port;
    let pool = Pool::on(&first.url()).await;
    drop(first);
    let worker = pool.spawn("a", "sim://?step_ms=1&size=64", &[]);
    worker.wait_for_log("NATS is away").await;
    let _second = NatsServer::start_at(port).expect("the port is free again");
    worker.wait_for_log(" ready ").await;
    // The pool's client may be back a little later than the worker.
    tokio::time::sleep(Duration::from_secs(1)).await;
    pool.insist(r#"{"prompt":"a","steps":1}"#).await.done();
}

#[tokio::test]
async fn a_worker_that_waits_for_nats_can_be_stopped() {
    let pool = Pool::new().await;
    let port = crate::support::process::free_port();
    let url = format!("nats://127.0.0.1:{port}");
    let mut worker = pool.spawn("a", "sim://", &["--nats-url", &url]);
    worker.wait_for_log("NATS is away").await;
    worker.terminate();
    assert_eq!(worker.exit().await.code(), Some(0), "{}", worker.log());
}
