//! What a sender can get wrong: it is told, by field, and the worker does the next job.

use std::io::Cursor;

use base64::{Engine, engine::general_purpose::STANDARD};
use sd_worker_rbee::contract::{Capability, ErrorCode};

use crate::support::worker::{Pool, WorkerProcess};

use Capability::{Generate, Inpaint, Transform};

/// A pool with one worker that has one slot: a slot that is not given back shows at once.
async fn pool() -> (Pool, WorkerProcess) {
    let pool = Pool::new().await;
    let worker = pool.worker("a", "sim://?step_ms=1&size=64", &[]).await;
    (pool, worker)
}

async fn refused(pool: &Pool, capability: Capability, body: &[u8], code: ErrorCode, names: &str) {
    let shown = String::from_utf8_lossy(&body[..body.len().min(120)]).into_owned();
    let mut replies = pool.request(capability, body).await;
    let (got, message) = replies.end().await.failed();
    assert_eq!(got, code, "{shown}: {message}");
    assert!(message.contains(names), "{shown}: {message}");
    assert_eq!(replies.events.len(), 1, "{shown}");
    let header = replies.headers[0].get("Nats-Service-Error-Code").map(|value| value.as_str());
    assert_eq!(header, Some(code.http_status().to_string().as_str()), "{shown}");
    // Errors are answered by a task of their own; the worker is not in the way of the next request.
    pool.insist(r#"{"prompt":"a good one","steps":1}"#).await.done();
}

fn png(width: u32, height: u32) -> Vec<u8> {
    let mut bytes = Cursor::new(vec![]);
    image::RgbImage::from_fn(width, height, |x, y| image::Rgb([x as u8, y as u8, 7]))
        .write_to(&mut bytes, image::ImageFormat::Png)
        .unwrap();
    bytes.into_inner()
}

/// A PNG of a few bytes whose header says 65,535 x 65,535.
fn bomb() -> Vec<u8> {
    let mut bytes = vec![];
    let mut encoder = png::Encoder::new(&mut bytes, 65_535, 65_535);
    encoder.set_color(png::ColorType::Grayscale);
    let mut writer = encoder.write_header().unwrap();
    writer.write_chunk(png::chunk::IDAT, &[0x78, 0x9c, 0x63, 0, 0, 0, 1, 0, 1]).unwrap();
    drop(writer);
    bytes
}

#[tokio::test]
async fn what_is_no_request_is_refused() {
    let (pool, _worker) = pool().await;
    let code = ErrorCode::InvalidRequest;
    for (body, names) in [
        (&b""[..], "not JSON"),
        (b"{", "not JSON"),
        (b"nonsense", "not JSON"),
        (&[0xff, 0xfe, 0x00], "not JSON"),
        (b"[1,2]", "`body`"),
        (b"{\"prompt\":7}", "`prompt`"),
        (b"{\"steps\":4}", "`prompt`"),
        (b"{\"prompt\":\"a\",\"guidence_scale\":3}", "`guidence_scale`"),
        (b"{\"prompt\":\"a\",\"operation\":\"image_transform\"}", "`operation`"),
    ] {
        refused(&pool, Generate, body, code, names).await;
    }
}

#[tokio::test]
async fn what_is_out_of_bounds_is_refused_by_field() {
    let (pool, _worker) = pool().await;
    let code = ErrorCode::InvalidRequest;
    let long = "j".repeat(200);
    for (field, value, names) in [
        ("steps", "0", "`steps`"),
        ("steps", "1000000000", "`steps`"),
        ("width", "63", "`width`"),
        ("width", "100001", "`width`"),
        ("guidance_scale", "NaN", "not JSON"),
        ("guidance_scale", "-1", "`guidance_scale`"),
        ("deadline_ms", "0", "`deadline_ms`"),
        ("loras", r#"[{"path":"../../etc/passwd"}]"#, "`loras[0].path`"),
        ("job_id", r#""a/b""#, "`job_id`"),
        ("job_id", r#""a b""#, "`job_id`"),
        ("job_id", &format!("\"{long}\""), "`job_id`"),
    ] {
        let body = format!(r#"{{"prompt":"a","{field}":{value}}}"#);
        refused(&pool, Generate, body.as_bytes(), code, names).await;
    }
    let body = br#"{"prompt":"a","model":"nobody-has-it"}"#;
    refused(&pool, Generate, body, ErrorCode::UnsupportedModel, "there are: sim").await;
}

#[tokio::test]
async fn a_picture_that_cannot_be_used_is_refused_by_field() {
    let (pool, _worker) = pool().await;
    let good = STANDARD.encode(png(64, 64));
    let half = {
        let whole = png(128, 128);
        STANDARD.encode(&whole[..whole.len() / 2])
    };
    let (bomb, text) = (STANDARD.encode(bomb()), STANDARD.encode("no picture"));
    for (image, code) in [
        ("no base64!", ErrorCode::ImageInvalid),
        (&half, ErrorCode::ImageInvalid),
        (&bomb, ErrorCode::ImageInvalid),
        (&text, ErrorCode::ImageInvalid),
        ("object:inputs/missing", ErrorCode::InvalidRequest),
        ("object:../secrets", ErrorCode::InvalidRequest),
        ("object:jobs/../../x", ErrorCode::InvalidRequest),
        ("", ErrorCode::InvalidRequest),
    ] {
        let body = format!(r#"{{"prompt":"a","init_image":"{image}"}}"#);
        refused(&pool, Transform, body.as_bytes(), code, "`init_image`").await;
    }
    for strength in ["0", "2"] {
        let body = format!(r#"{{"prompt":"a","init_image":"{good}","strength":{strength}}}"#);
        refused(&pool, Transform, body.as_bytes(), ErrorCode::InvalidRequest, "`strength`").await;
    }
    let body = format!(r#"{{"prompt":"a","init_image":"{good}","mask_image":"{text}"}}"#);
    refused(&pool, Inpaint, body.as_bytes(), ErrorCode::ImageInvalid, "`mask_image`").await;
    let body = format!(r#"{{"prompt":"a","init_image":"{good}"}}"#);
    refused(&pool, Inpaint, body.as_bytes(), ErrorCode::InvalidRequest, "`mask_image`").await;
    // And the same with nothing wrong.
    let body = format!(r#"{{"prompt":"a","init_image":"{good}","mask_image":"{good}","steps":2}}"#);
    pool.request(Inpaint, body).await.end().await.done();
}

#[tokio::test]
async fn a_subject_that_is_no_capability_is_refused() {
    let (pool, worker) = pool().await;
    for subject in ["image.upscale".to_owned(), format!("worker.{}.image.upscale", worker.id)] {
        let subject = format!("{}.{subject}", pool.prefix);
        let (code, message) = pool.request_on(&subject, r#"{"prompt":"a"}"#, None).await.end().await.failed();
        assert_eq!(code, ErrorCode::UnsupportedOperation);
        assert!(message.contains("generate, transform, inpaint"), "{message}");
        pool.insist(r#"{"prompt":"a","steps":1}"#).await.done();
    }
}

#[tokio::test]
async fn an_error_names_the_job_when_its_id_can_be_read() {
    let (pool, _worker) = pool().await;
    let mut public = pool.events("named").await;
    let mut replies = pool.generate(r#"{"prompt":"a","steps":0,"job_id":"named"}"#).await;
    replies.end().await.failed();
    assert_eq!(replies.events[0].job_id.as_str(), "named");
    assert_eq!(crate::support::worker::next_event(&mut public).await, replies.events[0]);
}
