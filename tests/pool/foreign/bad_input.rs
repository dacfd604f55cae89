//! What strangers send: it costs them an error that names what is wrong, and queen nothing.

use std::time::Duration;

use base64::{Engine as _, engine::general_purpose::STANDARD};
use image::RgbImage;
use serde_json::json;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

use super::{BOUNDARY, EDITS, FAST, GENERATIONS, Pool, form, form_request, png, prompt, request, sent};
use crate::support::fake_pool::with;

#[tokio::test]
async fn a_generation_that_is_wrong_is_refused_with_the_name_of_its_field() {
    let (pool, _worker) = Pool::with_worker(&[], FAST).await;
    for (field, value) in [
        ("prompt", json!(7)),
        ("prompt", json!("x".repeat(5000))),
        ("n", json!(9)),
        ("n", json!("many")),
        ("size", json!("100x100")),
        ("size", json!("../../etc")),
        ("steps", json!(-1)),
        ("seed", json!("x")),
        ("scheduler", json!("nosuch")),
        ("loras", json!([{"path": "../../etc/passwd"}])),
        ("output_format", json!("gif")),
        ("output_compression", json!(1000)),
        ("background", json!("transparent")),
        ("response_format", json!("file")),
        ("stream", json!({})),
    ] {
        let answer = pool.generate(&with(prompt(), field, value.clone())).await;
        let (status, _, param, message) = answer.refused();
        assert_eq!(status, 400, "{field}: {value}: {message}");
        assert!(param.as_str().is_some_and(|param| param.starts_with(field)), "{field}: {param} {message}");
        assert_eq!(answer.header("x-should-retry"), "false");
    }
    for body in ["", "{", "[]", "null", "\"a\"", "{\"prompt\": \"a\", \"n\": 1e400}"] {
        let answer = sent(request(&pool.queen, GENERATIONS).body(body)).await;
        assert_eq!(answer.refused().0, 400, "{body}");
    }
    let deep = format!("{{\"prompt\":\"a\",\"x\":{}{}}}", "[".repeat(100_000), "]".repeat(100_000));
    assert_eq!(sent(request(&pool.queen, GENERATIONS).body(deep)).await.refused().0, 400);
}

#[tokio::test]
async fn an_edit_that_is_wrong_is_refused_with_the_name_of_its_part() {
    let (pool, _worker) = Pool::with_worker(&["--max-input", "64KiB", "--max-body", "256KiB"], FAST).await;
    let picture = png(RgbImage::new(64, 64));
    let (tiny, wide) = (png(RgbImage::new(8, 8)), png(RgbImage::new(2056, 64)));
    let large = vec![7; 100 << 10];
    for (parts, status, param) in [
        (vec![("prompt", None, &b"a"[..])], 400, "image"),
        (
            vec![("prompt", None, b"a"), ("image", Some("a"), &b"GIF89a\x01\0\x01\0\0\0\0\0"[..])],
            400,
            "image",
        ),
        (vec![("prompt", None, b"a"), ("image", Some("a"), &picture[..40])], 400, "image"),
        (vec![("prompt", None, b"a"), ("image", Some("a"), &large)], 413, "image"),
        (
            vec![("prompt", None, b"a"), ("image", Some("a"), &picture), ("image", Some("b"), &picture)],
            400,
            "image",
        ),
        (
            vec![("prompt", None, b"a"), ("image", Some("a"), &picture), ("mask", Some("b"), &b"no"[..])],
            400,
            "mask",
        ),
        (vec![("prompt", None, b"a"), ("size", None, b"64x64"), ("image", Some("a"), &tiny)], 400, "image"),
        (vec![("prompt", None, b"a"), ("size", None, b"64x64"), ("image", Some("a"), &wide)], 400, "image"),
        (vec![("prompt", None, b"\xff\xfe"), ("image", Some("a"), &picture)], 400, "prompt"),
        (vec![("image", Some("a"), &picture)], 400, "prompt"),
        (
            vec![("prompt", None, b"a"), ("image", Some("a"), &picture), ("strength", None, b"7")],
            400,
            "strength",
        ),
    ] {
        let answer = sent(form_request(&pool.queen, EDITS, form(&parts))).await;
        let (answered, _, named, message) = answer.refused();
        assert_eq!((answered, named), (status, json!(param)), "{message}");
    }
    // What nobody asks for is passed over, and named.
    let body = form(&[
        ("image", Some("a"), &picture),
        ("prompt", None, b"a"),
        ("steps", None, b"1"),
        ("n\u{e9}w", None, b"1"),
        ("virus", Some("../../x.exe"), &large),
    ]);
    let answer = sent(form_request(&pool.queen, EDITS, body)).await;
    assert_eq!((answer.status, answer.header("x-ignored-fields")), (200, "n?w, virus"), "{answer:?}");
    let many: Vec<_> = (0..100).map(|_| ("a", None, &b"b"[..])).collect();
    let (status, _, _, message) = sent(form_request(&pool.queen, EDITS, form(&many))).await.refused();
    assert!(status == 400 && message.contains("parts"), "{message}");
    let huge = vec![7; 300 << 10];
    let answer = sent(form_request(&pool.queen, EDITS, form(&[("x", Some("x"), &huge)]))).await;
    assert_eq!(answer.refused().0, 413);
}

