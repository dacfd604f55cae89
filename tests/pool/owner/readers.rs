//! Many requests for one job, and requests at a worker whose slot is taken.

use std::{
    collections::HashSet,
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};

use futures::StreamExt;
use sd_worker_rbee::contract::{Capability, ErrorCode, EventKind};

use super::{Owned, drawing, named, takers};
use crate::support::worker::{End, PATIENCE, Pool, Read, read};

/// More readers of a job than this are `busy`.
const MAX_READERS: usize = 64;
const STEPS: u32 = 100;
/// 7 s of work.
const STEADY: &str = "sim=sim://?step_ms=70&size=64";

fn body() -> String {
    format!(r#"{{"prompt":"a","seed":7,"steps":{STEPS},"job_id":"j"}}"#)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ten_thousand_readers_do_not_make_a_job_late() {
    const REQUESTS: usize = 10_000;
    let pool = Pool::new().await;
    let worker = pool.worker("a", STEADY, &[]).await;
    let mut first = pool.direct(&worker.id, body()).await;
    first.wait_for("accepted").await;
    let accepted = Instant::now();
    let inbox = pool.client.new_inbox();
    let mut replies = pool.client.subscribe(format!("{inbox}.*")).await.unwrap();
    let answers = Arc::new(Mutex::new(Answers::default()));
    let written = answers.clone();
    let reading = tokio::spawn(async move {
        while let Some(message) = replies.next().await {
            let Read::Event(event) = read(&message) else { continue };
            let reader = message.subject.to_string();
            let mut answers = written.lock().unwrap();
            match event.kind {
                EventKind::Error { code: ErrorCode::Busy, .. } => answers.busy.insert(reader),
                // It came after the job's end.
                EventKind::Complete(_) => answers.complete.insert(reader),
                EventKind::Accepted { .. } | EventKind::Progress { .. } | EventKind::Preview { .. } => {
                    answers.told.insert(reader)
                }
                other => panic!("{other:?}"),
            };
        }
    });
    let subject = pool.subjects.direct(&worker.id, Capability::Generate);
    for number in 0..REQUESTS {
        let reply = format!("{inbox}.{number}");
        pool.client.publish_with_reply(subject.clone(), reply, body().into()).await.unwrap();
    }
    // Whoever asks for something else is answered meanwhile.
    let asked = Instant::now();
    pool.direct(&worker.id, r#"{"steps":1}"#).await.end().await.failed();
    assert!(asked.elapsed() < Duration::from_secs(5), "{:?} for an answer", asked.elapsed());
    first.end().await.done();
    assert!(accepted.elapsed() < Duration::from_secs(14), "{:?} for 7 s of work", accepted.elapsed());
    let until = Instant::now() + PATIENCE;
    loop {
        let answers = answers.lock().unwrap().clone();
        if answers.busy.len() + answers.complete.len() == REQUESTS {
            assert!(answers.told.len() <= MAX_READERS, "{} read the job", answers.told.len());
            assert!(answers.busy.is_disjoint(&answers.complete));
            assert!(!answers.busy.is_empty());
            break;
        }
        let (busy, complete) = (answers.busy.len(), answers.complete.len());
        assert!(Instant::now() < until, "{busy} are busy, {complete} complete");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    assert!(!reading.is_finished());
    reading.abort();
}

/// Reply subjects, by what came.
#[derive(Default, Clone)]
struct Answers {
    busy: HashSet<String>,
    told: HashSet<String>,
    complete: HashSet<String>,
}

#[tokio::test]
async fn requests_with_one_reply_subject_get_one_copy() {
    let pool = Pool::new().await;
    let worker = pool.worker("a", "sim=sim://?step_ms=20&size=64", &[]).await;
    let inbox = pool.client.new_inbox();
    let mut replies = pool.client.subscribe(inbox.clone()).await.unwrap();
    let subject = pool.subjects.direct(&worker.id, Capability::Generate);
    for _ in 0..5 {
        pool.client.publish_with_reply(subject.clone(), inbox.clone(), body().into()).await.unwrap();
    }
    let (mut complete, mut ended) = (0, 0);
    while let Ok(message) =
        tokio::time::timeout(if ended == 0 { PATIENCE } else { Duration::from_secs(1) }, replies.next()).await
    {
        match read(&message.unwrap()) {
            Read::Event(event) if event.kind.name() == "complete" => complete += 1,
            Read::Event(event) => assert!(!event.kind.is_terminal(), "{event:?}"),
            Read::End => ended += 1,
            Read::NoResponders => panic!("the worker is gone"),
        }
    }
    assert_eq!((complete, ended), (1, 1));
}

#[tokio::test]
async fn a_worker_that_a_durable_job_keeps_busy_passes_requests_on() {
    let pool = Owned::start(&["--models", "own"]).await;
    let two = ["--model", "own=sim://?step_ms=100&size=64"];
    let fast = "sim=sim://?step_ms=5&size=64";
    let _a = pool.worker("a", fast, &two).await;
    let _b = pool.worker("b", fast, &[]).await;
    for round in 0..3 {
        let id = format!("durable-{round}");
        let mut durable = named(drawing(15), &id);
        durable["model"] = "own".into();
        pool.queen.submit(&durable).await;
        pool.runs(&id).await;
        for number in 0..5 {
            let body = format!(r#"{{"prompt":"a","steps":1,"seed":{}}}"#, 10 * round + number);
            let mut replies = pool.pool.generate(&body).await;
            // `b` has a free slot again a moment after its last job's end.
            match replies.end().await {
                End::Done(_) => assert!(replies.events.iter().all(|event| event.worker_id.as_str() == "b")),
                End::NoResponders => tokio::time::sleep(Duration::from_millis(50)).await,
                other => panic!("{other:?}, though `b` is idle"),
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        assert_eq!(takers(&pool.draws(&id).await.0), ["a"]);
    }
}
