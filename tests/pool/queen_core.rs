//! Queen and real workers, from POST to the picture.

use std::time::{Duration, Instant};

use crate::support::{
    nats::{NatsServer, prefix},
    queen::{QueenProcess, types},
    worker::WorkerProcess,
};
use base64::{Engine as _, engine::general_purpose::STANDARD};
use serde_json::{Value, json};
use tempfile::TempDir;

const FAST: &str = "sim=sim://?step_ms=5&size=64";
const SLOW: &str = "sim=sim://?step_ms=200&size=64";

/// A queen, the store that it shares with its workers, and their subjects.
struct Pool {
    queen: QueenProcess,
    prefix: String,
    folder: TempDir,
}

impl Pool {
    fn start(arguments: &[&str]) -> Self {
        let (folder, prefix) = (TempDir::new().unwrap(), prefix());
        let store = folder.path().to_str().unwrap();
        let arguments = [&["--core"], arguments].concat();
        let queen = QueenProcess::start(&NatsServer::shared().url(), &prefix, store, &arguments);
        Self { queen, prefix, folder }
    }

    /// A worker that queen has heard of.
    async fn worker(&self, id: &str, model: &str) -> WorkerProcess {
        let url = NatsServer::shared().url();
        let worker = WorkerProcess::start(&url, &self.prefix, self.folder.path(), id, model, &[]);
        let until = Instant::now() + Duration::from_secs(30);
        while Instant::now() < until {
            let (_, workers) = self.queen.get("/v1/workers").await;
            if workers["workers"].as_array().unwrap().iter().any(|w| w["id"] == id) {
                return worker;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        panic!("queen does not hear of {id}:\n{}", worker.log());
    }

    async fn wait_for(&self, job: &str, status: &str) {
        let until = Instant::now() + Duration::from_secs(30);
        loop {
            let (_, view) = self.queen.get(&format!("/v1/jobs/{job}")).await;
            if view["status"] == status {
                return;
            }
            assert!(Instant::now() < until, "{view}");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }
}

fn generation(steps: u32) -> Value {
    json!({"operation": "image_generation", "prompt": "a red circle", "steps": steps})
}

/// A PNG with pixels that no compression makes small.
fn noisy_png(side: u32) -> Vec<u8> {
    let mut state = 1u32;
    let pixels = image::RgbImage::from_fn(side, side, |_, _| {
        image::Rgb([(); 3].map(|()| {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            (state >> 24) as u8
        }))
    });
    let mut bytes = std::io::Cursor::new(vec![]);
    pixels.write_to(&mut bytes, image::ImageFormat::Png).unwrap();
    bytes.into_inner()
}

#[tokio::test]
async fn a_job_becomes_a_picture() {
    let pool = Pool::start(&[]);
    let _worker = pool.worker("w", FAST).await;
    let (_, workers) = pool.queen.get("/v1/workers").await;
    assert_eq!(workers["workers"][0]["models"], json!(["sim"]));
    let (_, health) = pool.queen.get("/health").await;
    assert_eq!(health, json!({"status": "ok", "nats": "connected", "durable": false, "workers": 1}));

    let id = pool.queen.submit(&generation(4)).await;
    let lines = pool.queen.stream(&id).await;
    let types_seen = types(&lines);
    assert_eq!(types_seen[0], "accepted");
    assert!(types_seen.contains(&"progress".to_owned()), "{types_seen:?}");
    assert_eq!(types_seen[types_seen.len() - 2..], ["complete", "[DONE]"]);
    let numbers: Vec<_> = lines.iter().filter_map(|line| line.id).collect();
    assert!(numbers.is_sorted_by(|a, b| a < b), "{numbers:?}");

    let complete = lines[lines.len() - 2].json();
    let picture = STANDARD.decode(complete["image"].as_str().unwrap()).unwrap();
    assert_eq!(image::load_from_memory(&picture).unwrap().width(), 64);
    assert_eq!((&complete["format"], &complete["worker_id"]), (&json!("png"), &json!("w")));
    let answer = reqwest::get(format!("{}/v1/jobs/{id}/images/0", pool.queen.url)).await.unwrap();
    assert_eq!(answer.headers()["content-type"], "image/png");
    assert_eq!(answer.bytes().await.unwrap(), picture);
    assert_eq!(std::fs::read(pool.folder.path().join(format!("jobs/{id}/0.png"))).unwrap(), picture);
    assert_eq!(types(&pool.queen.stream(&id).await), types_seen, "a late stream has every event");
}

#[tokio::test]
async fn a_running_job_is_cancelled_and_its_worker_lives() {
    let pool = Pool::start(&[]);
    let _worker = pool.worker("w", SLOW).await;
    let id = pool.queen.submit(&generation(100)).await;
    pool.wait_for(&id, "running").await;
    assert_eq!(pool.queen.delete(&format!("/v1/jobs/{id}")).await.0, 202);
    let seen = types(&pool.queen.stream(&id).await);
    assert_eq!(seen[seen.len() - 2..], ["cancelled", "[CANCELLED]"]);
    let next = pool.queen.submit(&generation(1)).await;
    assert_eq!(types(&pool.queen.stream(&next).await).last().unwrap(), "[DONE]");
}

#[tokio::test]
async fn a_job_waits_for_a_slot_and_gets_it() {
    let pool = Pool::start(&[]);
    let _worker = pool.worker("w", SLOW).await;
    let first = pool.queen.submit(&generation(8)).await;
    pool.wait_for(&first, "running").await;
    let second = pool.queen.submit(&generation(1)).await;
    let (first, second) = tokio::join!(pool.queen.stream(&first), pool.queen.stream(&second));
    for lines in [first, second] {
        assert_eq!(types(&lines).last().unwrap(), "[DONE]");
    }
}

#[tokio::test]
async fn a_killed_worker_ends_its_job_in_an_error_that_may_be_tried_again() {
    let pool = Pool::start(&["--worker-silence", "3s"]);
    let worker = pool.worker("victim", SLOW).await;
    let mut body = generation(100);
    let id = pool.queen.submit(&body).await;
    pool.wait_for(&id, "running").await;
    worker.kill();
    let started = Instant::now();
    let lines = pool.queen.stream(&id).await;
    assert!(started.elapsed() < Duration::from_secs(10), "{:?}", started.elapsed());
    let error = lines[lines.len() - 2].json();
    assert_eq!(
        (&error["type"], &error["code"], &error["retryable"]),
        (&json!("error"), &json!("internal"), &json!(true))
    );
    assert!(error["message"].as_str().unwrap().contains("`victim`"), "{error}");
    assert!(lines.last().unwrap().data.starts_with("[ERROR] "), "{lines:?}");

    let _other = pool.worker("other", FAST).await;
    body["job_id"] = json!(id);
    assert_eq!(pool.queen.submit(&body).await, id);
    assert_eq!(types(&pool.queen.stream(&id).await).last().unwrap(), "[DONE]");
}

#[tokio::test]
async fn the_same_id_is_the_same_job() {
    let pool = Pool::start(&[]);
    let _worker = pool.worker("w", FAST).await;
    let mut body = generation(2);
    body["job_id"] = json!("mine");
    pool.queen.submit(&body).await;
    let first = pool.queen.stream("mine").await;
    assert_eq!(pool.queen.submit(&body).await, "mine");
    let second = pool.queen.stream("mine").await;
    assert_eq!(first.len(), second.len());
    assert_eq!(first[first.len() - 2].data, second[second.len() - 2].data);
    body["steps"] = json!(3);
    let (status, answer) = pool.queen.post(&body).await;
    assert_eq!((status, &answer["error"]["code"]), (400, &json!("invalid_request")));
}

#[tokio::test]
async fn a_large_picture_is_transformed() {
    let pool = Pool::start(&[]);
    let _worker = pool.worker("w", FAST).await;
    let picture = noisy_png(640);
    assert!(picture.len() > 1 << 20, "it would not fit into a message");
    let body = json!({
        "operation": "image_transform", "prompt": "a", "steps": 2, "init_image": STANDARD.encode(&picture),
    });
    let id = pool.queen.submit(&body).await;
    let lines = pool.queen.stream(&id).await;
    assert_eq!(types(&lines).last().unwrap(), "[DONE]", "{lines:?}");
    let inputs: Vec<_> = std::fs::read_dir(pool.folder.path().join("inputs")).unwrap().collect();
    assert_eq!(inputs.len(), 1);
    assert_eq!(std::fs::read(inputs[0].as_ref().unwrap().path()).unwrap(), picture);
}

#[tokio::test]
async fn a_model_goes_to_the_worker_that_has_it() {
    let pool = Pool::start(&[]);
    let _a = pool.worker("a", "one=sim://?step_ms=5&size=64").await;
    let _b = pool.worker("b", "two=sim://?step_ms=5&size=64").await;
    for (model, worker) in [("one", "a"), ("two", "b"), ("one", "a")] {
        let mut body = generation(1);
        body["model"] = json!(model);
        let id = pool.queen.submit(&body).await;
        let lines = pool.queen.stream(&id).await;
        assert_eq!(types(&lines).last().unwrap(), "[DONE]", "{lines:?}");
        assert_eq!(lines[0].json()["worker_id"], worker);
    }
    let mut body = generation(1);
    body["model"] = json!("three");
    let (status, answer) = pool.queen.post(&body).await;
    assert_eq!((status, &answer["error"]["code"]), (404, &json!("unsupported_model")));
    assert!(answer["error"]["message"].as_str().unwrap().ends_with("there are: one, two"), "{answer}");
}
