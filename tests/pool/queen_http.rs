//! What queen answers over HTTP: what is refused, what is the same job, where a job is sent, how it all ends.

use std::time::Duration;

use crate::support::{
    fake_pool::{Pool, generation, with},
    fake_worker::complete,
    nats::NatsServer,
    queen::{QueenProcess, types},
};
use sd_worker_rbee::storage::{Key, StoredResult};
use serde_json::{Value, json};

#[tokio::test]
async fn without_a_worker_a_job_is_refused_at_once() {
    let pool = Pool::start(&[]).await;
    let started = std::time::Instant::now();
    let (status, body) = pool.queen.post(&with(generation(), "job_id", "j")).await;
    assert!(started.elapsed() < Duration::from_secs(2));
    assert_eq!(
        (status, &body["error"]["code"], &body["error"]["retryable"]),
        (503, &json!("busy"), &json!(true))
    );
    let message = body["error"]["message"].as_str().unwrap();
    assert!(message.contains("no worker is up") && message.contains("sd-worker-cpu --model"), "{message}");
    assert_eq!(pool.queen.get("/v1/jobs/j").await.0, 404, "there is no such job");
    let (_, health) = pool.queen.get("/health").await;
    assert_eq!(health, json!({"status": "degraded", "nats": "connected", "durable": false, "workers": 0}));
}

#[tokio::test]
async fn an_id_is_one_request() {
    let pool = Pool::start(&[]).await;
    let mut worker = pool.worker("w", &["m"]).await;
    let body = with(generation(), "job_id", "mine");
    for _ in 0..2 {
        assert_eq!(pool.queen.submit(&body).await, "mine");
    }
    let mut job = worker.job().await;
    job.accept().await;
    assert!(worker.gets_nothing(Duration::from_millis(300)).await, "it is run once");
    let (status, answer) = pool.queen.post(&with(body, "prompt", "a blue square")).await;
    assert_eq!((status, &answer["error"]["code"]), (400, &json!("invalid_request")));
    assert!(answer["error"]["message"].as_str().unwrap().starts_with("`job_id`"), "{answer}");
}

#[tokio::test]
async fn a_job_that_queen_has_forgotten_is_answered_from_the_store() {
    let pool = Pool::start(&[]).await;
    let mut worker = pool.worker("w", &["m"]).await;
    let body = with(generation(), "job_id", "old");
    pool.queen.submit(&body).await;
    let mut job = worker.job().await;
    pool.store_picture(&job).await;
    let result = StoredResult {
        fingerprint: job.operation.fingerprint(),
        owner: None,
        event: job.event(complete(&job.id)),
    };
    pool.store.put_result(&job.id, &result).await.unwrap();
    job.complete().await;

    let store = pool.store.location().to_owned();
    let fresh = QueenProcess::start(&NatsServer::shared().url(), &pool.prefix, &store, &["--core"]);
    let (_, view) = fresh.get("/v1/jobs/old").await;
    assert_eq!(view["status"], "completed");
    assert!(view["event"]["images"][0]["url"].as_str().unwrap().starts_with("file:///"), "{view}");
    assert_eq!(types(&fresh.stream("old").await), ["complete", "[DONE]"]);
    let picture = reqwest::get(format!("{}/v1/jobs/old/images/0", fresh.url)).await.unwrap();
    assert_eq!(picture.bytes().await.unwrap(), "png");
    assert_eq!(fresh.delete("/v1/jobs/old").await.0, 409);
    assert_eq!(fresh.submit(&body).await, "old");
    assert_eq!(fresh.post(&with(body, "seed", 7)).await.0, 400);
    assert!(worker.gets_nothing(Duration::from_millis(300)).await, "nothing is computed again");
}

#[tokio::test]
async fn a_model_is_routed_and_one_that_nobody_has_is_refused() {
    let pool = Pool::start(&[]).await;
    let mut small = pool.worker("small", &["tiny", "shapes"]).await;
    let mut large = pool.worker("large", &["shapes", "sdxl"]).await;
    for (model, worker, subject) in [
        ("tiny", &mut small, "worker.small.image.generate"),
        ("sdxl", &mut large, "worker.large.image.generate"),
    ] {
        pool.queen.submit(&with(generation(), "model", model)).await;
        let mut job = worker.job().await;
        assert!(job.subject.ends_with(subject), "{}", job.subject);
        job.accept().await;
    }
    pool.queen.submit(&with(generation(), "worker_id", "large")).await;
    assert!(large.job().await.subject.ends_with("worker.large.image.generate"));
    pool.queen.submit(&with(generation(), "model", "shapes")).await;
    let job = tokio::select! { job = small.job() => job, job = large.job() => job };
    assert!(job.subject.ends_with(".image.generate") && !job.subject.contains("worker."), "{}", job.subject);

    let (status, body) = pool.queen.post(&with(generation(), "model", "flux")).await;
    assert_eq!((status, &body["error"]["code"]), (404, &json!("unsupported_model")));
    assert!(body["error"]["message"].as_str().unwrap().ends_with("sdxl, shapes, tiny"), "{body}");
    let (status, body) = pool.queen.post(&with(generation(), "worker_id", "gone")).await;
    assert_eq!(status, 503, "{body}");
    assert_eq!(body["error"]["message"], "worker `gone` is not up");
}

#[tokio::test]
async fn a_large_input_travels_as_a_reference() {
    use base64::{Engine as _, engine::general_purpose::STANDARD};
    let pool = Pool::start(&[]).await;
    let mut worker = pool.worker("w", &["m"]).await;
    let picture = vec![7u8; 3 << 20];
    let body = json!({"operation": "image_inpaint", "prompt": "a", "init_image": STANDARD.encode(&picture), "mask_image": "AAAA"});
    pool.queen.submit(&body).await;
    let job = worker.job().await;
    let sent: Value = serde_json::from_slice(&job.body).unwrap();
    let reference = sent["init_image"].as_str().unwrap().strip_prefix("object:").expect("a reference");
    let key = Key::parse_reference(reference).unwrap();
    assert_eq!(pool.store.get(&key, 4 << 20).await.unwrap(), picture);
    assert_eq!(sent["mask_image"], "AAAA", "a small one travels as it is");
}

