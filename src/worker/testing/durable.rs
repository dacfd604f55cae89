//! Durable jobs on a worker whose queue, log and store are in memory.

use std::time::Duration;

use tokio::sync::mpsc::UnboundedReceiver;

use super::{Worker, worker, worker_like};
use crate::{
    bus::{Entry, EventLog, Settle, To, Via, memory::Settled},
    contract::{Capability, ErrorCode, Event, EventKind, JobId, Limits, WorkerId},
    worker::{job::RETRY_AFTER, shared::Begun},
};

const DONE: Settled = Settled::As(Settle::Done);
const GONE: Settled = Settled::As(Settle::Gone);

fn id() -> JobId {
    JobId::new("j").unwrap()
}

/// Delivers the job `j` for the `times`-th time, with these fields besides.
fn deliver(worker: &Worker, fields: &str, times: u64) {
    let body = format!(r#"{{"prompt":"a","job_id":"j","model":"sim","steps":4{fields}}}"#);
    worker.publisher.deliver("sim", Capability::Generate, &id(), &body, times, Duration::ZERO);
}

async fn next(settled: &mut UnboundedReceiver<Settled>) -> Settled {
    tokio::time::timeout(Duration::from_secs(20), settled.recv()).await.unwrap().unwrap()
}

fn names(events: &[Event]) -> Vec<&'static str> {
    events.iter().map(|event| event.kind.name()).collect()
}

async fn failures(worker: &Worker) -> u32 {
    worker.log.last(&id()).await.unwrap().unwrap().failures
}

/// Stores an event as another worker would.
async fn interfere(worker: &Worker, kind: EventKind) {
    let last = worker.log.last(&id()).await.unwrap().unwrap();
    let worker_id = WorkerId::new("another").unwrap();
    let event = Event { job_id: id(), worker_id, attempt: 2, seq: last.event.seq + 1, kind };
    let entry = Entry { failures: 2, ..Entry::of(event) };
    worker.log.append(&entry, last.sequence).await.unwrap();
}

#[tokio::test]
async fn a_job_is_accepted_computed_and_done() {
    let mut worker = worker("sim://?step_ms=0&size=64", 1);
    deliver(&worker, "", 1);
    assert_eq!(next(&mut worker.settled).await, DONE);
    let events = worker.log.events(&id());
    assert_eq!((names(&events)[0], *names(&events).last().unwrap()), ("accepted", "complete"));
    assert!(events.windows(2).all(|two| two[0].seq < two[1].seq), "{events:?}");
    assert!(worker.context.store.find_result(&id()).await.unwrap().is_some());
    // Delivered once more, it is found done by its log.
    deliver(&worker, "", 2);
    assert_eq!(next(&mut worker.settled).await, DONE);
    assert_eq!(worker.log.events(&id()), events);
    assert!(worker.context.held.is_empty());
    assert_eq!(worker.context.slots.free(), 1);
}

#[tokio::test]
async fn a_jobs_log_is_read_only_where_it_is_not_empty() {
    let mut worker = worker("sim://?step_ms=0&size=64", 1);
    deliver(&worker, "", 1);
    assert_eq!(next(&mut worker.settled).await, DONE);
    assert_eq!(worker.log.reads(), 0, "a new job is claimed by its first event");
    deliver(&worker, "", 1);
    assert_eq!(next(&mut worker.settled).await, DONE);
    assert_eq!(worker.log.reads(), 1, "one that has ended is not begun");
}

#[tokio::test]
async fn a_first_event_that_an_earlier_process_of_this_name_stored_counts_as_an_attempt() {
    let mut before = worker("sim://?step_ms=0&size=64", 1);
    deliver(&before, "", 1);
    assert_eq!(next(&mut before.settled).await, DONE);
    let accepted = before.log.events(&id()).swap_remove(0);
    let mut worker = worker("sim://?step_ms=0&size=64", 1);
    worker.log.append(&Entry { failures: 1, ..Entry::of(accepted) }, 0).await.unwrap();
    deliver(&worker, "", 1);
    assert_eq!(next(&mut worker.settled).await, DONE);
    let events = worker.log.events(&id());
    assert_eq!((names(&events)[1], events[0].attempt, events[1].attempt), ("accepted", 1, 2));
    assert_eq!(failures(&worker).await, 2);
}

