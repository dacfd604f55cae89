//! Workers that differ: one that cannot do a job does not end it, and what nobody can do is refused by queen.

use std::time::Duration;

use async_nats::jetstream::AckKind;
use base64::{Engine as _, engine::general_purpose::STANDARD};
use serde_json::{Value, json};

use super::{Owned, SLOW, drawing, named, takers};

const TINY: &str = concat!("text=", env!("CARGO_MANIFEST_DIR"), "/tests/data/parity/text");
const LORAS: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/data/parity/loras");
/// How long the able worker is busy, in steps of `SLOW`.
const BUSY_STEPS: u32 = 40;

/// Sends a job while its able worker `b` is busy and a worker `a`, which is not able to do it, is idle: `b` draws it, and
/// `a` says nothing of it.
async fn drawn_by_the_able(pool: &Owned, able: &[&str], other: (&str, &[&str]), body: Value) {
    let _b = pool.worker("b", SLOW, able).await;
    pool.queen.submit(&named(drawing(BUSY_STEPS), "busy")).await;
    pool.runs("busy").await;
    let _a = pool.worker("a", other.0, other.1).await;
    pool.queen.submit(&named(body, "j")).await;
    let events = pool.draws("j").await.0;
    assert_eq!(takers(&events), ["b"], "{events:?}");
    assert!(events.iter().all(|event| event.worker_id.as_str() == "b"), "{events:?}");
    assert_eq!(takers(&pool.draws("busy").await.0), ["b"]);
    assert_eq!(pool.dead_letters().await, []);
}

fn picture(side: u32) -> String {
    let mut bytes = std::io::Cursor::new(vec![]);
    // Nothing in it repeats, so that it is large.
    let image = image::RgbImage::from_fn(side, side, |x, y| {
        let noise = (x.wrapping_mul(7919) ^ y.wrapping_mul(104_729)).wrapping_mul(2_654_435_761);
        image::Rgb([(noise >> 24) as u8, (noise >> 16) as u8, (noise >> 8) as u8])
    });
    image.write_to(&mut bytes, image::ImageFormat::Png).unwrap();
    STANDARD.encode(bytes.into_inner())
}

fn transform(side: u32) -> Value {
    json!({
        "operation": "image_transform", "prompt": "a", "steps": 2, "seed": 7, "init_image": picture(side),
    })
}

#[tokio::test]
async fn a_worker_without_the_capability_is_never_given_the_job() {
    let pool = Owned::start(&[]).await;
    let _b = pool.worker("b", SLOW, &[]).await;
    pool.queen.submit(&named(drawing(BUSY_STEPS), "busy")).await;
    pool.runs("busy").await;
    pool.queen.submit(&named(transform(64), "j")).await;
    // Deliveries, of which there may be any number, say nothing of whether it can be done.
    for _ in 0..40 {
        pool.pull("transform").await.ack_with(AckKind::Nak(None)).await.unwrap();
    }
    let _a = pool.worker("a", SLOW, &["--capabilities", "generate"]).await;
    let (events, _) = pool.draws("j").await;
    assert_eq!(takers(&events), ["b"], "{events:?}");
    assert_eq!(pool.dead_letters().await, []);
}

#[tokio::test]
async fn a_worker_without_loras_leaves_the_job_to_one_with_them() {
    let pool = Owned::start(&["--models", "text"]).await;
    let able = ["--model", TINY, "--lora-dir", LORAS];
    let mut body = drawing(2);
    body["model"] = json!("text");
    body["loras"] = json!([{"path": "text/kohya"}]);
    drawn_by_the_able(&pool, &able, (TINY, &[]), body).await;
}

#[tokio::test]
async fn a_worker_whose_folder_lacks_the_lora_leaves_the_job_to_one_that_has_it() {
    let pool = Owned::start(&["--models", "text"]).await;
    let empty = tempfile::TempDir::new().unwrap();
    let able = ["--model", TINY, "--lora-dir", LORAS];
    let mut body = drawing(2);
    body["model"] = json!("text");
    body["loras"] = json!([{"path": "text/kohya"}]);
    drawn_by_the_able(&pool, &able, (TINY, &["--lora-dir", empty.path().to_str().unwrap()]), body).await;
}

#[tokio::test]
async fn a_worker_of_fewer_steps_leaves_the_job_to_one_of_more() {
    let pool = Owned::start(&[]).await;
    drawn_by_the_able(&pool, &[], (SLOW, &["--max-steps", "10"]), drawing(12)).await;
}

