//! What clients of OpenAI Images see.

use base64::{Engine as _, engine::general_purpose::STANDARD};
use image::{Rgb, RgbImage, Rgba, RgbaImage};
use serde_json::{Value, json};
use tempfile::TempDir;

use super::{EDITS, FAST, GENERATIONS, Pool, events, form, form_request, png, prompt, request, sent, tokens};
use crate::support::{
    fake_durable::SMALL,
    fake_pool::with,
    nats::{NatsServer, prefix},
    queen::QueenProcess,
    s3::S3Server,
    worker::WorkerProcess,
};

#[tokio::test]
async fn a_generation_comes_back_in_the_call_that_asked_for_it() {
    let (pool, _worker) = Pool::with_worker(&[], FAST).await;
    let mut body = with(prompt(), "n", 3);
    body["size"] = json!("128x64");
    body["quality"] = json!("high");
    body["unheard_of"] = json!({"a": 1});
    let answer = pool.generate(&body).await;
    assert_eq!(answer.status, 200, "{answer:?}");
    let said = answer.json();
    assert_eq!(said["data"].as_array().unwrap().len(), 3);
    for index in 0..3 {
        assert_eq!((answer.picture(index).width(), answer.picture(index).height()), (128, 64));
    }
    assert_ne!(said["data"][0]["b64_json"], said["data"][1]["b64_json"]);
    assert_eq!((&said["size"], &said["output_format"]), (&json!("128x64"), &json!("png")));
    assert_eq!(said["usage"]["input_tokens_details"], json!({"image_tokens": 0, "text_tokens": 0}));
    assert!(said["created"].as_u64().is_some_and(|at| at > 1_700_000_000), "{}", said["created"]);
    assert_eq!(answer.header("x-ignored-fields"), "unheard_of");
    let job = answer.header("x-job-id");
    let (_, view) = pool.queen.get(&format!("/v1/jobs/{job}")).await;
    assert_eq!(view["status"], "completed");
    let log = pool.queen.log();
    assert!(!log.contains("red circle") && !log.contains("unheard_of"), "bodies are not logged: {log}");
}

#[tokio::test]
async fn other_formats_and_a_seed_are_what_was_asked_for() {
    let (pool, _worker) = Pool::with_worker(&[], FAST).await;
    for (format, kind) in [("jpeg", image::ImageFormat::Jpeg), ("webp", image::ImageFormat::WebP)] {
        let mut body = with(prompt(), "output_format", format);
        body["output_compression"] = json!(50);
        body["seed"] = json!(7);
        let answer = pool.generate(&body).await;
        let said = answer.json();
        assert_eq!((&said["output_format"], &said["data"][0]["seed"]), (&json!(format), &json!(7)));
        let bytes = STANDARD.decode(said["data"][0]["b64_json"].as_str().unwrap()).unwrap();
        assert_eq!(image::guess_format(&bytes).unwrap(), kind);
    }
}

#[tokio::test]
async fn a_stream_shows_partial_pictures_and_then_the_whole_ones() {
    // A worker sends a preview a second at most.
    let (pool, _worker) = Pool::with_worker(&[], "sim=sim://?step_ms=60&size=64").await;
    let mut body = json!({"prompt": "a", "steps": 60, "stream": true, "partial_images": 2});
    let answer = pool.generate(&body).await;
    assert_eq!((answer.status, answer.header("content-type")), (200, "text/event-stream"));
    assert!(!answer.header("x-job-id").is_empty());
    let seen = events(&answer.text);
    let names: Vec<_> = seen.iter().map(|(name, _)| name.as_str()).collect();
    let partial = "image_generation.partial_image";
    assert_eq!(names, [partial, partial, "image_generation.completed"], "{names:?}");
    for (index, (name, data)) in seen.iter().enumerate() {
        assert_eq!(data["type"], *name);
        let picture = STANDARD.decode(data["b64_json"].as_str().unwrap()).unwrap();
        assert!(image::load_from_memory(&picture).is_ok());
        for member in ["created_at", "size", "quality", "background", "output_format"] {
            assert!(!data[member].is_null(), "{member}: {data}");
        }
        if index < 2 {
            assert_eq!(data["partial_image_index"], index);
        }
    }
    assert_eq!(seen[2].1["usage"]["total_tokens"], 0);

    body["partial_images"] = json!(0);
    body["steps"] = json!(2);
    body["n"] = json!(2);
    let names: Vec<_> = events(&pool.generate(&body).await.text).into_iter().map(|(name, _)| name).collect();
    assert_eq!(names, ["image_generation.completed"; 2]);
    body["partial_images"] = json!(1);
    assert_eq!(pool.generate(&body).await.refused().2, "partial_images");
}

