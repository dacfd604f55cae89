//! Clients of one queen are kept apart: for each the others' jobs are as if there were none, at every queen of the pool.

use std::{
    path::{Path, PathBuf},
    time::Duration,
};

use sd_worker_rbee::{
    contract::{ErrorCode, JobId, OutputFormat, Ticket},
    storage::{Key, StoredResult},
};
use serde_json::{Value, json};
use tempfile::TempDir;

use super::queen::{new_admin_token, new_token};
use crate::support::{
    fake_durable::DurablePool,
    fake_pool::{generation, with},
    fake_worker::FakeWorker,
    queen::QueenProcess,
    watch::Watcher,
    worker::WorkerProcess,
};

/// Tokens of two clients and of one who sees all.
struct Tokens {
    _folder: TempDir,
    file: PathBuf,
    alice: String,
    bob: String,
    admin: String,
}

impl Tokens {
    fn new() -> Self {
        let folder = TempDir::new().unwrap();
        let file = folder.path().join("tokens");
        let [alice, bob] = ["alice", "bob"].map(|name| new_token(name, &file));
        let admin = new_admin_token("ops", &file);
        Self { _folder: folder, file, alice, bob, admin }
    }

    fn queen(&self, pool: &DurablePool, more: &[&str]) -> QueenProcess {
        let file = self.file.to_str().unwrap();
        pool.queen(&[&["--models", "m", "--token-file", file], more].concat())
    }
}

/// What a client is answered: status and body.
async fn ask(queen: &QueenProcess, token: &str, method: &str, path: &str) -> (u16, Value) {
    let method = reqwest::Method::from_bytes(method.as_bytes()).unwrap();
    let request = reqwest::Client::new().request(method, format!("{}{path}", queen.url)).bearer_auth(token);
    let answer = request.send().await.unwrap();
    let status = answer.status().as_u16();
    (status, serde_json::from_slice(&answer.bytes().await.unwrap()).unwrap_or_default())
}

async fn post(queen: &QueenProcess, token: &str, body: &Value) -> (u16, Value) {
    let request = reqwest::Client::new().post(format!("{}/v1/jobs", queen.url)).bearer_auth(token);
    let answer = request.body(body.to_string()).send().await.unwrap();
    (answer.status().as_u16(), answer.json().await.unwrap())
}

async fn watch(queen: &QueenProcess, token: &str, query: &str) -> Watcher {
    let request = reqwest::Client::new().get(format!("{}/v1/events?{query}", queen.url));
    Watcher::send(request.bearer_auth(token)).await
}

/// The ids on a client's list.
async fn listed(queen: &QueenProcess, token: &str, query: &str) -> (Vec<String>, Option<String>) {
    let (status, body) = ask(queen, token, "GET", &format!("/v1/jobs?{query}")).await;
    assert_eq!(status, 200, "{body}");
    let jobs = body["jobs"].as_array().unwrap().iter();
    let ids = jobs.map(|job| job["job_id"].as_str().unwrap().to_owned()).collect();
    (ids, body["next"].as_str().map(str::to_owned))
}

/// Everything that may be asked of a job.
const OF_A_JOB: [(&str, &str); 6] = [
    ("GET", ""),
    ("GET", "/stream"),
    ("GET", "/stream?images=0"),
    ("GET", "/images/0"),
    ("DELETE", ""),
    ("GET", "/images/9"),
];

/// For this client there is no job of that id, in the same words as where there is none.
async fn is_unknown(queen: &QueenProcess, token: &str, id: &str) {
    for (method, of) in OF_A_JOB {
        let (status, body) = ask(queen, token, method, &format!("/v1/jobs/{id}{of}")).await;
        let (_, nobodys) = ask(queen, token, method, &format!("/v1/jobs/nobodys{of}")).await;
        assert_eq!(status, 404, "{method} {of}: {body}");
        let nobodys = nobodys.to_string().replace("nobodys", id);
        assert_eq!(body.to_string(), nobodys, "{method} {of}");
    }
    let mut watcher = watch(queen, token, &format!("jobs={id}")).await;
    assert_eq!(watcher.told(1).await, [format!("{id} unknown")]);
}