#[tokio::test]
async fn a_result_whose_end_was_not_told_is_told_and_not_computed_again() {
    let mut first = worker("sim://?step_ms=0&size=64", 1);
    deliver(&first, "", 1);
    assert_eq!(next(&mut first.settled).await, DONE);
    let result = first.context.store.find_result(&id()).await.unwrap().unwrap();
    // Another worker, with the same store and a log that the first one's last event never reached. It cannot compute.
    let mut second = worker("sim://?step_ms=0&size=64&fail=panic", 1);
    second.context.store.put_result(&id(), &result).await.unwrap();
    deliver(&second, "", 2);
    assert_eq!(next(&mut second.settled).await, DONE);
    let events = second.log.events(&id());
    assert_eq!(names(&events), ["accepted", "complete"]);
    assert_eq!(events[1].kind, result.event.kind);
}

#[tokio::test]
async fn a_request_that_is_wrong_ends_in_an_error_and_goes() {
    for fields in [r#","guidence_scale":1"#, r#","width":63"#, r#","n":9"#] {
        let mut worker = worker("sim://?step_ms=0&size=64", 1);
        deliver(&worker, fields, 1);
        assert_eq!(next(&mut worker.settled).await, GONE, "{fields}");
        let events = worker.log.events(&id());
        assert!(
            matches!(
                events[..],
                [Event { kind: EventKind::Error { code: ErrorCode::InvalidRequest, .. }, .. }]
            ),
            "{events:?}"
        );
    }
}

#[tokio::test]
async fn what_another_worker_may_be_able_to_do_goes_back_to_the_queue_for_longer_each_time() {
    // Of another hive, of other limits than this worker's, and of a LoRA that is not here.
    let limits =
        Limits { max_steps: 3, max_pixels: 64 * 64, max_images: 1, max_input: 4, ..Limits::default() };
    let mut worker = worker_like("sim://?step_ms=0&size=64", |identity| identity.limits = limits);
    let fields = [
        r#","hive_id":"elsewhere""#,
        r#","steps":4"#,
        r#","steps":1,"width":128,"height":128"#,
        r#","steps":1,"n":2"#,
        r#","steps":1,"loras":[{"path":"style"}]"#,
        r#","steps":1,"worker_id":"another""#,
    ];
    for fields in fields {
        for (times, ms) in [(1, 100), (2, 125), (11, 931), (9_000, 60_000)] {
            deliver(&worker, fields, times);
            let Settled::As(Settle::Again(after)) = next(&mut worker.settled).await else {
                panic!("{fields}")
            };
            let most = Duration::from_millis(ms + 1);
            assert!((most.mul_f64(0.49)..=most).contains(&after), "{fields} {times}: {after:?}");
        }
    }
    assert!(worker.log.events(&id()).is_empty(), "nothing is written of a job that is another's to do");
}

#[tokio::test]
async fn what_nobody_took_before_its_deadline_is_a_dead_letter_that_says_why() {
    let mut worker = worker("sim://?step_ms=0&size=64", 1);
    let fields = r#","hive_id":"elsewhere","deadline_ms":40"#;
    deliver(&worker, fields, 1);
    assert!(matches!(next(&mut worker.settled).await, Settled::As(Settle::Again(_))));
    tokio::time::sleep(Duration::from_millis(50)).await;
    deliver(&worker, fields, 2);
    assert_eq!(next(&mut worker.settled).await, Settled::Buried(ErrorCode::DeadlineExceeded));
    assert_eq!(next(&mut worker.settled).await, GONE);
    let events = worker.log.events(&id());
    let [Event { kind: EventKind::Error { code, message, .. }, .. }] = &events[..] else {
        panic!("{events:?}")
    };
    assert_eq!(*code, ErrorCode::DeadlineExceeded);
    assert!(message.contains("elsewhere"), "{message}");
}

#[tokio::test]
async fn a_message_that_is_not_what_its_subject_says_is_set_aside_and_its_job_hears_nothing() {
    let mut worker = worker("sim://?step_ms=0&size=64", 1);
    let body = r#"{"prompt":"a","job_id":"another","model":"sim"}"#;
    worker.publisher.deliver("sim", Capability::Generate, &id(), body, 1, Duration::ZERO);
    assert_eq!(next(&mut worker.settled).await, Settled::Buried(ErrorCode::InvalidRequest));
    assert_eq!(next(&mut worker.settled).await, GONE);
    for job in ["j", "another"] {
        assert!(worker.log.events(&JobId::new(job).unwrap()).is_empty(), "{job}");
    }
}

