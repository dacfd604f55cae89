//! Durable jobs through queen, over a real nats-server: queens that die, queens side by side, NATS that is started again.

use std::time::{Duration, Instant};

use crate::support::{
    fake_durable::DurablePool,
    fake_pool::{generation, is_error, with},
    fake_worker::{FakeWorker, complete},
    nats::NatsServer,
    queen::{Line, QueenProcess, lines, types},
    worker::WorkerProcess,
};
use futures::StreamExt;
use sd_worker_rbee::{
    bus::{AppendError, EventLog, StreamOptions, Streams},
    contract::{Capability, ErrorCode, Event, EventKind, JobId, headers},
    storage::Key,
};
use serde_json::{Value, json};

const MODEL: [&str; 2] = ["--models", "m"];

fn job_id(id: &str) -> JobId {
    JobId::new(id).unwrap()
}

/// A client of a job's stream that can be asked what it has read so far.
struct Client {
    chunks: futures::stream::BoxStream<'static, reqwest::Result<bytes::Bytes>>,
    text: String,
}

impl Client {
    async fn open(queen: &QueenProcess, job: &str, after: Option<u64>) -> Self {
        let mut request = reqwest::Client::new().get(format!("{}/v1/jobs/{job}/stream", queen.url));
        if let Some(after) = after {
            request = request.header("last-event-id", after);
        }
        let answer = request.send().await.unwrap();
        assert_eq!(answer.status(), 200);
        Self { chunks: answer.bytes_stream().boxed(), text: String::new() }
    }

    fn lines(&self) -> Vec<Line> {
        lines(self.text.rsplit_once("\n\n").map_or("", |(whole, _)| whole))
    }

    /// Reads until there are so many lines, or the stream ends.
    async fn read(&mut self, count: usize) -> Vec<Line> {
        let more = async {
            while self.lines().len() < count {
                let Some(Ok(chunk)) = self.chunks.next().await else { return };
                self.text.push_str(std::str::from_utf8(&chunk).unwrap());
            }
        };
        tokio::time::timeout(Duration::from_secs(40), more).await.expect("events in time");
        self.lines()
    }

    async fn read_to_the_end(&mut self) -> Vec<Line> {
        self.read(usize::MAX).await
    }
}

fn ids(lines: &[Line]) -> Vec<u64> {
    lines.iter().filter_map(|line| line.id).collect()
}

async fn status(queen: &QueenProcess, job: &str) -> Value {
    queen.get(&format!("/v1/jobs/{job}")).await.1["status"].clone()
}

#[tokio::test]
async fn a_job_is_accepted_streamed_and_kept() {
    let pool = DurablePool::start().await;
    let queen = pool.queen(&["--models", "org/m 1,other"]);
    let (_, health) = queen.get("/health").await;
    assert_eq!(health, json!({"status": "degraded", "nats": "connected", "durable": true, "workers": 0}));

    let id = queen.submit(&generation()).await;
    let (_, view) = queen.get(&format!("/v1/jobs/{id}")).await;
    assert_eq!(view, json!({"job_id": id, "status": "queued", "event": null}));
    let mut client = Client::open(&queen, &id, None).await;
    let worker = pool.worker("w", "org/m 1").await;
    let mut job = worker.job().await;
    assert_eq!(job.operation.model(), Some("org/m 1"), "the catalogue's first");
    assert_eq!(job.headers.get(headers::MESSAGE_ID).unwrap().as_str(), id);
    job.accept().await;
    job.progress(1).await;
    assert_eq!(types(&client.read(2).await), ["accepted", "progress"]);
    assert_eq!(status(&queen, &id).await, "running");
    job.preview(2).await;
    assert_eq!(types(&client.read(3).await)[2], "preview");
    job.progress(2).await;
    assert_eq!(client.read(4).await[3].id, Some(3));
    // A preview that comes late, and what is none, are not told.
    let late: Event = serde_json::from_value(client.lines()[2].json()).unwrap();
    job.publish_preview(&late).await;
    job.publish_preview(&job.event(EventKind::Cancelled { step: 0 })).await;
    job.progress(3).await;
    client.read(5).await;
    job.complete().await;
    let seen = client.read_to_the_end().await;
    let told = ["accepted", "progress", "preview", "progress", "progress", "complete", "[DONE]"];
    assert_eq!((types(&seen), ids(&seen)), (told.map(str::to_owned).to_vec(), vec![0, 1, 3, 4, 5]));
    assert_eq!(seen[5].json()["image"], "cG5n");

    let stored = ["accepted", "progress", "progress", "progress", "complete", "[DONE]"];
    assert_eq!(types(&queen.stream(&id).await), stored, "a late stream has what was kept");
    assert_eq!(types(&queen.stream_after(&id, Some(1)).await), stored[2..]);
    assert_eq!(types(&queen.stream_after(&id, Some(99)).await), stored[4..], "the end is told again");
    let picture = reqwest::get(format!("{}/v1/jobs/{id}/images/0", queen.url)).await.unwrap();
    assert_eq!(picture.bytes().await.unwrap(), "png");
    let (_, view) = queen.get(&format!("/v1/jobs/{id}")).await;
    assert_eq!(view["status"], "completed");
    assert!(view["event"]["images"][0]["url"].as_str().unwrap().starts_with("file:///"), "{view}");
    assert_eq!(pool.messages("JOBS").await, 0);
    assert_eq!(queen.get("/v1/jobs/nobody").await.0, 404);
    assert_eq!(queen.get("/v1/jobs/nobody/stream").await.0, 404);
}

