//! What a job tells: readers, the sign of life, what is confirmed.

use super::*;
use crate::{bus::memory::MemorySink, contract::ErrorCode};

fn events() -> JobEvents {
    JobEvents::new(JobId::generate(), WorkerId::new("w").unwrap(), None)
}

fn reader(reply: &str, stream: bool) -> Reader {
    Reader { reply: reply.into(), stream, traceparent: None }
}

fn progress(step: u32) -> EventKind {
    EventKind::Progress { step, total: 9, percent: 0.0, eta_ms: 0 }
}

fn accepted() -> EventKind {
    EventKind::Accepted { model: "m".into(), seed: 1, position: 0 }
}

async fn published(events: &JobEvents) -> Vec<(To, Option<&'static str>)> {
    let (sink, mut out) = MemorySink::new();
    events.publish(&Open(Arc::new(sink))).await.unwrap();
    let mut got = vec![];
    while let Ok(message) = out.try_recv() {
        got.push((message.to, message.event.map(|event| event.kind.name())));
    }
    got
}

#[tokio::test]
async fn a_waiting_progress_gives_way_to_a_newer_one_and_the_end_is_never_dropped() {
    let events = events();
    events.emit(accepted());
    (1..100).for_each(|step| events.emit(progress(step)));
    events.emit(EventKind::Cancelled { step: 99 });
    events.emit(EventKind::error(ErrorCode::Internal, "after the end"));
    let names: Vec<_> = published(&events).await.into_iter().map(|(_, name)| name.unwrap()).collect();
    assert_eq!(names, ["accepted", "progress", "cancelled"]);
}

#[tokio::test]
async fn a_reader_that_joins_gets_what_it_missed_and_the_end_message() {
    let events = events();
    events.emit(accepted());
    events.emit(progress(1));
    assert_eq!(events.join(reader("r", true)), Join::Joined);
    assert_eq!(events.join(reader("last", false)), Join::Joined);
    events.emit(EventKind::Cancelled { step: 1 });
    let got = published(&events).await;
    let to = |reply: &str| -> Vec<_> {
        got.iter().filter(|(to, _)| *to == To::Reply(reply.into())).map(|(_, name)| *name).collect()
    };
    assert_eq!(to("r"), [Some("accepted"), Some("progress"), Some("cancelled"), None]);
    assert_eq!(to("last"), [Some("cancelled"), None]);
    assert_eq!(events.join(reader("late", true)), Join::TooLate);
}

#[tokio::test]
async fn a_job_that_goes_on_elsewhere_ends_for_those_who_read_here_alone() {
    let events = events();
    events.go_on(3, 7);
    events.stored(events.build(accepted()));
    assert_eq!(events.join(reader("r", false)), Join::Joined);
    events.emit(progress(1));
    events.leave(EventKind::error(ErrorCode::ShuttingDown, "the worker shuts down"));
    assert_eq!(events.last().map(|event| (event.attempt, event.seq)), Some((3, 9)));
    let reply = || To::Reply("r".into());
    assert_eq!(published(&events).await, [(reply(), Some("error")), (reply(), None)]);
}

#[tokio::test]
async fn a_reply_subject_gets_one_copy_and_readers_are_bounded() {
    let events = events();
    events.emit(accepted());
    for _ in 0..5 {
        assert_eq!(events.join(reader("r", true)), Join::Joined);
    }
    let joined = (0..20_000).filter(|n| events.join(reader(&n.to_string(), true)) == Join::Joined);
    assert_eq!(joined.count(), MAX_READERS - 1);
    events.emit(EventKind::Cancelled { step: 0 });
    let got = published(&events).await;
    let copies = got.iter().filter(|(to, _)| *to == To::Reply("r".into()));
    assert_eq!(
        copies.map(|(_, name)| *name).collect::<Vec<_>>(),
        [Some("accepted"), Some("cancelled"), None]
    );
}

#[tokio::test(start_paused = true)]
async fn a_job_of_which_there_is_nothing_new_has_an_event_every_five_seconds() {
    let events = Arc::new(events());
    events.expect(9);
    events.emit(accepted());
    let (sink, mut out) = MemorySink::new();
    let publisher = tokio::spawn({
        let events = events.clone();
        async move { events.publish(&Open(Arc::new(sink))).await }
    });
    tokio::time::sleep(3 * AT_LEAST_EVERY + Duration::from_secs(1)).await;
    events.emit(EventKind::Cancelled { step: 0 });
    publisher.await.unwrap().unwrap();
    let mut got = vec![];
    while let Ok(message) = out.try_recv() {
        got.push(message.event.unwrap().kind.clone());
    }
    let again = EventKind::Progress { step: 0, total: 9, percent: 0.0, eta_ms: 0 };
    assert_eq!(got[1..4], [again.clone(), again.clone(), again]);
    assert_eq!(got.len(), 5);
}

#[tokio::test]
async fn what_is_confirmed_is_with_the_server_and_what_is_lost_is_not_confirmed() {
    struct Taken;
    impl Outlet for Taken {
        fn deliver<'a>(&'a self, _: &'a [Outgoing]) -> BoxFuture<'a, Result<(), Lost>> {
            Box::pin(async { Err(Lost::ToAnother) })
        }
    }
    let good = Arc::new(events());
    let (sink, mut out) = MemorySink::new();
    let publisher = tokio::spawn({
        let events = good.clone();
        async move { events.publish(&Open(Arc::new(sink))).await }
    });
    assert!(good.confirm().await);
    assert_eq!(out.try_recv().unwrap().event.unwrap().kind.name(), "progress");
    publisher.abort();

    let lost = Arc::new(events());
    let publisher = tokio::spawn({
        let events = lost.clone();
        async move { events.publish(&Taken).await }
    });
    assert!(!lost.confirm().await);
    assert_eq!(publisher.await.unwrap(), Err(Lost::ToAnother));
    assert!(!lost.confirm().await);
}

#[test]
fn previews_are_numbered_and_not_kept() {
    let events = events();
    events.emit(accepted());
    events.emit(EventKind::Preview {
        step: 1,
        total: 2,
        percent: 50.0,
        image: String::new(),
        format: crate::contract::OutputFormat::Jpeg,
    });
    events.emit(progress(2));
    let (history, live) = events.follow();
    assert_eq!(history.iter().map(|e| e.seq).collect::<Vec<_>>(), [0, 2]);
    assert!(live.is_some());
}
