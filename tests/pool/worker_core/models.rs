//! Several models in one worker: they take turns in a memory for one, and the sender sees what a turn costs.

use sd_worker_rbee::contract::{CompleteEvent, ErrorCode};

use crate::support::worker::Pool;

const TINY: &str = concat!("tiny=", env!("CARGO_MANIFEST_DIR"), "/tests/data/parity/text");

async fn draw(pool: &Pool, model: &str) -> CompleteEvent {
    let body = format!(r#"{{"prompt":"a red circle","model":"{model}","steps":1,"seed":5}}"#);
    let complete = pool.insist(&body).await.done();
    assert_eq!(complete.model, model);
    complete
}

#[tokio::test]
async fn models_are_switched_between_jobs_and_the_time_of_it_is_told() {
    let pool = Pool::new().await;
    // The checkpoint's weights are 1.6 MiB in f32: it has no room beside the other.
    let slow = "slow=sim://?step_ms=0&memory=1MiB&load_ms=150";
    let worker = pool.worker("a", TINY, &["--model", slow, "--model-memory", "2MiB"]).await;
    let first = draw(&pool, "tiny").await;
    assert_eq!(first.timings_ms.load, 0, "it was loaded at start");
    assert!(worker.log().contains("loaded when it is first used"), "{}", worker.log());
    let switched = draw(&pool, "slow").await;
    assert!(switched.timings_ms.load >= 150, "{:?}", switched.timings_ms);
    assert!(switched.timings_ms.total >= switched.timings_ms.load, "{:?}", switched.timings_ms);
    assert_eq!(draw(&pool, "slow").await.timings_ms.load, 0);
    // Loaded again, it draws the same.
    let again = draw(&pool, "tiny").await;
    assert_eq!(again.images[0].sha256, first.images[0].sha256);
    let log = worker.log();
    assert_eq!(log.matches("a model was put out of memory").count(), 2, "{log}");
    assert_eq!(log.matches("a model was loaded").count(), 3, "{log}");
}

#[tokio::test]
async fn the_models_that_are_named_are_in_memory_before_the_worker_is_ready() {
    let pool = Pool::new().await;
    let more = |preload| {
        let other = "other=sim://?memory=1MiB&load_ms=150";
        ["--model", other, "--model-memory", "2MiB", "--preload", preload]
    };
    let worker = pool.worker("a", TINY, &more("other")).await;
    let log = worker.log();
    let loaded: Vec<_> = log.lines().filter(|line| line.contains("a model was loaded")).collect();
    assert!(loaded.len() == 1 && loaded[0].contains("other"), "{log}");
    assert_eq!(draw(&pool, "other").await.timings_ms.load, 0);
    let mut worker = pool.spawn("b", TINY, &more("other,tiny"));
    assert_eq!(worker.exit().await.code(), Some(1));
    let log = worker.log();
    assert!(log.contains("`tiny`: its weights take ") && log.contains("beside other"), "{log}");
    let mut worker = pool.spawn("c", TINY, &more("another"));
    assert_eq!(worker.exit().await.code(), Some(1));
    assert!(worker.log().contains("--preload: there is no model `another` among tiny, other"));
}

#[tokio::test]
async fn weights_that_are_kept_in_half_precision_fit_into_half_the_memory() {
    let pool = Pool::new().await;
    let worker = pool.worker("a", TINY, &["--dtype", "f16", "--model-memory", "900KiB"]).await;
    let log = worker.log();
    assert!(log.contains("a model was loaded") && !log.contains("first used"), "{log}");
    pool.insist(r#"{"prompt":"a","steps":1}"#).await.done();
}

#[tokio::test]
async fn a_model_without_room_is_refused_at_start_with_both_numbers() {
    let pool = Pool::new().await;
    let mut worker = pool.spawn("a", TINY, &["--model-memory", "500KiB"]);
    assert_eq!(worker.exit().await.code(), Some(1));
    let log = worker.log();
    for part in ["`tiny`: its weights take ", "at most 500.0 KiB (512000 bytes)", "--model-memory", "--dtype"]
    {
        assert!(log.contains(part), "`{part}` in {log}");
    }
    assert!(!log.contains("a model was loaded"), "{log}");
}

#[tokio::test]
async fn a_worker_over_its_memory_limit_is_refused_until_pictures_are_small_enough() {
    let pool = Pool::new().await;
    let mut worker = pool.spawn("a", TINY, &["--memory-limit", "500MiB"]);
    assert_eq!(worker.exit().await.code(), Some(1));
    let log = worker.log();
    for part in ["`tiny`", "4194304 pixels (--max-pixels)", "--memory-limit is 500.0 MiB (524288000 bytes)"] {
        assert!(log.contains(part), "`{part}` in {log}");
    }
    assert!(!log.contains("a model was loaded"), "{log}");
    // It names the size that would fit, and with that it does.
    let (_, rest) = log.split_once("--max-pixels ").expect(&log);
    let pixels = rest.split(',').next().unwrap();
    let _worker = pool.worker("b", TINY, &["--memory-limit", "500MiB", "--max-pixels", pixels]).await;
    pool.insist(r#"{"prompt":"a","steps":1}"#).await.done();
    let (code, message) =
        pool.generate(r#"{"prompt":"a","steps":1,"width":2048,"height":2048}"#).await.end().await.failed();
    assert_eq!(code, ErrorCode::InvalidRequest);
    assert!(message.contains("width") && message.contains(pixels), "{message}");
}

#[tokio::test]
async fn a_job_with_a_lora_needs_a_worker_with_a_folder_of_them() {
    let pool = Pool::new().await;
    let _worker = pool.worker("a", "sim://?step_ms=0", &[]).await;
    let body = r#"{"prompt":"a","steps":1,"loras":[{"path":"style.safetensors"}]}"#;
    let (code, message) = pool.generate(body).await.end().await.failed();
    assert_eq!(code, ErrorCode::InvalidRequest);
    assert!(message.contains("`loras`") && message.contains("--lora-dir"), "{message}");
}