#[tokio::test]
async fn an_event_that_the_log_refused_is_never_shown() {
    let pool = DurablePool::start().await;
    let queen = pool.queen(&MODEL);
    let id = queen.submit(&generation()).await;
    let mut client = Client::open(&queen, &id, None).await;
    let mut job = pool.worker("w", "m").await.job().await;
    job.accept().await;
    client.read(1).await;
    // A worker that was taken for dead is refused, though everybody who listens to the subject hears it.
    let mut stale = Event { seq: 1, ..job.event(complete(&job.id)) };
    stale.worker_id = "stale".parse().unwrap();
    let mut map = async_nats::HeaderMap::new();
    map.insert("Nats-Expected-Last-Subject-Sequence", "4711");
    let body = serde_json::to_vec(&stale).unwrap();
    let publish = pool.jetstream.publish_with_headers(pool.subjects.events(&job.id), map, body.into()).await;
    publish.unwrap().await.expect_err("it is refused");
    job.progress(1).await;
    job.complete().await;
    let seen = client.read_to_the_end().await;
    assert_eq!(types(&seen), ["accepted", "progress", "complete", "[DONE]"]);
    assert!(seen[..3].iter().all(|line| line.json()["worker_id"] == "w"), "{seen:?}");
}

#[tokio::test]
async fn a_killed_queen_loses_no_job_and_no_event() {
    let pool = DurablePool::start().await;
    let mut first = pool.queen(&MODEL);
    let (running, waiting) = (first.submit(&generation()).await, first.submit(&generation()).await);
    let mut client = Client::open(&first, &running, None).await;
    let worker = pool.worker("w", "m").await;
    let mut job = worker.job().await;
    assert_eq!(job.id.as_str(), running);
    job.accept().await;
    job.progress(1).await;
    let before = client.read(2).await;
    first.kill();
    job.progress(2).await;
    let second = pool.queen(&MODEL);
    assert_eq!(status(&second, &waiting).await, "queued");
    let mut client = Client::open(&second, &running, before.last().unwrap().id).await;
    job.progress(3).await;
    job.complete().await;
    let after = client.read_to_the_end().await;
    assert_eq!(ids(&[before, after.clone()].concat()), [0, 1, 2, 3, 4]);
    assert_eq!(after.last().unwrap().data, "[DONE]");
    let mut job = worker.job().await;
    assert_eq!(job.id.as_str(), waiting);
    job.accept().await;
    job.complete().await;
    assert_eq!(types(&second.stream(&waiting).await), ["accepted", "complete", "[DONE]"]);
}

#[tokio::test]
async fn queens_side_by_side_know_the_same_jobs() {
    let pool = DurablePool::start().await;
    let (one, two) = (pool.queen(&MODEL), pool.queen(&MODEL));
    let body = with(generation(), "job_id", "mine");
    assert_eq!(one.submit(&body).await, "mine");
    assert_eq!(two.submit(&body).await, "mine");
    let other = with(body.clone(), "prompt", "a blue square");
    let refused = |(status, answer): (u16, Value)| {
        assert_eq!((status, &answer["error"]["code"]), (400, &json!("invalid_request")), "{answer}");
        assert!(answer["error"]["message"].as_str().unwrap().starts_with("`job_id`"), "{answer}");
    };
    refused(two.post(&other).await);
    assert_eq!(pool.messages("JOBS").await, 1, "it is sent once");

    // Without its ticket it is known by the message in the queue, which has its id.
    let events = pool.stream("EVENTS").await;
    events.purge().filter(pool.subjects.ticket(&job_id("mine"))).await.unwrap();
    refused(two.post(&other).await);
    assert_eq!(two.submit(&body).await, "mine");
    assert_eq!(pool.messages("JOBS").await, 1);
    assert_eq!(status(&one, "mine").await, "queued", "the ticket is there again");

    let worker = pool.worker("w", "m").await;
    let mut job = worker.job().await;
    job.accept().await;
    assert_eq!(status(&two, "mine").await, "running");
    job.complete().await;
    for queen in [&one, &two] {
        assert_eq!(types(&queen.stream("mine").await), ["accepted", "complete", "[DONE]"]);
        assert_eq!(queen.submit(&body).await, "mine");
        refused(queen.post(&other).await);
    }
    // When every event is forgotten the store still knows.
    events.purge().await.unwrap();
    assert_eq!(types(&two.stream("mine").await), ["complete", "[DONE]"]);
    assert_eq!(one.submit(&body).await, "mine");
    refused(one.post(&other).await);
    assert!(worker.gets_nothing().await, "nothing is computed again");
}

#[tokio::test]
async fn many_clients_with_one_id_are_one_job() {
    let pool = DurablePool::start().await;
    let (one, two) = (pool.queen(&MODEL), pool.queen(&MODEL));
    let body = with(generation(), "job_id", "rush");
    let posts = (0..20).map(|n| if n % 2 == 0 { one.post(&body) } else { two.post(&body) });
    for (status, answer) in futures::future::join_all(posts).await {
        assert_eq!((status, &answer["job_id"]), (200, &json!("rush")), "{answer}");
    }
    assert_eq!(pool.messages("JOBS").await, 1);
}

