//! Jobs that point at what they repaint: a worker with a segmenter makes the mask, others leave them.

use std::{io::Cursor, time::Duration};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use image::{GrayImage, RgbImage};
use sd_worker_rbee::{
    contract::{Capability, ErrorCode, Job, JobSource, Limits, MaskSource, Operation},
    segmenter::Segmenter,
};
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::support::{
    queen::{QueenProcess, types},
    segmenter,
    worker::Pool,
};

/// The sizes that the workers of the tests give their streams.
const SIZES: [&str; 6] =
    ["--jobs-max-bytes", "16MiB", "--events-max-bytes", "16MiB", "--dlq-max-bytes", "4MiB"];
const SIM: &str = "sim=sim://?step_ms=1&size=64";
const SIDES: (u32, u32) = (96, 72);

fn queen(pool: &Pool, more: &[&str]) -> QueenProcess {
    let store = pool.store.path().to_str().unwrap().to_owned();
    QueenProcess::start(&pool.url, &pool.prefix, &store, &[&SIZES[..], more].concat())
}

/// A folder with weights.
fn weights() -> TempDir {
    let folder = TempDir::new().unwrap();
    segmenter::write("vit", folder.path());
    folder
}

/// A job that points at the disc in the picture.
fn pointing(id: &str, more: Value) -> Value {
    let mut png = Cursor::new(vec![]);
    segmenter::picture(SIDES.0, SIDES.1).write_to(&mut png, image::ImageFormat::Png).unwrap();
    let mut body = json!({
        "operation": "image_inpaint", "job_id": id, "prompt": "a", "steps": 2, "seed": 1,
        "init_image": STANDARD.encode(png.into_inner()),
    });
    body.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    body
}

fn picture(pool: &Pool, event: &Value) -> RgbImage {
    let key = event["images"][0]["key"].as_str().unwrap();
    image::open(pool.store.path().join(key)).unwrap().to_rgb8()
}

/// What this segmenter makes of the job.
fn expected(folder: &TempDir, body: &Value) -> GrayImage {
    let operation = Operation::parse(None, body.to_string().as_bytes()).unwrap();
    let JobSource::Inpaint { mask: MaskSource::Pointing(pointing), .. } =
        Job::new(operation, &Limits::default()).unwrap().source
    else {
        unreachable!()
    };
    let segmenter = Segmenter::open(folder.path()).unwrap();
    segmenter.mask(&segmenter::picture(SIDES.0, SIDES.1), &pointing).unwrap()
}

