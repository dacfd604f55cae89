//! What a sender can get wrong: it is told, by field, and the worker does the next job.

use std::{io::Cursor, time::Duration};

use base64::{Engine, engine::general_purpose::STANDARD};
use futures::StreamExt;
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
    // A job is accepted before its inputs are read.
    let accepted = replies.events.len() - 1;
    assert!(replies.names()[..accepted].iter().all(|name| *name == "accepted"), "{shown}");
    let header = replies.headers[accepted].get("Nats-Service-Error-Code").map(|value| value.as_str());
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

/// A body that is refused with this code, by a message that names this.
pub struct Bad {
    pub capability: Capability,
    pub body: Vec<u8>,
    pub code: ErrorCode,
    pub names: &'static str,
}

fn bad(capability: Capability, body: impl Into<Vec<u8>>, code: ErrorCode, names: &'static str) -> Bad {
    Bad { capability, body: body.into(), code, names }
}

/// What is no request at all.
pub fn no_requests() -> Vec<Bad> {
    let of = |body: &[u8], names| bad(Generate, body, ErrorCode::InvalidRequest, names);
    vec![
        of(b"", "not JSON"),
        of(b"{", "not JSON"),
        of(b"nonsense", "not JSON"),
        of(&[0xff, 0xfe, 0x00], "not JSON"),
        of(b"[1,2]", "`body`"),
        of(b"{\"prompt\":7}", "`prompt`"),
        of(b"{\"steps\":4}", "`prompt`"),
        of(b"{\"prompt\":\"a\",\"guidence_scale\":3}", "`guidence_scale`"),
        of(b"{\"prompt\":\"a\",\"operation\":\"image_transform\"}", "`operation`"),
    ]
}

/// Fields that are out of bounds, or name what there is not.
pub fn out_of_bounds() -> Vec<Bad> {
    let long = format!("\"{}\"", "j".repeat(200));
    let of = |field: &str, value: &str, names| {
        let body = format!(r#"{{"prompt":"a","{field}":{value}}}"#);
        bad(Generate, body, ErrorCode::InvalidRequest, names)
    };
    vec![
        of("steps", "0", "`steps`"),
        of("steps", "1000000000", "`steps`"),
        of("width", "63", "`width`"),
        of("width", "100001", "`width`"),
        of("guidance_scale", "NaN", "not JSON"),
        of("guidance_scale", "-1", "`guidance_scale`"),
        of("guidance_interval", "[0.8, 0.1]", "`guidance_interval`"),
        of("guidance_rescale", "1.01", "`guidance_rescale`"),
        of("deadline_ms", "0", "`deadline_ms`"),
        of("loras", r#"[{"path":"../../etc/passwd"}]"#, "`loras[0].path`"),
        of("job_id", r#""a/b""#, "`job_id`"),
        of("job_id", r#""a b""#, "`job_id`"),
        of("job_id", &long, "`job_id`"),
        bad(
            Generate,
            *br#"{"prompt":"a","model":"nobody-has-it"}"#,
            ErrorCode::UnsupportedModel,
            "there are: sim",
        ),
    ]
}

/// Pictures that cannot be used.
pub fn pictures() -> Vec<Bad> {
    let good = STANDARD.encode(png(64, 64));
    let half = {
        let whole = png(128, 128);
        STANDARD.encode(&whole[..whole.len() / 2])
    };
    let (bomb, text) = (STANDARD.encode(bomb()), STANDARD.encode("no picture"));
    let image = |image: &str, code| {
        let body = format!(r#"{{"prompt":"a","init_image":"{image}"}}"#);
        bad(Transform, body, code, "`init_image`")
    };
    let strength = |strength| {
        let body = format!(r#"{{"prompt":"a","init_image":"{good}","strength":{strength}}}"#);
        bad(Transform, body, ErrorCode::InvalidRequest, "`strength`")
    };
    let bad_mask = format!(r#"{{"prompt":"a","init_image":"{good}","mask_image":"{text}"}}"#);
    // Nothing in it is as much as half white.
    let masking = |field: &str, value: &str, code, names| {
        let body =
            format!(r#"{{"prompt":"a","init_image":"{good}","mask_image":"{good}","{field}":{value}}}"#);
        bad(Inpaint, body, code, names)
    };
    let no_mask = format!(r#"{{"prompt":"a","init_image":"{good}"}}"#);
    vec![
        image("no base64!", ErrorCode::ImageInvalid),
        image(&half, ErrorCode::ImageInvalid),
        image(&bomb, ErrorCode::ImageInvalid),
        image(&text, ErrorCode::ImageInvalid),
        image("object:inputs/missing", ErrorCode::InvalidRequest),
        image("object:../secrets", ErrorCode::InvalidRequest),
        image("object:jobs/../../x", ErrorCode::InvalidRequest),
        image("", ErrorCode::InvalidRequest),
        strength(0),
        strength(2),
        bad(Inpaint, bad_mask, ErrorCode::ImageInvalid, "`mask_image`"),
        bad(Inpaint, no_mask, ErrorCode::InvalidRequest, "`mask_image`"),
        masking("mask_blur", "65", ErrorCode::InvalidRequest, "`mask_blur`"),
        masking("padding_mask_crop", "100000", ErrorCode::InvalidRequest, "`padding_mask_crop`"),
        masking("width", "64", ErrorCode::InvalidRequest, "`width`"),
        masking("padding_mask_crop", "8", ErrorCode::ImageInvalid, "`mask_image`: nothing in it is white"),
    ]
}

#[tokio::test]
async fn what_is_no_request_is_refused() {
    let (pool, _worker) = pool().await;
    for Bad { capability, body, code, names } in no_requests() {
        refused(&pool, capability, &body, code, names).await;
    }
}

#[tokio::test]
async fn what_is_out_of_bounds_is_refused_by_field() {
    let (pool, _worker) = pool().await;
    for Bad { capability, body, code, names } in out_of_bounds() {
        refused(&pool, capability, &body, code, names).await;
    }
}

#[tokio::test]
async fn a_picture_that_cannot_be_used_is_refused_by_field() {
    let (pool, _worker) = pool().await;
    for Bad { capability, body, code, names } in pictures() {
        refused(&pool, capability, &body, code, names).await;
    }
    // And the same with nothing wrong.
    let good = STANDARD.encode(png(64, 64));
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
async fn an_error_names_the_job_when_its_id_can_be_read_and_is_told_to_its_sender_alone() {
    let (pool, _worker) = pool().await;
    let mut public = pool.events("named").await;
    let mut replies = pool.generate(r#"{"prompt":"a","steps":0,"job_id":"named"}"#).await;
    replies.end().await.failed();
    assert_eq!(replies.events[0].job_id.as_str(), "named");
    assert!(
        tokio::time::timeout(Duration::from_millis(300), public.next()).await.is_err(),
        "the id may be another's job"
    );
}
