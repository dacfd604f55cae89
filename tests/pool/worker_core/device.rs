//! A device that is broken or stuck costs its worker and no job; and a worker ends within what it promises, whatever hangs.

use std::time::{Duration, Instant};

use async_nats::jetstream::{self, consumer::pull::OrderedConfig, stream};
use futures::StreamExt;
use sd_worker_rbee::contract::{Capability, ErrorCode, Event, JobId, WorkerStatus, headers};

use crate::support::{
    nats::NatsServer,
    process::free_port,
    worker::{End, PATIENCE, Pool, Replies, WorkerProcess, heartbeat},
};

const GOOD: &str = "sim=sim://?step_ms=5&size=64";
/// A step never ends.
const HANGS: &str = "sim=sim://?step_ms=5&size=64&fail=hang&fail_step=3";
/// A step that never ends is found this soon.
const SOON: [&str; 2] = ["--step-limit", "1s"];
/// The engine or the device is lost.
const LOST: Option<i32> = Some(70);
/// How long a worker may take to end after its grace time.
const MARGIN: Duration = Duration::from_secs(20);

/// A durable job of this pool.
struct Durable {
    context: jetstream::Context,
    events: stream::Stream,
    subject: String,
}

impl Durable {
    /// Puts `j` into the queue; its streams are there.
    async fn put(pool: &Pool, steps: u32) -> Self {
        let context = jetstream::new(pool.client.clone());
        let mut map = async_nats::HeaderMap::new();
        map.insert(headers::MESSAGE_ID, "j");
        map.insert(headers::JOB_ID, "j");
        let jobs = pool.subjects.jobs(Capability::Generate, "sim", &JobId::new("j").unwrap());
        let body = format!(r#"{{"prompt":"a","steps":{steps}}}"#);
        context.publish_with_headers(jobs, map, body.into()).await.unwrap().await.unwrap();
        let events = context.get_stream(pool.subjects.stream("EVENTS")).await.unwrap();
        Self { context, events, subject: pool.subjects.events(&JobId::new("j").unwrap()) }
    }

    /// Its events to the first for which this is true.
    async fn until(&self, wanted: impl Fn(&Event) -> bool) -> Vec<Event> {
        let read = async {
            let config = OrderedConfig { filter_subject: self.subject.clone(), ..OrderedConfig::default() };
            let consumer = self.events.create_consumer(config).await.unwrap();
            let mut messages = consumer.messages().await.unwrap();
            let mut events: Vec<Event> = vec![];
            while let Some(message) = messages.next().await {
                events.push(serde_json::from_slice(&message.unwrap().payload).unwrap());
                if wanted(events.last().unwrap()) {
                    return events;
                }
            }
            panic!("the stream ended")
        };
        tokio::time::timeout(PATIENCE, read).await.expect("such an event")
    }

    /// How many attempts its last event says have failed.
    async fn failures(&self) -> String {
        let last = self.events.get_last_raw_message_by_subject(&self.subject).await.unwrap();
        last.headers.get(headers::JOB_FAILURES).unwrap().as_str().to_owned()
    }

    /// A good worker comes, and the job is done.
    async fn is_done_by_another(&self, pool: &Pool) {
        let _second = pool.worker("b", GOOD, &[]).await;
        let events = self.until(|event| event.kind.is_terminal()).await;
        let last = events.last().unwrap();
        assert_eq!((last.kind.name(), last.worker_id.as_str()), ("complete", "b"), "{events:?}");
        let letters = self.context.get_stream(pool.subjects.stream("DLQ")).await.unwrap();
        assert_eq!(letters.cached_info().state.messages, 0);
    }
}

/// Waits for this status of `/health`.
async fn health(address: &str, status: u16) -> String {
    let until = Instant::now() + PATIENCE;
    loop {
        let answer = reqwest::get(format!("http://{address}/health")).await;
        if let Ok(answer) = answer
            && answer.status() == status
        {
            return answer.text().await.unwrap();
        }
        assert!(Instant::now() < until, "/health never said {status}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

/// How a job ended. What is told of it every few seconds is no end.
async fn end(replies: &mut Replies) -> End {
    tokio::time::timeout(PATIENCE, replies.end()).await.expect("an end")
}

/// Waits for the end of a worker, and says how long that took.
async fn exit(worker: &mut WorkerProcess) -> (Option<i32>, Duration) {
    let told = Instant::now();
    let code = worker.exit().await.code();
    (code, told.elapsed())
}

#[tokio::test]
async fn a_step_that_never_ends_costs_the_worker_and_the_job_is_done_by_another() {
    let pool = Pool::new().await;
    let address = format!("127.0.0.1:{}", free_port());
    let mut stuck = pool.worker("a", HANGS, &[&SOON[..], &["--http", &address]].concat()).await;
    let mut beats = pool.heartbeats(&stuck.id).await;
    let job = Durable::put(&pool, 20).await;
    assert!(health(&address, 200).await.contains(r#""status":"ok""#));
    assert!(health(&address, 503).await.contains(r#""status":"failed""#));
    heartbeat(&mut beats, |info| info.status == WorkerStatus::ShuttingDown).await;
    assert_eq!(stuck.exit().await.code(), LOST, "{}", stuck.log());
    assert!(stuck.log().contains("the device is stuck: a step of `sim`"), "{}", stuck.log());
    assert_eq!(job.failures().await, "0");
    job.is_done_by_another(&pool).await;
}

#[tokio::test]
async fn a_requester_whose_step_never_ends_is_told_to_try_again() {
    let pool = Pool::new().await;
    let mut stuck = pool.worker("a", HANGS, &SOON).await;
    let (code, _) = end(&mut pool.generate(r#"{"prompt":"a","steps":20}"#).await).await.failed();
    assert_eq!(code, ErrorCode::ShuttingDown);
    assert_eq!(stuck.exit().await.code(), LOST);
}

#[tokio::test]
async fn a_cancel_of_a_job_whose_step_never_ends_is_kept() {
    let pool = Pool::new().await;
    // After one step, what is told every five seconds is that step.
    let hangs = "sim=sim://?step_ms=5&size=64&fail=hang&fail_step=2";
    let mut stuck = pool.worker("a", hangs, &["--step-limit", "6s"]).await;
    let mut replies = pool.generate(r#"{"prompt":"a","steps":20,"job_id":"j"}"#).await;
    replies.wait_for("progress").await;
    replies.wait_for("progress").await;
    assert_eq!(pool.cancel("j").await.as_deref(), Some("a"));
    assert_eq!(end(&mut replies).await, End::Cancelled);
    assert_eq!(stuck.exit().await.code(), LOST);
}

#[tokio::test]
async fn an_error_of_the_device_costs_the_worker_and_no_attempt_of_the_job() {
    let pool = Pool::new().await;
    let device = "sim=sim://?step_ms=5&size=64&fail=device&fail_step=3";
    let mut broken = pool.worker("a", device, &[]).await;
    let job = Durable::put(&pool, 20).await;
    assert_eq!(broken.exit().await.code(), LOST, "{}", broken.log());
    assert_eq!(job.failures().await, "0");
    job.is_done_by_another(&pool).await;

    let mut broken = pool.worker("c", device, &["--slots", "2"]).await;
    // Both share the pass: neither has failed.
    let mut two = [
        pool.direct(&broken.id, r#"{"prompt":"a","steps":20}"#).await,
        pool.direct(&broken.id, r#"{"prompt":"b","steps":20}"#).await,
    ];
    for replies in &mut two {
        let (code, _) = end(replies).await.failed();
        assert_eq!(code, ErrorCode::ShuttingDown);
    }
    assert_eq!(broken.exit().await.code(), LOST, "{}", broken.log());
}

#[tokio::test]
async fn a_device_that_errs_for_ever_is_tested_and_takes_nothing_more() {
    let pool = Pool::new().await;
    // The test at the start goes well, and nothing after it; a panic is no error that names the device.
    let breaks = "sim=sim://?step_ms=5&size=64&fail=panic&fail_after=1";
    let mut broken = pool.worker("a", breaks, &[]).await;
    let job = Durable::put(&pool, 4).await;
    assert_eq!(broken.exit().await.code(), LOST, "{}", broken.log());
    assert!(broken.log().contains("the device is tested"), "{}", broken.log());
    // The attempt before the test counts, the one at the test does not.
    assert_eq!(job.failures().await, "1");
    job.is_done_by_another(&pool).await;
}

#[tokio::test]
async fn a_worker_whose_jobs_fail_by_themselves_goes_on() {
    let pool = Pool::new().await;
    let model = "sim=sim://?step_ms=5&size=64&fail=panic&fail_prompt=bad";
    let mut worker = pool.worker("a", model, &[]).await;
    for number in 0..4 {
        let body = format!(r#"{{"prompt":"a bad one","seed":{number}}}"#);
        let (code, _) = pool.insist(&body).await.failed();
        assert_eq!(code, ErrorCode::Internal);
    }
    assert!(worker.log().contains("the failures are those of the jobs"), "{}", worker.log());
    pool.insist(r#"{"prompt":"a","steps":2}"#).await.done();
    assert!(worker.is_running());
}

#[tokio::test]
async fn a_worker_that_fails_its_test_at_the_start_takes_nothing() {
    let pool = Pool::new().await;
    // On a CPU the first work of all may take 30 times as long.
    let soon = ["--step-limit", "200ms"];
    for (fails, said) in
        [("fail=panic", "the test of the device failed"), ("fail=hang", "the device is stuck")]
    {
        let model = format!("sim=sim://?step_ms=5&size=64&{fails}&fail_after=0");
        let mut broken = pool.spawn("a", &model, &soon);
        assert_eq!(broken.exit().await.code(), LOST, "{}", broken.log());
        assert!(broken.log().contains(said) && !broken.log().contains(" ready "), "{}", broken.log());
    }
}

#[tokio::test]
async fn a_worker_that_was_stopped_for_longer_than_a_step_may_take_is_not_stuck() {
    let pool = Pool::new().await;
    let mut worker = pool.worker("a", "sim=sim://?step_ms=200&size=64", &SOON).await;
    let mut replies = pool.generate(r#"{"prompt":"a","steps":20}"#).await;
    replies.wait_for("progress").await;
    worker.stop();
    tokio::time::sleep(Duration::from_secs(3)).await;
    worker.go_on();
    replies.end().await.done();
    assert!(worker.is_running(), "{}", worker.log());
}

#[tokio::test]
async fn a_worker_whose_step_never_ends_drains_within_its_grace_time_and_20_seconds() {
    let pool = Pool::new().await;
    let mut stuck = pool.worker("a", HANGS, &["--grace", "1s"]).await;
    let job = Durable::put(&pool, 20).await;
    job.until(|event| event.kind.name() == "progress").await;
    stuck.terminate();
    let (code, took) = exit(&mut stuck).await;
    assert_eq!(code, LOST, "{}", stuck.log());
    assert!(took < Duration::from_secs(1) + MARGIN, "{took:?}");
    assert_eq!(job.failures().await, "0");
    job.is_done_by_another(&pool).await;
}

#[tokio::test]
async fn a_worker_that_is_told_to_stop_while_nats_is_away_ends_within_its_grace_time_and_20_seconds() {
    let server = NatsServer::start();
    let pool = Pool::on(&server.url()).await;
    let mut worker = pool.worker("a", "sim=sim://?step_ms=50&size=64", &["--grace", "1s"]).await;
    let job = Durable::put(&pool, 150).await;
    job.until(|event| event.kind.name() == "progress").await;
    drop(server);
    worker.wait_for_log("NATS: disconnected").await;
    worker.terminate();
    let (code, took) = exit(&mut worker).await;
    // Drained it has not: the job's end was not heard.
    assert_eq!(code, Some(69), "{}", worker.log());
    assert!(took < Duration::from_secs(1) + MARGIN, "{took:?}");
}

#[tokio::test]
async fn on_sighup_the_running_job_completes_and_the_worker_exits_with_0() {
    let pool = Pool::new().await;
    let mut worker = pool.worker("a", "sim=sim://?step_ms=50&size=64", &[]).await;
    let mut replies = pool.generate(r#"{"prompt":"a","steps":20}"#).await;
    replies.wait_for("progress").await;
    worker.hang_up();
    replies.end().await.done();
    assert_eq!(worker.exit().await.code(), Some(0), "{}", worker.log());
}