async fn event(queen: &QueenProcess, id: &str) -> Value {
    let seen = types(&queen.stream(id).await);
    assert!(seen.contains(&"complete".to_owned()), "{seen:?}");
    queen.get(&format!("/v1/jobs/{id}")).await.1["event"].clone()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_mask_is_made_of_points_kept_and_told_and_the_rest_of_the_picture_stays() {
    let (pool, weights) = (Pool::new().await, weights());
    let queen = queen(&pool, &["--models", "sim"]);
    let _worker = pool.worker("a", SIM, &["--segmenter", weights.path().to_str().unwrap()]).await;
    let points =
        json!({"mask_points": [[38, 21], [70, 60]], "mask_labels": [1, 0], "mask_box": [10, 5, 60, 50]});
    for (id, fields) in [("one", json!({"mask_points": [[38, 21]]})), ("all", points)] {
        let body = pointing(id, fields.clone());
        queen.submit(&body).await;
        let event = event(&queen, id).await;
        let told = &event["mask"];
        assert_eq!(
            (&told["key"], &told["width"], &told["height"]),
            (&json!(format!("jobs/{id}/mask.png")), &json!(SIDES.0), &json!(SIDES.1)),
            "{event}"
        );
        assert!(told["url"].as_str().unwrap().ends_with("mask.png"), "{told}");
        let mask = image::open(pool.job_folder(id).join("mask.png")).unwrap().to_luma8();
        assert_eq!(mask, expected(&weights, &body), "{id}");
        let result = std::fs::read(pool.job_folder(id).join("result.json")).unwrap();
        let result: Value = serde_json::from_slice(&result).unwrap();
        assert_eq!(result["event"]["mask"]["key"], told["key"]);
        let (before, after) = (segmenter::picture(SIDES.0, SIDES.1), picture(&pool, &event));
        let kept = mask.enumerate_pixels().filter(|(_, _, value)| value.0 == [0]);
        assert!(kept.clone().count() > 0, "{id}");
        assert!(kept.map(|(x, y, _)| (x, y)).all(|(x, y)| before.get_pixel(x, y) == after.get_pixel(x, y)));
        let repainted = mask.enumerate_pixels().find(|(_, _, value)| value.0 == [255]).expect("some of it");
        assert_ne!(
            before.get_pixel(repainted.0, repainted.1),
            after.get_pixel(repainted.0, repainted.1),
            "{id}"
        );
        // The request in the picture points at the same.
        let file =
            std::fs::read(pool.store.path().join(event["images"][0]["key"].as_str().unwrap())).unwrap();
        let written = String::from_utf8_lossy(&file).replace(' ', "");
        assert!(written.contains(r#""mask_points":[[38,21]"#), "{id}");
        // And the mask is an input of other jobs, whoever runs them.
        let again = format!("{id}-again");
        let body = pointing(&again, json!({"mask_image": format!("object:jobs/{id}/mask.png")}));
        queen.submit(&body).await;
        assert_eq!(picture(&pool, &self::event(&queen, &again).await), after, "{id}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_job_that_points_is_refused_at_once_where_no_worker_makes_masks() {
    let pool = Pool::new().await;
    let queen = queen(&pool, &[]);
    let worker = pool.worker("plain", SIM, &[]).await;
    let heard = async {
        while queen.get("/health").await.1["workers"] != 1 {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(30), heard).await.unwrap();
    let body = pointing("j", json!({"mask_box": [10, 5, 60, 50]}));
    let (status, answer) = queen.post(&body).await;
    assert_eq!((status, &answer["error"]["code"]), (400, &json!("invalid_request")), "{answer}");
    let message = answer["error"]["message"].as_str().unwrap();
    assert!(message.starts_with("`mask_box`: ") && message.contains("--segmenter"), "{message}");
    // A worker that is asked without queen says it, too.
    let subject = pool.subjects.direct(&worker.id, Capability::Inpaint);
    let (code, message) = pool.request_on(&subject, body.to_string(), None).await.end().await.failed();
    assert_eq!(code, ErrorCode::InvalidRequest);
    assert!(message.starts_with("`mask_box`: this worker makes no masks"), "{message}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_job_that_points_waits_for_a_worker_with_a_segmenter_among_others() {
    let (pool, weights) = (Pool::new().await, weights());
    let queen = queen(&pool, &["--models", "sim"]);
    let _plain = pool.worker("plain", SIM, &[]).await;
    queen.submit(&pointing("waits", json!({"mask_points": [[38, 21]]}))).await;
    tokio::time::sleep(Duration::from_millis(500)).await;
    assert_eq!(queen.get("/v1/jobs/waits").await.1["status"], "queued");
    let _worker = pool.worker("able", SIM, &["--segmenter", weights.path().to_str().unwrap()]).await;
    let event = event(&queen, "waits").await;
    assert_eq!((&event["worker_id"], &event["mask"]["key"]), (&json!("able"), &json!("jobs/waits/mask.png")));
    let (_, workers) = queen.get("/v1/workers").await;
    let able = |worker: &&Value| worker["segmenter"] == true;
    assert_eq!(workers["workers"].as_array().unwrap().iter().filter(able).count(), 1, "{workers}");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_pointed_at_outside_of_the_picture_costs_its_sender_an_error() {
    let (pool, weights) = (Pool::new().await, weights());
    let worker = pool.worker("a", SIM, &["--segmenter", weights.path().to_str().unwrap()]).await;
    let subject = pool.subjects.direct(&worker.id, Capability::Inpaint);
    let cases = [
        (
            json!({"mask_points": [[38, 21], [96, 0]]}),
            "`mask_points[1]`: (96, 0) lies outside of the picture",
        ),
        (json!({"mask_box": [10, 5, 60, 73]}), "`mask_box`: [10, 5, 60, 73] lies outside of the picture"),
        (json!({"mask_box": [10, 5, 10, 50]}), "`mask_box`: [10, 5, 10, 50] is empty"),
        (json!({"mask_points": [[38, 21]], "mask_labels": []}), "`mask_labels`: 0 of them"),
    ];
    for (index, (fields, says)) in cases.into_iter().enumerate() {
        let body = pointing(&format!("j{index}"), fields);
        let (code, message) = pool.request_on(&subject, body.to_string(), None).await.end().await.failed();
        assert_eq!(code, ErrorCode::InvalidRequest, "{message}");
        assert!(message.starts_with(says), "{message}");
    }
    let body = pointing("good", json!({"mask_points": [[95, 71]], "mask_box": [0, 0, 96, 72]}));
    pool.request_on(&subject, body.to_string(), None).await.end().await.done();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_does_not_start_with_a_folder_that_is_no_segmenter() {
    let pool = Pool::new().await;
    let empty = TempDir::new().unwrap();
    for (folder, says) in [
        (empty.path().to_str().unwrap(), "there is no .safetensors file in it"),
        ("models/tiny-shapes/unet", "it is no Segment Anything"),
    ] {
        let mut worker = pool.spawn("a", SIM, &["--segmenter", folder]);
        assert_eq!(worker.exit().await.code(), Some(1), "{}", worker.log());
        let log = worker.log();
        assert!(log.contains("--segmenter: ") && log.contains(says), "{log}");
    }
}
