//! A1111's door: requests of known programs, word for word, what each client sees of its own calls, and what is refused.

use std::time::{Duration, Instant};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use serde_json::{Value, json};

use super::{Answer, FAST, Pool, png, request, sent, tokens};

/// Five steps a second.
const SLOW: &str = "sim=sim://?step_ms=200&size=64";
const TXT2IMG: &str = "/sdapi/v1/txt2img";
const IMG2IMG: &str = "/sdapi/v1/img2img";

/// The pictures of an answer, and what `info` says.
#[track_caller]
fn drawn(answer: &Answer) -> (Vec<image::DynamicImage>, Value) {
    let body = answer.json();
    assert_eq!(answer.status, 200, "{body}");
    let images = body["images"].as_array().unwrap_or_else(|| panic!("{body}"));
    let picture = |image: &Value| {
        let bytes = STANDARD.decode(image.as_str().unwrap()).expect("base64 without a prefix");
        image::load_from_memory(&bytes).unwrap()
    };
    let info = serde_json::from_str(body["info"].as_str().expect("info is a text")).expect("with JSON in it");
    (images.iter().map(picture).collect(), info)
}

async fn get(pool: &Pool, path: &str) -> Value {
    let (status, body) = pool.queen.get(&format!("/sdapi/v1/{path}")).await;
    assert_eq!(status, 200, "{path}: {body}");
    body
}

#[tokio::test]
async fn open_webui_draws_and_sets_its_model_by_sending_all_options_back() {
    let (pool, _worker) = Pool::with_worker(&["--model-alias", "other=sim"], FAST).await;
    let mut options = get(&pool, "options").await;
    assert_eq!(options["sd_model_checkpoint"], "sim");
    let models = get(&pool, "sd-models").await;
    let titles: Vec<_> = models.as_array().unwrap().iter().map(|model| model["title"].clone()).collect();
    assert_eq!(titles, ["sim", "other"]);
    assert!(models[0]["model_name"] == "sim" && models[0].get("config").is_some());
    options["sd_model_checkpoint"] = json!("other");
    assert_eq!(pool.post("/sdapi/v1/options", &options).await.text, "null");
    assert_eq!(get(&pool, "options").await["sd_model_checkpoint"], "other");
    let body = json!({"prompt": "a red circle", "negative_prompt": "fog", "batch_size": 2, "width": 64, "height": 72, "steps": 4});
    let (images, info) = drawn(&pool.post(TXT2IMG, &body).await);
    assert_eq!(images.iter().map(|image| (image.width(), image.height())).collect::<Vec<_>>(), [(64, 72); 2]);
    assert_eq!((&info["sd_model_name"], &info["steps"]), (&json!("sim"), &json!(4.0)));
}

#[tokio::test]
async fn librechat_draws_and_reads_what_was_drawn() {
    let (pool, _worker) = Pool::with_worker(&[], FAST).await;
    let body = json!({"prompt": "a red circle", "negative_prompt": "fog", "cfg_scale": 4.5, "steps": 22, "width": 1024, "height": 1024});
    let answer = pool.post(TXT2IMG, &body).await;
    assert!(answer.text.starts_with("{\"images\":[\"iVBOR"), "{}", &answer.text[..40]);
    let (_, info) = drawn(&answer);
    assert_eq!((&info["width"], &info["height"]), (&json!(1024), &json!(1024)));
    assert!(
        info["infotexts"][0].as_str().unwrap().starts_with("a red circle\nNegative prompt: fog\nSteps: 22"),
        "{info}"
    );
    assert!(info["seed"].is_u64());
}

