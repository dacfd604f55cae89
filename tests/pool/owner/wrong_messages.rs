//! Messages that are none, in the queue and in heartbeats: each costs its sender at most, and no job.

use std::time::{Duration, Instant};

use sd_worker_rbee::contract::{ErrorCode, EventKind};
use serde_json::{Value, json};

use super::{FAST, Owned, SOON, drawing, named, takers};
use crate::support::{wire, worker::PATIENCE};

/// The pool does a job after all that came.
async fn still_works(pool: &Owned) {
    pool.queen.submit(&named(drawing(2), "good")).await;
    pool.draws("good").await;
}

#[tokio::test]
async fn a_body_that_is_no_job_is_an_error_of_its_own_id() {
    let pool = Owned::start(&SOON).await;
    let mut worker = pool.worker("a", FAST, &SOON).await;
    let deep = "[".repeat(100_000);
    let bodies: [&[u8]; 7] = [b"", b"\xff\xfe\0", b"null", b"[]", b"{", b"\"a\"", deep.as_bytes()];
    for (number, body) in bodies.into_iter().enumerate() {
        let id = format!("bad-{number}");
        pool.put_job("generate", &id, body).await;
        let events = pool.end(&id).await;
        let last = &events.last().unwrap().kind;
        assert!(matches!(last, EventKind::Error { code: ErrorCode::InvalidRequest, .. }), "{events:?}");
        assert_eq!(takers(&events).len() + 1, events.len(), "{events:?}");
    }
    pool.is_empty().await;
    still_works(&pool).await;
    assert!(worker.is_running() && !worker.log().contains("panicked"), "{}", worker.log());
}

