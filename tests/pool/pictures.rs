//! Pictures that cannot be used, sent to a whole pool: what shows in the message is refused where it is sent, what shows in
//! the picture ends its job once, before anything is drawn.

use std::time::Duration;

use base64::{Engine as _, engine::general_purpose::STANDARD};
use serde_json::{Value, json};

use crate::support::{
    queen::{QueenProcess, types},
    worker::Pool,
};

/// The sizes that the workers of the tests give their streams.
const SIZES: [&str; 6] =
    ["--jobs-max-bytes", "16MiB", "--events-max-bytes", "16MiB", "--dlq-max-bytes", "4MiB"];

async fn pool() -> (Pool, QueenProcess) {
    let pool = Pool::new().await;
    let store = pool.store.path().to_str().unwrap().to_owned();
    let arguments = [&SIZES[..], &["--models", "sim"]].concat();
    let queen = QueenProcess::start(&pool.url, &pool.prefix, &store, &arguments);
    (pool, queen)
}

fn inpaint(id: &str, image: &str, mask: &str) -> Value {
    json!({
        "operation": "image_inpaint", "job_id": id, "prompt": "a", "steps": 2, "init_image": image, "mask_image": mask,
    })
}

/// Noise, so that it is large.
fn jpeg(side: u32) -> Vec<u8> {
    let image = image::RgbImage::from_fn(side, side, |x, y| {
        let noise = (x.wrapping_mul(7919) ^ y.wrapping_mul(104_729)).wrapping_mul(2_654_435_761);
        image::Rgb([(noise >> 24) as u8, (noise >> 16) as u8, (noise >> 8) as u8])
    });
    let mut bytes = vec![];
    image::codecs::jpeg::JpegEncoder::new_with_quality(&mut bytes, 95).encode_image(&image).unwrap();
    bytes
}

#[tokio::test]
async fn what_is_no_base64_is_refused_where_it_is_sent() {
    let (pool, queen) = pool().await;
    let _worker = pool.worker("a", "sim=sim://?step_ms=1&size=64", &[]).await;
    let good = STANDARD.encode(jpeg(64));
    let gif = STANDARD.encode(b"GIF89a\x01\0\x01\0\0\0\0;");
    let large = "!".repeat(200 << 10);
    for (image, says) in [
        ("no base64!", "character 10 is '!'"),
        (large.as_str(), "character 1 is '!'"),
        (&good[..41], "cut off"),
        (gif.as_str(), "a GIF picture"),
        ("data:image/png,AAAA", "data: URL"),
        ("https://example.org/a.png", "address"),
    ] {
        for (field, body) in
            [("`init_image`", inpaint("j", image, &good)), ("`mask_image`", inpaint("j", &good, image))]
        {
            let (status, answer) = queen.post(&body).await;
            assert_eq!((status, &answer["error"]["code"]), (400, &json!("image_invalid")), "{answer}");
            let message = answer["error"]["message"].as_str().unwrap();
            assert!(message.starts_with(field) && message.contains(says), "{message}");
        }
    }
    assert_eq!(queen.get("/v1/jobs/j").await.0, 404, "there is no such job");
    // Lines and no padding, in a message and through the store.
    for (id, side) in [("small", 64), ("large", 512)] {
        let base64 = STANDARD.encode(jpeg(side));
        let lines: Vec<_> = base64.trim_end_matches('=').as_bytes().chunks(76).collect();
        let lines = String::from_utf8(lines.join(&b"\r\n"[..])).unwrap();
        queen.submit(&inpaint(id, &lines, &lines)).await;
        assert!(types(&queen.stream(id).await).contains(&"complete".to_owned()), "{id}");
    }
}

