//! One worker and its jobs: events, ids, cancel, deadlines, what it says of itself.

use std::time::Duration;

use futures::StreamExt;
use sd_worker_rbee::contract::{Capability, ErrorCode, EventKind, Limits, WorkerStatus, headers};

use crate::support::worker::{End, PATIENCE, Pool, heartbeat, next_event};

const FAST: &str = "sim://?step_ms=1&size=64";
const SLOW: &str = "sim://?step_ms=50&size=64";

#[tokio::test]
async fn a_job_is_accepted_reported_stored_and_ended() {
    let pool = Pool::new().await;
    let worker = pool.worker("a", "sim://?step_ms=30&size=64", &[]).await;
    let mut public = pool.events("j1").await;
    let mut header = async_nats::HeaderMap::new();
    header.insert(headers::TRACEPARENT, "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01");
    let subject = pool.subjects.image(Capability::Generate);
    let body = r#"{"prompt":"a","steps":20,"seed":7,"n":2,"job_id":"j1"}"#;
    let mut replies = pool.request_on(&subject, body, Some(header)).await;
    let complete = replies.end().await.done();

    let names = replies.names();
    assert_eq!(names.first(), Some(&"accepted"));
    assert!(names[1..names.len() - 1].iter().all(|name| *name == "progress"), "{names:?}");
    // 1.2 s at four a second, the first and the last.
    assert!((3..=8).contains(&(names.len() - 2)), "{names:?}");
    let EventKind::Progress { step, total, percent, .. } = replies.events[names.len() - 2].kind else {
        panic!("{names:?}")
    };
    assert_eq!((step, total, percent), (40, 40, 100.0));
    for (i, event) in (0..).zip(&replies.events) {
        assert_eq!((event.seq, event.attempt, event.worker_id.as_str()), (i, 1, "a"));
        assert_eq!(&next_event(&mut public).await, event);
    }
    for (event, header) in replies.events.iter().zip(&replies.headers) {
        assert_eq!(header.get(headers::JOB_ID).unwrap().as_str(), "j1");
        assert_eq!(header.get(headers::JOB_EVENT).unwrap().as_str(), event.kind.name());
        assert_eq!(header.get(headers::JOB_SEQ).unwrap().as_str(), event.seq.to_string());
        assert_eq!(header.get(headers::WORKER_ID).unwrap().as_str(), worker.id.as_str());
        assert!(header.get(headers::TRACEPARENT).unwrap().as_str().starts_with("00-0af7"));
    }
    assert_eq!(complete.images.iter().map(|image| image.seed).collect::<Vec<_>>(), [7, 8]);
    for image in &complete.images {
        let file = std::fs::read(pool.store.path().join(&image.key)).unwrap();
        assert_eq!(file.len() as u64, image.bytes);
        assert_eq!(image::load_from_memory(&file).unwrap().width(), 64);
    }
    let result: serde_json::Value =
        serde_json::from_slice(&std::fs::read(pool.job_folder("j1").join("result.json")).unwrap()).unwrap();
    assert_eq!(result["event"]["type"], "complete");
}