#[tokio::test]
async fn the_id_of_a_job_is_the_last_token_of_its_subject() {
    let pool = Owned::start(&SOON).await;
    let _worker = pool.worker("a", FAST, &SOON).await;
    pool.put(&pool.job_subject("generate", "plain"), &[], r#"{"prompt":"a","steps":2}"#).await.unwrap();
    pool.draws("plain").await;
    let body = r#"{"prompt":"a","steps":2,"job_id":"twice"}"#;
    pool.put(&pool.job_subject("generate", "twice"), &[("Job-Id", "twice")], body).await.unwrap();
    pool.draws("twice").await;
}

#[tokio::test]
async fn a_message_of_two_ids_is_a_dead_letter_and_touches_neither_job() {
    let pool = Owned::start(&SOON).await;
    let mut worker = pool.worker("a", FAST, &SOON).await;
    pool.queen.submit(&named(drawing(2), "mine")).await;
    let (before, _) = pool.draws("mine").await;
    let cases = [
        ("header", Some("mine"), r#"{"prompt":"another","steps":2}"#),
        ("body", None, r#"{"prompt":"another","steps":2,"job_id":"mine"}"#),
        ("empty", Some("mine"), ""),
        ("garbage", Some("no id at all"), "garbage"),
    ];
    for (number, (id, header, body)) in cases.into_iter().enumerate() {
        let headers: Vec<_> = header.map(|value| ("Job-Id", value)).into_iter().collect();
        pool.put(&pool.job_subject("generate", id), &headers, body).await.unwrap();
        let until = Instant::now() + PATIENCE;
        while pool.dead_letters().await.len() <= number {
            assert!(Instant::now() < until, "no dead letter of `{id}`: {:?}", pool.log(id).await);
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        assert_eq!(pool.log(id).await, [], "`{id}` is no job");
        let (subject, code, reason) = pool.dead_letters().await.pop().unwrap();
        // Under an id of its own: a letter of the job whose id it has stays what it is.
        assert_eq!(code, "invalid_request");
        assert!(
            subject.starts_with(&wire::dead_letter(&pool.pool.prefix, "generate", &format!("{id}-"))),
            "{subject}"
        );
        assert!(reason.contains("Job-Id") || reason.contains("job_id"), "{reason}");
    }
    pool.is_empty().await;
    assert_eq!(pool.log("mine").await, before);
    assert_eq!(pool.draws("mine").await.0, before);
    still_works(&pool).await;
    assert!(worker.is_running() && !worker.log().contains("panicked"), "{}", worker.log());
}

#[tokio::test]
async fn a_subject_whose_last_token_is_no_id_is_set_aside() {
    let pool = Owned::start(&SOON).await;
    let mut worker = pool.worker("a", FAST, &SOON).await;
    let long = "x".repeat(129);
    for token in ["a$b", "caf\u{e9}", "%2e%2e", long.as_str()] {
        pool.put(&pool.job_subject("generate", token), &[], r#"{"prompt":"a","steps":2}"#).await.unwrap();
        pool.is_empty().await;
    }
    assert_eq!(pool.dead_letters().await.len(), 4);
    still_works(&pool).await;
    assert!(worker.is_running() && !worker.log().contains("panicked"), "{}", worker.log());
}

/// A heartbeat as a worker sends it.
fn heartbeat(id: &str) -> Value {
    json!({
        "id": id, "model_id": "sim", "models": ["sim"], "device": "cpu", "status": "ready",
        "capabilities": ["generate"], "slots": 1, "free_slots": 0, "implementation": "t", "version": "9",
        "hive_id": "localhost", "limits": {"max_pixels": 65536, "max_steps": 50, "max_images": 2, "max_input": 1024},
        "loras": {"names": ["x"], "complete": true}, "schedulers": ["euler"], "native_sizes": {"sim": [64, 64]},
        "resident": ["sim"], "jobs_done": 3, "step_ms": 5.5,
    })
}

#[tokio::test]
async fn a_wrong_heartbeat_costs_nobody_anything() {
    let pool = Owned::start(&SOON).await;
    let _worker = pool.worker("a", FAST, &SOON).await;
    let send = |subject: String, body: Vec<u8>| pool.pool.client.publish(subject, body.into());
    let subject = |id: &str| format!("{}.worker.{id}.heartbeat", pool.pool.prefix);
    let (long, many) = ("x".repeat(20_000), vec!["x"; 20_000]);
    let wrong = [
        json!(null),
        json!(-1),
        json!(1e300),
        json!(""),
        json!([]),
        json!({}),
        json!(true),
        json!(long),
        json!(many),
    ];
    let good = heartbeat("wrong");
    for field in good.as_object().unwrap().keys() {
        for value in &wrong {
            let mut body = good.clone();
            body[field] = value.clone();
            send(subject("wrong"), body.to_string().into_bytes()).await.unwrap();
        }
    }
    for body in [&b""[..], b"\xff", b"[]", b"null", b"{}"] {
        // In the real worker's name too: it is still there.
        for id in ["wrong", "a"] {
            send(subject(id), body.to_vec()).await.unwrap();
        }
    }
    // In another's name.
    send(subject("wrong"), heartbeat("a").to_string().into_bytes()).await.unwrap();
    pool.pool.client.flush().await.unwrap();
    let (status, workers) = pool.queen.get("/v1/workers").await;
    assert_eq!(status, 200, "{workers}");
    let real = workers["workers"].as_array().unwrap().iter().find(|worker| worker["id"] == "a");
    assert_ne!(real.expect("it is still there")["version"], "9", "{workers}");
    still_works(&pool).await;
    assert_eq!(pool.queen.get("/health").await.0, 200);
    assert!(!pool.queen.log().contains("panicked"), "{}", pool.queen.log());
}

#[tokio::test]
async fn a_heartbeat_of_a_later_version_is_a_worker() {
    let pool = Owned::start(&SOON).await;
    let mut body = heartbeat("later");
    body["moods"] = json!(["calm", {"of": 2}]);
    body["limits"]["max_moods"] = json!(3);
    let subject = format!("{}.worker.later.heartbeat", pool.pool.prefix);
    pool.pool.client.publish(subject, body.to_string().into()).await.unwrap();
    pool.hears_of("later").await;
}