#[tokio::test]
async fn a_bad_request_is_answered_with_what_is_wrong() {
    let pool = Pool::start(&["--max-body", "100KiB", "--max-input", "10KiB"]).await;
    let _worker = pool.worker("w", &["m"]).await;
    let transform = |image: String| {
        json!({"operation": "image_transform", "prompt": "a", "init_image": image}).to_string()
    };
    for (body, status, code, part) in [
        (String::new(), 400, "invalid_request", "empty"),
        ("{".into(), 400, "invalid_request", "not JSON"),
        (r#"{"prompt":"a"}"#.into(), 400, "invalid_request", "`operation`"),
        (
            r#"{"operation":"image_upscale","prompt":"a"}"#.into(),
            400,
            "unsupported_operation",
            "image_upscale",
        ),
        (with(generation(), "steps", 0).to_string(), 400, "invalid_request", "`steps`"),
        (with(generation(), "guidence", 1).to_string(), 400, "invalid_request", "`guidence`"),
        (with(generation(), "job_id", "a/b").to_string(), 400, "invalid_request", "`job_id`"),
        (transform("A".repeat(60 << 10)), 413, "payload_too_large", "`init_image`"),
        (transform("A".repeat(101 << 10)), 413, "payload_too_large", "at most 102400 bytes"),
    ] {
        let shown: String = body.chars().take(80).collect();
        let (answered, answer) = pool.queen.post_text(body).await;
        assert_eq!((answered, &answer["error"]["code"]), (status, &json!(code)), "{shown}: {answer}");
        assert!(answer["error"]["message"].as_str().unwrap().contains(part), "{shown}: {answer}");
    }
    assert_eq!(pool.queen.get("/v1/jobs/a%2Fb").await.0, 400);
    assert_eq!(pool.queen.get("/v1/jobs/unknown/stream").await.0, 404);
    assert_eq!(pool.queen.delete("/health").await.0, 405);
}

#[tokio::test]
async fn streams_of_jobs_that_are_not_durable_are_bounded_too() {
    let pool = Pool::start(&["--max-streams", "2"]).await;
    let mut worker = pool.worker("w", &["m"]).await;
    let id = pool.queen.submit(&generation()).await;
    let mut job = worker.job().await;
    job.accept().await;
    let url = format!("{}/v1/jobs/{id}/stream", pool.queen.url);
    let open = [reqwest::get(&url).await.unwrap(), reqwest::get(&url).await.unwrap()];
    let (status, body) = pool.queen.get(&format!("/v1/jobs/{id}/stream")).await;
    assert_eq!((status, &body["error"]["code"]), (503, &json!("busy")), "{body}");
    job.complete().await;
    for stream in open {
        assert!(stream.text().await.unwrap().ends_with("data: [DONE]\n\n"));
    }
    assert_eq!(types(&pool.queen.stream(&id).await), ["accepted", "complete", "[DONE]"]);
}

#[tokio::test]
async fn a_picture_has_its_length_and_workers_come_by_name() {
    let pool = Pool::start(&[]).await;
    let mut worker = pool.worker("b", &["m"]).await;
    let _others = (pool.worker("c", &["x"]).await, pool.worker("a", &["x"]).await);
    let (_, workers) = pool.queen.get("/v1/workers").await;
    let names = workers["workers"].as_array().unwrap().iter().map(|worker| worker["id"].as_str().unwrap());
    assert_eq!(names.collect::<Vec<_>>(), ["a", "b", "c"]);
    let id = pool.queen.submit(&with(generation(), "model", "m")).await;
    let mut job = worker.job().await;
    pool.store_picture(&job).await;
    job.accept().await;
    job.complete().await;
    assert_eq!(types(&pool.queen.stream(&id).await), ["accepted", "complete", "[DONE]"]);
    let picture = reqwest::get(format!("{}/v1/jobs/{id}/images/0", pool.queen.url)).await.unwrap();
    assert_eq!(
        (picture.content_length(), &picture.headers()["content-type"]),
        (Some(3), &"image/png".parse().unwrap())
    );
    assert_eq!(picture.bytes().await.unwrap(), "png");
}

#[tokio::test]
async fn sigterm_ends_streams_and_queen_with_exit_code_0() {
    let mut pool = Pool::start(&[]).await;
    let mut worker = pool.worker("w", &["m"]).await;
    let held = pool.queen.submit(&generation()).await;
    let mut job = worker.job().await;
    job.accept().await;
    let waiting = pool.queen.submit(&generation()).await;
    worker.job().await;
    let (url, streams) = (pool.queen.url.clone(), [held, waiting]);
    let streams = streams.map(|id| tokio::spawn(reqwest::get(format!("{url}/v1/jobs/{id}/stream"))));
    tokio::time::sleep(Duration::from_millis(300)).await;
    let [held, waiting] = streams.map(|s| async { s.await.unwrap().unwrap().text().await.unwrap() });
    let (held, waiting) = (tokio::spawn(held), tokio::spawn(waiting));
    let status = pool.queen.terminate(Duration::from_secs(8));
    assert!(status.success(), "{status}");
    let held = held.await.unwrap();
    assert!(held.contains("accepted") && !held.contains("error"), "its worker goes on: {held}");
    assert!(waiting.await.unwrap().contains("shutting_down"), "nobody has it");
}
