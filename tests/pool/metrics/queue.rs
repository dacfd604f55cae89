//! What queen tells of the jobs that wait: as its sweep saw them, by model.

use std::time::Duration;

use super::{job, queen, scrape, until, value, worker};
use crate::support::worker::Pool;

fn of(name: &str, model: &str) -> String {
    format!("sd_queen_{name}{{operation=\"image_generation\",model=\"{model}\"}}")
}

#[tokio::test]
async fn jobs_that_wait_and_run_are_told_by_model_and_the_oldest_grows_older() {
    let pool = Pool::new().await;
    let queen = queen(&pool, &["--models", "big.model,small"]);
    let mut ids = vec![];
    for model in ["big.model", "big.model", "big.model", "small"] {
        ids.push(queen.submit(&job(model, "a", 100)).await);
    }
    let (big, small) = (of("jobs_waiting", "big.model"), of("jobs_waiting", "small"));
    let page = until(&queen.url, &big, |n| n == 3.0).await;
    assert_eq!(value(&page, &small), Some(1.0), "{page}");
    assert_eq!(value(&page, &of("jobs_running", "small")), Some(0.0), "{page}");
    assert_eq!(value(&page, r#"sd_queen_model_workers{model="small"}"#), Some(0.0), "{page}");
    let oldest = of("oldest_waiting_seconds", "big.model");
    let before = value(&page, &oldest).expect("an age");
    assert!(before > 0.0 && before < 20.0, "{before}");
    tokio::time::sleep(Duration::from_secs(1)).await;
    let after = value(&scrape(&queen.url).await, &oldest).expect("an age");
    assert!(after >= before + 1.0, "{before} {after}");

    let slow = "big.model=sim://?step_ms=100&size=64";
    let (_worker, _) = worker(&pool, "a", slow, &[]).await;
    let page = until(&queen.url, &of("jobs_running", "big.model"), |n| n == 1.0).await;
    assert_eq!(value(&page, &big), Some(2.0), "{page}");
    assert_eq!(value(&page, r#"sd_queen_model_workers{model="big.model"}"#), Some(1.0), "{page}");
    assert_eq!(value(&page, r#"sd_queen_workers{status="busy"}"#), Some(1.0), "{page}");
    for id in &ids {
        queen.delete(&format!("/v1/jobs/{id}")).await;
    }
    let page = until(&queen.url, &big, |n| n == 0.0).await;
    assert_eq!(value(&page, &oldest), Some(0.0), "{page}");
}

#[tokio::test]
async fn a_job_that_is_dead_is_among_the_dead_letters_that_queen_tells_of() {
    let pool = Pool::new().await;
    let (_worker, base) =
        worker(&pool, "a", "m=sim://?step_ms=1&size=64&fail=out_of_memory&fail_prompt=bad", &[]).await;
    let queen = queen(&pool, &["--models", "m"]);
    queen.submit(&job("m", "a bad one", 2)).await;
    until(&queen.url, "sd_queen_dead_letters", |n| n == 1.0).await;
    let page = scrape(&base).await;
    assert_eq!(value(&page, "sd_worker_dead_letters_total"), Some(1.0), "{page}");
    assert_eq!(value(&page, "sd_worker_redelivered_total"), Some(2.0), "{page}");
    assert!(value(&page, "sd_worker_out_of_memory_total") >= Some(3.0), "{page}");
    let attempts = r#"sd_worker_failed_attempts_total{model="m",code="out_of_memory"}"#;
    assert_eq!(value(&page, attempts), Some(3.0), "{page}");
    let ended = r#"sd_worker_jobs_total{operation="image_generation",model="m",outcome="error",code="out_of_memory"}"#;
    assert_eq!(value(&page, ended), Some(1.0), "{page}");
}
