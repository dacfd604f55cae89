//! `--http`: the job endpoints on one worker, through the same router as messages.

use std::time::Duration;

use serde_json::{Value, json};

use crate::support::{
    nats::NatsServer,
    process::free_port,
    worker::{Pool, WorkerProcess},
};

async fn start(model: &str) -> (Pool, WorkerProcess, String) {
    let pool = Pool::new().await;
    let address = format!("127.0.0.1:{}", free_port());
    let worker = pool.worker("h", model, &["--http", &address]).await;
    (pool, worker, format!("http://{address}"))
}

fn job(id: &str, steps: u32) -> Value {
    json!({"operation": "image_generation", "prompt": "a", "steps": steps, "job_id": id})
}

async fn post(base: &str, body: &Value) -> (u16, Value, Option<String>) {
    let answer = reqwest::Client::new()
        .post(format!("{base}/v1/jobs"))
        .body(body.to_string())
        .send()
        .await
        .expect("an answer");
    let status = answer.status().as_u16();
    let retry = answer.headers().get("retry-after").map(|value| value.to_str().unwrap().to_owned());
    (status, serde_json::from_str(&answer.text().await.unwrap()).unwrap(), retry)
}

async fn get(url: String) -> (u16, String) {
    let answer = reqwest::get(url).await.expect("an answer");
    (answer.status().as_u16(), answer.text().await.unwrap())
}

#[tokio::test]
async fn a_job_over_http_is_the_job_of_a_message() {
    let (pool, _worker, base) = start("sim://?step_ms=5&size=64").await;
    let mut public = pool.events("j").await;
    let (status, answer, _) = post(&base, &job("j", 60)).await;
    assert_eq!((status, &answer["job_id"]), (200, &json!("j")));
    let (_, stream) = get(format!("{base}{}", answer["sse_url"].as_str().unwrap())).await;
    assert!(stream.contains(r#""type":"accepted""#), "{stream}");
    assert!(stream.trim_end().ends_with("data: [DONE]"), "{stream}");
    // The same events go out on NATS.
    while !crate::support::worker::next_event(&mut public).await.kind.is_terminal() {}
    let (_, view) = get(format!("{base}/v1/jobs/j")).await;
    assert!(view.contains(r#""status":"completed""#), "{view}");
    let image = reqwest::get(format!("{base}/v1/jobs/j/images/0")).await.unwrap();
    assert_eq!(image.headers()["content-type"], "image/png");
    assert_eq!(image::load_from_memory(&image.bytes().await.unwrap()).unwrap().width(), 64);
    // A message with the same id and body repeats the result.
    let again = pool.insist(&job("j", 60).to_string()).await.done();
    assert_eq!(again.images[0].key, "jobs/j/0.png");
    let (status, _) = get(format!("{base}/v1/jobs/unknown/stream")).await;
    assert_eq!(status, 404);
    let (_, metrics) = get(format!("{base}/metrics")).await;
    assert!(
        metrics.contains("sd_worker_jobs_total{operation=\"image_generation\",model=\"sim\",outcome=\"complete\",code=\"\"} 1")
            && metrics.contains("sd_worker_duplicates_total 1"),
        "{metrics}"
    );
}

#[tokio::test]
async fn http_refuses_what_a_message_is_refused_for() {
    let (_pool, worker, base) = start("sim://?step_ms=50&size=64").await;
    let (status, answer, _) = post(&base, &job("bad", 0)).await;
    assert_eq!((status, &answer["error"]["code"]), (400, &json!("invalid_request")));
    assert!(answer["error"]["message"].as_str().unwrap().starts_with("`steps`"), "{answer}");
    let (status, _, _) =
        post(&base, &json!({"operation": "image_generation", "prompt": "a", "model": "no"})).await;
    assert_eq!(status, 404);

    assert_eq!(post(&base, &job("long", 150)).await.0, 200);
    let (status, answer, retry) = post(&base, &job("other", 1)).await;
    assert_eq!((status, &answer["error"]["code"], retry.as_deref()), (503, &json!("busy"), Some("1")));
    // The same job again is the same job.
    assert_eq!(post(&base, &job("long", 150)).await.0, 200);
    assert_eq!(get(format!("{base}/ready")).await, (200, "ready\n".into()));
    let cancel = reqwest::Client::new().delete(format!("{base}/v1/jobs/long")).send().await.unwrap();
    assert_eq!(cancel.status(), 202);
    let (_, stream) = get(format!("{base}/v1/jobs/long/stream")).await;
    assert!(stream.trim_end().ends_with("data: [CANCELLED]"), "{stream}");
    let again = reqwest::Client::new().delete(format!("{base}/v1/jobs/long")).send().await.unwrap();
    assert_eq!(again.status(), 409);

    // While it drains it is not ready and takes nothing.
    assert_eq!(post(&base, &job("last", 60)).await.0, 200);
    worker.terminate();
    worker.wait_for_log("draining").await;
    tokio::time::sleep(Duration::from_millis(100)).await;
    assert_eq!(get(format!("{base}/ready")).await.0, 503);
    let (status, answer, _) = post(&base, &job("late", 1)).await;
    assert_eq!((status, &answer["error"]["code"]), (503, &json!("shutting_down")));
}

#[tokio::test]
async fn a_worker_that_waits_for_nats_answers_that_it_starts() {
    let first = NatsServer::start();
    let port = first.port;
    let pool = Pool::on(&first.url()).await;
    drop(first);
    let http = free_port();
    let base = format!("http://127.0.0.1:{http}");
    let worker = pool.spawn("a", "sim://?step_ms=1&size=64", &["--http", &format!("127.0.0.1:{http}")]);
    worker.wait_for_log("NATS is away").await;
    assert_eq!(get(format!("{base}/ready")).await, (503, "not ready\n".into()));
    let (status, health) = get(format!("{base}/health")).await;
    let health: Value = serde_json::from_str(&health).unwrap();
    assert_eq!(
        (status, &health["status"], &health["nats"]),
        (200, &json!("starting"), &json!("disconnected"))
    );
    let (status, answer, retry) = post(&base, &job("early", 1)).await;
    assert_eq!((status, &answer["error"]["code"], retry.as_deref()), (503, &json!("busy"), Some("5")));

    let _second = NatsServer::start_at(port).expect("the port is free again");
    worker.wait_for_log(" ready ").await;
    assert_eq!(get(format!("{base}/ready")).await, (200, "ready\n".into()));
    assert_eq!(post(&base, &job("now", 1)).await.0, 200);
}