#[tokio::test]
async fn without_stream_the_end_is_the_only_reply() {
    let pool = Pool::new().await;
    let _worker = pool.worker("a", FAST, &[]).await;
    let body = r#"{"prompt":"a","steps":3,"stream":false}"#;
    let mut replies = pool.generate(body).await;
    replies.end().await.done();
    assert_eq!(replies.names(), ["complete"]);
    // What `nats req` does: the first reply is the result.
    let first = pool.client.request(pool.subjects.image(Capability::Generate), body.into()).await.unwrap();
    assert!(String::from_utf8_lossy(&first.payload).contains(r#""type":"complete""#));
}

#[tokio::test]
async fn previews_go_to_the_requester_and_to_their_own_subject() {
    let pool = Pool::new().await;
    let _worker = pool.worker("a", FAST, &[]).await;
    let mut previews = pool.client.subscribe(format!("{}.previews.p1", pool.prefix)).await.unwrap();
    let mut public = pool.events("p1").await;
    let mut replies = pool.generate(r#"{"prompt":"a","steps":4,"preview_every":2,"job_id":"p1"}"#).await;
    replies.end().await.done();
    let EventKind::Preview { image, step: 2, .. } = &next_event(&mut previews).await.kind else { panic!() };
    let jpeg = base64::Engine::decode(&base64::engine::general_purpose::STANDARD, image).unwrap();
    assert_eq!(image::guess_format(&jpeg).unwrap(), image::ImageFormat::Jpeg);
    assert!(replies.names().contains(&"preview"));
    loop {
        let event = next_event(&mut public).await;
        assert_ne!(event.kind.name(), "preview");
        if event.kind.is_terminal() {
            break;
        }
    }
}

#[tokio::test]
async fn a_job_without_a_reader_is_done_and_published() {
    let pool = Pool::new().await;
    let _worker = pool.worker("a", FAST, &[]).await;
    let subject = pool.subjects.image(Capability::Generate);
    let mut public = pool.events("quiet").await;
    let body = r#"{"prompt":"a","steps":2,"job_id":"quiet"}"#;
    pool.client.publish(subject.clone(), body.into()).await.unwrap();
    while !next_event(&mut public).await.kind.is_terminal() {}
    assert!(pool.job_folder("quiet").join("result.json").is_file());

    let mut public = pool.events("unread").await;
    let body = r#"{"prompt":"a","steps":2,"job_id":"unread"}"#;
    // The slot is free again, perhaps a moment after its job's last event.
    tokio::time::sleep(Duration::from_millis(100)).await;
    pool.client.publish_with_reply(subject, "_INBOX.nobody.reads", body.into()).await.unwrap();
    while !next_event(&mut public).await.kind.is_terminal() {}
    assert!(pool.job_folder("unread").join("result.json").is_file());
}

#[tokio::test]
async fn the_same_id_is_the_same_job() {
    let pool = Pool::new().await;
    let worker = pool.worker("a", SLOW, &["--slots", "2"]).await;
    let body = r#"{"prompt":"a","steps":20,"job_id":"same"}"#;
    let mut first = pool.generate(body).await;
    first.wait_for("progress").await;
    // While it runs: the second requester reads along, another request is refused.
    let mut second = pool.direct(&worker.id, body).await;
    let other = r#"{"prompt":"b","steps":20,"job_id":"same"}"#;
    let (code, message) = pool.direct(&worker.id, other).await.end().await.failed();
    assert_eq!((code, message.starts_with("`job_id`")), (ErrorCode::InvalidRequest, true), "{message}");
    let done = first.end().await.done();
    assert_eq!(second.end().await.done(), done);
    assert_eq!(second.names()[0], "accepted");
    assert_eq!(second.events.last(), first.events.last());

    // Afterwards: the result is repeated without computing, another request is refused.
    let mut third = pool.generate(body).await;
    assert_eq!(third.end().await.done(), done);
    assert_eq!(third.names(), ["complete"]);
    let (code, message) = pool.generate(other).await.end().await.failed();
    assert_eq!((code, message.starts_with("`job_id`")), (ErrorCode::InvalidRequest, true), "{message}");
}

#[tokio::test]
async fn cancel_stops_the_job_within_a_step_wherever_it_is() {
    let pool = Pool::new().await;
    let _worker = pool.worker("a", "sim://?step_ms=100&size=64", &["--prefetch", "1"]).await;
    let mut running = pool.generate(r#"{"prompt":"a","steps":150,"job_id":"runs"}"#).await;
    running.wait_for("progress").await;
    let mut waiting = pool.generate(r#"{"prompt":"a","steps":150,"job_id":"waits"}"#).await;
    let EventKind::Accepted { position: 1, .. } = waiting.wait_for("accepted").await.kind else { panic!() };

    assert_eq!(pool.cancel("unknown").await, None);
    assert_eq!(pool.cancel("waits").await.as_deref(), Some("a"));
    assert_eq!(waiting.end().await, End::Cancelled);
    let asked = std::time::Instant::now();
    assert_eq!(pool.cancel("runs").await.as_deref(), Some("a"));
    assert_eq!(running.end().await, End::Cancelled);
    assert!(asked.elapsed() < Duration::from_secs(2), "{:?}", asked.elapsed());
    let EventKind::Cancelled { step } = running.events.last().unwrap().kind else { unreachable!() };
    assert!((1..60).contains(&step), "{step}");
    // It has ended: nobody holds it any more.
    assert_eq!(pool.cancel("runs").await, None);
    assert!(!pool.job_folder("runs").exists());
}

#[tokio::test]
async fn prefetch_holds_a_job_ready_and_a_full_worker_says_busy_on_its_own_subject() {
    let pool = Pool::new().await;
    let worker = pool.worker("a", SLOW, &["--prefetch", "1"]).await;
    let body = r#"{"prompt":"a","steps":20}"#;
    let mut first = pool.generate(body).await;
    let position = |kind| match kind {
        EventKind::Accepted { position, .. } => position,
        other => panic!("{other:?}"),
    };
    assert_eq!(position(first.wait_for("accepted").await.kind), 0);
    let mut second = pool.generate(body).await;
    assert_eq!(position(second.wait_for("accepted").await.kind), 1);
    let (code, _) = pool.direct(&worker.id, body).await.end().await.failed();
    assert_eq!(code, ErrorCode::Busy);
    assert_eq!(pool.generate(body).await.end().await, End::NoResponders);
    first.end().await.done();
    second.end().await.done();
    pool.direct(&worker.id, body).await.end().await.done();
}

#[tokio::test]
async fn a_job_past_its_deadline_ends_so_and_the_next_is_done() {
    let pool = Pool::new().await;
    let _worker = pool.worker("a", SLOW, &[]).await;
    let mut replies = pool.generate(r#"{"prompt":"a","steps":150,"deadline_ms":400}"#).await;
    let (code, message) = replies.end().await.failed();
    assert_eq!(code, ErrorCode::DeadlineExceeded, "{message}");
    assert!(!Limits::default().deadline.is_zero());
    pool.insist(r#"{"prompt":"a","steps":1}"#).await.done();
}

#[tokio::test]
async fn a_hive_fits_its_workers_and_localhost_fits_all() {
    let pool = Pool::new().await;
    let _worker = pool.worker("a", FAST, &["--hive-id", "north"]).await;
    for hive in ["north", "localhost"] {
        let body = format!(r#"{{"prompt":"a","steps":1,"hive_id":"{hive}"}}"#);
        pool.generate(body).await.end().await.done();
    }
    let (code, message) =
        pool.generate(r#"{"prompt":"a","steps":1,"hive_id":"south"}"#).await.end().await.failed();
    assert_eq!(code, ErrorCode::InvalidRequest);
    assert!(message.starts_with("`hive_id`") && message.contains("north"), "{message}");
}

#[tokio::test]
async fn a_heartbeat_says_what_there_is_and_follows_the_slots() {
    let pool = Pool::new().await;
    let worker = pool.spawn("hb", SLOW, &["--slots", "2", "--hive-id", "north", "--model", "second=sim://"]);
    let mut beats = pool.heartbeats(&worker.id).await;
    let info = heartbeat(&mut beats, |info| info.free_slots == 2).await;
    assert_eq!((info.id.as_str(), info.model_id.as_str(), info.device.as_str()), ("hb", "sim", "cpu"));
    assert_eq!(
        (info.models, info.slots, info.status),
        (vec!["sim".into(), "second".into()], 2, WorkerStatus::Ready)
    );
    assert_eq!(info.capabilities, Capability::ALL);
    assert_eq!(info.hive_id.unwrap().as_str(), "north");
    assert_eq!(info.implementation, "sd-worker-rbee");
    worker.wait_for_log(" ready ").await;

    let body = r#"{"prompt":"a","steps":40}"#;
    let (mut first, mut second) = (pool.generate(body).await, pool.generate(body).await);
    heartbeat(&mut beats, |info| info.free_slots == 0 && info.status == WorkerStatus::Busy).await;
    first.end().await.done();
    second.end().await.done();
    heartbeat(&mut beats, |info| info.free_slots == 2 && info.status == WorkerStatus::Ready).await;
    // And without any change: every 10 s.
    let silence = tokio::time::timeout(Duration::from_secs(12), beats.next()).await;
    assert!(silence.is_ok(), "no heartbeat in 12 s");
}

#[tokio::test]
async fn discovery_finds_the_worker_and_its_statistics() {
    let pool = Pool::new().await;
    let worker = pool.worker("disco", FAST, &[]).await;
    pool.insist(r#"{"prompt":"a","steps":1}"#).await.done();
    let ask = async |verb: &str| {
        let subject = format!("$SRV.{verb}.sd-worker.{}", worker.id);
        let answer = pool.client.request(subject, "".into()).await.unwrap();
        serde_json::from_slice::<serde_json::Value>(&answer.payload).unwrap()
    };
    let ping = ask("PING").await;
    assert_eq!(
        (&ping["type"], &ping["name"]),
        (&"io.nats.micro.v1.ping_response".into(), &"sd-worker".into())
    );
    let info = ask("INFO").await;
    let subject = pool.subjects.image(Capability::Generate);
    assert_eq!(info["endpoints"][0]["subject"].as_str(), Some(subject.as_str()));
    let stats = ask("STATS").await;
    assert_eq!(stats["endpoints"][0]["num_requests"], 1);
    // async-nats' own types read the answers: they are what the protocol says.
    serde_json::from_value::<async_nats::service::Info>(info).unwrap();
    serde_json::from_value::<async_nats::service::Stats>(stats).unwrap();

    // Everybody answers on the shared subject; other tests' workers do too.
    let inbox = pool.client.new_inbox();
    let mut answers = pool.client.subscribe(inbox.clone()).await.unwrap();
    pool.client.publish_with_reply("$SRV.PING", inbox, "".into()).await.unwrap();
    let found = async {
        while let Some(answer) = answers.next().await {
            if String::from_utf8_lossy(&answer.payload).contains(r#""id":"disco""#) {
                return;
            }
        }
    };
    tokio::time::timeout(PATIENCE, found).await.unwrap();
}

#[tokio::test]
async fn a_lost_picture_is_an_error_that_names_the_key_and_a_failing_model_leaves_the_worker_up() {
    let pool = Pool::new().await;
    let _worker = pool.worker("a", FAST, &["--model", "bad=sim://?step_ms=0&fail=out_of_memory"]).await;
    let (code, _) = pool.generate(r#"{"prompt":"a","model":"bad"}"#).await.end().await.failed();
    assert_eq!(code, ErrorCode::OutOfMemory);
    // A file where the job's folder should be.
    std::fs::create_dir_all(pool.store.path().join("jobs")).unwrap();
    std::fs::write(pool.job_folder("blocked"), "").unwrap();
    let (code, message) =
        pool.generate(r#"{"prompt":"a","steps":1,"job_id":"blocked"}"#).await.end().await.failed();
    assert_eq!(code, ErrorCode::Storage, "{message}");
    assert!(message.contains("jobs/blocked/"), "{message}");
    pool.insist(r#"{"prompt":"a","steps":1}"#).await.done();
}
