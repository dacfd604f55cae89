//! One job's events: numbered in one place, kept for whoever joins later, published by one task in order.
//!
//! What waits to be published is bounded: a newer progress or preview takes the place of an older one that waits;
//! `accepted` and the terminal event are never dropped.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use futures::future::BoxFuture;
use tokio::sync::{Notify, broadcast};

use crate::{
    bus::{EventSink, Outgoing, To},
    contract::{Event, EventKind, JobId, WorkerId},
};

/// Events that a slow HTTP reader may be behind before it skips some.
const LIVE_BUFFER: usize = 64;

/// The way out for a job's events.
pub trait Outlet: Send + Sync {
    /// Publishes the messages in order, and returns when they are with the server.
    fn deliver<'a>(&'a self, messages: &'a [Outgoing]) -> BoxFuture<'a, Result<(), Lost>>;
}

/// The job is not this worker's any more: nothing more of it may be said.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Lost {
    /// Another worker has it, or it was ended elsewhere.
    ToAnother,
    /// Its events could not be stored for too long; whoever gets it next goes on.
    Unheard,
}

/// The way out of jobs that nobody else can have.
pub struct Open(pub Arc<dyn EventSink>);

impl Outlet for Open {
    fn deliver<'a>(&'a self, messages: &'a [Outgoing]) -> BoxFuture<'a, Result<(), Lost>> {
        Box::pin(async {
            self.0.deliver(messages).await;
            Ok(())
        })
    }
}

/// A requester that reads the events on a reply subject.
#[derive(Debug, Clone)]
pub struct Reader {
    /// The reply subject.
    pub reply: String,
    /// Whether it wants every event, or the terminal one alone.
    pub stream: bool,
    /// The trace context of its request.
    pub traceparent: Option<String>,
}

/// The events of one job on this worker.
#[derive(Debug)]
pub struct JobEvents {
    job_id: JobId,
    worker_id: WorkerId,
    traceparent: Option<String>,
    state: Mutex<State>,
    wake: Notify,
    live: broadcast::Sender<Arc<Event>>,
}

#[derive(Debug, Default)]
struct State {
    next_seq: u64,
    /// From 1; 0 stands for the only one.
    attempt: u32,
    /// `accepted`, the latest progress, the terminal event: what a reader that joins gets first.
    history: Vec<Arc<Event>>,
    readers: Vec<Reader>,
    pending: Vec<Outgoing>,
    /// The terminal event was emitted.
    ended: bool,
    /// The publisher has ended; nobody can join any more.
    sealed: bool,
}

impl JobEvents {
    /// No event yet.
    pub fn new(job_id: JobId, worker_id: WorkerId, traceparent: Option<String>) -> Self {
        Self {
            job_id,
            worker_id,
            traceparent,
            state: Mutex::default(),
            wake: Notify::new(),
            live: broadcast::Sender::new(LIVE_BUFFER),
        }
    }

    /// Goes on from an earlier attempt of the job, whose last event has the number before `seq`.
    pub fn go_on(&self, attempt: u32, seq: u64) {
        let mut state = self.lock();
        (state.attempt, state.next_seq) = (attempt, seq);
    }

    /// The event that [`emit`](Self::emit) would make of this now.
    pub fn build(&self, kind: EventKind) -> Event {
        self.event(&self.lock(), kind)
    }

    /// Numbers an event and has it published. After the terminal one nothing is taken.
    pub fn emit(&self, kind: EventKind) {
        let mut state = self.lock();
        let event = self.event(&state, kind);
        self.push(&mut state, event, true);
    }

    /// Repeats the end of an earlier run, with a number that is not used yet.
    pub fn repeat(&self, event: Event) {
        let mut state = self.lock();
        let seq = event.seq.max(state.next_seq);
        let attempt = state.attempt.max(1);
        self.push(&mut state, Event { seq, attempt, ..event }, true);
    }

    /// Takes note of an event that is stored already: whoever reads here gets it.
    pub fn stored(&self, event: Event) {
        self.push(&mut self.lock(), event, false);
    }

    /// Tells whoever reads here how it ended on this worker, and publishes nothing more: the job goes on elsewhere.
    pub fn leave(&self, kind: EventKind) {
        let mut state = self.lock();
        state.pending.retain(|waiting| waiting.to != To::Events);
        let event = self.event(&state, kind);
        self.push(&mut state, event, false);
    }

    /// The last progress that was told.
    pub fn last_progress(&self) -> Option<EventKind> {
        let state = self.lock();
        let progress =
            state.history.iter().rev().find(|event| matches!(event.kind, EventKind::Progress { .. }));
        progress.map(|event| event.kind.clone())
    }

    /// Adds a reader, which gets what it missed. False when it is too late.
    pub fn join(&self, reader: Reader) -> bool {
        let mut state = self.lock();
        if state.sealed {
            return false;
        }
        let missed = state.history.clone();
        for event in &missed {
            self.push_to_reader(&mut state.pending, &reader, event);
        }
        state.readers.push(reader);
        self.wake.notify_one();
        true
    }