#[tokio::test]
async fn a_job_that_failed_for_now_is_sent_again_under_its_id() {
    let pool = DurablePool::start().await;
    let (one, two) = (pool.queen(&MODEL), pool.queen(&MODEL));
    let worker = pool.worker("w", "m").await;
    let body = with(generation(), "job_id", "again");
    one.submit(&body).await;
    let mut job = worker.job().await;
    job.accept().await;
    job.append(EventKind::error(ErrorCode::Internal, "no")).await;
    job.ack().await;
    assert_eq!(types(&one.stream("again").await)[1], "error");
    assert_eq!(two.post(&with(body.clone(), "steps", 3)).await.0, 400);
    for queen in [&two, &one] {
        assert_eq!(queen.submit(&body).await, "again");
        assert_eq!(status(queen, "again").await, "queued");
    }
    let mut job = worker.job().await;
    let header = |name: &str| job.headers.get(name).unwrap().as_str().to_owned();
    assert_eq!((header(headers::MESSAGE_ID), header(headers::JOB_AFTER)), ("again:r1".into(), "1".into()));
    assert!(worker.gets_nothing().await, "once");
    job.accept().await;
    job.complete().await;
    let seen = two.stream("again").await;
    assert_eq!(
        (types(&seen), ids(&seen)),
        (vec!["accepted".into(), "complete".into(), "[DONE]".into()], vec![2, 3])
    );
    assert_eq!(types(&one.stream_after("again", Some(1)).await), ["accepted", "complete", "[DONE]"]);
}

#[tokio::test]
async fn a_job_that_the_queue_has_forgotten_is_put_into_it_again_when_its_client_asks() {
    let pool = DurablePool::start().await;
    let (one, two) = (pool.queen(&MODEL), pool.queen(&MODEL));
    let worker = pool.worker("w", "m").await;
    let body = with(generation(), "job_id", "lost");
    for begun in [false, true] {
        one.submit(&body).await;
        if begun {
            let mut job = worker.job().await;
            job.accept().await;
        }
        let name = pool.subjects.stream("JOBS");
        pool.jetstream.get_stream(name).await.unwrap().purge().await.unwrap();
        assert_eq!(two.post(&with(body.clone(), "steps", 3)).await.0, 400, "it stays the id of that request");
        let answers = futures::future::join_all([&one, &two, &one].map(|queen| queen.post(&body))).await;
        assert!(answers.iter().all(|(status, _)| *status == 200), "{answers:?}");
        assert_eq!(pool.messages("JOBS").await, 1);
    }
    // One that waits, and one that has ended, are what they were.
    one.submit(&body).await;
    assert_eq!(pool.messages("JOBS").await, 1);
    let mut job = worker.job().await;
    job.accept().await;
    job.complete().await;
    one.stream("lost").await;
    one.submit(&body).await;
    assert_eq!((pool.messages("JOBS").await, status(&two, "lost").await), (0, json!("completed")));
}

#[tokio::test]
async fn a_waiting_job_is_cancelled_by_any_queen() {
    let pool = DurablePool::start().await;
    let (one, two) = (pool.queen(&MODEL), pool.queen(&MODEL));
    let (mine, others) = (one.submit(&generation()).await, one.submit(&generation()).await);
    let mut client = Client::open(&one, &mine, None).await;
    let mut asked = pool.client.subscribe(pool.subjects.cancel_any()).await.unwrap();
    pool.client.flush().await.unwrap();
    let (answered, body) = two.delete(&format!("/v1/jobs/{mine}")).await;
    assert_eq!(answered, 202, "{body}");
    // Whether a worker has it is not asked: one that begins with it now comes second.
    pool.client.publish(pool.subjects.cancel(&job_id("marker")), "".into()).await.unwrap();
    assert!(asked.next().await.unwrap().subject.contains("marker"));
    asked.unsubscribe().await.unwrap();
    let seen = client.read_to_the_end().await;
    assert_eq!(types(&seen), ["cancelled", "[CANCELLED]"]);
    assert_eq!(seen[0].json()["worker_id"], "queen");
    assert_eq!(status(&one, &mine).await, "cancelled");
    assert_eq!(pool.messages("JOBS").await, 1, "its message is gone, the other's is not");
    let marker = Key::Cancelled { job: job_id(&mine) };
    assert!(pool.store.find(&marker, 1000).await.unwrap().is_some());
    for queen in [&one, &two] {
        let (answered, body) = queen.delete(&format!("/v1/jobs/{mine}")).await;
        assert_eq!(answered, 409, "{body}");
        assert!(body["error"]["message"].as_str().unwrap().contains("has ended: cancelled"), "{body}");
    }
    assert_eq!(one.submit(&with(generation(), "job_id", others.clone())).await, others);
    assert_eq!(status(&two, &others).await, "queued");
    assert_eq!(two.delete("/v1/jobs/nobody").await.0, 404);
}

#[tokio::test]
async fn a_job_whose_worker_is_silent_is_cancelled_and_the_worker_is_fenced() {
    let pool = DurablePool::start().await;
    let queen = pool.queen(&MODEL);
    let id = queen.submit(&generation()).await;
    let worker = pool.worker("w", "m").await;
    let mut job = worker.job().await;
    let mut second = queen.submit(&generation()).await;
    // Taken, and not a word of it yet.
    assert_eq!(queen.delete(&format!("/v1/jobs/{id}")).await.0, 202);
    let accepted = job.try_append(EventKind::Accepted { model: "m".into(), seed: 1, position: 0 }).await;
    assert!(matches!(accepted, Err(AppendError::Fenced)), "{accepted:?}");
    assert_eq!(types(&queen.stream(&id).await), ["cancelled", "[CANCELLED]"]);

    // Accepted, and then not a word.
    let mut job = worker.job().await;
    assert_eq!(job.id.as_str(), second);
    job.accept().await;
    job.progress(4).await;
    assert_eq!(queen.delete(&format!("/v1/jobs/{second}")).await.0, 202);
    assert!(job.try_append(complete(&job.id)).await.is_err());
    let seen = queen.stream(&second).await;
    assert_eq!(types(&seen), ["accepted", "progress", "cancelled", "[CANCELLED]"]);
    assert_eq!(seen[2].json()["step"], 4);

    // A worker that answers is left to end the job itself.
    second = queen.submit(&generation()).await;
    let mut job = worker.job().await;
    job.accept().await;
    let mut cancels = pool.client.subscribe(pool.subjects.cancel(&job.id)).await.unwrap();
    let answer = async {
        let request = cancels.next().await.unwrap();
        pool.client.publish(request.reply.unwrap(), "{}".into()).await.unwrap();
    };
    let path = format!("/v1/jobs/{second}");
    let ((answered, _), ()) = tokio::join!(queen.delete(&path), answer);
    assert_eq!(answered, 202);
    job.append(EventKind::Cancelled { step: 1 }).await;
    job.ack().await;
    let seen = queen.stream(&second).await;
    assert_eq!((types(&seen)[1].as_str(), &seen[1].json()["worker_id"]), ("cancelled", &json!("w")));
}

