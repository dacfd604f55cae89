//! Bodies that known programs send, word for word (their sources say so), and what those programs read of the answer.

use image::RgbImage;
use serde_json::{Value, json};

use super::{EDITS, FAST, GENERATIONS, Pool, form, form_request, png, sent};

/// The names that are built into these programs.
const NAMES: [&str; 4] = ["--model-alias", "gpt-image-1=sim,dall-e-2=sim", "--model-alias", "dall-e-3=sim"];

fn has_pictures(said: &Value, number: usize) {
    let data = said["data"].as_array().unwrap_or_else(|| panic!("{said}"));
    assert_eq!(data.len(), number);
    for entry in data {
        // Open WebUI takes `url` before `b64_json`, and refuses addresses of private networks.
        assert!(entry["url"].is_null() && entry["b64_json"].is_string(), "{entry}");
    }
}

#[tokio::test]
async fn open_webui_draws() {
    let (pool, _worker) = Pool::with_worker(&NAMES, FAST).await;
    // routers/images.py of 0.12.4: with a size, with `auto`, and with the parameters of its settings.
    for body in [
        json!({"model": "dall-e-3", "prompt": "a cat", "n": 1, "size": "512x512", "response_format": "b64_json"}),
        json!({"model": "gpt-image-1", "prompt": "a cat", "n": 1, "size": "auto"}),
        json!({"model": "sim", "prompt": "a cat", "n": 2, "size": "64x64", "response_format": "b64_json",
            "steps": 2, "negative_prompt": "dog"}),
    ] {
        let answer = pool.generate(&body).await;
        assert_eq!(answer.status, 200, "{answer:?}");
        has_pictures(&answer.json(), body["n"].as_u64().unwrap() as usize);
    }
    // An edit: a form with `image` for one picture.
    let picture = png(RgbImage::new(64, 64));
    for name in ["image", "image[]"] {
        let body = form(&[
            ("model", None, b"gpt-image-1"),
            ("prompt", None, b"a dog"),
            ("n", None, b"1"),
            ("background", None, b"auto"),
            ("response_format", None, b"b64_json"),
            (name, Some("image.png"), &picture),
        ]);
        has_pictures(&sent(form_request(&pool.queen, EDITS, body)).await.json(), 1);
    }
}

#[tokio::test]
async fn librechat_draws_and_edits() {
    let (pool, _worker) = Pool::with_worker(&NAMES, FAST).await;
    // OpenAIImageTools.js.
    let body = json!({"model": "gpt-image-1", "prompt": "a cat", "n": 1, "background": "auto",
        "output_format": "png", "output_compression": 100, "quality": "auto", "size": "auto"});
    let answer = pool.generate(&body).await;
    has_pictures(&answer.json(), 1);
    assert_eq!(answer.header("x-ignored-fields"), "");
    let picture = png(RgbImage::new(64, 64));
    let body = form(&[
        ("model", None, b"gpt-image-1"),
        ("prompt", None, b"a dog"),
        ("quality", None, b"auto"),
        ("size", None, b"auto"),
        ("image[]", Some("image_0.png"), &picture),
    ]);
    has_pictures(&sent(form_request(&pool.queen, EDITS, body)).await.json(), 1);
}

#[tokio::test]
async fn litellm_draws_and_edits() {
    let (pool, _worker) = Pool::with_worker(&NAMES, FAST).await;
    let body = json!({"model": "gpt-image-1", "prompt": "a cat", "n": 1, "quality": "low", "size": "1024x1024",
        "background": "opaque", "moderation": "low", "output_format": "webp", "output_compression": 90, "user": "u",
        "steps": 2});
    has_pictures(&pool.generate(&body).await.json(), 1);
    let picture = png(RgbImage::new(64, 64));
    let body = form(&[
        ("model", None, b"sim"),
        ("prompt", None, b"a dog"),
        ("image[]", Some("image.png"), &picture),
        ("mask[]", Some("mask.png"), &picture),
    ]);
    has_pictures(&sent(form_request(&pool.queen, EDITS, body)).await.json(), 1);
}

#[tokio::test]
async fn n8n_draws_with_the_names_that_it_lists() {
    let (pool, _worker) = Pool::with_worker(&NAMES, FAST).await;
    // Its list has only names that begin like this.
    let (_, models) = pool.queen.get("/v1/models").await;
    let dall = |model: &&Value| model["id"].as_str().unwrap().starts_with("dall-");
    assert_eq!(models["data"].as_array().unwrap().iter().filter(dall).count(), 2);
    let body = json!({"prompt": "a cat", "model": "dall-e-2", "n": 1, "quality": "standard", "size": "256x256",
        "style": "vivid", "response_format": "b64_json"});
    has_pictures(&pool.generate(&body).await.json(), 1);
}

#[tokio::test]
async fn sillytavern_finds_the_door_and_its_models() {
    // Its source of stable-diffusion.cpp asks so whether somebody is there, and then for the models.
    let (pool, _worker) = Pool::with_worker(&NAMES, FAST).await;
    let url = format!("{}{GENERATIONS}", pool.queen.url);
    assert!(sent(reqwest::Client::new().request(reqwest::Method::OPTIONS, url)).await.status < 300);
    let (_, models) = pool.queen.get("/v1/models").await;
    assert!(models["data"].as_array().unwrap().iter().all(|model| model["id"].is_string()), "{models}");
}