#[tokio::test]
async fn a_picture_that_is_cut_off_ends_its_job_once_and_before_it_is_drawn() {
    let (pool, queen) = pool().await;
    let _worker = pool.worker("a", "sim=sim://?step_ms=1&size=64", &[]).await;
    // In a message, and through the store.
    for (id, side) in [("small", 64), ("large", 512)] {
        let whole = jpeg(side);
        let (good, cut) = (STANDARD.encode(&whole), STANDARD.encode(&whole[..whole.len() / 2]));
        for (id, field, body) in [
            (format!("{id}-picture"), "`init_image`", inpaint(&format!("{id}-picture"), &cut, &good)),
            (format!("{id}-mask"), "`mask_image`", inpaint(&format!("{id}-mask"), &good, &cut)),
        ] {
            queen.submit(&body).await;
            let seen = types(&queen.stream(&id).await);
            assert!(!seen.iter().any(|kind| kind == "progress" || kind == "preview"), "{seen:?}");
            assert_eq!(seen.iter().filter(|kind| *kind == "error").count(), 1, "{seen:?}");
            let (_, view) = queen.get(&format!("/v1/jobs/{id}")).await;
            let event = &view["event"];
            assert_eq!(
                (&view["status"], &event["code"]),
                (&json!("failed"), &json!("image_invalid")),
                "{view}"
            );
            assert_eq!((&event["retryable"], &event["attempt"]), (&json!(false), &json!(1)), "{view}");
            let message = event["message"].as_str().unwrap();
            assert!(message.starts_with(field) && message.contains("cut off"), "{message}");
        }
    }
    tokio::time::sleep(Duration::from_millis(300)).await;
    let (_, letters) = queen.get("/v1/dead-letters").await;
    assert!(!letters.to_string().contains("job_id"), "{letters}");
}

fn png(image: impl Into<image::DynamicImage>) -> String {
    let mut bytes = std::io::Cursor::new(vec![]);
    image.into().write_to(&mut bytes, image::ImageFormat::Png).unwrap();
    STANDARD.encode(bytes.into_inner())
}

#[tokio::test]
async fn the_part_around_a_mask_is_drawn_alone_and_the_rest_comes_back_pixel_for_pixel() {
    let (pool, queen) = pool().await;
    let _worker = pool.worker("a", "sim=sim://?step_ms=1&size=64", &[]).await;
    let input = image::RgbImage::from_fn(300, 204, |x, y| image::Rgb([x as u8, y as u8, (x * y) as u8]));
    let white = |x: u32, y: u32, grow: u32| {
        (200 - grow..230 + grow).contains(&x) && (100 - grow..120 + grow).contains(&y)
    };
    let mask = image::GrayImage::from_fn(300, 204, |x, y| image::Luma([u8::from(white(x, y, 0)) * 255]));
    let mut body = inpaint("part", &png(input.clone()), &png(mask));
    body["mask_blur"] = json!(3);
    body["padding_mask_crop"] = json!(10);
    queen.submit(&body).await;
    let lines = queen.stream("part").await;
    let complete = lines.iter().rfind(|line| line.id.is_some()).unwrap().json();
    let of = |field: &str| complete["images"][0][field].clone();
    assert_eq!((of("width"), of("height")), (json!(300), json!(204)), "{complete}");
    let bytes = reqwest::get(format!("{}/v1/jobs/part/images/0", queen.url)).await.unwrap();
    let bytes = bytes.bytes().await.unwrap();
    let result = image::load_from_memory(&bytes).unwrap().into_rgb8();
    let drawn = result.get_pixel(215, 110);
    assert_ne!(drawn, input.get_pixel(215, 110));
    for (x, y, pixel) in result.enumerate_pixels() {
        if !white(x, y, 12) {
            assert_eq!(pixel, input.get_pixel(x, y), "what is kept, at {x},{y}");
        }
    }
    let parameters = String::from_utf8_lossy(&bytes).into_owned();
    assert!(parameters.contains("Mask blur: 3, Inpaint area: Only masked, Masked area padding: 10"));
    assert!(parameters.contains(r#""padding_mask_crop":10"#) && parameters.contains(r#""width":64"#));
}
