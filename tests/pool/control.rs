//! What an operator tells a worker, over NATS and through queen: drained and resumed, models loaded and let go.

use std::time::Duration;

use reqwest::Method;
use sd_worker_rbee::contract::{ErrorCode, JobId, Subjects, WorkerId, WorkerInfo, WorkerStatus};
use serde_json::{Value, json};

use super::queen_forms::is_an_error;
use crate::support::{
    queen::QueenProcess,
    worker::{End, PATIENCE, Pool, heartbeat},
};

fn queen_of(pool: &Pool, more: &[&str]) -> QueenProcess {
    QueenProcess::start(&pool.url, &pool.prefix, pool.store.path().to_str().unwrap(), more)
}

async fn tell(queen: &QueenProcess, path: &str) -> (u16, Value) {
    let request = reqwest::Client::new().request(Method::POST, format!("{}/v1/workers/{path}", queen.url));
    let answer = request.send().await.expect("an answer");
    (answer.status().as_u16(), answer.json().await.expect("JSON"))
}

/// As [`tell`], of what is done; how the worker is after it.
async fn done(queen: &QueenProcess, path: &str) -> WorkerInfo {
    let (status, answer) = tell(queen, path).await;
    assert_eq!(status, 200, "{path}: {answer}");
    serde_json::from_value(answer).expect("a worker")
}

/// As [`tell`], of what is refused: status, code and message.
async fn refused(queen: &QueenProcess, path: &str) -> (u16, String, String) {
    let (status, answer) = tell(queen, path).await;
    is_an_error(&answer);
    let text = |name: &str| answer["error"][name].as_str().expect("a text").to_owned();
    (status, text("code"), text("message"))
}