/// A real worker of this pool.
fn real_worker(pool: &DurablePool, id: &str) -> WorkerProcess {
    let store = std::path::Path::new(pool.store.location());
    WorkerProcess::start(&pool.url, &pool.prefix, store, id, "m=sim://?step_ms=5&size=64", &[])
}

#[tokio::test]
async fn a_worker_and_a_queen_that_die_over_a_cancel_do_not_undo_it() {
    let pool = DurablePool::start().await;
    let mut queen = pool.queen(&MODEL);
    let id = queen.submit(&generation()).await;
    let mut job = pool.worker("w", "m").await.job().await;
    job.accept().await;
    let mut cancels = pool.client.subscribe(pool.subjects.cancel(&job.id)).await.unwrap();
    let answer = async {
        let request = cancels.next().await.unwrap();
        pool.client.publish(request.reply.unwrap(), "{}".into()).await.unwrap();
        cancels.unsubscribe().await.unwrap();
    };
    let path = format!("/v1/jobs/{id}");
    let ((answered, _), ()) = tokio::join!(queen.delete(&path), answer);
    assert_eq!(answered, 202);
    let marker = Key::Cancelled { job: job_id(&id) };
    assert!(pool.store.find(&marker, 1000).await.unwrap().is_some(), "it is on record when it is answered");
    queen.kill();
    // As the server does when nothing is heard of the worker for long.
    job.message.ack_with(async_nats::jetstream::AckKind::Nak(None)).await.unwrap();
    pool.client.flush().await.unwrap();
    let _worker = real_worker(&pool, "r");
    let queen = pool.queen(&MODEL);
    assert_eq!(types(&queen.stream(&id).await), ["accepted", "cancelled", "[CANCELLED]"]);
    assert!(pool.store.find_result(&job.id).await.unwrap().is_none(), "nothing was drawn");
}

#[tokio::test]
async fn a_cancel_that_the_store_does_not_take_is_not_promised() {
    let pool = DurablePool::start().await;
    let queen = pool.queen(&MODEL);
    let id = queen.submit(&generation()).await;
    let mut job = pool.worker("w", "m").await.job().await;
    job.accept().await;
    let mut asked = pool.client.subscribe(pool.subjects.cancel_any()).await.unwrap();
    pool.client.flush().await.unwrap();
    // Where the job's folder would be.
    let jobs = std::path::Path::new(pool.store.location()).join("jobs");
    std::fs::create_dir_all(&jobs).unwrap();
    std::fs::write(jobs.join(&id), "in the way").unwrap();
    let (answered, answer) = queen.delete(&format!("/v1/jobs/{id}")).await;
    assert_eq!((answered, &answer["error"]["code"]), (502, &json!("storage")), "{answer}");
    assert_eq!(status(&queen, &id).await, "running");
    pool.client.publish(pool.subjects.cancel(&job_id("marker")), "".into()).await.unwrap();
    assert!(asked.next().await.unwrap().subject.contains("marker"), "the worker is left alone");
    std::fs::remove_file(jobs.join(&id)).unwrap();
    assert_eq!(queen.delete(&format!("/v1/jobs/{id}")).await.0, 202);
    assert_eq!(status(&queen, &id).await, "cancelled");
}

#[tokio::test]
async fn a_job_that_is_sent_again_is_not_ended_by_the_cancel_of_an_earlier_sending() {
    let pool = DurablePool::start().await;
    let queen = pool.queen(&MODEL);
    let worker = pool.worker("w", "m").await;
    let mark = async |id: &str| {
        pool.store.put(&Key::Cancelled { job: job_id(id) }, "{}".into(), "application/json").await.unwrap();
    };
    let is_marked =
        async |id: &str| pool.store.find(&Key::Cancelled { job: job_id(id) }, 1000).await.unwrap().is_some();
    let fail = async |id: &str| {
        queen.submit(&with(generation(), "job_id", id)).await;
        let mut job = worker.job().await;
        assert_eq!(job.id.as_str(), id);
        job.accept().await;
        job.die(ErrorCode::Internal, "no").await;
    };
    // By its client, and as a dead letter.
    for id in ["again", "dead"] {
        fail(id).await;
        mark(id).await;
    }
    queen.submit(&with(generation(), "job_id", "again")).await;
    let retry = format!("{}/v1/dead-letters/dead/retry", queen.url);
    assert_eq!(reqwest::Client::new().post(retry).send().await.unwrap().status(), 200);
    // A job of which nothing but the marker is left.
    mark("forgotten").await;
    queen.submit(&with(generation(), "job_id", "forgotten")).await;
    for id in ["again", "dead", "forgotten"] {
        assert!(!is_marked(id).await, "{id}");
    }
    // What is known already keeps its own.
    mark("forgotten").await;
    queen.submit(&with(generation(), "job_id", "forgotten")).await;
    assert!(is_marked("forgotten").await);
}