#[tokio::test]
async fn sillytavern_draws_with_everything_that_it_always_sends() {
    let (pool, _worker) = Pool::with_worker(&[], FAST).await;
    for list in
        ["samplers", "schedulers", "sd-models", "upscalers", "latent-upscale-modes", "sd-vae", "sd-modules"]
    {
        assert!(get(&pool, list).await.is_array(), "{list}");
    }
    assert!(
        get(&pool, "options").await.get("forge_preset").is_none(),
        "it would be taken for another program"
    );
    let body = json!({
        "url": "http://localhost:7833", "auth": "me:a-secret-of-mine", "prompt": "a red circle", "negative_prompt": "",
        "sampler_name": "Euler a", "scheduler": "automatic", "steps": 4, "cfg_scale": 7, "width": 64, "height": 64,
        "restore_faces": false, "enable_hr": false, "hr_upscaler": "Latent", "hr_scale": 1, "hr_additional_modules": [],
        "denoising_strength": 0.7, "hr_second_pass_steps": 0, "clip_skip": 1, "seed": 9,
        "override_settings": {"CLIP_stop_at_last_layers": 1, "sd_vae": "Automatic"}, "override_settings_restore_afterwards": true,
        "do_not_save_grid": true, "do_not_save_samples": true, "save_images": false, "send_images": true,
    });
    let answer = pool.post(TXT2IMG, &body).await;
    let (images, info) = drawn(&answer);
    assert_eq!((images.len(), &info["seed"], &info["clip_skip"]), (1, &json!(9), &json!(1)));
    assert_eq!(answer.header("x-ignored-fields"), "auth, url");
    assert!(!answer.text.contains("a-secret-of-mine") && !pool.queen.log().contains("a-secret-of-mine"));
    // Its source "stable-diffusion.cpp server" names the model in the body, and LoRAs beside the prompt.
    let body = json!({"model": "sim", "prompt": "a", "steps": 2, "width": 64, "height": 64, "clip_skip": -1, "lora": []});
    assert_eq!(drawn(&pool.post(TXT2IMG, &body).await).0.len(), 1);
}

#[tokio::test]
async fn a_plugin_sends_its_settings_too_and_reads_the_seed_out_of_the_picture() {
    let (pool, _worker) = Pool::with_worker(&[], FAST).await;
    let start = STANDARD.encode(png(image::RgbImage::new(96, 64)));
    let body = json!({"init_images": [format!("data:image/png;base64,{start}")], "prompt": "a", "steps": 4, "seed": 5,
        "width": 64, "height": 64, "resize_mode": 1, "plugin_settings": {"theme": "dark"}, "selection": [1, 2]});
    let answer = pool.post(IMG2IMG, &body).await;
    let (images, _) = drawn(&answer);
    assert_eq!((images[0].width(), images[0].height()), (64, 64), "the size that was asked for");
    let body = answer.json();
    assert_eq!((&body["parameters"]["init_images"], &body["parameters"]["seed"]), (&Value::Null, &json!(5)));
    let said = pool.post("/sdapi/v1/png-info", &json!({"image": body["images"][0]})).await.json();
    assert_eq!((&said["parameters"]["Seed"], &said["parameters"]["Prompt"]), (&json!("5"), &json!("a")));
    assert_eq!(said["info"], said["items"]["parameters"]);
    let nothing = pool.post("/sdapi/v1/png-info", &json!({"image": start})).await.json();
    assert_eq!((&nothing["info"], &nothing["items"]), (&json!(""), &json!({})));
}

#[tokio::test]
async fn what_a_mask_keeps_comes_back_and_the_part_around_it_is_drawn_alone() {
    let (pool, _worker) = Pool::with_worker(&[], FAST).await;
    let input = image::RgbImage::from_fn(200, 120, |x, y| image::Rgb([x as u8, y as u8, 9]));
    let white = |x: u32, y: u32| (80..110).contains(&x) && (50..70).contains(&y);
    let mask = image::GrayImage::from_fn(200, 120, |x, y| image::Luma([u8::from(white(x, y)) * 255]));
    let body = json!({"init_images": [STANDARD.encode(png(input.clone()))], "mask": STANDARD.encode(png(mask)),
        "prompt": "a", "steps": 2, "mask_blur": 0, "width": 64, "height": 64});
    let (images, info) = drawn(&pool.post(IMG2IMG, &body).await);
    let result = images[0].to_rgb8();
    assert_eq!(result.dimensions(), (200, 120), "a part that is drawn alone comes back into its picture");
    for (x, y, pixel) in result.enumerate_pixels() {
        assert_eq!(white(x, y), pixel != input.get_pixel(x, y), "at {x},{y}");
    }
    assert_eq!(info["warnings"], json!(["inpainting_fill: 0 is drawn as 1 (original)"]));
    assert_eq!(info["extra_generation_params"]["Inpaint area"], "Only masked");
}