#[tokio::test]
async fn a_durable_job_is_its_senders_at_every_queen_from_the_queue_to_the_picture() {
    let (pool, tokens) = (DurablePool::start().await, Tokens::new());
    let queens = [tokens.queen(&pool, &[]), tokens.queen(&pool, &[])];
    let body = with(generation(), "job_id", "drawing");
    assert_eq!(post(&queens[0], &tokens.alice, &body).await.0, 200);
    let other = async |queen: &QueenProcess| {
        is_unknown(queen, &tokens.bob, "drawing").await;
        let (status, refused) = post(queen, &tokens.bob, &body).await;
        assert_eq!((status, &refused["error"]["code"]), (400, &json!("invalid_request")), "{refused}");
        assert!(!refused.to_string().contains("images"), "{refused}");
    };
    for queen in &queens {
        other(queen).await;
    }
    let worker = pool.worker("w", "m").await;
    let mut job = worker.job().await;
    job.accept().await;
    for queen in &queens {
        other(queen).await;
        for token in [&tokens.alice, &tokens.admin] {
            let (status, view) = ask(queen, token, "GET", "/v1/jobs/drawing").await;
            assert_eq!((status, &view["status"]), (200, &json!("running")), "nobody has cancelled it");
        }
    }
    job.complete().await;
    let third = tokens.queen(&pool, &[]);
    for queen in queens.iter().chain([&third]) {
        other(queen).await;
        for token in [&tokens.alice, &tokens.admin] {
            assert_eq!(ask(queen, token, "GET", "/v1/jobs/drawing/images/0").await.0, 200);
            let (status, _) = post(queen, token, &body).await;
            assert_eq!(status, 200, "its sender may send it again");
            let mut watcher = watch(queen, token, "jobs=drawing").await;
            assert_eq!(watcher.told(2).await, ["drawing accepted", "drawing complete"]);
        }
    }
    assert!(worker.gets_nothing().await, "it ran once");

    // Nor does it come by way of a job of one's own.
    let transform = |picture: &str| json!({"operation": "image_transform", "prompt": "a", "init_image": format!("object:jobs/{picture}/0.png")});
    for picture in ["drawing", "nobodys"] {
        let (status, refused) = post(&third, &tokens.bob, &transform(picture)).await;
        assert_eq!(status, 400, "{refused}");
        let said = refused["error"]["message"].as_str().unwrap().replace(picture, "X");
        assert_eq!(said, "`init_image`: there is no picture of a job `X`");
    }
    assert_eq!(post(&third, &tokens.alice, &transform("drawing")).await.0, 200);
}