#[tokio::test]
async fn a_full_queue_refuses_and_loses_nothing() {
    let pool = DurablePool::start().await;
    let sizes = StreamOptions {
        jobs_max_bytes: 64 << 10,
        events_max_bytes: 1 << 20,
        dlq_max_bytes: 1 << 20,
        ..StreamOptions::default()
    };
    Streams::new(pool.client.clone(), pool.subjects.clone(), sizes).ensure().await.unwrap();
    let queen = pool.queen(&MODEL);
    let body = with(generation(), "negative_prompt", "x".repeat(4000));
    let mut taken = 0;
    let (answered, answer) = loop {
        let (answered, answer) = queen.post(&body).await;
        if answered != 200 {
            break (answered, answer);
        }
        taken += 1;
        assert!(taken < 100, "the queue has an end");
    };
    assert!(taken > 5, "{taken}");
    assert_eq!(
        (answered, &answer["error"]["code"], &answer["error"]["retryable"]),
        (503, &json!("busy"), &json!(true))
    );
    assert!(
        answer["error"]["message"].as_str().unwrap().starts_with("the queue is full: maximum bytes"),
        "{answer}"
    );
    let post = reqwest::Client::new().post(format!("{}/v1/jobs", queen.url)).body(body.to_string());
    assert!(post.send().await.unwrap().headers().contains_key("retry-after"));
    assert_eq!(pool.messages("JOBS").await, taken);
    // Room is made, and the next one is taken.
    let worker = pool.worker("w", "m").await;
    let mut job = worker.job().await;
    job.accept().await;
    job.complete().await;
    assert_eq!(queen.post(&body).await.0, 200);
}

#[tokio::test]
async fn a_body_that_fits_into_no_message_is_refused() {
    let pool = DurablePool::start().await;
    let queen = pool.queen(&["--models", "m", "--max-inline", "2MiB"]);
    let body = json!({"operation": "image_transform", "prompt": "a", "init_image": "A".repeat(1 << 20)});
    let (answered, answer) = queen.post(&body).await;
    assert_eq!((answered, &answer["error"]["code"]), (413, &json!("payload_too_large")), "{answer}");
}

#[tokio::test]
async fn a_model_is_known_by_the_catalogue_or_by_a_heartbeat() {
    let pool = DurablePool::start().await;
    let queen = pool.queen(&["--worker-silence", "1s"]);
    let (answered, answer) = queen.post(&with(generation(), "model", "flux")).await;
    assert_eq!((answered, &answer["error"]["code"]), (503, &json!("busy")), "{answer}");
    let message = answer["error"]["message"].as_str().unwrap();
    assert!(message.contains("no worker is up") && message.contains("sd-worker-cpu --model"), "{message}");

    pool.heartbeat("w", &["tiny", "shapes"]).await;
    let until = Instant::now() + Duration::from_secs(10);
    while queen.get("/health").await.1["workers"] != 1 {
        assert!(Instant::now() < until, "queen hears of it");
    }
    let (answered, answer) = queen.post(&with(generation(), "model", "flux")).await;
    assert_eq!((answered, &answer["error"]["code"]), (404, &json!("unsupported_model")));
    assert!(answer["error"]["message"].as_str().unwrap().ends_with("there are: shapes, tiny"), "{answer}");
    let inpaint =
        json!({"operation": "image_inpaint", "prompt": "a", "init_image": "AAAA", "mask_image": "AAAA"});
    let (answered, answer) = queen.post(&inpaint).await;
    assert_eq!((answered, &answer["error"]["code"]), (400, &json!("unsupported_operation")), "{answer}");
    while queen.get("/health").await.1["workers"] != 0 {
        assert!(Instant::now() < until, "it is gone");
    }
    queen.submit(&with(generation(), "model", "shapes")).await;
    queen.submit(&generation()).await;
    assert_eq!(pool.worker("x", "tiny").await.job().await.operation.model(), Some("tiny"));
    assert_eq!(pool.worker("x", "shapes").await.job().await.operation.model(), Some("shapes"));
}

#[tokio::test]
async fn a_job_without_a_model_stays_itself_when_the_fleet_changes() {
    let pool = DurablePool::start().await;
    let body = with(generation(), "job_id", "mine");
    let one = pool.queen(&["--models", "old,new"]);
    one.submit(&body).await;
    let two = pool.queen(&["--models", "new,old"]);
    assert_eq!(two.submit(&body).await, "mine");
    assert_eq!(two.post(&with(body.clone(), "model", "new")).await.0, 400, "that is another request");
    assert_eq!(two.submit(&with(body, "model", "old")).await, "mine");
    assert_eq!(pool.messages("JOBS").await, 1);
}

#[tokio::test]
async fn core_queens_say_so_and_jobs_for_one_worker_are_not_durable() {
    let pool = DurablePool::start().await;
    let core = pool.queen(&["--core"]);
    assert_eq!(core.get("/health").await.1["durable"], false);
    assert_eq!(core.get("/v1/dead-letters").await.0, 501);
    let durable = pool.queen(&MODEL);
    for field in ["worker_id", "hive_id"] {
        let (answered, answer) = durable.post(&with(generation(), field, "gone")).await;
        assert_eq!(answered, 503, "{answer}");
    }
    assert_eq!(pool.messages("JOBS").await, 0);
    durable.submit(&with(generation(), "hive_id", "localhost")).await;
    assert_eq!(pool.messages("JOBS").await, 1);
}

