//! Several workers on one queue group: who takes a job, and that every request gets exactly one end.

use std::{collections::HashMap, time::Duration};

use futures::StreamExt;
use sd_worker_rbee::contract::{Capability, ErrorCode, EventKind};

use crate::support::worker::{End, PATIENCE, Pool, Read, read};

/// Long enough to be still running when the third job comes, short enough not to be waited for.
const JOB: &str = r#"{"prompt":"a","steps":100}"#;

#[tokio::test]
async fn of_three_jobs_two_workers_take_two_and_the_third_succeeds_on_retry() {
    let pool = Pool::new().await;
    let _a = pool.worker("a", "sim://?step_ms=5&size=64", &[]).await;
    let _b = pool.worker("b", "sim://?step_ms=5&size=64", &[]).await;
    let (mut first, mut second, mut third) =
        (pool.generate(JOB).await, pool.generate(JOB).await, pool.generate(JOB).await);
    let took = [
        first.next().await.map(|event| event.worker_id.to_string()),
        second.next().await.map(|event| event.worker_id.to_string()),
        third.next().await.map(|event| event.worker_id.to_string()),
    ];
    let mut workers: Vec<_> = first.events.iter().chain(&second.events).chain(&third.events).collect();
    workers.retain(|event| event.kind.name() == "accepted");
    assert_eq!(workers.len(), 2, "{took:?}");
    assert_ne!(workers[0].worker_id, workers[1].worker_id);

    let mut pictures = 0;
    for mut replies in [first, second, third] {
        let refused = |end: &End| *end == End::NoResponders || matches!(end, End::Failed(ErrorCode::Busy, _));
        let ended = replies.events.last().is_none_or(|event| event.kind.is_terminal());
        let mut end = match (ended, replies.events.last().map(|event| event.kind.clone())) {
            (false, _) => replies.end().await,
            (true, Some(EventKind::Error { code, message, .. })) => End::Failed(code, message),
            (true, _) => End::NoResponders,
        };
        if refused(&end) {
            end = pool.insist(JOB).await;
        }
        pictures += end.done().images.len();
    }
    assert_eq!(pictures, 3);
    assert_eq!(std::fs::read_dir(pool.store.path().join("jobs")).unwrap().count(), 3);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn in_a_flood_every_request_gets_exactly_one_end() {
    const REQUESTS: usize = 2_000;
    let pool = Pool::new().await;
    let mut workers = vec![];
    for id in ["a", "b", "c", "d"] {
        let flags = ["--slots", "2", "--store-url", "memory://"];
        workers.push(pool.worker(id, "sim://?step_ms=1&size=64", &flags).await);
    }
    let inbox = pool.client.new_inbox();
    let mut replies = pool.client.subscribe(format!("{inbox}.*")).await.unwrap();
    let flood = async {
        for number in 0..REQUESTS {
            let body = format!(r#"{{"prompt":"a","steps":3,"seed":{number},"job_id":"flood-{number}"}}"#);
            let subject = pool.subjects.image(Capability::Generate);
            pool.client.publish_with_reply(subject, format!("{inbox}.{number}"), body.into()).await.unwrap();
            // Bursts of eight: now doors are armed, now none is.
            if number % 8 == 7 {
                tokio::time::sleep(Duration::from_millis(4)).await;
            }
        }
    };
    let mut ends: HashMap<usize, Vec<&'static str>> = HashMap::new();
    let mut closed = 0;
    let collect = async {
        while closed < REQUESTS {
            let Ok(message) = tokio::time::timeout(PATIENCE, replies.next()).await else { break };
            let message = message.unwrap();
            let number: usize = message.subject.rsplit('.').next().unwrap().parse().unwrap();
            let end = match read(&message) {
                Read::NoResponders => {
                    closed += 1;
                    "503"
                }
                Read::End => {
                    closed += 1;
                    continue;
                }
                Read::Event(event) => match event.kind {
                    EventKind::Complete(_) => "done",
                    EventKind::Error { code: ErrorCode::Busy, .. } => "busy",
                    EventKind::Error { message, .. } => panic!("request {number}: {message}"),
                    EventKind::Cancelled { .. } => panic!("request {number} was cancelled"),
                    EventKind::Accepted { .. } | EventKind::Progress { .. } | EventKind::Preview { .. } => {
                        continue;
                    }
                },
            };
            ends.entry(number).or_default().push(end);
        }
    };
    tokio::join!(flood, collect);
    let count = |wanted: &str| ends.values().filter(|ends| **ends == [wanted]).count();
    let twice = ends.values().filter(|ends| ends.len() > 1).count();
    let (done, busy, none) = (count("done"), count("busy"), count("503"));
    println!("requests  done  busy  503  twice  no answer");
    println!("{REQUESTS:>8}  {done:>4}  {busy:>4}  {none:>3}  {twice:>5}  {:>9}", REQUESTS - ends.len());
    assert_eq!((REQUESTS - ends.len(), twice), (0, 0), "requests without an answer, with two");
    assert_eq!(done + busy + none, REQUESTS);
    assert!(done > REQUESTS / 20, "{done} done");
    for worker in &mut workers {
        assert!(worker.is_running());
    }
}

#[tokio::test]
async fn a_job_for_another_worker_finds_it_through_any_door() {
    let pool = Pool::new().await;
    let _a = pool.worker("a", "sim://?step_ms=1&size=64", &[]).await;
    let _b = pool.worker("b", "sim://?step_ms=1&size=64", &[]).await;
    for _ in 0..4 {
        let mut replies = pool.generate(r#"{"prompt":"a","steps":1,"worker_id":"b"}"#).await;
        replies.end().await.done();
        assert!(replies.events.iter().all(|event| event.worker_id.as_str() == "b"));
    }
    let (code, message) = pool.generate(r#"{"prompt":"a","worker_id":"nobody"}"#).await.end().await.failed();
    assert_eq!(code, ErrorCode::Busy);
    assert!(message.contains("nobody"), "{message}");
}

#[tokio::test]
async fn a_worker_with_one_capability_leaves_the_others_to_others() {
    let pool = Pool::new().await;
    let worker = pool.worker("a", "sim://?step_ms=1&size=64", &["--capabilities", "generate"]).await;
    pool.insist(r#"{"prompt":"a","steps":1}"#).await.done();
    let body = r#"{"prompt":"a","init_image":"object:inputs/x"}"#;
    assert_eq!(pool.request(Capability::Transform, body).await.end().await, End::NoResponders);
    let subject = pool.subjects.direct(&worker.id, Capability::Transform);
    let (code, message) = pool.request_on(&subject, body, None).await.end().await.failed();
    assert_eq!(code, ErrorCode::UnsupportedOperation);
    assert!(message.contains("image_generation"), "{message}");
}

#[tokio::test]
async fn a_message_that_was_passed_on_too_often_is_busy_and_only_an_inbox_is_answered() {
    let pool = Pool::new().await;
    let worker = pool.worker("a", "sim://?step_ms=20&size=64", &[]).await;
    let mut running = pool.direct(&worker.id, r#"{"prompt":"a","steps":100}"#).await;
    running.wait_for("accepted").await;
    // The door that was armed before is still there: the direct job took its slot.
    let mut header = async_nats::HeaderMap::new();
    header.insert("Job-Hops", "16");
    let subject = pool.subjects.image(Capability::Generate);
    let (code, _) = pool.request_on(&subject, r#"{"prompt":"a"}"#, Some(header)).await.end().await.failed();
    assert_eq!(code, ErrorCode::Busy);

    // Neither a wildcard nor a subject of the pool may be named as the place for the answers.
    let mut spied = pool.client.subscribe(format!("{}.spied", pool.prefix)).await.unwrap();
    let mut header = async_nats::HeaderMap::new();
    header.insert("Job-Reply", format!("{}.spied", pool.prefix));
    let subject = pool.subjects.direct(&worker.id, Capability::Generate);
    let (code, _) = pool.request_on(&subject, r#"{"prompt":"b"}"#, Some(header)).await.end().await.failed();
    assert_eq!(code, ErrorCode::Busy);
    assert!(tokio::time::timeout(Duration::from_millis(200), spied.next()).await.is_err());
}
