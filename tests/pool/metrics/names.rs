//! Every name of a metric is in docs/metrics.md, and nothing else is.

use std::collections::BTreeSet;

use super::{families, job, queen, scrape, until, value, worker};
use crate::support::{nats::NatsServer, worker::Pool};

const DOCS: &str = include_str!("../../../docs/metrics.md");

/// The names in the tables: those of the kinds that metrics have.
fn documented() -> BTreeSet<String> {
    let row = |line: &str| {
        let mut cells = line.strip_prefix("| `")?.split('|').map(str::trim);
        let name = cells.next()?.trim_end_matches('`').to_owned();
        matches!(cells.next()?, "gauge" | "counter" | "histogram").then_some(name)
    };
    DOCS.lines().filter_map(row).collect()
}

#[tokio::test]
async fn every_metric_is_in_the_docs_and_promtool_finds_nothing_wrong() {
    let pool = Pool::on(&NatsServer::shared().url()).await;
    let (_worker, base) = worker(&pool, "a", "m=sim://?step_ms=2&size=64", &[]).await;
    let queen = queen(&pool, &["--models", "m"]);
    let id = queen.submit(&job("m", "a", 4)).await;
    queen.stream(&id).await;
    until(&queen.url, "sd_queen_jobs_running{operation=\"image_generation\",model=\"m\"}", |n| n == 0.0)
        .await;
    let (of_worker, of_queen) = (scrape(&base).await, scrape(&queen.url).await);
    assert!(families(&of_worker).len() >= 15, "{of_worker}");
    let told: BTreeSet<_> = families(&of_worker).union(&families(&of_queen)).cloned().collect();
    assert_eq!(told, documented());

    let ended = r#"sd_worker_jobs_total{operation="image_generation",model="m",outcome="complete",code=""}"#;
    assert_eq!(value(&of_worker, ended), Some(1.0), "{of_worker}");
    for (sample, expected) in [
        (r#"sd_worker_steps_total{model="m"}"#, 4.0),
        (r#"sd_worker_images_total{model="m"}"#, 1.0),
        (r#"sd_step_seconds_count{model="m"}"#, 4.0),
        (r#"sd_job_seconds_count{operation="image_generation",model="m"}"#, 1.0),
        (r#"sd_upload_seconds_count{model="m"}"#, 1.0),
        (r#"sd_model_load_seconds_count{model="m"}"#, 1.0),
        ("sd_worker_step_age_seconds", 0.0),
        ("sd_worker_pass_pictures", 1.0),
    ] {
        assert_eq!(value(&of_worker, sample), Some(expected), "{sample} in\n{of_worker}");
    }
    for (sample, expected) in [
        (r#"sd_queen_jobs_accepted_total{operation="image_generation",model="m"}"#, 1.0),
        (r#"sd_queen_jobs_ended_total{model="m",outcome="complete",code=""}"#, 1.0),
        (r#"sd_queen_job_wait_seconds_count{model="m"}"#, 1.0),
        (r#"sd_queen_requests_total{route="/v1/jobs",method="POST",status="200"}"#, 1.0),
        (r#"sd_queen_requests_total{route="/v1/jobs/{id}/stream",method="GET",status="200"}"#, 1.0),
        (r#"sd_queen_model_workers{model="m"}"#, 1.0),
        (r#"sd_queen_workers{status="ready"}"#, 1.0),
        ("sd_queen_streams_limit", 10000.0),
        ("sd_queen_jetstream_up", 1.0),
    ] {
        assert_eq!(value(&of_queen, sample), Some(expected), "{sample} in\n{of_queen}");
    }
}