#[tokio::test]
async fn each_client_sees_and_interrupts_its_own_calls_alone() {
    let folder = tempfile::TempDir::new().unwrap();
    let (file, alice) = tokens(&folder, "alice");
    let bob = sd_worker_rbee::queen::Issued::new("bob", false).unwrap();
    let both = format!("{}{}\n", std::fs::read_to_string(&file).unwrap(), bob.line);
    std::fs::write(&file, both).unwrap();
    let (pool, _worker) = Pool::with_worker(&["--token-file", &file], SLOW).await;
    let url = |path: &str| format!("{}/sdapi/v1/{path}", pool.queen.url);
    let basic = |token: &str| format!("Basic {}", STANDARD.encode(format!("me:{token}")));
    let progress = async |token: &str| -> Value {
        let asked = reqwest::Client::new().get(url("progress")).header("authorization", basic(token));
        asked.send().await.unwrap().json().await.unwrap()
    };
    let draw = |token: &str, task: &str| {
        let body = json!({"prompt": "a", "steps": 100, "width": 64, "height": 64, "force_task_id": task});
        sent(request(&pool.queen, TXT2IMG).header("authorization", basic(token)).body(body.to_string()))
    };
    let call = draw(&alice, "task(txt2img-ABC1234)");
    let watch = async {
        let until = Instant::now() + Duration::from_secs(30);
        let seen = loop {
            let seen = progress(&alice).await;
            if seen["progress"].as_f64().unwrap() > 0.0 && seen["current_image"].is_string() {
                break seen;
            }
            assert!(Instant::now() < until, "{seen}");
            tokio::time::sleep(Duration::from_millis(50)).await;
        };
        assert_eq!(
            (&seen["state"]["job_count"], &seen["current_task"]),
            (&json!(1), &json!("task(txt2img-ABC1234)"))
        );
        assert!(seen["state"]["job"].as_str().unwrap().starts_with("task-txt2img-ABC1234-"), "{seen}");
        let other = progress(&bob.token).await;
        assert_eq!((&other["state"]["job_count"], &other["progress"]), (&json!(0), &json!(0.0)));
        let interrupt = |token: &str, body: Value| {
            let asked = request(&pool.queen, "/sdapi/v1/interrupt").header("authorization", basic(token));
            sent(asked.body(body.to_string()))
        };
        assert_eq!(interrupt(&bob.token, json!({})).await.text, "{}");
        assert_eq!(interrupt(&alice, json!({"force_task_id": "another"})).await.status, 200);
        tokio::time::sleep(Duration::from_millis(500)).await;
        assert_eq!(progress(&alice).await["state"]["interrupted"], false);
        interrupt(&alice, json!({})).await;
    };
    let (answer, ()) = tokio::join!(call, watch);
    let (images, info) = drawn(&answer);
    assert_eq!((images.len(), &info["infotexts"], &info["prompt"]), (0, &json!([]), &json!("a")));
    assert_eq!(progress(&alice).await["state"]["job_count"], 0);
    // Without a token the answer says how to send one.
    let refused = reqwest::get(url("options")).await.unwrap();
    assert_eq!(refused.status(), 401);
    assert!(refused.headers()["www-authenticate"].to_str().unwrap().starts_with("Basic"));
    assert_eq!(refused.json::<Value>().await.unwrap()["error"], "unauthorized");
}