#[tokio::test]
async fn a_list_is_of_ones_own_jobs_newest_first_at_every_queen() {
    let (pool, tokens) = (DurablePool::start().await, Tokens::new());
    let one = tokens.queen(&pool, &[]);
    for (token, id) in
        [(&tokens.alice, "a1"), (&tokens.bob, "b1"), (&tokens.alice, "a2"), (&tokens.alice, "a3")]
    {
        let body = with(with(generation(), "job_id", id), "prompt", format!("a picture for {id}"));
        assert_eq!(post(&one, token, &body).await.0, 200);
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    // One that an earlier version took says nothing of itself.
    let old = r#"{"job_id":"old","fingerprint":"f","sequence":99}"#;
    let ticket: Ticket = serde_json::from_str(old).unwrap();
    assert!(pool.streams.put_ticket_after(&ticket, 0).await.unwrap());
    let worker = pool.worker("w", "m").await;
    let mut job = worker.job().await;
    job.accept().await;
    job.complete().await;

    let two = tokens.queen(&pool, &[]);
    for queen in [&one, &two] {
        let until = tokio::time::Instant::now() + Duration::from_secs(10);
        while listed(queen, &tokens.admin, "").await.0.len() < 5 {
            assert!(tokio::time::Instant::now() < until, "every ticket is read");
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        assert_eq!(
            listed(queen, &tokens.alice, "").await,
            (["a3", "a2", "a1"].map(str::to_owned).into(), None)
        );
        assert_eq!(listed(queen, &tokens.bob, "limit=1").await, (vec!["b1".to_owned()], None));
        let (first, next) = listed(queen, &tokens.alice, "limit=2").await;
        let second = listed(queen, &tokens.alice, &format!("limit=2&before={}", next.unwrap())).await;
        assert_eq!((first, second), (vec!["a3".into(), "a2".into()], (vec!["a1".into()], None)));
        let (_, body) = ask(queen, &tokens.alice, "GET", "/v1/jobs").await;
        let states: Vec<_> = body["jobs"].as_array().unwrap().iter().map(|job| &job["status"]).collect();
        assert_eq!(states, ["queued", "queued", "completed"]);
        let job = &body["jobs"][2];
        assert_eq!(
            (&job["operation"], &job["model"], &job["prompt"]),
            (&json!("image_generation"), &json!("m"), &json!("a picture for a1"))
        );
        assert!(job["created_ms"].as_u64().unwrap() > 1_700_000_000_000);
        let (all, _) = listed(queen, &tokens.admin, "").await;
        assert_eq!(all[0], "old", "nobody's are on the administrator's list alone");
        for bad in ["limit=0", "limit=201", "limit=x", "before=x", "after=3"] {
            assert_eq!(ask(queen, &tokens.alice, "GET", &format!("/v1/jobs?{bad}")).await.0, 400, "{bad}");
        }
    }
}

#[tokio::test]
async fn a_dead_letter_is_its_senders_too() {
    let (pool, tokens) = (DurablePool::start().await, Tokens::new());
    let queen = tokens.queen(&pool, &[]);
    assert_eq!(post(&queen, &tokens.alice, &with(generation(), "job_id", "dead")).await.0, 200);
    let worker = pool.worker("w", "m").await;
    let mut job = worker.job().await;
    job.accept().await;
    job.die(ErrorCode::Internal, "it broke").await;

    let letters = async |token: &str| {
        let (status, body) = ask(&queen, token, "GET", "/v1/dead-letters").await;
        assert_eq!(status, 200, "{body}");
        body["dead_letters"].as_array().unwrap().len()
    };
    assert_eq!(
        [letters(&tokens.alice).await, letters(&tokens.bob).await, letters(&tokens.admin).await],
        [1, 0, 1]
    );
    for (method, path) in [("POST", "/v1/dead-letters/dead/retry"), ("DELETE", "/v1/dead-letters/dead")] {
        let (status, body) = ask(&queen, &tokens.bob, method, path).await;
        let (_, nobodys) = ask(&queen, &tokens.bob, method, &path.replace("dead/", "nobodys/")).await;
        assert_eq!(status, 404, "{body}");
        if path.ends_with("retry") {
            assert_eq!(body.to_string(), nobodys.to_string().replace("nobodys", "dead"));
        }
    }
    assert_eq!(ask(&queen, &tokens.admin, "POST", "/v1/dead-letters/dead/retry").await.0, 200);
    assert_eq!(letters(&tokens.alice).await, 0);
    is_unknown(&queen, &tokens.bob, "dead").await;
    let (_, view) = ask(&queen, &tokens.alice, "GET", "/v1/jobs/dead").await;
    assert_eq!(view["status"], "queued", "who sent it again does not own it");
}

#[tokio::test]
async fn a_job_of_the_core_path_is_its_senders() {
    let (pool, tokens) = (DurablePool::start().await, Tokens::new());
    let queen = tokens.queen(&pool, &["--core"]);
    let mut worker = FakeWorker::start(&pool.url, &pool.prefix, "w", &["m"]).await;
    let body = with(generation(), "job_id", "core");
    let until = tokio::time::Instant::now() + Duration::from_secs(10);
    while post(&queen, &tokens.alice, &body).await.0 != 200 {
        assert!(tokio::time::Instant::now() < until, "queen hears of the worker");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    let mut cancels = worker.cancels().await;
    let mut job = worker.job().await;
    job.accept().await;
    is_unknown(&queen, &tokens.bob, "core").await;
    assert_eq!(post(&queen, &tokens.bob, &body).await.0, 400);
    // A cancel of an id that is nobody's is asked for on the bus, and of this one none is.
    while let Ok(Some(cancel)) =
        tokio::time::timeout(Duration::from_millis(300), futures::StreamExt::next(&mut cancels)).await
    {
        assert!(cancel.subject.contains("nobodys"), "{}", cancel.subject);
    }
    assert_eq!(listed(&queen, &tokens.alice, "").await.0, ["core"]);
    assert_eq!(listed(&queen, &tokens.bob, "").await.0, [""; 0]);
    let key = Key::Image { job: job.id.clone(), index: 0, attempt: 1, format: OutputFormat::Png };
    pool.store.put(&key, bytes::Bytes::from_static(b"png"), "image/png").await.unwrap();
    job.complete().await;
    assert_eq!(ask(&queen, &tokens.alice, "GET", "/v1/jobs/core/stream").await.0, 200, "to its end");
    assert_eq!(ask(&queen, &tokens.alice, "GET", "/v1/jobs/core/images/0").await.0, 200);
    is_unknown(&queen, &tokens.bob, "core").await;
}

#[tokio::test]
async fn a_real_worker_keeps_with_the_result_whose_the_job_is() {
    let (pool, tokens) = (DurablePool::start().await, Tokens::new());
    let queen = tokens.queen(&pool, &[]);
    let location = pool.store.location().to_owned();
    let store = Path::new(location.strip_prefix("file://").unwrap_or(&location));
    let model = "m=sim://?step_ms=5&size=64";
    let _worker = WorkerProcess::start(&pool.url, &pool.prefix, store, "w", model, &[]);
    // One of the queue, and one that is sent to a worker.
    let durable = with(generation(), "job_id", "queued-one");
    let core = with(with(generation(), "job_id", "sent-one"), "worker_id", "w");
    for body in [durable, core] {
        let until = tokio::time::Instant::now() + Duration::from_secs(20);
        while post(&queen, &tokens.alice, &body).await.0 != 200 {
            assert!(tokio::time::Instant::now() < until, "the worker is up");
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        let id = body["job_id"].as_str().unwrap();
        assert_eq!(ask(&queen, &tokens.alice, "GET", &format!("/v1/jobs/{id}/stream")).await.0, 200);
        let result = pool.store.find_result(&JobId::new(id).unwrap()).await.unwrap().unwrap();
        assert_eq!(result.owner.as_deref(), Some("alice"), "{id}");
        // Another queen has nothing of the core job but its events and its result.
        let other = tokens.queen(&pool, &[]);
        is_unknown(&other, &tokens.bob, id).await;
        assert_eq!(ask(&other, &tokens.alice, "GET", &format!("/v1/jobs/{id}/images/0")).await.0, 200);
    }
}

#[tokio::test]
async fn what_has_no_owner_is_found_by_whoever_knows_its_id() {
    let (pool, tokens) = (DurablePool::start().await, Tokens::new());
    // Without tokens there are no clients to tell apart, and jobs have no owner.
    let open = pool.queen(&["--models", "m"]);
    assert_eq!(open.submit(&with(generation(), "job_id", "before")).await, "before");
    let (_, list) = open.get("/v1/jobs").await;
    assert_eq!(list["jobs"][0]["job_id"], "before", "{list}");
    let worker = pool.worker("w", "m").await;
    let mut job = worker.job().await;
    job.accept().await;

    let queen = tokens.queen(&pool, &[]);
    for token in [&tokens.alice, &tokens.bob, &tokens.admin] {
        assert_eq!(ask(&queen, token, "GET", "/v1/jobs/before").await.1["status"], "running");
    }
    job.complete().await;
    // Of old jobs the store alone knows, and it may say whose they were.
    let id = JobId::new("older").unwrap();
    let event = job.event(crate::support::fake_worker::complete(&id));
    let event = sd_worker_rbee::contract::Event { job_id: id.clone(), ..event };
    let result = StoredResult { fingerprint: "f".into(), owner: None, event };
    pool.store.put_result(&id, &result).await.unwrap();
    for token in [&tokens.alice, &tokens.bob, &tokens.admin] {
        assert_eq!(ask(&queen, token, "GET", "/v1/jobs/older").await.1["status"], "completed");
    }
    pool.store.put_result(&id, &StoredResult { owner: Some("alice".into()), ..result }).await.unwrap();
    is_unknown(&queen, &tokens.bob, "older").await;
    for token in [&tokens.alice, &tokens.admin] {
        assert_eq!(ask(&queen, token, "GET", "/v1/jobs/older").await.1["status"], "completed");
    }
    assert_eq!(listed(&queen, &tokens.alice, "").await.0, [""; 0]);
}