#[tokio::test]
async fn an_edit_is_taken_from_a_form_and_from_json() {
    let (pool, _worker) = Pool::with_worker(&[], FAST).await;
    let picture = png(RgbImage::from_pixel(96, 64, Rgb([200, 30, 30])));
    let mask = png(RgbaImage::from_fn(96, 64, |x, _| Rgba([0, 0, 0, if x < 48 { 0 } else { 255 }])));
    let url = |bytes: &[u8]| format!("data:image/png;base64,{}", STANDARD.encode(bytes));
    for name in ["image", "image[]"] {
        let body = form(&[
            ("prompt", None, b"a blue square"),
            ("steps", None, b"2"),
            (name, Some("../../../etc/passwd"), &picture),
            ("mask", Some("mask.png"), &mask),
        ]);
        let answer = sent(form_request(&pool.queen, EDITS, body)).await;
        assert_eq!(answer.status, 200, "{answer:?}");
        assert_eq!((answer.picture(0).width(), answer.picture(0).height()), (96, 64));
        assert!(answer.json()["warnings"].is_null(), "{}", answer.json()["warnings"]);
    }
    let json = json!({"prompt": "a", "steps": 2, "size": "64x64", "images": [{"image_url": url(&picture)}],
        "mask": {"image_url": url(&png(RgbImage::new(96, 64)))}});
    let answer = pool.post(EDITS, &json).await;
    assert_eq!((answer.picture(0).width(), answer.picture(0).height()), (64, 64));
    let warnings = answer.json()["warnings"].to_string();
    assert!(
        warnings.contains("mask: nothing in it is transparent") && warnings.contains("cut off"),
        "{warnings}"
    );

    let stream = json!({"prompt": "a", "steps": 2, "images": [{"image_url": url(&picture)}], "stream": true,
        "strength": 0.5});
    let seen = events(&pool.post(EDITS, &stream).await.text);
    assert_eq!(seen.last().unwrap().0, "image_edit.completed");
}