    /// What was so far, and a receiver of what comes; none after the terminal event.
    pub fn follow(&self) -> (Vec<Arc<Event>>, Option<broadcast::Receiver<Arc<Event>>>) {
        let state = self.lock();
        let live = (!state.ended).then(|| self.live.subscribe());
        (state.history.clone(), live)
    }

    /// The last event.
    pub fn last(&self) -> Option<Arc<Event>> {
        self.lock().history.last().cloned()
    }

    /// Publishes what is emitted, in order, until the terminal event is with the server.
    ///
    /// # Errors
    /// When the job is not this worker's any more; what is emitted from then on reaches nobody.
    pub async fn publish(&self, outlet: &dyn Outlet) -> Result<(), Lost> {
        loop {
            let batch = {
                let mut state = self.lock();
                if state.pending.is_empty() && state.ended {
                    state.sealed = true;
                    return Ok(());
                }
                std::mem::take(&mut state.pending)
            };
            if batch.is_empty() {
                self.wake.notified().await;
            } else {
                outlet.deliver(&batch).await?;
            }
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn event(&self, state: &State, kind: EventKind) -> Event {
        let (job_id, worker_id) = (self.job_id.clone(), self.worker_id.clone());
        Event { job_id, worker_id, attempt: state.attempt.max(1), seq: state.next_seq, kind }
    }

    /// `for_all`: it is to be published for everybody, not for those alone who read here.
    fn push(&self, state: &mut State, event: Event, for_all: bool) {
        if state.ended {
            return;
        }
        state.next_seq = event.seq + 1;
        state.ended = event.kind.is_terminal();
        let event = Arc::new(event);
        match event.kind {
            EventKind::Preview { .. } => {}
            EventKind::Progress { .. } => {
                state.history.retain(|e| !matches!(e.kind, EventKind::Progress { .. }));
                state.history.push(event.clone());
            }
            _ => state.history.push(event.clone()),
        }
        if for_all {
            let to = if matches!(event.kind, EventKind::Preview { .. }) { To::Previews } else { To::Events };
            self.push_to(&mut state.pending, to, Some(&event), self.traceparent.as_ref());
        }
        for reader in &state.readers {
            self.push_to_reader(&mut state.pending, reader, &event);
        }
        // Nobody may be following over HTTP.
        let _ = self.live.send(event);
        self.wake.notify_one();
    }

    fn push_to_reader(&self, pending: &mut Vec<Outgoing>, reader: &Reader, event: &Arc<Event>) {
        let to = || To::Reply(reader.reply.clone());
        if reader.stream || event.kind.is_terminal() {
            self.push_to(pending, to(), Some(event), reader.traceparent.as_ref());
        }
        if event.kind.is_terminal() {
            self.push_to(pending, to(), None, reader.traceparent.as_ref());
        }
    }

    fn push_to(
        &self,
        pending: &mut Vec<Outgoing>,
        to: To,
        event: Option<&Arc<Event>>,
        traceparent: Option<&String>,
    ) {
        if let Some(newer) = event.filter(|event| is_replaceable(event)) {
            let outdated = |waiting: &Outgoing| {
                waiting.to == to
                    && waiting
                        .event
                        .as_ref()
                        .is_some_and(|older| is_replaceable(older) && older.kind.name() == newer.kind.name())
            };
            pending.retain(|waiting| !outdated(waiting));
        }
        pending.push(Outgoing {
            to,
            event: event.cloned(),
            job_id: self.job_id.clone(),
            worker_id: self.worker_id.clone(),
            traceparent: traceparent.cloned(),
        });
    }
}

fn is_replaceable(event: &Event) -> bool {
    matches!(event.kind, EventKind::Progress { .. } | EventKind::Preview { .. })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{bus::memory::MemorySink, contract::ErrorCode};

    fn events() -> JobEvents {
        JobEvents::new(JobId::generate(), WorkerId::new("w").unwrap(), None)
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
        assert!(events.join(Reader { reply: "r".into(), stream: true, traceparent: None }));
        assert!(events.join(Reader { reply: "last".into(), stream: false, traceparent: None }));
        events.emit(EventKind::Cancelled { step: 1 });
        let got = published(&events).await;
        let to = |reply: &str| -> Vec<_> {
            got.iter().filter(|(to, _)| *to == To::Reply(reply.into())).map(|(_, name)| *name).collect()
        };
        assert_eq!(to("r"), [Some("accepted"), Some("progress"), Some("cancelled"), None]);
        assert_eq!(to("last"), [Some("cancelled"), None]);
        assert!(!events.join(Reader { reply: "late".into(), stream: true, traceparent: None }));
    }

    #[tokio::test]
    async fn a_job_that_goes_on_elsewhere_ends_for_those_who_read_here_alone() {
        let events = events();
        events.go_on(3, 7);
        events.stored(events.build(accepted()));
        assert!(events.join(Reader { reply: "r".into(), stream: false, traceparent: None }));
        events.emit(progress(1));
        events.leave(EventKind::error(ErrorCode::ShuttingDown, "the worker shuts down"));
        assert_eq!(events.last().map(|event| (event.attempt, event.seq)), Some((3, 9)));
        let reply = || To::Reply("r".into());
        assert_eq!(published(&events).await, [(reply(), Some("error")), (reply(), None)]);
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
}
