//! Durable jobs: through real streams, with workers that are killed, stopped and told to go.

use std::time::Duration;

use async_nats::{
    HeaderMap,
    jetstream::{
        self,
        consumer::{DeliverPolicy, PullConsumer, pull::OrderedConfig},
        stream,
    },
};
use futures::StreamExt;
use sd_worker_rbee::{
    bus::{self, EventLog},
    contract::{
        Capability, CompleteEvent, ErrorCode, Event, EventKind, ImageResult, JobId, Subjects, headers,
    },
};

use super::bad_input::{self, Bad};
use crate::support::{
    nats::NatsServer,
    worker::{PATIENCE, Pool},
};

const SIM: &str = "sim=sim://?step_ms=5&size=64";
const SLOW: &str = "sim=sim://?step_ms=40&size=64";
/// A job is given to another worker this soon.
const SOON: [&str; 2] = ["--ack-wait", "1s"];

/// The streams of a pool, as somebody sees them who looks on.
pub(super) struct Streams {
    context: jetstream::Context,
    subjects: Subjects,
}

impl Streams {
    pub(super) fn of(pool: &Pool) -> Self {
        Self { context: jetstream::new(pool.client.clone()), subjects: pool.subjects.clone() }
    }

    /// Puts a job into the queue as a person would: with an id beside it, and no model.
    async fn put(&self, capability: Capability, id: &str, body: impl AsRef<[u8]>) {
        self.put_with(&self.subject(capability, id), id, id, body).await;
    }

    fn subject(&self, capability: Capability, id: &str) -> String {
        self.subjects.jobs(capability, "sim", &JobId::new(id).unwrap())
    }

    pub(super) async fn put_with(&self, subject: &str, id: &str, message_id: &str, body: impl AsRef<[u8]>) {
        let mut map = HeaderMap::new();
        map.insert(headers::MESSAGE_ID, message_id);
        map.insert(headers::JOB_ID, id);
        let body = body.as_ref().to_vec().into();
        let ack = self.context.publish_with_headers(subject.to_owned(), map, body).await.unwrap();
        assert!(!ack.await.unwrap().duplicate);
    }

    async fn stream(&self, name: &str) -> stream::Stream {
        self.context.get_stream(self.subjects.stream(name)).await.unwrap()
    }

    /// Messages in a stream.
    async fn count(&self, name: &str) -> u64 {
        self.stream(name).await.cached_info().state.messages
    }

    /// Reads the events of a job until this is true of one.
    async fn events_until(&self, id: &str, wanted: impl Fn(&Event) -> bool) -> Vec<Event> {
        let read = async {
            let subject = self.subjects.events(&JobId::new(id).unwrap());
            let config = OrderedConfig {
                filter_subject: subject,
                deliver_policy: DeliverPolicy::All,
                ..OrderedConfig::default()
            };
            let consumer = self.stream("EVENTS").await.create_consumer(config).await.unwrap();
            let mut messages = consumer.messages().await.unwrap();
            let mut events: Vec<Event> = vec![];
            while let Some(message) = messages.next().await {
                let event: Event = serde_json::from_slice(&message.unwrap().payload).unwrap();
                let found = wanted(&event);
                events.push(event);
                if found {
                    return events;
                }
            }
            panic!("the stream ended")
        };
        tokio::time::timeout(PATIENCE, read).await.unwrap_or_else(|_| panic!("no such event of {id}"))
    }

    /// The events of a job to its end.
    async fn to_the_end(&self, id: &str) -> Vec<Event> {
        let events = self.events_until(id, |event| event.kind.is_terminal()).await;
        assert!(events.windows(2).all(|two| two[0].seq < two[1].seq), "{events:?}");
        events
    }

