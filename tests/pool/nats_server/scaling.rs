//! What a scaler reads of a pool: the consumers of models, told by the server's `/jsz`, also of those that nobody serves.

use std::time::Instant;

use sd_worker_rbee::{bus::Streams, contract::Capability};
use serde_json::{Value, json};

use crate::support::{fake_durable::DurablePool, nats::NatsServer, worker::PATIENCE};

/// The consumers of the stream of jobs by their names, asked for as KEDA's scaler asks: jobs that wait, and jobs at work.
async fn lags(server: &NatsServer, pool: &DurablePool) -> Vec<(String, u64, u64)> {
    let url = format!("{}/jsz?acc=$G&consumers=true&config=true", server.monitoring());
    let told: Value = reqwest::get(url).await.expect("an answer").json().await.expect("JSON");
    let streams = told["account_details"][0]["stream_detail"].as_array().cloned().unwrap_or_default();
    let jobs = streams.iter().find(|stream| stream["name"] == pool.subjects.stream("JOBS").as_str());
    let consumers = jobs.and_then(|jobs| jobs["consumer_detail"].as_array().cloned()).unwrap_or_default();
    let number = |consumer: &Value, field: &str| consumer[field].as_u64().expect("a number");
    let mut lags: Vec<_> = consumers
        .iter()
        .map(|consumer| {
            let name = consumer["name"].as_str().expect("a name").to_owned();
            (name, number(consumer, "num_pending"), number(consumer, "num_ack_pending"))
        })
        .collect();
    lags.sort();
    lags
}

/// Waits until all that the scaler reads is this.
async fn wait_for(server: &NatsServer, pool: &DurablePool, expected: &[(&str, u64, u64)]) {
    let until = Instant::now() + PATIENCE;
    loop {
        let lags = lags(server, pool).await;
        if lags
            .iter()
            .map(|(name, pending, at_work)| (name.as_str(), *pending, *at_work))
            .eq(expected.to_vec())
        {
            return;
        }
        assert!(Instant::now() < until, "{lags:?} in place of {expected:?}");
        tokio::time::sleep(std::time::Duration::from_millis(50)).await;
    }
}

#[tokio::test]
async fn a_scaler_reads_of_a_model_that_nobody_serves_how_many_jobs_wait_for_it() {
    let server = NatsServer::start();
    let pool = DurablePool::start_on(&server).await;
    let queen = pool.queen(&["--models", "org/m 1,n"]);
    let none = [
        ("generate-n", 0, 0),
        ("generate-org-m-1", 0, 0),
        ("inpaint-n", 0, 0),
        ("inpaint-org-m-1", 0, 0),
        ("transform-n", 0, 0),
        ("transform-org-m-1", 0, 0),
    ];
    wait_for(&server, &pool, &none).await;

    for prompt in ["a", "b", "c"] {
        queen.submit(&json!({"operation": "image_generation", "prompt": prompt, "model": "org/m 1"})).await;
    }
    let mut waiting = none;
    waiting[1].1 = 3;
    wait_for(&server, &pool, &waiting).await;

    // What a worker has in its hands counts on: a pool that works is not scaled in.
    let worker = pool.worker("w", "org/m 1").await;
    let job = worker.job().await;
    (waiting[1].1, waiting[1].2) = (2, 1);
    wait_for(&server, &pool, &waiting).await;
    job.ack().await;
    waiting[1].2 = 0;
    wait_for(&server, &pool, &waiting).await;

    // One that somebody removed is made again.
    let removed = Streams::consumer_name(Capability::Inpaint, "n");
    pool.stream("JOBS").await.delete_consumer(&removed).await.expect("a consumer");
    wait_for(&server, &pool, &waiting).await;
}