#[tokio::test]
async fn streams_that_clients_have_left_leave_no_consumer() {
    let pool = DurablePool::start().await;
    let queen = pool.queen(&["--models", "m", "--max-streams", "3"]);
    let id = queen.submit(&generation()).await;
    let mut clients = vec![];
    for _ in 0..3 {
        clients.push(Client::open(&queen, &id, None).await);
    }
    let consumers = async || pool.stream("EVENTS").await.cached_info().state.consumer_count;
    assert!(consumers().await <= 2, "one for the events of all of them, and one for tickets");
    let (answered, answer) = queen.get(&format!("/v1/jobs/{id}/stream")).await;
    assert_eq!((answered, &answer["error"]["code"]), (503, &json!("busy")), "{answer}");
    drop(clients);
    let until = Instant::now() + Duration::from_secs(8);
    while queen.get_status(&format!("/v1/jobs/{id}/stream")).await != 200 {
        assert!(Instant::now() < until, "there is room again");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    assert!(consumers().await <= 2);
}

#[tokio::test]
async fn a_thousand_open_streams_are_one_consumer_and_each_is_told_all() {
    let pool = DurablePool::start().await;
    let queen = pool.queen(&MODEL);
    let mut ids = vec![];
    for _ in 0..20 {
        ids.push(queen.submit(&generation()).await);
    }
    let http = reqwest::Client::new();
    let mut open = vec![];
    for number in 0..1000 {
        let url = format!("{}/v1/jobs/{}/stream", queen.url, ids[number % ids.len()]);
        let answer = http.get(url).send().await.unwrap();
        assert_eq!(answer.status(), 200, "stream {number}");
        open.push(answer);
    }
    let consumers = pool.stream("EVENTS").await.cached_info().state.consumer_count;
    assert!(consumers <= 2, "{consumers} consumers");
    let readers = open.into_iter().map(|answer| tokio::spawn(answer.text()));
    let readers: Vec<_> = readers.collect();
    let worker = pool.worker("w", "m").await;
    for _ in &ids {
        let mut job = worker.job().await;
        job.accept().await;
        job.progress(1).await;
        job.complete().await;
    }
    let read = async {
        for (number, reader) in readers.into_iter().enumerate() {
            let seen = lines(&reader.await.unwrap().unwrap());
            assert_eq!(types(&seen), ["accepted", "progress", "complete", "[DONE]"], "stream {number}");
            assert_eq!(seen[0].json()["job_id"], ids[number % ids.len()], "stream {number}");
        }
    };
    tokio::time::timeout(Duration::from_secs(60), read).await.expect("every stream ends");
}

#[tokio::test]
async fn a_stream_goes_on_when_events_were_deleted_and_made_again() {
    let pool = DurablePool::start().await;
    let queen = pool.queen(&MODEL);
    // So that numbers in the stream that is made again are smaller.
    for _ in 0..10 {
        queen.submit(&generation()).await;
    }
    let worker = pool.worker("w", "m").await;
    let mut job = worker.job().await;
    let mut client = Client::open(&queen, job.id.as_str(), None).await;
    job.accept().await;
    job.progress(1).await;
    client.read(2).await;
    pool.jetstream.delete_stream(pool.subjects.stream("EVENTS")).await.unwrap();
    pool.streams.ensure().await.unwrap();
    job.begin_the_log_again();
    job.progress(2).await;
    job.append(complete(&job.id)).await;
    let seen = client.read_to_the_end().await;
    assert_eq!(types(&seen), ["accepted", "progress", "progress", "complete", "[DONE]"]);
    assert_eq!(ids(&seen), [0, 1, 2, 3]);
}

#[tokio::test]
async fn sigterm_ends_streams_and_no_job() {
    let pool = DurablePool::start().await;
    let mut queen = pool.queen(&MODEL);
    let id = queen.submit(&generation()).await;
    let mut client = Client::open(&queen, &id, None).await;
    let status_code =
        tokio::task::spawn_blocking(move || queen.terminate(Duration::from_secs(8))).await.unwrap();
    assert!(status_code.success(), "{status_code}");
    assert!(client.read_to_the_end().await.is_empty());
    assert_eq!(status(&pool.queen(&MODEL), &id).await, "queued");
}

#[tokio::test]
async fn a_stream_goes_on_when_nats_is_killed_and_started_again() {
    let mut server = NatsServer::start();
    let pool = DurablePool::start_on(&server).await;
    let queen = pool.queen(&MODEL);
    let worker = pool.worker("w", "m").await;
    let id = queen.submit(&generation()).await;
    let waiting = queen.submit(&generation()).await;
    let mut client = Client::open(&queen, &id, None).await;
    let mut idle = Client::open(&queen, &waiting, None).await;
    let mut job = worker.job().await;
    job.accept().await;
    job.progress(1).await;
    assert_eq!(client.read(2).await.len(), 2);
    server.stop();
    let (answered, answer) = queen.post(&generation()).await;
    assert_eq!((answered, &answer["error"]["code"]), (503, &json!("busy")), "{answer}");
    // That there is no such job cannot be said now.
    assert_eq!(queen.get(&format!("/v1/jobs/{waiting}")).await.0, 503);
    server.restart();
    // The server is up before its streams are.
    let until = Instant::now() + Duration::from_secs(20);
    while pool.streams.last(&job.id).await.is_err() {
        assert!(Instant::now() < until, "JetStream is back");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    job.progress(2).await;
    job.preview(2).await;
    job.progress(3).await;
    let started = Instant::now();
    let seen = client.read(4).await;
    assert!(started.elapsed() < Duration::from_secs(5), "{:?}", started.elapsed());
    job.append(complete(&job.id)).await;
    let seen_to_the_end = client.read_to_the_end().await;
    assert_eq!(ids(&seen_to_the_end), [0, 1, 2, 4, 5], "{seen:?}");
    assert_eq!(queen.delete(&format!("/v1/jobs/{waiting}")).await.0, 202);
    assert_eq!(types(&idle.read_to_the_end().await), ["cancelled", "[CANCELLED]"]);
    queen.submit(&generation()).await;
}

#[tokio::test]
async fn jetstream_that_comes_later_makes_jobs_durable_from_then_on() {
    let mut server = NatsServer::start_plain();
    let pool = DurablePool::start_on(&server).await;
    let queen = pool.queen(&MODEL);
    assert_eq!(queen.get("/health").await.1["durable"], false);
    assert!(queen.log().contains("start nats-server with -js"), "{}", queen.log());
    assert_eq!(queen.post(&generation()).await.0, 503, "on the core path a worker must be there");
    server.restart();
    let until = Instant::now() + Duration::from_secs(20);
    while queen.get("/health").await.1["durable"] != true {
        assert!(Instant::now() < until, "{}", queen.log());
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    queen.submit(&generation()).await;

    // What was durable once is never less, though a worker is there that would take the job.
    server.restart_plain();
    let mut worker = FakeWorker::start(&pool.url, &pool.prefix, "w", &["m"]).await;
    let until = Instant::now() + Duration::from_secs(20);
    while queen.get("/health").await.1["workers"] != 1 {
        assert!(Instant::now() < until, "queen hears of the worker");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    let (answered, answer) = queen.post(&generation()).await;
    assert_eq!((answered, &answer["error"]["code"]), (503, &json!("busy")), "{answer}");
    assert!(worker.gets_nothing(Duration::from_millis(300)).await);
    assert_eq!(queen.get("/health").await.1["durable"], true);
    queen.submit(&with(generation(), "worker_id", "w")).await;
    worker.job().await;
}

#[tokio::test]
async fn an_acknowledgement_that_is_late_is_no_second_job() {
    let server = NatsServer::start();
    let pool = DurablePool::start_on(&server).await;
    let queen = pool.queen(&MODEL);
    // Before the first job of a connection queen asks the stream for more.
    queen.submit(&generation()).await;
    server.pause();
    let body = generation();
    let post = queen.post(&body);
    // Longer than queen waits for an acknowledgement.
    let wake = async {
        tokio::time::sleep(Duration::from_secs(6)).await;
        server.resume();
    };
    let ((answered, answer), ()) = tokio::join!(post, wake);
    assert_eq!(answered, 200, "{answer}");
    assert!(queen.log().contains("a job was not confirmed; publishing it again"), "{}", queen.log());
    assert_eq!(pool.messages("JOBS").await, 2);
    let id = answer["job_id"].as_str().unwrap();
    assert_eq!(status(&queen, id).await, "queued");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_queen_that_starts_asks_workers_for_their_models() {
    let pool = DurablePool::start().await;
    let mut asked = pool.client.subscribe("$SRV.INFO.sd-worker").await.unwrap();
    pool.client.flush().await.unwrap();
    let (client, subject) = (pool.client.clone(), pool.subjects.image(Capability::Generate));
    tokio::spawn(async move {
        while let Some(request) = asked.next().await {
            for (subject, models) in [("elsewhere.image.generate", "x"), (subject.as_str(), "shapes,tiny")] {
                let info = json!({"metadata": {"models": models}, "endpoints": [{"subject": subject}]});
                client.publish(request.reply.clone().unwrap(), info.to_string().into()).await.unwrap();
            }
        }
    });
    let queen = tokio::task::block_in_place(|| pool.queen(&[]));
    let (answered, answer) = queen.post(&with(generation(), "model", "x")).await;
    assert_eq!(answered, 404, "{answer}");
    assert!(answer["error"]["message"].as_str().unwrap().ends_with("there are: shapes, tiny"), "{answer}");
    queen.submit(&generation()).await;
    assert_eq!(pool.worker("w", "shapes").await.job().await.operation.model(), Some("shapes"));
}

#[tokio::test]
async fn a_stream_that_is_another_is_refused_with_both() {
    let pool = DurablePool::start().await;
    let config = async_nats::jetstream::stream::Config {
        name: pool.subjects.stream("JOBS"),
        subjects: pool.subjects.jobs_any(),
        max_bytes: 1 << 20,
        ..Default::default()
    };
    pool.jetstream.create_stream(config).await.unwrap();
    let output = tokio::process::Command::new(env!("CARGO_BIN_EXE_queen-rbee"))
        .args(["--listen", "127.0.0.1:0", "--nats-url", &pool.url, "--subject-prefix", &pool.prefix])
        .args(["--store-url", "memory://"])
        .args(crate::support::fake_durable::SMALL)
        .output()
        .await
        .unwrap();
    assert_eq!(output.status.code(), Some(1));
    let log = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(log.contains("retention Limits") && log.contains("must have retention WorkQueue"), "{log}");
}

#[tokio::test]
async fn dead_letters_are_listed_sent_again_and_dropped() {
    let pool = DurablePool::start().await;
    let queen = pool.queen(&MODEL);
    let worker = pool.worker("w", "m").await;
    assert_eq!(queen.get("/v1/dead-letters").await.1, json!({"dead_letters": []}));
    let keeper = async |arguments: &[&str]| {
        let output = tokio::process::Command::new(env!("CARGO_BIN_EXE_rbee-keeper"))
            .args(["--queen", &queen.url, "dlq"])
            .args(arguments)
            .output()
            .await
            .unwrap();
        let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
        (output.status.code().unwrap(), text(output.stdout), text(output.stderr))
    };
    let die = async |id: &str| {
        queen.submit(&with(generation(), "job_id", id)).await;
        let mut job = worker.job().await;
        job.accept().await;
        job.die(ErrorCode::OutOfMemory, "no memory,\u{20}three times").await;
    };
    for id in ["a", "b", "c"] {
        die(id).await;
    }
    let lines = queen.stream("a").await;
    assert!(is_error(&lines[1].json(), "out_of_memory", "three times"), "{lines:?}");
    let (_, listed) = queen.get("/v1/dead-letters").await;
    let listed = listed["dead_letters"].as_array().unwrap();
    let expected = json!({"job_id": "a", "capability": "generate", "model": "m", "code": "out_of_memory",
        "message": "no memory, three times", "sequence": 1, "time": listed[0]["time"]});
    assert_eq!((listed.len(), &listed[0]), (3, &expected));
    assert!(listed[0]["time"].as_str().unwrap().ends_with('Z'));
    let (_, newest) = queen.get("/v1/dead-letters?limit=1").await;
    assert_eq!(newest["dead_letters"][0]["job_id"], "c");
    assert_eq!(queen.get("/v1/dead-letters?limit=0").await.0, 400);

    let (code, out, _) = keeper(&["list"]).await;
    assert_eq!((code, out.lines().count()), (0, 4), "a heading, and a line each: {out}");
    let cells: Vec<_> = out.lines().nth(1).unwrap().split("  ").filter(|cell| !cell.is_empty()).collect();
    assert_eq!(cells.len(), 5, "{out}");
    assert_eq!(cells[1].trim(), "a");
    assert_eq!(cells[4], "out_of_memory: no memory, three times");
    let (_, out, _) = keeper(&["--json", "list", "--limit", "2"]).await;
    let last: Value = serde_json::from_str(out.lines().last().unwrap()).unwrap();
    assert_eq!((out.lines().count(), &last["job_id"]), (2, &json!("c")));

    let (code, _, error) = keeper(&["retry", "nobody"]).await;
    assert_eq!(code, 1, "{error}");
    assert!(error.contains("no dead letter of job `nobody`"), "{error}");
    let (code, out, error) = keeper(&["retry", "a"]).await;
    assert_eq!((code, out.as_str()), (0, "a sent again\n"), "{error}");
    assert_eq!(status(&queen, "a").await, "queued");
    let mut job = worker.job().await;
    let header = |name: &str| job.headers.get(name).unwrap().as_str().to_owned();
    assert_eq!((job.id.as_str(), header(headers::MESSAGE_ID)), ("a", "a:r1".into()));
    assert_eq!(header(headers::JOB_AFTER), "1");
    assert_eq!(queen.submit(&with(generation(), "job_id", "a")).await, "a", "the same job");
    job.accept().await;
    job.complete().await;
    assert_eq!(types(&queen.stream("a").await), ["accepted", "complete", "[DONE]"]);
    assert_eq!(pool.messages("DLQ").await, 2);

    let (code, out, _) = keeper(&["drop", "b"]).await;
    assert_eq!((code, out.as_str()), (0, "b dropped\n"));
    assert_eq!(keeper(&["drop", "b"]).await.0, 1);
    assert_eq!(status(&queen, "b").await, "failed", "what became of it is still known");
    assert!(worker.gets_nothing().await);

    // Sent again as a new job is, and so no dead letter any more.
    queen.submit(&with(generation(), "job_id", "c")).await;
    assert_eq!(pool.messages("DLQ").await, 0);
    let mut job = worker.job().await;
    job.accept().await;
    job.die(ErrorCode::Internal, "again").await;
    die("d").await;
    let (code, out, error) = keeper(&["retry", "--all"]).await;
    assert_eq!((code, out.as_str()), (0, "c sent again\nd sent again\n"), "{error}");
    for _ in 0..2 {
        let mut job = worker.job().await;
        job.accept().await;
        job.die(ErrorCode::Internal, "for good").await;
    }
    assert_eq!(keeper(&["drop", "--all"]).await.0, 0);
    assert_eq!(pool.messages("DLQ").await, 0);
    assert_eq!(keeper(&["retry"]).await.0, 2);
}

#[tokio::test]
async fn a_dead_letter_stays_until_its_job_is_in_the_queue() {
    let pool = DurablePool::start().await;
    let queen = pool.queen(&MODEL);
    let worker = pool.worker("w", "m").await;
    let id = queen.submit(&generation()).await;
    let mut job = worker.job().await;
    job.accept().await;
    job.die(ErrorCode::Internal, "no").await;
    // With no event left the job is sent under its first name, which the stream has seen a moment ago.
    pool.stream("EVENTS").await.purge().await.unwrap();
    let retry = || reqwest::Client::new().post(format!("{}/v1/dead-letters/{id}/retry", queen.url)).send();
    assert_eq!(retry().await.unwrap().status(), 503);
    assert_eq!((pool.messages("JOBS").await, pool.messages("DLQ").await), (0, 1));
    assert_eq!(queen.delete(&format!("/v1/dead-letters/{id}")).await.0, 200);
    assert_eq!(retry().await.unwrap().status(), 404);
}

#[tokio::test]
async fn a_client_that_goes_in_the_middle_leaves_a_job_that_is_known() {
    let server = NatsServer::start();
    let pool = DurablePool::start_on(&server).await;
    let queen = pool.queen(&MODEL);
    server.pause();
    let request = reqwest::Client::new()
        .post(format!("{}/v1/jobs", queen.url))
        .body(generation().to_string())
        .timeout(Duration::from_millis(500));
    request.send().await.expect_err("no answer in time");
    server.resume();
    let until = Instant::now() + Duration::from_secs(15);
    while pool.messages("JOBS").await == 0 || pool.messages("EVENTS").await == 0 {
        assert!(Instant::now() < until, "a job and its ticket");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let message = pool.stream("JOBS").await.get_raw_message(1).await.unwrap();
    let id = message.headers.get(headers::JOB_ID).unwrap().as_str().to_owned();
    assert_eq!(status(&queen, &id).await, "queued");
}