    /// Waits until no job is in the queue.
    async fn empty(&self) {
        let empty = async {
            while self.count("JOBS").await > 0 {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        };
        tokio::time::timeout(PATIENCE, empty).await.expect("an empty queue");
    }
}

fn last(events: &[Event]) -> &EventKind {
    &events.last().expect("an event").kind
}

fn attempts(events: &[Event]) -> Vec<u32> {
    events.iter().filter(|event| event.kind.name() == "accepted").map(|event| event.attempt).collect()
}

#[tokio::test]
async fn a_job_that_waits_for_a_worker_is_done_when_one_comes() {
    let pool = Pool::new().await;
    let streams = Streams::of(&pool);
    let first = pool.worker("a", SIM, &SOON).await;
    // A job may be on its way to it, and is given to another a second later.
    first.kill();
    for number in 0..3 {
        streams.put(Capability::Generate, &format!("j{number}"), r#"{"prompt":"a","steps":3}"#).await;
    }
    let _second = pool.worker("b", SIM, &SOON).await;
    for number in 0..3 {
        let id = format!("j{number}");
        let events = streams.to_the_end(&id).await;
        assert_eq!(events[0].kind.name(), "accepted");
        let EventKind::Complete(complete) = last(&events) else { panic!("{events:?}") };
        assert_eq!(complete.model, "sim");
        assert!(
            pool.job_folder(&id).join("0.png").exists() && pool.job_folder(&id).join("result.json").exists()
        );
    }
    streams.empty().await;
    // What ended is not run again, whoever puts it in once more.
    streams
        .put_with(
            &streams.subject(Capability::Generate, "j0"),
            "j0",
            "j0-again",
            r#"{"prompt":"a","steps":3}"#,
        )
        .await;
    streams.empty().await;
    assert_eq!(attempts(&streams.to_the_end("j0").await), [1]);
}

#[tokio::test]
async fn a_killed_worker_costs_time_and_never_a_job() {
    let pool = Pool::new().await;
    let streams = Streams::of(&pool);
    let first = pool.worker("a", SLOW, &SOON).await;
    streams.put(Capability::Generate, "j", r#"{"prompt":"a","steps":60}"#).await;
    streams.events_until("j", |event| matches!(event.kind, EventKind::Progress { step: 5.., .. })).await;
    first.kill();
    let _second = pool.worker("b", SLOW, &SOON).await;
    let events = streams.to_the_end("j").await;
    assert_eq!(last(&events).name(), "complete");
    assert_eq!(attempts(&events), [1, 2]);
    assert_eq!(events.last().unwrap().worker_id.as_str(), "b");
    streams.empty().await;
}

/// How many steps a worker told of, of a job that was killed at its step 40 of 50; and the picture's SHA-256.
async fn killed_at_40(pool: &Pool, model: &str, size: u32) -> (u32, String) {
    let streams = Streams::of(pool);
    let flags = [&SOON[..], &["--checkpoint-every", "0s"]].concat();
    let body =
        format!(r#"{{"prompt":"a large red circle","seed":7,"steps":50,"width":{size},"height":{size}}}"#);
    let first = pool.worker("a", model, &flags).await;
    streams.put(Capability::Generate, "undisturbed", &body).await;
    let EventKind::Complete(undisturbed) = last(&streams.to_the_end("undisturbed").await).clone() else {
        panic!()
    };

    streams.put(Capability::Generate, "killed", &body).await;
    streams
        .events_until("killed", |event| matches!(event.kind, EventKind::Progress { step: 40.., .. }))
        .await;
    first.kill();
    let second = pool.worker("b", model, &flags).await;
    let events = streams.to_the_end("killed").await;
    let EventKind::Complete(complete) = last(&events) else { panic!("{events:?}") };
    assert_eq!(complete.images[0].sha256, undisturbed.images[0].sha256);
    let gone = async {
        while pool.job_folder("killed").join("checkpoint").exists() {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(PATIENCE, gone).await.expect("a snapshot goes with its job");
    let log = second.log();
    let line = log.lines().find(|line| line.contains("goes on from a snapshot")).expect("a resumed job");
    let step: u32 = line.rsplit("step=").next().unwrap().trim().parse().unwrap();
    (50 - step, complete.images[0].sha256.clone())
}

#[tokio::test]
async fn a_job_killed_at_step_40_of_50_takes_ten_more_steps_and_is_the_same_picture() {
    let pool = Pool::new().await;
    let (steps, _) = killed_at_40(&pool, "sim=sim://?step_ms=40&size=64", 64).await;
    // Progress is told four times a second: the kill may come some steps after the one that was heard of.
    assert!((1..=10).contains(&steps), "{steps}");
}

#[tokio::test]
async fn a_real_model_goes_on_bit_for_bit_too() {
    let pool = Pool::new().await;
    let (steps, _) = killed_at_40(&pool, "sim=models/tiny-shapes", 64).await;
    // Steps of a few milliseconds: the checkpoint of the one that was heard of can be on its way into the store.
    assert!((1..=15).contains(&steps), "{steps}");
}

#[tokio::test]
async fn pictures_that_were_finished_before_the_kill_are_not_drawn_again() {
    let pool = Pool::new().await;
    let streams = Streams::of(&pool);
    let flags = [&SOON[..], &["--checkpoint-every", "0s"]].concat();
    let body = r#"{"prompt":"a","seed":7,"steps":20,"n":2}"#;
    let first = pool.worker("a", SLOW, &flags).await;
    streams.put(Capability::Generate, "undisturbed", body).await;
    let EventKind::Complete(undisturbed) = last(&streams.to_the_end("undisturbed").await).clone() else {
        panic!()
    };
    streams.put(Capability::Generate, "killed", body).await;
    streams
        .events_until("killed", |event| matches!(event.kind, EventKind::Progress { step: 28.., .. }))
        .await;
    first.kill();
    let drawn = pool.job_folder("killed").join("0.png");
    let written = std::fs::metadata(&drawn).unwrap().modified().unwrap();
    let second = pool.worker("b", SLOW, &flags).await;
    let EventKind::Complete(complete) = last(&streams.to_the_end("killed").await).clone() else { panic!() };
    assert!(second.log().contains("goes on from a snapshot"), "{}", second.log());
    assert_eq!(std::fs::metadata(&drawn).unwrap().modified().unwrap(), written, "it was not written again");
    let told = |complete: &CompleteEvent| -> Vec<_> {
        let told = |image: &ImageResult| (image.sha256.clone(), image.bytes, image.width, image.seed);
        complete.images.iter().map(told).collect()
    };
    assert_eq!(told(&complete), told(&undisturbed));
}

#[tokio::test]
async fn a_checkpoint_that_is_damaged_is_left_out_with_a_warning() {
    let pool = Pool::new().await;
    let streams = Streams::of(&pool);
    let flags = [&SOON[..], &["--checkpoint-every", "0s"]].concat();
    let first = pool.worker("a", SLOW, &flags).await;
    streams.put(Capability::Generate, "j", r#"{"prompt":"a","steps":50}"#).await;
    streams.events_until("j", |event| matches!(event.kind, EventKind::Progress { step: 5.., .. })).await;
    first.kill();
    std::fs::write(pool.job_folder("j").join("checkpoint"), "nonsense").unwrap();
    let second = pool.worker("b", SIM, &flags).await;
    assert_eq!(last(&streams.to_the_end("j").await).name(), "complete");
    second.wait_for_log("the job's snapshot cannot be used, the job begins anew").await;
}

#[tokio::test]
async fn a_worker_that_was_stopped_for_too_long_says_nothing_more_of_its_job() {
    let pool = Pool::new().await;
    let streams = Streams::of(&pool);
    let first = pool.worker("a", SLOW, &SOON).await;
    streams.put(Capability::Generate, "j", r#"{"prompt":"a","steps":100}"#).await;
    streams.events_until("j", |event| matches!(event.kind, EventKind::Progress { step: 5.., .. })).await;
    first.stop();
    let _second = pool.worker("b", SLOW, &SOON).await;
    streams.events_until("j", |event| event.worker_id.as_str() == "b").await;
    first.go_on();
    let events = streams.to_the_end("j").await;
    assert_eq!((last(&events).name(), events.last().unwrap().worker_id.as_str()), ("complete", "b"));
    let taken = events.iter().position(|event| event.worker_id.as_str() == "b").unwrap();
    assert!(events[taken..].iter().all(|event| event.worker_id.as_str() == "b"), "{events:?}");
    first.wait_for_log("another worker has the job").await;
    streams.empty().await;
}

#[tokio::test]
async fn on_sigterm_a_job_past_the_grace_time_is_handed_back_and_has_not_failed() {
    let pool = Pool::new().await;
    let streams = Streams::of(&pool);
    let mut first = pool.worker("a", SLOW, &["--grace", "100ms"]).await;
    streams.put(Capability::Generate, "j", r#"{"prompt":"a","steps":100}"#).await;
    streams.events_until("j", |event| matches!(event.kind, EventKind::Progress { step: 5.., .. })).await;
    first.terminate();
    assert_eq!(first.exit().await.code(), Some(0), "{}", first.log());
    let stream = streams.stream("EVENTS").await;
    let subject = pool.subjects.events(&JobId::new("j").unwrap());
    let message = stream.get_last_raw_message_by_subject(&subject).await.unwrap();
    assert_eq!(message.headers.get(headers::JOB_FAILURES).unwrap().as_str(), "0");
    // No time is lost: the job need not be missed first, and nothing is computed twice.
    let second = pool.worker("b", SIM, &[]).await;
    let events = streams.to_the_end("j").await;
    assert_eq!((last(&events).name(), attempts(&events)), ("complete", vec![1, 2]));
    assert!(second.log().contains("goes on from a snapshot"), "{}", second.log());
    streams.empty().await;
}

#[tokio::test]
async fn every_bad_input_ends_once_and_is_not_delivered_for_ever() {
    let pool = Pool::new().await;
    let streams = Streams::of(&pool);
    let worker = pool.worker("a", SIM, &[]).await;
    let mut misnamed = 0;
    let cases = [bad_input::no_requests(), bad_input::out_of_bounds(), bad_input::pictures()];
    for (number, Bad { capability, body, code, names }) in cases.into_iter().flatten().enumerate() {
        let id = format!("bad{number}");
        // An id in the body that is not its subject's: such a message touches no job.
        let is_misnamed = names == "`job_id`";
        misnamed += u64::from(is_misnamed);
        let shown = String::from_utf8_lossy(&body[..body.len().min(120)]).into_owned();
        streams.put(capability, &id, &body).await;
        if is_misnamed {
            continue;
        }
        let events = streams.to_the_end(&id).await;
        let EventKind::Error { code: found, message, .. } = last(&events) else {
            panic!("{shown}: {events:?}")
        };
        assert_eq!(*found, code, "{shown}: {message}");
        assert!(message.contains(names), "{shown}: {message}");
        assert_eq!(attempts(&events).len() + 1, events.len(), "{shown}: {events:?}");
    }
    let subject = format!("{}.jobs.image.upscale.sim.j", pool.prefix);
    let sent = streams.context.publish(subject, r#"{"prompt":"a"}"#.into()).await.unwrap().await;
    assert!(sent.is_err(), "the stream takes no job for which there is no capability");
    streams.empty().await;
    assert_eq!(streams.count("DLQ").await, misnamed);
    // And the worker does the next job.
    streams.put(Capability::Generate, "good", r#"{"prompt":"a","steps":1}"#).await;
    assert_eq!(last(&streams.to_the_end("good").await).name(), "complete");
    drop(worker);
}

#[tokio::test]
async fn a_running_job_of_the_queue_is_cancelled_within_a_step_and_no_other_is() {
    let pool = Pool::new().await;
    let streams = Streams::of(&pool);
    let _worker = pool.worker("a", SLOW, &["--slots", "2"]).await;
    for id in ["one", "two"] {
        streams.put(Capability::Generate, id, r#"{"prompt":"a","steps":25}"#).await;
    }
    streams.events_until("one", |event| matches!(event.kind, EventKind::Progress { .. })).await;
    assert_eq!(pool.cancel("one").await.as_deref(), Some("a"));
    assert!(matches!(last(&streams.to_the_end("one").await), EventKind::Cancelled { step: 1..25 }));
    assert_eq!(last(&streams.to_the_end("two").await).name(), "complete");
    streams.empty().await;
    assert_eq!(pool.cancel("one").await, None);
}

#[tokio::test]
async fn a_job_that_is_marked_as_cancelled_is_not_run() {
    let pool = Pool::new().await;
    let streams = Streams::of(&pool);
    let _worker = pool.worker("a", SIM, &[]).await;
    std::fs::create_dir_all(pool.job_folder("j")).unwrap();
    std::fs::write(pool.job_folder("j").join("cancelled"), "").unwrap();
    streams.put(Capability::Generate, "j", r#"{"prompt":"a","steps":1}"#).await;
    assert_eq!(streams.to_the_end("j").await.len(), 1);
    assert!(!pool.job_folder("j").join("result.json").exists());
    streams.empty().await;
}

#[tokio::test]
async fn a_job_whose_time_ran_out_in_the_queue_is_ended_by_whoever_gets_it() {
    let pool = Pool::new().await;
    let streams = Streams::of(&pool);
    pool.worker("a", SIM, &SOON).await.kill();
    streams.put(Capability::Generate, "j", r#"{"prompt":"a","deadline_ms":1}"#).await;
    let _worker = pool.worker("b", SIM, &SOON).await;
    let events = streams.to_the_end("j").await;
    assert_eq!(events.len(), 2, "it is claimed, so that its end is told once: {events:?}");
    assert!(matches!(last(&events), EventKind::Error { code: ErrorCode::DeadlineExceeded, .. }));
    streams.empty().await;
}

#[tokio::test]
async fn an_id_that_stands_for_another_request_is_a_dead_letter_with_its_reason() {
    let pool = Pool::new().await;
    let streams = Streams::of(&pool);
    let _worker = pool.worker("a", SLOW, &["--slots", "2"]).await;
    streams.put(Capability::Generate, "j", r#"{"prompt":"a","steps":40}"#).await;
    streams.events_until("j", |event| event.kind.name() == "accepted").await;
    // In the place of a job of another kind: in its own there is one already.
    let subject = streams.subject(Capability::Transform, "j");
    streams
        .put_with(&subject, "j", "another", r#"{"prompt":"another","init_image":"object:inputs/x"}"#)
        .await;
    assert_eq!(last(&streams.to_the_end("j").await).name(), "complete");
    streams.empty().await;
    let letters = streams.stream("DLQ").await;
    let letter = letters.get_raw_message(1).await.unwrap();
    assert!(letter.payload.starts_with(br#"{"prompt":"another""#));
    let header = |name| letter.headers.get(name).map(|value| value.as_str().to_owned()).unwrap_or_default();
    assert_eq!(header(headers::JOB_ERROR_CODE), "invalid_request");
    let own = JobId::new(header(headers::JOB_ID)).unwrap();
    assert!(own.as_str().starts_with("j-"), "an id of its own: the letter of job j stays free");
    assert_eq!(header(headers::JOB_SUBJECT), subject);
    assert!(header(headers::JOB_ERROR).contains("`job_id`"));
    assert_eq!(letter.subject.as_str(), streams.subjects.dead_letter("transform", &own));
}

#[tokio::test]
async fn what_a_killed_server_leaves_in_the_queue_is_put_right() {
    let pool = Pool::new().await;
    let streams = Streams::of(&pool);
    // Its sizes are those of the tests' workers.
    pool.worker("a", SIM, &[]).await.kill();
    for id in ["ended", "still"] {
        streams.put(Capability::Generate, id, r#"{"prompt":"a","steps":1}"#).await;
    }
    // Both are given out; for somebody who asks for a third there is none.
    let consumer: PullConsumer = streams.stream("JOBS").await.get_consumer("generate-sim").await.unwrap();
    let mut given = consumer.batch().max_messages(3).expires(PATIENCE).messages().await.unwrap();
    for _ in 0..2 {
        given.next().await.unwrap().unwrap();
    }
    let ours = bus::Streams::new(pool.client.clone(), pool.subjects.clone(), bus::StreamOptions::default());
    let event = Event {
        job_id: JobId::new("ended").unwrap(),
        worker_id: "w".parse().unwrap(),
        attempt: 1,
        seq: 0,
        kind: EventKind::Cancelled { step: 0 },
    };
    let entry = bus::Entry::of(event);
    ours.append(&entry, 0).await.unwrap();
    let edited = jetstream::consumer::pull::Config {
        durable_name: Some("generate-sim".into()),
        filter_subject: streams.subjects.jobs_of(Capability::Generate, "sim"),
        ack_wait: Duration::from_secs(30),
        max_deliver: 1,
        max_waiting: 10_000,
        ..Default::default()
    };
    streams.stream("JOBS").await.create_consumer(edited).await.unwrap();
    let mut sweeper = bus::Sweeper::new(ours.clone(), PATIENCE);
    assert_eq!(sweeper.sweep().await.unwrap(), bus::Swept { ended: 1, sent_again: 0, mended: 1 });
    let mut sweeper = bus::Sweeper::new(ours, Duration::ZERO);
    assert_eq!(sweeper.sweep().await.unwrap(), bus::Swept::default(), "it was seen for the first time");
    let swept = sweeper.sweep().await.unwrap();
    assert_eq!(swept, bus::Swept { ended: 0, sent_again: 1, mended: 0 });
    assert_eq!(streams.count("DLQ").await, 0, "the letter that kept the job is gone");
    let copy = given.next().await.unwrap().unwrap();
    assert_eq!(copy.headers.as_ref().unwrap().get(headers::JOB_ID).unwrap().as_str(), "still");
    assert_eq!(streams.count("JOBS").await, 1, "the copy alone");
    copy.ack().await.unwrap();
}

#[tokio::test]
async fn a_stream_that_is_another_is_refused_with_both_sides() {
    let pool = Pool::new().await;
    let context = jetstream::new(pool.client.clone());
    let other = stream::Config {
        name: pool.subjects.stream("JOBS"),
        subjects: pool.subjects.jobs_any(),
        ..stream::Config::default()
    };
    context.create_stream(other).await.unwrap();
    let mut worker = pool.spawn("a", SIM, &[]);
    assert_eq!(worker.exit().await.code(), Some(1));
    let log = worker.log();
    assert!(log.contains("retention Limits") && log.contains("retention WorkQueue"), "{log}");
}

#[tokio::test]
async fn without_jetstream_a_worker_takes_requests_and_says_what_it_lacks() {
    let server = NatsServer::start_plain();
    let pool = Pool::on(&server.url()).await;
    let worker = pool.worker("a", SIM, &[]).await;
    pool.insist(r#"{"prompt":"a","steps":1}"#).await.done();
    assert!(worker.log().contains("NATS has no JetStream for this user; start nats-server with -js"));
}

#[tokio::test]
async fn a_queue_that_was_removed_and_made_again_is_found_again() {
    let pool = Pool::new().await;
    let streams = Streams::of(&pool);
    let worker = pool.worker("a", SIM, &[]).await;
    streams.put(Capability::Generate, "before", r#"{"prompt":"a","steps":1}"#).await;
    streams.to_the_end("before").await;
    streams.context.delete_stream(streams.subjects.stream("JOBS")).await.unwrap();
    worker.wait_for_log("durable jobs are taken").await;
    streams.put(Capability::Generate, "after", r#"{"prompt":"a","steps":1}"#).await;
    assert_eq!(last(&streams.to_the_end("after").await).name(), "complete");
}