#[tokio::test]
async fn a_client_that_leaves_takes_its_job_with_it() {
    let (pool, worker) = Pool::with_worker(&[], SLOW).await;
    let body = json!({"prompt": "a", "steps": 140, "width": 64, "height": 64});
    let call = request(&pool.queen, TXT2IMG).timeout(Duration::from_secs(2)).body(body.to_string()).send();
    assert!(call.await.unwrap_err().is_timeout());
    let until = Instant::now() + Duration::from_secs(20);
    while get(&pool, "progress").await["state"]["job_count"] != 0 || !worker.log().contains("cancelled") {
        assert!(Instant::now() < until, "{}", worker.log());
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

#[tokio::test]
async fn what_is_wrong_is_said_in_its_form_by_its_names() {
    let (pool, _worker) = Pool::with_worker(&[], FAST).await;
    let small = json!({"prompt": "a", "steps": 1, "width": 64, "height": 64});
    let with = |more: Value| {
        let mut body = small.clone();
        body.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        body
    };
    for (path, more, status, names) in [
        (TXT2IMG, json!({"enable_hr": true}), 422, "enable_hr"),
        (TXT2IMG, json!({"cfg_scale": 31}), 422, "cfg_scale"),
        (TXT2IMG, json!({"steps": "many"}), 422, "steps"),
        (TXT2IMG, json!({"width": 100}), 422, "width"),
        (TXT2IMG, json!({"n_iter": 100}), 422, "batch_size"),
        (TXT2IMG, json!({"prompt": "a <lora:nosuch:1>"}), 422, "prompt"),
        (IMG2IMG, json!({}), 422, "init_images"),
        (IMG2IMG, json!({"init_images": ["http://127.0.0.1/a.png"]}), 422, "init_images"),
        (IMG2IMG, json!({"init_images": [STANDARD.encode(b"no picture")]}), 422, "init_images"),
        ("/sdapi/v1/extra-single-image", json!({}), 422, "upscaler_1"),
    ] {
        let answer = pool.post(path, &with(more.clone())).await;
        let body = answer.json();
        assert_eq!(answer.status, status, "{more}: {body}");
        assert_eq!(body["detail"][0]["loc"], json!(["body", names]), "{more}: {body}");
        assert!(body["errors"].as_str().unwrap().starts_with(&format!("`{names}`: ")), "{body}");
    }
    for (path, body, status, says) in [
        (TXT2IMG, with(json!({"sampler_name": "DPM fast"})), 400, "Sampler not found"),
        (TXT2IMG, with(json!({"override_settings": {"sd_model_checkpoint": "x"}})), 404, "there are: sim"),
        ("/sdapi/v1/options", json!({"sd_model_checkpoint": "x"}), 404, "there are: sim"),
        ("/sdapi/v1/nosuch", json!({}), 404, "no such endpoint"),
        (TXT2IMG, json!([1]), 422, "must be a JSON object"),
    ] {
        let answer = pool.post(path, &body).await;
        assert_eq!(answer.status, status, "{}", answer.text);
        let said = answer.json();
        assert!(said["errors"].as_str().unwrap().contains(says), "{said}");
        assert!(said.get("detail").is_some() && said.get("error").is_some() && said.get("body").is_some());
    }
}

#[tokio::test]
async fn everything_that_clients_list_is_there_and_asking_for_it_is_no_job() {
    let (pool, _worker) = Pool::with_worker(&["--rate-limit", "0.001", "--rate-burst", "1"], FAST).await;
    for list in [
        "samplers",
        "schedulers",
        "sd-models",
        "loras",
        "upscalers",
        "latent-upscale-modes",
        "sd-vae",
        "sd-modules",
        "hypernetworks",
        "face-restorers",
        "realesrgan-models",
        "prompt-styles",
        "script-info",
        "extensions",
    ] {
        assert!(get(&pool, list).await.is_array(), "{list}");
    }
    for object in ["options", "scripts", "embeddings", "cmd-flags", "memory", "progress"] {
        assert!(get(&pool, object).await.is_object(), "{object}");
    }
    assert_eq!(pool.queen.get("/internal/ping").await, (200, json!({})));
    for _ in 0..3 {
        for post in ["refresh-checkpoints", "refresh-loras", "refresh-vae", "interrupt", "skip", "options"] {
            assert_eq!(pool.post(&format!("/sdapi/v1/{post}"), &json!({})).await.status, 200, "{post}");
        }
    }
    let body = json!({"prompt": "a", "steps": 1, "width": 64, "height": 64});
    assert_eq!(pool.post(TXT2IMG, &body).await.status, 200, "the bucket of jobs is as full as it was");
    assert_eq!(pool.post(TXT2IMG, &body).await.status, 429);
}
