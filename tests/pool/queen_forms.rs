//! Forms that people send, to queen and to a worker: what is the same as nothing, what is the same job, and what is refused,
//! by which code and before anything is promised.

use std::time::Duration;

use crate::support::{
    fake_durable::DurablePool,
    fake_pool::{Pool, generation, with},
    nats::NatsServer,
    queen::{QueenProcess, types},
    worker::PATIENCE,
};
use serde_json::{Value, json};

/// The body with more fields.
fn and(mut body: Value, more: Value) -> Value {
    for (name, value) in more.as_object().unwrap() {
        body[name] = value.clone();
    }
    body
}

fn nothing(value: &Value) -> Value {
    let fields = [
        "model",
        "negative_prompt",
        "steps",
        "guidance_scale",
        "seed",
        "loras",
        "worker_id",
        "hive_id",
        "n",
        "scheduler",
        "output",
        "prompt_syntax",
        "clip_skip",
        "preview_every",
        "stream",
        "deadline_ms",
        "webhook_url",
        "webhook_events",
        "width",
        "height",
        "guidance_interval",
        "guidance_rescale",
    ];
    Value::Object(fields.iter().map(|field| ((*field).to_owned(), value.clone())).collect())
}

/// Whether an answer that is no success has the form of `schemas/error.json`.
pub fn is_an_error(body: &Value) {
    let file = concat!(env!("CARGO_MANIFEST_DIR"), "/schemas/error.json");
    let text = std::fs::read_to_string(file).unwrap();
    let validator = jsonschema::draft202012::new(&serde_json::from_str(&text).unwrap()).unwrap();
    assert!(validator.is_valid(body), "{body}: {:?}", validator.validate(body));
}

#[tokio::test]
async fn null_and_empty_texts_are_nothing_and_a_default_that_is_spelt_out_is_the_same_job() {
    let pool = Pool::start(&[]).await;
    let mut worker = pool.worker("w", &["m"]).await;
    let body = with(generation(), "job_id", "mine");
    assert_eq!(pool.queen.submit(&body).await, "mine");
    let mut job = worker.job().await;
    job.accept().await;
    for more in [
        nothing(&Value::Null),
        nothing(&json!("")),
        json!({"seed": -1, "n": 1.0, "output": {"format": "png", "quality": null}, "stream": true}),
    ] {
        assert_eq!(pool.queen.submit(&and(body.clone(), more)).await, "mine");
    }
    assert!(worker.gets_nothing(Duration::from_millis(300)).await, "it is one job");
    assert_eq!(pool.queen.post(&with(body, "n", 2)).await.0, 400);
    // A job id that is empty is none, and what is sent on is the same for every version of a worker.
    let spelt = json!({"job_id": "", "n": 1, "negative_prompt": "", "webhook_url": "", "steps": 4.0});
    let id = pool.queen.submit(&and(generation(), spelt)).await;
    let sent: Value = serde_json::from_slice(&worker.job().await.body).unwrap();
    let kept: Vec<_> = sent.as_object().unwrap().keys().map(String::as_str).collect();
    assert_eq!(kept, ["job_id", "operation", "prompt", "seed", "steps"], "{sent}");
    assert_eq!((&sent["job_id"], &sent["steps"]), (&json!(id), &json!(4)));
    let marked = format!("\u{feff}{}", generation());
    assert_eq!(pool.queen.post_text(marked).await.0, 200, "a byte order mark");
}