#[tokio::test]
async fn a_request_that_has_not_claimed_the_id_sets_no_message_of_the_queue_aside() {
    let mut worker = worker("sim://?step_ms=0&size=64", 2);
    // Its log is being read: whose id it is, is not said yet.
    let own = worker.context.identity.worker_id.clone();
    let Begun::New(hold) = worker.context.held.begin(&id(), "another request", &own, None, None) else {
        panic!("it is new")
    };
    deliver(&worker, "", 1);
    assert!(matches!(next(&mut worker.settled).await, Settled::As(Settle::Again(_))));
    assert!(worker.log.events(&id()).is_empty());
    drop(hold);
    deliver(&worker, "", 2);
    assert_eq!(next(&mut worker.settled).await, DONE);
}

#[tokio::test]
async fn a_request_with_the_id_of_a_job_of_the_queue_changes_nothing_of_it() {
    let mut worker = worker("sim://?step_ms=5&size=64", 2);
    deliver(&worker, "", 1);
    while worker.log.events(&id()).is_empty() {
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
    for body in [r#"{"job_id":"j"}"#, r#"{"prompt":"other","job_id":"j"}"#] {
        worker.requester.send(Via::Direct, Capability::Generate, body, "r");
    }
    assert_eq!(next(&mut worker.settled).await, DONE);
    // And when it has ended.
    worker.context.held.emptied().await;
    worker.requester.send(Via::Direct, Capability::Generate, r#"{"prompt":"other","job_id":"j"}"#, "r");
    worker.requester.send(Via::Direct, Capability::Generate, r#"{"job_id":"j"}"#, "r");
    let mut refused = 0;
    while refused < 4 {
        let message = tokio::time::timeout(Duration::from_secs(5), worker.out.recv()).await.unwrap().unwrap();
        if message.to == To::Reply("r".into())
            && let Some(event) = message.event
        {
            assert!(
                matches!(&event.kind, EventKind::Error { code: ErrorCode::InvalidRequest, .. }),
                "{event:?}"
            );
            refused += 1;
        }
    }
    let events = worker.log.events(&id());
    assert_eq!(events.iter().filter(|event| event.kind.is_terminal()).count(), 1);
    assert_eq!(events.last().unwrap().kind.name(), "complete");
}

#[tokio::test]
async fn a_request_under_a_chosen_id_is_claimed_in_the_log_and_another_workers_is_left_to_it() {
    let mut worker = worker("sim://?step_ms=5&size=64", 2);
    let body = r#"{"prompt":"a","job_id":"j","model":"sim","steps":4}"#;
    worker.requester.send(Via::Direct, Capability::Generate, body, "r");
    worker.context.held.emptied().await;
    while names(&worker.log.events(&id())).last() != Some(&"complete") {
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
    // One that another worker has, and whose log grows.
    let accepted = EventKind::Accepted { model: "sim".into(), seed: 1, position: 0 };
    let other = JobId::new("k").unwrap();
    let worker_id = WorkerId::new("another").unwrap();
    let event = Event { job_id: other.clone(), worker_id, attempt: 1, seq: 0, kind: accepted };
    worker.log.append(&Entry { failures: 1, ..Entry::of(event) }, 0).await.unwrap();
    worker.requester.send(Via::Direct, Capability::Generate, &body.replace("\"j\"", "\"k\""), "k");
    loop {
        let message = tokio::time::timeout(Duration::from_secs(5), worker.out.recv()).await.unwrap().unwrap();
        if message.to == To::Reply("k".into())
            && let Some(event) = message.event
        {
            assert!(matches!(&event.kind, EventKind::Error { code: ErrorCode::Busy, .. }), "{event:?}");
            break;
        }
    }
    assert_eq!(worker.log.events(&other).len(), 1);
}

#[tokio::test]
async fn a_job_that_fails_is_tried_again_twice_and_is_then_a_dead_letter() {
    let mut worker = worker("sim://?step_ms=0&size=64&fail=out_of_memory&fail_step=2", 1);
    for (times, delay) in (1..).zip(RETRY_AFTER) {
        deliver(&worker, "", times);
        assert_eq!(next(&mut worker.settled).await, Settled::As(Settle::Again(delay)));
        assert_eq!(u64::from(failures(&worker).await), times);
        assert!(!worker.log.events(&id()).last().unwrap().kind.is_terminal());
    }
    deliver(&worker, "", 3);
    assert_eq!(next(&mut worker.settled).await, Settled::Buried(ErrorCode::OutOfMemory));
    assert_eq!(next(&mut worker.settled).await, GONE);
    let events = worker.log.events(&id());
    assert!(matches!(events.last().unwrap().kind, EventKind::Error { code: ErrorCode::OutOfMemory, .. }));
    assert_eq!(events.iter().filter(|event| event.kind.is_terminal()).count(), 1);
    let attempts: Vec<_> =
        events.iter().filter(|e| e.kind.name() == "accepted").map(|event| event.attempt).collect();
    assert_eq!(attempts, [1, 2, 3]);
}

#[tokio::test]
async fn a_job_that_took_three_workers_with_it_is_not_begun_a_fourth_time() {
    let mut worker = worker("sim://?step_ms=0&size=64", 1);
    let event = Event {
        job_id: id(),
        worker_id: WorkerId::new("dead").unwrap(),
        attempt: 3,
        seq: 9,
        kind: EventKind::Accepted { model: "sim".into(), seed: 1, position: 0 },
    };
    let entry = Entry { failures: 3, queued: Some(1), ..Entry::of(event) };
    worker.log.append(&entry, 0).await.unwrap();
    deliver(&worker, "", 4);
    assert_eq!(next(&mut worker.settled).await, Settled::Buried(ErrorCode::Internal));
    assert_eq!(next(&mut worker.settled).await, GONE);
    assert_eq!(names(&worker.log.events(&id())), ["accepted", "error"]);
}

#[tokio::test]
async fn a_job_that_is_handed_back_has_not_failed() {
    let mut worker = worker("sim://?step_ms=50&size=64", 1);
    deliver(&worker, r#","n":8"#, 1);
    while worker.log.events(&id()).len() < 2 {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    assert_eq!(failures(&worker).await, 1, "counted until it is given back");
    worker.context.close();
    worker.context.held.hand_back_all();
    assert_eq!(next(&mut worker.settled).await, Settled::As(Settle::Again(Duration::ZERO)));
    assert_eq!(failures(&worker).await, 0);
    assert_eq!(worker.log.events(&id()).last().unwrap().kind.name(), "progress");
}

#[tokio::test]
async fn a_worker_that_lost_the_job_says_nothing_more_and_settles_nothing() {
    let mut worker = worker("sim://?step_ms=20&size=64", 1);
    deliver(&worker, "", 1);
    while worker.log.events(&id()).is_empty() {
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
    let accepted = EventKind::Accepted { model: "sim".into(), seed: 1, position: 0 };
    interfere(&worker, accepted).await;
    worker.context.held.emptied().await;
    assert!(worker.settled.try_recv().is_err());
    let events = worker.log.events(&id());
    assert_eq!(events.last().unwrap().worker_id.as_str(), "another", "{events:?}");
    assert!(worker.context.store.find_result(&id()).await.unwrap().is_none());
}

#[tokio::test]
async fn a_job_that_was_ended_elsewhere_is_stopped_and_its_message_goes() {
    let mut worker = worker("sim://?step_ms=20&size=64", 1);
    deliver(&worker, "", 1);
    while worker.log.events(&id()).is_empty() {
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
    interfere(&worker, EventKind::Cancelled { step: 0 }).await;
    assert_eq!(next(&mut worker.settled).await, DONE);
    assert_eq!(worker.log.events(&id()).last().unwrap().kind, EventKind::Cancelled { step: 0 });
}

#[tokio::test]
async fn a_job_whose_time_ran_out_in_the_queue_is_not_computed() {
    let mut worker = worker("sim://?step_ms=0&size=64", 1);
    let body = r#"{"prompt":"a","job_id":"j","deadline_ms":5000}"#;
    worker.publisher.deliver("sim", Capability::Generate, &id(), body, 1, Duration::from_secs(6));
    assert_eq!(next(&mut worker.settled).await, DONE);
    let events = worker.log.events(&id());
    assert_eq!(names(&events), ["accepted", "error"]);
    assert!(matches!(events[1].kind, EventKind::Error { code: ErrorCode::DeadlineExceeded, .. }));
}

#[tokio::test]
async fn a_job_that_runs_for_a_requester_is_kept_from_the_queue_and_another_of_its_id_is_set_aside() {
    let mut worker = worker("sim://?step_ms=30&size=64", 2);
    let body = r#"{"prompt":"a","job_id":"j","model":"sim","steps":4}"#;
    worker.requester.send(Via::Direct, Capability::Generate, body, "r");
    while worker.context.held.is_empty() {
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
    deliver(&worker, "", 2);
    deliver(&worker, r#","seed":7"#, 1);
    assert_eq!(next(&mut worker.settled).await, Settled::Buried(ErrorCode::InvalidRequest));
    assert_eq!(next(&mut worker.settled).await, GONE);
    worker.context.held.emptied().await;
    assert!(
        worker.settled.try_recv().is_err(),
        "what was kept is not settled: it comes again and finds the result"
    );
    deliver(&worker, "", 3);
    assert_eq!(next(&mut worker.settled).await, DONE);
}
