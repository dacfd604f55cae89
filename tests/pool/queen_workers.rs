//! Queen beside real workers: who is there, jobs of an earlier version, and what a worker says of forms by itself.

use std::time::Duration;

use super::queen_forms::is_an_error;
use crate::support::{
    fake_durable::DurablePool,
    fake_pool::{generation, with},
    process::free_port,
    queen::QueenProcess,
    worker::{PATIENCE, Pool, WorkerProcess},
};
use sd_worker_rbee::{
    bus::{Entry, EventLog, Sending, request_mark},
    contract::{Capability, Event, EventKind, JobId, Operation, WorkerId},
};
use serde_json::json;

#[tokio::test]
async fn a_new_queen_knows_the_fleet_at_once_and_a_worker_that_has_ended_is_gone_at_once() {
    let pool = Pool::new().await;
    let mut worker = pool.worker("w", "sim://?step_ms=1&size=64", &["--core"]).await;
    // The heartbeats of its start are over: the next would come in 10 s.
    tokio::time::sleep(Duration::from_secs(1)).await;
    let queen =
        QueenProcess::start(&pool.url, &pool.prefix, pool.store.path().to_str().unwrap(), &["--core"]);
    let knows = |number: u32| {
        let queen = &queen;
        async move {
            let begun = tokio::time::Instant::now();
            while queen.get("/health").await.1["workers"] != number {
                assert!(
                    begun.elapsed() < Duration::from_secs(1),
                    "{number}: {:?}",
                    queen.get("/health").await
                );
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        }
    };
    knows(1).await;
    worker.terminate();
    assert!(worker.exit().await.success());
    knows(0).await;
    assert_eq!(queen.get("/v1/workers").await.1, json!({"workers": []}));
    let (status, answer) = queen.post(&generation()).await;
    assert_eq!(status, 503, "{answer}");
    let message = answer["error"]["message"].as_str().unwrap();
    assert!(!message.contains(&pool.url), "the address of NATS is not for clients: {message}");
}

#[tokio::test]
async fn a_job_of_an_earlier_version_goes_on_and_is_the_same_request() {
    let pool = DurablePool::start().await;
    let queen = pool.queen(&["--models", "m"]);
    let id = JobId::new("old").unwrap();
    let asked = json!({"operation": "image_generation", "prompt": "a", "model": "m", "n": 1, "negative_prompt": "",
        "steps": 2, "job_id": "old", "seed": 7});
    let operation = Operation::parse(None, asked.to_string().as_bytes()).unwrap();
    let as_sent = operation.fingerprint_as_sent();
    assert_ne!(as_sent, operation.fingerprint());
    // As the version before put it into the queue; a worker of that version began, and died.
    let sending = Sending {
        owner: None,
        job: id.clone(),
        subject: pool.streams.subject_of_job(Capability::Generate, "m", &id),
        body: operation.to_json().into(),
        after: None,
        lost: None,
        traceparent: None,
    };
    let sent = pool.streams.send_job(&sending).await.unwrap();
    let kind = EventKind::Accepted { model: "m".into(), seed: 7, position: 0 };
    let worker_id = WorkerId::new("before").unwrap();
    let event = Event { job_id: id.clone(), worker_id, attempt: 1, seq: 0, kind };
    let mark = request_mark(&as_sent);
    let entry =
        Entry { failures: 1, queued: Some(sent.sequence), request: Some(mark.clone()), ..Entry::of(event) };
    pool.streams.append(&entry, 0).await.unwrap();

    let store = pool.store.location().to_owned();
    let model = "m=sim://?step_ms=1&size=64";
    let _worker = WorkerProcess::start_with(&pool.url, &pool.prefix, &store, "now", model, &[], vec![]);
    let until = tokio::time::Instant::now() + PATIENCE;
    let last = loop {
        let last = pool.streams.last(&id).await.unwrap().expect("its first event");
        if last.event.kind.is_terminal() {
            break last;
        }
        assert!(tokio::time::Instant::now() < until, "{last:?}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    };
    assert_eq!((last.event.kind.name(), last.event.worker_id.as_str()), ("complete", "now"));
    // What is written of it is what the version before would read.
    assert_eq!(last.request.as_deref(), Some(&*mark));
    let result = pool.store.find_result(&id).await.unwrap().expect("a result");
    assert_eq!(result.fingerprint, as_sent);
    // Sent again it is the same job.
    assert_eq!(queen.submit(&asked).await, "old");
    assert_eq!(queen.post(&with(asked, "n", 2)).await.0, 400);
    assert_eq!(pool.messages("DLQ").await, 0);
}

#[tokio::test]
async fn a_worker_tells_what_it_does_not_do_and_counts_what_it_refuses_over_http() {
    let pool = Pool::new().await;
    let address = format!("127.0.0.1:{}", free_port());
    let loras = tempfile::TempDir::new().unwrap();
    let more = ["--http", &address, "--lora-dir", loras.path().to_str().unwrap()];
    let worker = pool.worker("w", "sim://?step_ms=1&size=64", &more).await;
    let done = pool
        .insist(r#"{"prompt":"a (red:1.3) <lora:ink:1>","steps":1,"seed":-1,"webhook_url":"https://x","loras":null}"#)
        .await
        .done();
    assert_eq!(done.warnings.len(), 2, "{:?}", done.warnings);
    assert!(done.warnings[0].starts_with("`webhook_url`: not used"), "{:?}", done.warnings);
    assert!(
        done.warnings[1].contains("`(red:1.3)`") && done.warnings[1].contains("a1111"),
        "{:?}",
        done.warnings
    );
    let (_, message) =
        pool.direct(&worker.id, r#"{"prompt":"a","scheduler":"Euler a"}"#).await.end().await.failed();
    assert!(message.contains("did you mean `euler_a`?"), "{message}");

    let base = format!("http://{address}");
    let refused = async || {
        let text = reqwest::get(format!("{base}/metrics")).await.unwrap().text().await.unwrap();
        let line = text.lines().find(|line| line.starts_with("sd_worker_refused_total ")).unwrap();
        line.rsplit(' ').next().unwrap().parse::<u64>().unwrap()
    };
    let before = refused().await;
    let bad_picture = json!({"operation": "image_transform", "prompt": "a", "init_image": "no base64!"});
    let bodies = [
        "{".to_owned(),
        with(generation(), "steps", 0).to_string(),
        with(generation(), "scheduler", "Euler a").to_string(),
        with(generation(), "model", "none").to_string(),
        with(generation(), "loras", json!([{"path": "none"}])).to_string(),
        bad_picture.to_string(),
    ];
    for (number, body) in (1..).zip(bodies) {
        let answer = reqwest::Client::new().post(format!("{base}/v1/jobs")).body(body).send().await.unwrap();
        assert!(answer.status().is_client_error());
        is_an_error(&answer.json().await.unwrap());
        assert_eq!(refused().await, before + number);
    }
}