#[tokio::test]
async fn a_form_that_is_broken_is_refused() {
    let (pool, _worker) = Pool::with_worker(&[], FAST).await;
    let picture = png(RgbImage::new(64, 64));
    let whole = form(&[("prompt", None, b"a"), ("image", Some("a"), &picture)]);
    for (body, status) in [
        (vec![], 400),
        (b"nonsense".to_vec(), 400),
        (whole[..whole.len() / 2].to_vec(), 400),
        (whole[..whole.len() - 8].to_vec(), 400),
        (format!("--{BOUNDARY}\r\n\r\nno name\r\n--{BOUNDARY}--\r\n").into_bytes(), 400),
    ] {
        let answer = sent(form_request(&pool.queen, EDITS, body)).await;
        assert_eq!(answer.refused().0, status, "{answer:?}");
    }
    for media in ["multipart/form-data", "multipart/form-data; boundary=", "multipart/mixed; boundary=x"] {
        let url = format!("{}{EDITS}", pool.queen.url);
        let answer =
            sent(reqwest::Client::new().post(url).header("content-type", media).body(whole.clone())).await;
        assert!(matches!(answer.refused().0, 400 | 415), "{media}: {answer:?}");
    }
    let url = json!({"prompt": "a", "images": [{"image_url": "http://127.0.0.1:1/secret"}]});
    assert!(pool.post(EDITS, &url).await.refused().3.contains("not fetched"));
    let bomb = json!({"prompt": "a", "size": "64x64", "image": STANDARD.encode(bomb())});
    let (status, _, param, message) = pool.post(EDITS, &bomb).await.refused();
    assert_eq!((status, param), (400, json!("image")), "{message}");
}

/// A PNG whose header says 65535 x 65535.
fn bomb() -> Vec<u8> {
    let mut bytes = vec![];
    let mut encoder = png::Encoder::new(&mut bytes, 65_535, 65_535);
    encoder.set_color(png::ColorType::Grayscale);
    drop(encoder.write_header().unwrap());
    bytes
}

#[tokio::test]
async fn a_body_that_stops_half_way_holds_nobody_up() {
    let (pool, _worker) = Pool::with_worker(&["--max-waiting", "1"], FAST).await;
    let address = pool.queen.url.strip_prefix("http://").unwrap();
    let mut slow = vec![];
    for _ in 0..5 {
        let mut connection = TcpStream::connect(address).await.unwrap();
        let head = format!(
            "POST {GENERATIONS} HTTP/1.1\r\nhost: {address}\r\ncontent-length: 1000\r\n\r\n{{\"prompt\""
        );
        connection.write_all(head.as_bytes()).await.unwrap();
        slow.push(connection);
    }
    assert_eq!(pool.generate(&prompt()).await.status, 200, "what is not there yet takes no place");
    let mut left = slow.pop().unwrap();
    left.shutdown().await.unwrap();
    let mut answer = String::new();
    let read = tokio::time::timeout(Duration::from_secs(10), left.read_to_string(&mut answer)).await;
    assert!(read.is_ok(), "the connection ends: {answer}");
}