/// Waits until a job is this far.
async fn is(queen: &QueenProcess, job: &str, status: &str) -> Value {
    let until = tokio::time::Instant::now() + PATIENCE;
    loop {
        let view = queen.get(&format!("/v1/jobs/{job}")).await.1;
        if view["status"] == status {
            return view;
        }
        assert!(tokio::time::Instant::now() < until, "{job} is not {status}: {view}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

async fn submit(queen: &QueenProcess, id: &str, steps: u32) {
    let job =
        json!({"operation": "image_generation", "prompt": "a", "model": "m", "steps": steps, "job_id": id});
    assert_eq!(queen.submit(&job).await, id);
}

async fn sees(queen: &QueenProcess, workers: usize) {
    let until = tokio::time::Instant::now() + PATIENCE;
    while queen.get("/health").await.1["workers"] != workers {
        assert!(tokio::time::Instant::now() < until, "{}", queen.log());
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

#[tokio::test]
async fn a_drained_worker_takes_no_job_ends_those_it_has_and_takes_jobs_again_when_it_resumes() {
    let pool = Pool::new().await;
    let queen = queen_of(&pool, &[]);
    let mut a = pool.worker("a", "m=sim://?step_ms=20&size=64", &[]).await;
    let mut b = pool.worker("b", "m=sim://?step_ms=20&size=64", &[]).await;
    sees(&queen, 2).await;

    let drained = done(&queen, "a/drain").await;
    assert_eq!((drained.status, drained.free_slots, drained.slots), (WorkerStatus::Draining, 0, 1));
    assert_eq!(queen.get("/v1/workers/a").await.1["status"], "draining");
    for number in 0..6 {
        let id = format!("b{number}");
        submit(&queen, &id, 2).await;
        let view = is(&queen, &id, "completed").await;
        assert_eq!(view["event"]["worker_id"], "b", "{view}");
        // What asks for no queue goes to the other, too.
        assert!(matches!(pool.insist(r#"{"prompt":"a","model":"m","steps":1}"#).await, End::Done(_)));
    }

    // What it holds ends; what comes then waits, and is not lost.
    submit(&queen, "held", 40).await;
    is(&queen, "held", "running").await;
    assert_eq!(done(&queen, "b/drain").await.status, WorkerStatus::Draining);
    submit(&queen, "waits", 2).await;
    let (code, message) = pool.direct(&a.id, r#"{"prompt":"a"}"#).await.end().await.failed();
    assert_eq!(code, ErrorCode::Busy);
    assert!(message.contains("drained"), "{message}");
    assert_eq!(is(&queen, "held", "completed").await["event"]["worker_id"], "b");
    tokio::time::sleep(Duration::from_millis(600)).await;
    assert_eq!(queen.get("/v1/jobs/waits").await.1["status"], "queued");

    let resumed = done(&queen, "a/resume").await;
    assert_eq!((resumed.status, resumed.free_slots), (WorkerStatus::Ready, 1));
    assert_eq!(is(&queen, "waits", "completed").await["event"]["worker_id"], "a");
    // Again and again: what was subscribed for an earlier time is no trouble.
    for round in 0..3 {
        done(&queen, "a/drain").await;
        done(&queen, "b/resume").await;
        submit(&queen, &format!("of-b{round}"), 2).await;
        assert_eq!(is(&queen, &format!("of-b{round}"), "completed").await["event"]["worker_id"], "b");
        done(&queen, "b/drain").await;
        done(&queen, "a/resume").await;
        submit(&queen, &format!("of-a{round}"), 2).await;
        assert_eq!(is(&queen, &format!("of-a{round}"), "completed").await["event"]["worker_id"], "a");
    }
    // Drained or not, SIGTERM ends them well.
    for worker in [&mut a, &mut b] {
        assert!(worker.is_running());
        worker.terminate();
        assert!(worker.exit().await.success(), "{}", worker.log());
        assert!(!worker.log().contains("could not be closed in time"), "{}", worker.log());
    }
}

#[tokio::test]
async fn of_two_operators_the_last_has_his_way_and_no_job_is_lost() {
    let pool = Pool::new().await;
    // It learns the models of a worker within a second, and until then takes nothing while the worker takes none.
    let queen = queen_of(&pool, &["--models", "m"]);
    let _worker = pool.worker("a", "m=sim://?step_ms=1&size=64", &[]).await;
    sees(&queen, 1).await;
    let operators = (0..20).map(|number| {
        let command = if number % 2 == 0 { "a/drain" } else { "a/resume" };
        tell(&queen, command)
    });
    let jobs = async {
        for number in 0..20 {
            submit(&queen, &format!("j{number}"), 2).await;
        }
    };
    let (answers, ()) = tokio::join!(futures::future::join_all(operators), jobs);
    assert!(answers.iter().all(|(status, _)| *status == 200), "{answers:?}");
    assert!(done(&queen, "a/resume").await.status.takes_jobs());
    for number in 0..20 {
        is(&queen, &format!("j{number}"), "completed").await;
    }
}

#[tokio::test]
async fn models_are_loaded_and_let_go_while_jobs_run() {
    let pool = Pool::new().await;
    let queen = queen_of(&pool, &[]);
    let more = ["--model", "n=sim://?step_ms=1&size=64&memory=6MiB&load_ms=200", "--model-memory", "8MiB"];
    let worker = pool.worker("a", "m=sim://?step_ms=20&size=64&memory=6MiB", &more).await;
    let mut beats = pool.heartbeats(&worker.id).await;
    sees(&queen, 1).await;
    submit(&queen, "long", 50).await;
    is(&queen, "long", "running").await;

    let (status, code, message) = refused(&queen, "a/models/n/load").await;
    assert_eq!((status, code.as_str()), (409, "out_of_memory"));
    assert!(message.contains("`n`") && message.contains("jobs run with m"), "{message}");
    // The job goes on, and its model goes with it.
    assert_eq!(done(&queen, "a/models/m/unload").await.resident, ["m"]);
    is(&queen, "long", "completed").await;
    heartbeat(&mut beats, |info| info.resident.is_empty()).await;

    let (first, second) = tokio::join!(done(&queen, "a/models/n/load"), done(&queen, "a/models/n/load"));
    assert_eq!((first.resident, second.resident), (vec!["n".to_owned()], vec!["n".to_owned()]));
    assert_eq!(worker.log().matches("a model was loaded").count(), 2, "once each: {}", worker.log());
    assert_eq!(done(&queen, "a/models/n/unload").await.resident, [""; 0]);
    assert_eq!(done(&queen, "a/models/n/unload").await.resident, [""; 0], "it is gone already");
    submit(&queen, "after", 2).await;
    is(&queen, "after", "completed").await;
    heartbeat(&mut beats, |info| info.resident == ["m"]).await;

    for path in ["a/models/none/load", "a/models/none/unload", "a/models/..%2F..%2Fetc/load"] {
        let (status, code, message) = refused(&queen, path).await;
        assert_eq!((status, code.as_str()), (404, "unsupported_model"), "{path}: {message}");
    }
    assert_eq!(refused(&queen, &format!("a/models/{}/load", "x".repeat(300))).await.0, 400);
}

#[tokio::test]
async fn more_models_than_may_be_on_their_way_into_memory_are_refused_for_now() {
    let pool = Pool::new().await;
    let queen = queen_of(&pool, &[]);
    let _worker = pool.worker("a", "m=sim://?step_ms=1&size=64&load_ms=700", &[]).await;
    sees(&queen, 1).await;
    done(&queen, "a/models/m/unload").await;
    let loads = futures::future::join_all((0..5).map(|_| tell(&queen, "a/models/m/load"))).await;
    let mut statuses: Vec<u16> = loads.iter().map(|(status, _)| *status).collect();
    statuses.sort_unstable();
    assert_eq!(statuses, [200, 200, 200, 200, 503], "{loads:?}");
    assert_eq!(done(&queen, "a/drain").await.resident, ["m"]);
}

#[tokio::test]
async fn a_worker_that_is_not_there_is_told_by_its_name() {
    let pool = Pool::new().await;
    let queen = queen_of(&pool, &["--core"]);
    let (status, code, message) = refused(&queen, "a/drain").await;
    assert_eq!((status, code.as_str()), (404, "not_found"));
    assert!(message.contains("no worker `a` is up; there is none"), "{message}");
    let mut worker = pool.worker("a", "m=sim://?step_ms=1&size=64", &["--core"]).await;
    sees(&queen, 1).await;
    let (status, _, message) = refused(&queen, "z/models/m/load").await;
    assert_eq!(status, 404);
    assert!(message.contains("no worker `z` is up; there are: a"), "{message}");
    assert_eq!(queen.get("/v1/workers/z").await.0, 404);
    for path in ["a%20b/drain", "a.b/drain", "*/drain", "%ff/drain"] {
        let (status, code, _) = refused(&queen, path).await;
        assert_eq!((status, code.as_str()), (400, "invalid_request"), "{path}");
    }
    assert_eq!(queen.get("/v1/workers/a/drain").await.0, 405);
    assert_eq!(tell(&queen, "a/explode").await.0, 404);
    // Its heartbeat is fresh, and nobody is there.
    worker.kill();
    worker.exit().await;
    let until = tokio::time::Instant::now() + PATIENCE;
    loop {
        let (status, code, message) = refused(&queen, "a/drain").await;
        assert_eq!((status, code.as_str()), (503, "busy"), "{message}");
        if message.contains("worker `a` hears no commands") {
            break;
        }
        assert!(tokio::time::Instant::now() < until, "{message}");
    }
}

#[tokio::test]
async fn a_worker_that_does_not_answer_is_told_after_its_time() {
    let pool = Pool::new().await;
    let queen = queen_of(&pool, &["--load-timeout", "300ms"]);
    let worker = pool.worker("a", "m=sim://?step_ms=1&size=64", &[]).await;
    sees(&queen, 1).await;
    worker.stop();
    let (status, code, message) = refused(&queen, "a/models/m/load").await;
    worker.go_on();
    assert_eq!((status, code.as_str()), (504, "deadline_exceeded"));
    assert!(message.contains("worker `a` has not answered within 300ms"), "{message}");
}

#[tokio::test]
async fn a_message_that_is_no_command_is_answered_with_what_is_wrong() {
    let pool = Pool::new().await;
    let worker = pool.worker("a", "m=sim://?step_ms=1&size=64", &[]).await;
    let subject = Subjects::new(&pool.prefix).unwrap().control(&WorkerId::new("a").unwrap());
    let ask = async |body: Vec<u8>| -> Value {
        let answer = pool.client.request(subject.clone(), body.into()).await.expect("an answer");
        serde_json::from_slice(&answer.payload).expect("JSON")
    };
    for (body, code, said) in [
        (&b""[..], "invalid_request", "JSON"),
        (b"\xff\xfe", "invalid_request", "JSON"),
        (b"[]", "invalid_request", "`body`"),
        (br#"{"command":"explode"}"#, "invalid_request", "there are: drain"),
        (br#"{"command":"load"}"#, "invalid_request", "`model`"),
        (br#"{"command":"load","model":"none"}"#, "unsupported_model", "`none`"),
        (br#"{"command":"drain","now":true}"#, "invalid_request", "`now`"),
        (&[b' '; 5000], "payload_too_large", "4096"),
    ] {
        let answer = ask(body.to_vec()).await;
        is_an_error(&answer);
        assert_eq!(answer["error"]["code"], code, "{answer}");
        assert!(answer["error"]["message"].as_str().unwrap().contains(said), "{answer}");
    }
    // Without a reply subject, or with one that is the pool's own, nobody is answered.
    pool.client.publish(subject.clone(), "{".into()).await.unwrap();
    let job = JobId::new("j").unwrap();
    let mut events = pool.events("j").await;
    let own = pool.subjects.events(&job);
    pool.client.publish_with_reply(subject.clone(), own, r#"{"command":"status"}"#.into()).await.unwrap();
    let mut beats = pool.heartbeats(&worker.id).await;
    let status: WorkerInfo =
        serde_json::from_value(ask(br#"{"command":"status"}"#.to_vec()).await).expect("a worker");
    assert_eq!((status.id.as_str(), status.status), ("a", WorkerStatus::Ready));
    let begun = tokio::time::Instant::now();
    heartbeat(&mut beats, |_| true).await;
    assert!(
        begun.elapsed() < Duration::from_secs(8),
        "it comes because it was asked for, and not after ten seconds"
    );
    let own_event = tokio::time::timeout(Duration::from_millis(200), futures::StreamExt::next(&mut events));
    assert!(own_event.await.is_err(), "an answer on a subject of the pool");
}
