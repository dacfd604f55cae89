//! The main job, whole, with real processes: keeper → queen → NATS → worker → candle → store → picture.

use std::{
    path::{Path, PathBuf},
    process::{Command, Output},
    time::{Duration, Instant},
};

use crate::support::{
    nats::{NatsServer, prefix},
    process::Leashed,
    queen::{QueenProcess, types},
    s3::S3Server,
    worker::WorkerProcess,
};
use image::{GrayImage, Luma, RgbImage};
use serde_json::{Value, json};
use tempfile::TempDir;

const CHECKPOINT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/models/tiny-shapes");

async fn wait_for_a_worker(queen: &QueenProcess, log: impl Fn() -> String) {
    let until = Instant::now() + Duration::from_secs(60);
    while Instant::now() < until {
        if queen.get("/health").await.1["workers"] == 1 {
            return;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    panic!("queen hears of no worker:\n{}", log());
}

fn keeper(queen: &QueenProcess, arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_rbee-keeper"))
        .args(["--queen", &queen.url, "--json", "image"])
        .args(arguments)
        .output()
        .unwrap()
}

/// Draws with the keeper; the picture and the complete event.
fn draw(queen: &QueenProcess, folder: &Path, name: &str, arguments: &[&str]) -> (RgbImage, Value) {
    let file: PathBuf = folder.join(name);
    let mut all = arguments.to_vec();
    all.extend(["--output", file.to_str().unwrap()]);
    let output = keeper(queen, &all);
    let lines = String::from_utf8(output.stdout).unwrap();
    assert!(output.status.success(), "{lines}\n{}", String::from_utf8_lossy(&output.stderr));
    let complete = lines
        .lines()
        .map(|line| serde_json::from_str::<Value>(line).unwrap())
        .find(|event| event["type"] == "complete")
        .unwrap_or_else(|| panic!("no complete event in {lines}"));
    (image::open(&file).unwrap().to_rgb8(), complete)
}

#[tokio::test(flavor = "multi_thread")]
async fn the_keeper_draws_transforms_and_repaints_a_picture() {
    let (folder, store, prefix) = (TempDir::new().unwrap(), TempDir::new().unwrap(), prefix());
    let nats = NatsServer::shared().url();
    let queen = QueenProcess::start(&nats, &prefix, store.path().to_str().unwrap(), &[]);
    let worker = WorkerProcess::start(&nats, &prefix, store.path(), "shapes", CHECKPOINT, &[]);
    wait_for_a_worker(&queen, || worker.log()).await;

    let circle = ["generate", "--prompt", "a large red circle on a blue background", "--seed", "7"];
    let (first, complete) = draw(&queen, folder.path(), "first.png", &circle);
    assert_eq!(first.dimensions(), (128, 128));
    let [r, g, b] = first.get_pixel(64, 64).0;
    assert!(r > 150 && g < 120 && b < 120, "the middle is {r},{g},{b}");
    let key = complete["images"][0]["key"].as_str().unwrap();
    assert_eq!(
        std::fs::read(store.path().join(key)).unwrap(),
        std::fs::read(folder.path().join("first.png")).unwrap()
    );

    let (_, again) = draw(&queen, folder.path(), "again.png", &circle);
    assert_eq!(again["images"][0]["sha256"], complete["images"][0]["sha256"]);
    assert_ne!(again["job_id"], complete["job_id"]);

    let input = folder.path().join("first.png");
    let input = input.to_str().unwrap();
    let prompt = "a large green star on a yellow background";
    let transform = ["transform", "--prompt", prompt, "--seed", "3", "--input", input, "--strength", "0.9"];
    let (changed, _) = draw(&queen, folder.path(), "changed.png", &transform);
    assert_eq!(changed.dimensions(), (128, 128));
    assert!(changed != first);

    let mask = folder.path().join("mask.png");
    GrayImage::from_fn(128, 128, |x, _| Luma([if x < 64 { 255 } else { 0 }])).save(&mask).unwrap();
    let mask = mask.to_str().unwrap();
    let inpaint = ["inpaint", "--prompt", prompt, "--seed", "3", "--input", input, "--mask", mask];
    let (repainted, _) = draw(&queen, folder.path(), "repainted.png", &inpaint);
    let right = |image: &RgbImage| image::imageops::crop_imm(image, 64, 0, 64, 128).to_image();
    assert!(right(&repainted) == right(&first), "what the mask keeps has changed");
    assert!(repainted != first);
}

#[tokio::test]
async fn a_result_on_s3_is_fetched_by_its_presigned_url() {
    let (logs, prefix) = (TempDir::new().unwrap(), prefix());
    let nats = NatsServer::shared().url();
    let s3 = S3Server::rclone();
    s3.bucket("pictures");
    let store = "s3://pictures/pool-a";
    let queen = QueenProcess::start_with(&nats, &prefix, store, &[], s3.environment());
    let mut command: Vec<String> =
        s3.environment().into_iter().map(|(name, value)| format!("{name}={value}")).collect();
    command.push(env!("CARGO_BIN_EXE_sd-worker-cpu").into());
    for argument in ["--model", "sim://?step_ms=1&size=64", "--nats-url", &nats, "--subject-prefix", &prefix]
    {
        command.push(argument.into());
    }
    command.extend(["--store-url".into(), store.into()]);
    let arguments: Vec<&str> = command.iter().map(String::as_str).collect();
    let worker = Leashed::start("env", &arguments, &logs.path().join("worker.log"));
    wait_for_a_worker(&queen, || worker.log()).await;

    let body =
        json!({"operation": "image_generation", "prompt": "a", "steps": 2, "output": {"format": "webp"}});
    let job = queen.submit(&body).await;
    let lines = queen.stream(&job).await;
    assert_eq!(types(&lines).last().unwrap(), "[DONE]", "{lines:?}");
    let complete = lines.iter().rfind(|line| line.id.is_some()).unwrap().json();
    let image = &complete["images"][0];
    assert_eq!(image["key"], format!("jobs/{job}/0.webp"));

    let answer = reqwest::get(image["url"].as_str().unwrap()).await.unwrap();
    assert_eq!(answer.status(), 200);
    assert_eq!(answer.headers()["content-type"], "image/webp");
    let bytes = answer.bytes().await.unwrap();
    assert_eq!(bytes.len() as u64, image["bytes"].as_u64().unwrap());
    assert_eq!(image::load_from_memory(&bytes).unwrap().width(), 64);
}