#[tokio::test]
async fn what_would_come_to_nothing_is_refused_before_anybody_is_asked() {
    let pool = Pool::start(&[]).await;
    let mut worker = pool.worker("w", &["m"]).await;
    let picture = |text: &str| json!({"operation": "image_transform", "prompt": "a", "init_image": text});
    let ask = |more: Value| and(generation(), more);
    for (body, status, code, parts) in [
        (
            ask(json!({"scheduler": "Euler a"})),
            400,
            "invalid_request",
            ["`scheduler`", "did you mean `euler_a`?"],
        ),
        (
            ask(json!({"scheduler": "restart"})),
            400,
            "invalid_request",
            ["there is no `restart`", "dpmpp_2m_karras"],
        ),
        (ask(json!({"webhook_url": "https://x"})), 400, "invalid_request", ["`webhook_url`", "no webhooks"]),
        (
            ask(json!({"webhook_events": ["complete"]})),
            400,
            "invalid_request",
            ["`webhook_events`", "no webhooks"],
        ),
        (picture("http://example.org/a.png"), 400, "image_invalid", ["`init_image`", "an address"]),
        (picture("AAAAA"), 400, "image_invalid", ["`init_image`", "cut off"]),
        (picture(&"!".repeat(100 << 10)), 400, "image_invalid", ["`init_image`", "not base64"]),
        (ask(json!({"steps": "20"})), 400, "invalid_request", ["`steps`", "write it without quotes"]),
        (ask(json!({"loras": ["ink"]})), 400, "invalid_request", ["`loras[0]`", "the fields path, strength"]),
    ] {
        let (answered, answer) = pool.queen.post(&body).await;
        assert_eq!((answered, &answer["error"]["code"]), (status, &json!(code)), "{answer}");
        let message = answer["error"]["message"].as_str().unwrap();
        assert!(parts.iter().all(|part| message.contains(part)), "{message}");
        for rust in ["u32", "u64", "f64", "struct", "invalid type", "variant", "expected"] {
            assert!(!message.contains(rust), "{message}");
        }
        is_an_error(&answer);
    }
    assert!(worker.gets_nothing(Duration::from_millis(300)).await);
    // Base64 as people make it is taken, in a message and through the store.
    for bytes in [30, 90 << 10] {
        let text = base64::Engine::encode(&base64::engine::general_purpose::STANDARD, vec![7; bytes]);
        let lines: Vec<&str> =
            text.as_bytes().chunks(76).map(|line| std::str::from_utf8(line).unwrap()).collect();
        let (answered, answer) = pool.queen.post(&picture(lines.join("\r\n").trim_end_matches('='))).await;
        assert_eq!(answered, 200, "{answer}");
    }
}

