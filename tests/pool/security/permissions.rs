//! `deploy/nats.conf`: every user can do its job with it, and nothing else.

use std::time::Duration;

use async_nats::{
    Client, HeaderMap,
    jetstream::{
        self,
        consumer::{AckPolicy, pull, push},
    },
};
use futures::{FutureExt, StreamExt};
use sd_worker_rbee::{
    bus::{Entry, EventLog, OUTBOX, Sweeper},
    contract::{Capability, ErrorCode, Event, EventKind, JobId, WorkerId, headers},
};
use serde_json::{Value, json};
use tempfile::TempDir;

use super::users::{User, in_no_log, process_of, server, streams};
use crate::support::{
    receiver::{Answer, Receiver},
    worker::{PATIENCE, Read, read},
};

/// Sends a job to queen until it knows of a worker, and waits for its end.
async fn draw(queen: &str, id: &str) -> Value {
    let client = reqwest::Client::new();
    let body = json!({"operation": "image_generation", "prompt": "a", "steps": 2, "job_id": id}).to_string();
    let drawn = async {
        loop {
            let answer =
                client.post(format!("{queen}/v1/jobs")).body(body.clone()).send().await.expect("an answer");
            if answer.status() == 200 {
                break;
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        loop {
            let answer = client.get(format!("{queen}/v1/jobs/{id}")).send().await.expect("an answer");
            let view: Value = answer.json().await.expect("JSON");
            if !["queued", "running"].contains(&view["status"].as_str().expect("a status")) {
                return view;
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    tokio::time::timeout(PATIENCE, drawn).await.expect("an end in time")
}

/// Sends a job until a worker takes it; all events of its replies.
async fn ask(client: &Client, body: &str) -> Vec<Event> {
    let asked = async {
        loop {
            let inbox = client.new_inbox();
            let mut replies = client.subscribe(inbox.clone()).await.expect("an inbox");
            let body = body.to_owned().into();
            client.publish_with_reply("image.generate", inbox, body).await.expect("it is sent");
            let mut events = vec![];
            loop {
                match read(&replies.next().await.expect("a connection")) {
                    Read::Event(event) => events.push(event),
                    Read::NoResponders => break,
                    Read::End
                        if matches!(
                            events[..],
                            [Event { kind: EventKind::Error { code: ErrorCode::Busy, .. }, .. }]
                        ) =>
                    {
                        break;
                    }
                    Read::End => return events,
                }
            }
        }
    };
    tokio::time::timeout(PATIENCE, asked).await.expect("an end in time")
}

#[tokio::test]
async fn a_pool_works_and_nobody_else_reads_its_replies() {
    let server = server();
    streams(&server, "queen").await.ensure().await.expect("queen makes the streams");
    let store = TempDir::new().unwrap();
    let mut worker = process_of(&server, "worker", &store, &["--worker-id", "w"]);
    worker.wait_for_log(" ready ").await;
    let mut second = process_of(&server, "worker", &store, &["--worker-id", "v"]);
    second.wait_for_log(" ready ").await;
    let mut queen = process_of(&server, "queen", &store, &[]);
    let url = queen.url().await;

    // Whoever is not them listens to what they may hear, and to what they try to.
    let mut thief = User::connect(&server, "worker").await;
    let mut client = User::connect(&server, "client").await;
    let mut heard = vec![];
    for subject in ["_INBOX.>", "_INBOX.queen.>", "_INBOX.client.>", "image.*", "events.*", "jobs.>"] {
        heard.push(thief.may_not_subscribe(subject).await);
    }
    for subject in ["_INBOX.>", "_INBOX.queen.>", "_INBOX.worker.>", "image.*", "events.*", "previews.*", ">"]
    {
        heard.push(client.may_not_subscribe(subject).await);
    }

    let view = draw(&url, "by-queen").await;
    assert_eq!(view["status"], "completed", "{view}");
    for command in ["w/drain", "w/resume"] {
        let answer = reqwest::Client::new().post(format!("{url}/v1/workers/{command}")).send().await.unwrap();
        assert_eq!(answer.status(), 200, "{command}");
    }
    let operator = User::connect(&server, "operator").await.client;
    let told = operator.request("worker.v.control", r#"{"command":"status"}"#.into()).await.unwrap();
    assert!(String::from_utf8_lossy(&told.payload).contains(r#""id":"v""#), "{told:?}");

    let events = ask(&client.client, r#"{"prompt":"a","steps":2}"#).await;
    let names: Vec<_> = events.iter().map(|event| event.kind.name()).collect();
    assert_eq!((names.first(), names.last()), (Some(&"accepted"), Some(&"complete")));
    // The worker that such a job comes to first hands it to the other one.
    for _ in 0..8 {
        let events = ask(&client.client, r#"{"prompt":"a","steps":1,"worker_id":"v"}"#).await;
        assert!(events.iter().all(|event| event.worker_id.as_str() == "v"), "{events:?}");
    }

    for subscriber in &mut heard {
        let message = subscriber.next().now_or_never().flatten();
        assert!(message.is_none(), "{message:?}");
    }
    in_no_log(&[&worker, &second, &queen]);
    worker.signal("-TERM");
    assert!(worker.exit().await.success());
    in_no_log(&[&worker]);
}

#[tokio::test]
async fn before_there_are_streams_a_worker_draws_is_seen_and_is_told_to_stop() {
    let server = server();
    let store = TempDir::new().unwrap();
    let mut worker = process_of(&server, "worker", &store, &["--worker-id", "w"]);
    worker.wait_for_log(" ready ").await;
    let operator = User::connect(&server, "operator").await.client;

    let ping = operator.request("$SRV.PING", "".into()).await.unwrap();
    assert!(String::from_utf8_lossy(&ping.payload).contains("sd-worker"), "{ping:?}");

    // A job that another worker has offered again is answered to whoever asked first.
    let first = User::connect(&server, "client").await.client;
    let inbox = first.new_inbox();
    let mut replies = first.subscribe(inbox.clone()).await.unwrap();
    first.flush().await.unwrap();
    let mut map = HeaderMap::new();
    map.insert(headers::JOB_REPLY, inbox.as_str());
    map.insert(headers::JOB_ID, "offered");
    let body = r#"{"prompt":"a","steps":100,"preview_every":1,"job_id":"offered"}"#;
    operator
        .publish_with_reply_and_headers("worker.w.image.generate", operator.new_inbox(), map, body.into())
        .await
        .unwrap();
    let accepted = tokio::time::timeout(PATIENCE, replies.next()).await.unwrap().unwrap();
    assert!(matches!(read(&accepted), Read::Event(Event { kind: EventKind::Accepted { .. }, .. })));
    let answer = operator.request("control.job.offered.cancel", "".into()).await.unwrap();
    assert!(String::from_utf8_lossy(&answer.payload).contains(r#""worker_id":"w""#), "{answer:?}");
    in_no_log(&[&worker]);
}

#[tokio::test]
async fn durable_jobs_go_through_with_the_rights_of_both_sides() {
    let server = server();
    let (queen, worker) = (streams(&server, "queen").await, streams(&server, "worker").await);
    queen.ensure().await.expect("queen makes the streams");
    worker.ensure().await.expect("a worker finds them");
    for (side, model) in [(&queen, "q"), (&worker, "w")] {
        side.ensure_consumer(Capability::Generate, model).await.expect("a consumer");
    }
    Sweeper::new(queen.clone(), PATIENCE).sweep().await.expect("queen sweeps the queue");

    // What a worker does with a durable job: consumer, pull, events, acknowledgement.
    let mut by_worker = User::connect(&server, "worker").await;
    let jetstream = jetstream::new(by_worker.client.clone());
    let stream = jetstream.get_stream_no_info("JOBS").await.unwrap();
    let wanted = pull::Config {
        durable_name: Some("generate-m".into()),
        filter_subject: "jobs.image.generate.m.*".into(),
        ..pull::Config::default()
    };
    let consumer = stream.get_or_create_consumer("generate-m", wanted.clone()).await.expect("a consumer");
    stream.get_or_create_consumer("generate-m", wanted).await.expect("the same consumer");
    let by_queen = User::connect(&server, "queen").await;
    let publisher = jetstream::new(by_queen.client.clone());
    publisher.publish("jobs.image.generate.m.j", "{}".into()).await.unwrap().await.expect("it is stored");
    let mut batch =
        consumer.batch().max_messages(1).expires(Duration::from_secs(5)).messages().await.unwrap();
    let message = batch.next().await.expect("a job").expect("no error");
    message.ack_with(jetstream::AckKind::Progress).await.unwrap();
    message.double_ack().await.expect("it is acknowledged");

    let job = JobId::new("j").unwrap();
    let event = Event {
        job_id: job.clone(),
        worker_id: WorkerId::new("w").unwrap(),
        attempt: 1,
        seq: 0,
        kind: EventKind::Accepted { model: "m".into(), seed: 1, position: 0 },
    };
    let entry = Entry::of(event);
    assert_eq!(worker.last(&job).await.unwrap(), None);
    assert_eq!(worker.in_queue(&job).await.unwrap(), None, "a worker sees whether a job waits under an id");
    let sequence = worker.append(&entry, 0).await.expect("it is stored");
    assert_eq!(queen.last(&job).await.unwrap().map(|last| last.sequence), Some(sequence));

    // What queen does: the events of a job in their order, tickets, and messages removed by number.
    let inbox = by_queen.client.new_inbox();
    let mut events = by_queen.client.subscribe(inbox.clone()).await.unwrap();
    let ordered = push::Config {
        deliver_subject: inbox,
        ack_policy: AckPolicy::None,
        filter_subject: "events.j".into(),
        memory_storage: true,
        ..push::Config::default()
    };
    let consumer = publisher.create_consumer_on_stream(ordered, "EVENTS").await.expect("a consumer");
    let first = tokio::time::timeout(PATIENCE, events.next()).await.unwrap().unwrap();
    assert_eq!(first.subject.as_str(), "events.j");
    let name = consumer.cached_info().name.clone();
    publisher.delete_consumer_from_stream(&name, "EVENTS").await.expect("it is removed");
    let sequence =
        publisher.publish("jobs.image.generate.m.j", "{}".into()).await.unwrap().await.unwrap().sequence;
    let jobs = publisher.get_stream_no_info("JOBS").await.unwrap();
    jobs.get_raw_message(sequence).await.expect("it is read");
    assert!(jobs.delete_message(sequence).await.expect("it is removed"));
    for user in [&mut by_worker.refusals, &mut { by_queen }.refusals] {
        assert_eq!(user.try_recv().ok(), None);
    }
}

#[tokio::test]
async fn queen_posts_webhooks_and_settles_them_with_its_rights() {
    let (server, store, folder) = (server(), TempDir::new().unwrap(), TempDir::new().unwrap());
    let secrets = folder.path().join("secrets");
    std::fs::write(&secrets, "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw").unwrap();
    let receiver = Receiver::start(&[Answer::Status(500)]).await;
    let own = ["--webhook-secret-file", secrets.to_str().unwrap(), "--webhook-allow", "127.0.0.1"];
    let mut queen = process_of(&server, "queen", &store, &[&own[..], &["--models", "m"]].concat());
    let url = queen.url().await;
    let body = json!({"operation": "image_generation", "prompt": "a", "job_id": "told",
        "webhook_url": receiver.url("127.0.0.1")});
    let request = reqwest::Client::new().post(format!("{url}/v1/jobs")).body(body.to_string());
    assert_eq!(request.send().await.unwrap().status(), 200);
    let cancelled = reqwest::Client::new().delete(format!("{url}/v1/jobs/told")).send().await.unwrap();
    assert_eq!(cancelled.status(), 202);
    let got = receiver.wait_for(2, PATIENCE).await;
    assert_eq!((got[0].kind(), &got[0].id), ("job.cancelled", &got[1].id));
    let operator = jetstream::new(User::connect(&server, "operator").await.client);
    let events = operator.get_stream("EVENTS").await.unwrap();
    let until = tokio::time::Instant::now() + PATIENCE;
    while events.consumer_info(OUTBOX).await.unwrap().num_ack_pending > 0 {
        assert!(tokio::time::Instant::now() < until, "it is settled");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    in_no_log(&[&queen]);
}

#[tokio::test]
async fn nobody_does_what_is_anothers() {
    let server = server();
    streams(&server, "queen").await.ensure().await.expect("queen makes the streams");
    let streams_are_changed_by_none = [
        "$JS.API.STREAM.DELETE.JOBS",
        "$JS.API.STREAM.PURGE.EVENTS",
        "$JS.API.STREAM.UPDATE.EVENTS",
        "$JS.API.STREAM.PURGE.DLQ",
        "$JS.API.STREAM.CREATE.MINE",
        "$JS.API.STREAM.SNAPSHOT.JOBS",
        "$JS.API.CONSUMER.DELETE.JOBS.m",
        "$JS.API.STREAM.NAMES",
        "$SYS.REQ.SERVER.PING",
    ];
    let of_the_pool = [
        "events.j",
        "previews.j",
        "dlq.generate.j",
        "queued.j",
        "jobs.image.generate.m.j",
        "worker.w.heartbeat",
    ];
    let answers = ["_INBOX.queen.guessed", "_INBOX.worker.guessed", "$JS.ACK.JOBS.m.1.1.1.1.0"];
    let of_queen =
        ["jobs.image.generate.m.j", "queued.j", "control.job.j.cancel", "worker.w.control", "$SRV.PING"];
    let streams_are_made_by_queen =
        ["$JS.API.STREAM.CREATE.JOBS", "$JS.API.STREAM.MSG.DELETE.JOBS", "$JS.API.STREAM.PURGE.JOBS"];
    let of_workers = [
        "previews.j",
        "worker.w.heartbeat",
        "_INBOX.client.guessed",
        "$SRV.PING",
        "$JS.ACK.JOBS.m.1.1.1.1.0",
    ];

    let mut client = User::connect(&server, "client").await;
    for subject in streams_are_changed_by_none.iter().chain(&of_the_pool).chain(&answers).chain(&[
        "$SRV.PING",
        "worker.w.image.generate",
        "worker.w.control",
    ]) {
        client.may_not_publish(subject).await;
    }
    let mut worker = User::connect(&server, "worker").await;
    for subject in streams_are_changed_by_none.iter().chain(&of_queen).chain(&streams_are_made_by_queen) {
        worker.may_not_publish(subject).await;
    }
    let mut queen = User::connect(&server, "queen").await;
    for subject in streams_are_changed_by_none.iter().chain(&of_workers) {
        queen.may_not_publish(subject).await;
    }
    let mut operator = User::connect(&server, "operator").await;
    let mut jobs =
        jetstream::new(operator.client.clone()).get_stream("JOBS").await.expect("it is still there");
    assert_eq!(jobs.info().await.unwrap().state.messages, 0);
    assert_eq!(operator.refusals.try_recv().ok(), None);
    assert!(!server.log().contains("panic"));
}