#[tokio::test]
async fn a_worker_of_fewer_pixels_leaves_the_job_to_one_of_more() {
    let pool = Owned::start(&[]).await;
    let mut body = drawing(2);
    (body["width"], body["height"]) = (json!(192), json!(192));
    drawn_by_the_able(&pool, &[], (SLOW, &["--max-pixels", "128x128"]), body).await;
}

#[tokio::test]
async fn a_worker_of_fewer_pictures_leaves_the_job_to_one_of_more() {
    let pool = Owned::start(&[]).await;
    let mut body = drawing(2);
    body["n"] = json!(2);
    drawn_by_the_able(&pool, &[], (SLOW, &["--max-images", "1"]), body).await;
}

#[tokio::test]
async fn a_worker_of_smaller_inputs_leaves_the_job_to_one_of_larger() {
    let pool = Owned::start(&[]).await;
    drawn_by_the_able(&pool, &[], (SLOW, &["--max-input", "1KiB"]), transform(64)).await;
}

#[tokio::test]
async fn what_no_worker_can_do_is_refused_at_once_by_its_field() {
    let pool = Owned::without_catalogue().await;
    // Together they can do more than each alone.
    let small = ["--capabilities", "generate", "--max-images", "1", "--max-pixels", "512x512"];
    let _a = pool.worker("a", SLOW, &[&small[..], &["--max-steps", "10"]].concat()).await;
    let able = ["--capabilities", "generate,transform", "--max-images", "2", "--max-pixels", "256x256"];
    let _b =
        pool.worker("b", SLOW, &[&able[..], &["--max-steps", "20", "--max-input", "4KiB"]].concat()).await;
    let inpaint = json!({
        "operation": "image_inpaint", "prompt": "a", "init_image": picture(8), "mask_image": picture(8),
    });
    let with = |mut body: Value, fields: Value| {
        for (name, value) in fields.as_object().unwrap() {
            body[name] = value.clone();
        }
        body
    };
    let cases = [
        (with(drawing(1), json!({"steps": 21})), "invalid_request", "`steps`"),
        (with(drawing(1), json!({"width": 1024, "height": 512})), "invalid_request", "`width`"),
        (with(drawing(1), json!({"n": 3})), "invalid_request", "`n`"),
        (with(drawing(1), json!({"loras": [{"path": "x"}]})), "invalid_request", "`loras"),
        // `a` draws so many pixels, `b` takes so many steps, and nobody does both.
        (with(drawing(20), json!({"width": 512, "height": 512})), "invalid_request", "`"),
        (inpaint, "unsupported_operation", "image_inpaint"),
    ];
    for (body, code, field) in cases {
        let (status, answer) = pool.queen.post(&body).await;
        assert_eq!((status, &answer["error"]["code"]), (400, &json!(code)), "{field}: {answer}");
        assert!(answer["error"]["message"].as_str().unwrap().contains(field), "{field}: {answer}");
    }
    let (status, answer) = pool.queen.post(&transform(64)).await;
    assert!((400..500).contains(&status), "an input that is too large for every worker: {status} {answer}");
    assert!(answer["error"]["message"].as_str().unwrap().contains("`init_image`"), "{answer}");
    assert_eq!(pool.messages("JOBS").await, 0);
    // What one of them can do is taken and done, by that one.
    pool.queen.submit(&named(with(drawing(20), json!({"n": 2})), "b")).await;
    pool.queen.submit(&named(with(drawing(2), json!({"width": 512, "height": 512})), "a")).await;
    for id in ["a", "b"] {
        assert_eq!(takers(&pool.draws(id).await.0), [id]);
    }
}

#[tokio::test]
async fn what_a_worker_of_the_catalogue_may_do_is_taken_while_none_is_up() {
    let pool = Owned::start(&["--models", "later"]).await;
    let _a = pool.worker("a", SLOW, &["--max-steps", "10"]).await;
    let mut body = named(drawing(20), "j");
    body["model"] = json!("later");
    pool.queen.submit(&body).await;
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert_eq!(pool.queen.get("/v1/jobs/j").await.1["status"], "queued");
    let _b = pool.worker("b", "later=sim://?step_ms=5&size=64", &[]).await;
    assert_eq!(takers(&pool.draws("j").await.0), ["b"]);
}
