//! A scrape is answered whatever state a process is in, and `/ready` says which.

use std::time::Duration;

use super::{get, job, queen, scrape, until, value, worker};
use crate::support::{
    nats::NatsServer,
    process::free_port,
    queen::QueenProcess,
    worker::{PATIENCE, Pool},
};

#[tokio::test]
async fn a_scrape_is_answered_while_a_process_starts_drains_and_has_no_nats() {
    let first = NatsServer::start();
    let port = first.port;
    let pool = Pool::on(&first.url()).await;
    drop(first);
    // NATS is away: both of them start.
    let (of_worker, of_queen) = (free_port(), free_port());
    let worker =
        pool.spawn("a", "m=sim://?step_ms=50&size=64", &["--http", &format!("127.0.0.1:{of_worker}")]);
    worker.wait_for_log("NATS is away").await;
    let (url, prefix, store) = (pool.url.clone(), pool.prefix.clone(), pool.store.path().to_owned());
    let starting = tokio::task::spawn_blocking(move || {
        let listen = format!("127.0.0.1:{of_queen}");
        let store = store.to_str().expect("a UTF-8 path");
        QueenProcess::start(&url, &prefix, store, &[&super::SIZES[..], &["--listen", &listen]].concat())
    });
    let (of_worker, of_queen) =
        (format!("http://127.0.0.1:{of_worker}"), format!("http://127.0.0.1:{of_queen}"));
    assert!(crate::support::process::listens(
        of_queen.rsplit(':').next().unwrap().parse().unwrap(),
        PATIENCE
    ));
    for (base, name) in [(&of_worker, "worker"), (&of_queen, "queen")] {
        let page = scrape(base).await;
        assert_eq!(value(&page, &format!("sd_{name}_ready")), Some(0.0), "{page}");
        assert!(value(&page, "process_start_time_seconds") > Some(1e9), "{page}");
        assert_eq!(get(format!("{base}/ready")).await.0, 503);
        let (status, health) = get(format!("{base}/health")).await;
        assert!(status == 200 && health.contains("starting"), "{health}");
    }
    let client = reqwest::Client::new();
    let early =
        client.post(format!("{of_queen}/v1/jobs")).body(job("m", "a", 1).to_string()).send().await.unwrap();
    assert_eq!((early.status().as_u16(), early.headers()["retry-after"].to_str().unwrap()), (503, "5"));

    let second = NatsServer::start_at(port).expect("the port is free again");
    let queen = starting.await.expect("queen starts");
    worker.wait_for_log(" ready ").await;
    for (base, name) in [(&of_worker, "worker"), (&of_queen, "queen")] {
        until(base, &format!("sd_{name}_ready"), |ready| ready == 1.0).await;
        assert_eq!(get(format!("{base}/ready")).await, (200, "ready\n".into()));
    }

    // NATS goes away.
    drop(second);
    for (base, name) in [(&of_worker, "worker"), (&of_queen, "queen")] {
        until(base, &format!("sd_{name}_nats_up"), |up| up == 0.0).await;
        let page = scrape(base).await;
        assert_eq!(value(&page, &format!("sd_{name}_ready")), Some(0.0), "{page}");
        let (status, why) = get(format!("{base}/ready")).await;
        assert!(status == 503 && why.starts_with("not ready"), "{why}");
    }
    let _third = NatsServer::start_at(port).expect("the port is free again");
    for (base, name) in [(&of_worker, "worker"), (&of_queen, "queen")] {
        until(base, &format!("sd_{name}_nats_reconnects_total"), |number| number >= 1.0).await;
        until(base, &format!("sd_{name}_ready"), |ready| ready == 1.0).await;
    }

    // Both are told to stop while a job runs, whose stream somebody reads.
    let id = queen.submit(&job("m", "a", 60)).await;
    let reads = tokio::spawn(reqwest::get(format!("{of_queen}/v1/jobs/{id}/stream")));
    until(&of_worker, "sd_worker_slots_free", |free| free == 0.0).await;
    until(&of_queen, "sd_queen_streams_open", |open| open == 1.0).await;
    worker.terminate();
    worker.wait_for_log("draining").await;
    until(&of_worker, "sd_worker_ready", |ready| ready == 0.0).await;
    let page = scrape(&of_worker).await;
    assert_eq!(value(&page, "sd_worker_jobs_held"), Some(1.0), "{page}");
    assert_eq!(get(format!("{of_worker}/ready")).await.0, 503);
    drop(reads);
}

#[tokio::test]
async fn a_queen_without_jetstream_is_ready_and_one_that_asks_for_tokens_shows_its_metrics_for_one() {
    let pool = Pool::new().await;
    let core = queen(&pool, &["--core"]);
    assert_eq!(get(format!("{}/ready", core.url)).await.0, 200);
    assert!(!scrape(&core.url).await.contains("sd_queen_jetstream_up"));

    let tokens = pool.store.path().join("tokens");
    let program = std::env::var("SD_QUEEN").unwrap_or_else(|_| env!("CARGO_BIN_EXE_queen-rbee").into());
    let issued = std::process::Command::new(program).args(["new-token", "prometheus"]).output().unwrap();
    std::fs::write(&tokens, &issued.stdout).unwrap();
    let said = String::from_utf8(issued.stderr).unwrap();
    let token = said.split_whitespace().last().unwrap();
    let queen = queen(&pool, &["--token-file", tokens.to_str().unwrap()]);
    tokio::time::sleep(Duration::from_millis(100)).await;
    assert_eq!(get(format!("{}/ready", queen.url)).await.0, 200, "load balancers have no token");
    assert_eq!(get(format!("{}/metrics", queen.url)).await.0, 401);
    let page =
        reqwest::Client::new().get(format!("{}/metrics", queen.url)).bearer_auth(token).send().await.unwrap();
    assert!(page.text().await.unwrap().contains(r#"route="/metrics",method="GET",status="401"} 1"#));
}

#[tokio::test]
async fn an_engine_that_hangs_is_seen_in_the_age_of_its_step_and_then_in_its_health() {
    let pool = Pool::new().await;
    let model = "m=sim://?step_ms=1&size=64&fail=hang&fail_step=2&fail_prompt=bad";
    let (_worker, base) = worker(&pool, "a", model, &["--step-limit", "3s"]).await;
    let mut replies = pool.generate(r#"{"prompt":"a bad one","steps":4,"model":"m"}"#).await;
    replies.wait_for("accepted").await;
    until(&base, "sd_worker_step_age_seconds", |age| age > 1.0).await;
    until(&base, "sd_worker_device_failed", |failed| failed == 1.0).await;
    assert_eq!(get(format!("{base}/health")).await.0, 503);
}