#[tokio::test]
async fn a_scheduler_of_a_later_worker_is_taken() {
    let pool = DurablePool::start().await;
    let queen = pool.queen(&["--models", "m"]);
    let body = with(generation(), "scheduler", "later");
    assert_eq!(queen.post(&body).await.0, 400);
    let id = sd_worker_rbee::contract::WorkerId::new("w").unwrap();
    let info = crate::support::fake_worker::info(&id, &["m"]);
    let info = sd_worker_rbee::contract::WorkerInfo { schedulers: vec!["later".into()], ..info };
    let beat = serde_json::to_vec(&info).unwrap();
    pool.client.publish(pool.subjects.heartbeat(&id), beat.into()).await.unwrap();
    pool.client.flush().await.unwrap();
    let until = tokio::time::Instant::now() + PATIENCE;
    while queen.post(&body).await.0 != 200 {
        assert!(tokio::time::Instant::now() < until);
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

#[tokio::test]
async fn every_refusal_has_a_code_that_says_what_it_is() {
    let folder = tempfile::TempDir::new().unwrap();
    let file = folder.path().join("tokens");
    std::fs::write(&file, format!("a:sha256:{}\n", "0".repeat(64))).unwrap();
    let guarded = Pool::start(&["--token-file", file.to_str().unwrap()]).await;
    let pool = Pool::start(&[]).await;
    let mut worker = pool.worker("w", &["m"]).await;
    let id = pool.queen.submit(&generation()).await;
    let mut job = worker.job().await;
    job.accept().await;
    job.complete().await;
    assert_eq!(types(&pool.queen.stream(&id).await).last().unwrap(), "[DONE]");

    let client = reqwest::Client::new();
    let (own, jobs) = (&pool.queen.url, format!("{}/v1/jobs", pool.queen.url));
    let latin = || client.post(&jobs).header("content-type", "application/json; charset=iso-8859-1");
    let anew = client.get(format!("{jobs}/{id}/stream")).header("last-event-id", "");
    assert!(
        anew.send().await.unwrap().text().await.unwrap().starts_with("id: 0\n"),
        "an empty number is none"
    );
    let cases = [
        (client.get(format!("{}/v1/workers", guarded.queen.url)), 401, "unauthorized", "--token"),
        (
            client.get(format!("{}/v1/workers", guarded.queen.url)).bearer_auth("x"),
            401,
            "unauthorized",
            "does not know the token",
        ),
        (client.get(format!("{own}/nowhere")), 404, "not_found", "endpoint"),
        (client.get(format!("{jobs}/nobody")), 404, "not_found", "`nobody`"),
        (client.get(format!("{jobs}/{id}/images/7")), 404, "not_found", "none of index 7"),
        (client.get(format!("{jobs}/%ff")), 400, "invalid_request", "UTF-8"),
        (client.get(format!("{jobs}/a%20b/stream")), 400, "invalid_request", "`job_id`"),
        (
            client.get(format!("{jobs}/{id}/stream")).header("last-event-id", "x"),
            400,
            "invalid_request",
            "`Last-Event-ID`",
        ),
        (client.put(&jobs), 405, "method_not_allowed", "method"),
        (client.delete(format!("{jobs}/{id}")), 409, "conflict", "has ended"),
        (latin().body(b"{\"prompt\":\"caf\xe9\"}".to_vec()), 415, "unsupported_media_type", "iso-8859-1"),
        (
            client.post(&jobs).header("content-encoding", "gzip").body("x"),
            415,
            "unsupported_media_type",
            "gzip",
        ),
        (client.post(&jobs).body(b"{\"prompt\":\"caf\xe9\"}".to_vec()), 400, "invalid_request", "Latin-1"),
        (client.post(&jobs).body("model=m"), 400, "invalid_request", "not JSON"),
        (client.get(format!("{own}/v1/dead-letters")), 501, "not_durable", "--core"),
    ];
    for (request, status, code, part) in cases {
        let answer = request.send().await.unwrap();
        assert_eq!(answer.headers()["content-type"], "application/json");
        let answered = answer.status().as_u16();
        let body: Value = answer.json().await.unwrap();
        assert_eq!((answered, &body["error"]["code"]), (status, &json!(code)), "{body}");
        assert!(body["error"]["message"].as_str().unwrap().contains(part), "{body}");
        is_an_error(&body);
    }
}

#[tokio::test]
async fn without_jetstream_dead_letters_say_so() {
    let (server, folder) = (NatsServer::start_plain(), tempfile::TempDir::new().unwrap());
    let queen = QueenProcess::start(&server.url(), "p", folder.path().to_str().unwrap(), &[]);
    let (status, body) = queen.get("/v1/dead-letters").await;
    assert_eq!((status, &body["error"]["code"]), (501, &json!("not_durable")), "{body}");
    assert!(body["error"]["message"].as_str().unwrap().contains("no JetStream"), "{body}");
    assert_eq!(queen.get("/v1/dead-letters?limit=x").await.0, 400);
}

#[tokio::test]
async fn the_log_has_a_line_for_each_job_accepted_and_ended_and_nothing_of_what_it_asks_for() {
    let prompt = "a secret prompt";
    let ask =
        |id: &str| json!({"operation": "image_generation", "prompt": prompt, "job_id": id, "model": "m"});
    let says = async |queen: &QueenProcess, id: &str, words: [&str; 2]| {
        let until = tokio::time::Instant::now() + PATIENCE;
        let has = |line: &str| {
            line.contains(&format!("job_id={id}")) && words.iter().all(|word| line.contains(word))
        };
        while !queen.log().lines().any(has) {
            assert!(tokio::time::Instant::now() < until, "{id} {words:?}:\n{}", queen.log());
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    let core = Pool::start(&[]).await;
    let mut worker = core.worker("w", &["m"]).await;
    core.queen.submit(&ask("one")).await;
    let mut job = worker.job().await;
    job.accept().await;
    job.complete().await;
    says(&core.queen, "one", ["a job is accepted", "model=\"m\""]).await;
    says(&core.queen, "one", ["a job has ended", "end=\"complete\""]).await;

    let durable = DurablePool::start().await;
    let queen = durable.queen(&["--models", "m"]);
    queen.submit(&ask("two")).await;
    queen.submit(&ask("two")).await;
    says(&queen, "two", ["a job is accepted", "model=\"m\""]).await;
    let worker = durable.worker("w", "m").await;
    let mut job = worker.job().await;
    job.accept().await;
    job.complete().await;
    // Nobody reads its stream.
    says(&queen, "two", ["a job has ended", "end=\"complete\""]).await;
    queen.submit(&ask("three")).await;
    assert_eq!(queen.delete("/v1/jobs/three").await.0, 202);
    says(&queen, "three", ["a job has ended", "end=\"cancelled\""]).await;
    assert_eq!(queen.log().matches("a job is accepted").count(), 2, "{}", queen.log());
    assert!(!(core.queen.log() + &queen.log()).contains(prompt));
}

#[tokio::test]
async fn the_stream_of_a_job_that_nobody_can_take_says_so_at_once() {
    let pool = DurablePool::start().await;
    let queen = pool.queen(&["--models", "m"]);
    let id = queen.submit(&generation()).await;
    let mut answer = reqwest::get(format!("{}/v1/jobs/{id}/stream", queen.url)).await.unwrap();
    assert_eq!(answer.headers()["x-accel-buffering"], "no");
    assert_eq!(answer.headers()["cache-control"], "no-cache, no-transform");
    let first = tokio::time::timeout(Duration::from_secs(2), answer.chunk()).await.expect("at once");
    let first = String::from_utf8(first.unwrap().unwrap().to_vec()).unwrap();
    let queued: Value = serde_json::from_str(first.trim().strip_prefix("data: ").unwrap()).unwrap();
    assert_eq!((&queued["type"], &queued["job_id"]), (&json!("queued"), &json!(id)));
    let reason = queued["reason"].as_str().unwrap();
    assert!(reason.starts_with("no worker that is up") && reason.ends_with("`m`"), "{reason}");
    let worker = pool.worker("w", "m").await;
    let mut job = worker.job().await;
    job.accept().await;
    job.complete().await;
    assert_eq!(types(&queen.stream(&id).await), ["accepted", "complete", "[DONE]"]);
}

#[tokio::test]
async fn a_client_is_told_no_path_of_the_server() {
    let pool = Pool::start(&[]).await;
    let mut worker = pool.worker("w", &["m"]).await;
    let id = pool.queen.submit(&generation()).await;
    let mut job = worker.job().await;
    job.accept().await;
    let location = pool.store.location().to_owned();
    let folder = location.strip_prefix("file://").unwrap_or(&location);
    // What is no file cannot be read, not even by root.
    std::fs::create_dir_all(format!("{folder}/jobs/{id}/0.png/x")).unwrap();
    job.complete().await;
    assert_eq!(types(&pool.queen.stream(&id).await), ["accepted", "complete", "[DONE]"]);
    let (status, body) = pool.queen.get(&format!("/v1/jobs/{id}/images/0")).await;
    assert!(status >= 400, "{body}");
    assert!(!body.to_string().contains(folder), "{body}");
    let text =
        reqwest::get(format!("{}/v1/jobs/{id}/stream", pool.queen.url)).await.unwrap().text().await.unwrap();
    assert!(
        text.contains("the picture is stored, but could not be read") && !text.contains(folder),
        "{text}"
    );
    std::fs::remove_dir_all(folder).unwrap();
    std::fs::write(folder, "no folder").unwrap();
    for path in ["/v1/jobs/nobody".to_owned(), format!("/v1/jobs/{id}/images/0")] {
        let (_, body) = pool.queen.get(&path).await;
        assert!(!body.to_string().contains(folder), "{path}: {body}");
    }
}