#[tokio::test]
async fn addresses_of_pictures_are_given_where_there_are_any() {
    let url = with(prompt(), "response_format", "url");
    let (pool, _worker) = Pool::with_worker(&[], FAST).await;
    let (status, _, param, message) = pool.generate(&url).await.refused();
    assert_eq!((status, param), (400, json!("response_format")));
    assert!(message.contains("--public-url"), "{message}");

    let (pool, _worker) = Pool::with_worker(&["--public-url", "https://pool.example/x/"], FAST).await;
    let answer = pool.generate(&url).await;
    let job = answer.header("x-job-id");
    assert_eq!(answer.json()["data"][0]["url"], format!("https://pool.example/x/v1/jobs/{job}/images/0"));
    assert!(answer.json()["data"][0]["b64_json"].is_null());
    let stream = events(&pool.generate(&with(url, "stream", true)).await.text);
    assert!(stream[0].1["url"].as_str().unwrap().starts_with("https://pool.example/x/v1/jobs/"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_store_that_signs_addresses_gives_them() {
    let (s3, nats, prefix) = (S3Server::shared(), NatsServer::shared().url(), prefix());
    let (bucket, key) = (format!("door-{prefix}"), "pool");
    s3.bucket(&bucket);
    let store = format!("s3://{bucket}/{key}");
    let queen = QueenProcess::start_with(&nats, &prefix, &store, &SMALL, s3.environment());
    let worker = WorkerProcess::start_with(&nats, &prefix, &store, "w", FAST, &SMALL, s3.environment());
    worker.wait_for_log(" ready ").await;
    let answer = loop {
        let body = with(prompt(), "response_format", "url").to_string();
        let answer = sent(request(&queen, GENERATIONS).body(body)).await;
        // Until queen has heard of the worker.
        if answer.status != 503 {
            break answer;
        }
        tokio::time::sleep(std::time::Duration::from_millis(100)).await;
    };
    let url = answer.json()["data"][0]["url"].as_str().unwrap_or_else(|| panic!("{answer:?}")).to_owned();
    assert!(url.contains("X-Amz-Signature="), "{url}");
    let bytes = reqwest::get(url).await.unwrap().bytes().await.unwrap();
    assert_eq!(image::load_from_memory(&bytes).unwrap().width(), 64);
}

#[tokio::test]
async fn models_and_their_other_names_are_listed_and_an_unknown_one_is_refused() {
    let (pool, _worker) = Pool::with_worker(&["--model-alias", "gpt-image-1=sim"], FAST).await;
    let (_, list) = pool.queen.get("/v1/models").await;
    let models = list["data"].as_array().unwrap();
    assert_eq!(
        (&list["object"], &models[0]["id"], &models[1]["id"]),
        (&json!("list"), &json!("sim"), &json!("gpt-image-1"))
    );
    assert_eq!((&models[0]["native_width"], &models[0]["workers"]), (&json!(64), &json!(1)));
    assert!(models[0]["schedulers"].as_array().unwrap().contains(&json!("euler")));
    assert_eq!(models[1]["alias_of"], "sim");
    let (status, one) = pool.queen.get("/v1/models/gpt-image-1").await;
    assert_eq!((status, &one), (200, &models[1]));
    let missing = sent(reqwest::Client::new().get(format!("{}/v1/models/a%2Fb", pool.queen.url))).await;
    assert_eq!(missing.refused().1, "model_not_found");

    assert_eq!(pool.generate(&with(prompt(), "model", "gpt-image-1")).await.status, 200);
    let (status, code, param, message) = pool.generate(&with(prompt(), "model", "dall-e-3")).await.refused();
    assert_eq!((status, code.as_str(), param), (404, "model_not_found", json!("model")));
    assert!(message.contains("there are: sim"), "{message}");
    // The other name is good at the other door too.
    let job = json!({"operation": "image_generation", "prompt": "a", "steps": 1, "model": "gpt-image-1"});
    pool.queen.submit(&job).await;
}

#[tokio::test]
async fn every_refusal_on_these_paths_has_openais_form() {
    let folder = TempDir::new().unwrap();
    let (file, token) = tokens(&folder, "alice");
    let limits =
        ["--token-file", &file, "--rate-limit", "0.001", "--rate-burst", "2", "--max-body", "100KiB"];
    let (pool, _worker) = Pool::with_worker(&limits, FAST).await;
    let send = |path: &str, body: String| request(&pool.queen, path).body(body);
    let nobody = sent(send(GENERATIONS, prompt().to_string())).await;
    assert_eq!((nobody.status, nobody.refused().1.as_str()), (401, "invalid_api_key"));
    assert_eq!(nobody.header("x-should-retry"), "false");
    let models = sent(reqwest::Client::new().get(format!("{}/v1/models", pool.queen.url))).await;
    assert_eq!(models.refused().0, 401);

    // Two pictures are one job of the limit, by either way to say who one is.
    let two = with(prompt(), "n", 2).to_string();
    let basic = sent(send(GENERATIONS, two.clone()).basic_auth("alice", Some(&token))).await;
    assert_eq!(basic.json()["data"].as_array().map(Vec::len), Some(2), "{basic:?}");
    let large = sent(send(GENERATIONS, "x".repeat(200 << 10)).bearer_auth(&token)).await;
    assert_eq!((large.status, large.refused().1.as_str()), (413, "payload_too_large"));
    let third = sent(send(GENERATIONS, two).bearer_auth(&token)).await;
    assert_eq!((third.status, third.refused().1.as_str()), (429, "rate_limit_exceeded"));
    assert_eq!(third.header("x-should-retry"), "true");
    assert!(third.header("retry-after").parse::<u32>().unwrap() > 0);

    let get =
        |path: &str| reqwest::Client::new().get(format!("{}{path}", pool.queen.url)).bearer_auth(&token);
    for _ in 0..5 {
        assert_eq!(sent(get("/v1/models")).await.status, 200, "asking is no job");
    }
    assert_eq!(sent(get("/v1/images/nosuch")).await.refused().0, 404);
    assert_eq!(sent(get(GENERATIONS)).await.refused().0, 405);
    let ours = sent(get("/v1/nosuch")).await;
    assert_eq!(ours.json()["error"]["retryable"], Value::Bool(false), "our own form elsewhere");
}

#[tokio::test]
async fn variations_are_not_there_and_a_ping_is_answered() {
    let pool = Pool::start(&[]);
    let variations = pool.post("/v1/images/variations", &json!({})).await;
    let (status, _, _, message) = variations.refused();
    assert!(status == 404 && message.contains("/v1/images/edits"), "{message}");
    let ping =
        reqwest::Client::new().request(reqwest::Method::OPTIONS, format!("{}{GENERATIONS}", pool.queen.url));
    assert_eq!(sent(ping).await.status, 204);
}
