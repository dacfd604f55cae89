//! One job's events: numbered in one place, kept for whoever joins later, published by one task in order.
//!
//! What waits to be published is bounded: a newer progress or preview takes the place of an older one that waits;
//! `accepted` and the terminal event are never dropped. From its acceptance to its end a job has an event at least every
//! [`AT_LEAST_EVERY`], whatever it is doing: the last progress once more, when there is nothing new.

use std::{
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use futures::future::BoxFuture;
use tokio::{
    sync::{Notify, broadcast, oneshot},
    time::{Instant, timeout_at},
};

use crate::{
    bus::{EventSink, Outgoing, To},
    contract::{Event, EventKind, JobId, WorkerId},
};

/// Events that a slow HTTP reader may be behind before it skips some.
const LIVE_BUFFER: usize = 64;
/// Requesters that may read along on reply subjects of their own.
const MAX_READERS: usize = 64;
/// The longest time without an event: whoever listens can tell a slow step or a slow store from a dead worker.
pub const AT_LEAST_EVERY: Duration = Duration::from_secs(5);

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

/// What becomes of a requester that asks for a job which runs here.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Join {
    /// It reads along.
    Joined,
    /// The last event has been told.
    TooLate,
    /// As many read along as may.
    TooMany,
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
    /// Told when all that is pending is with the server.
    waiting: Vec<oneshot::Sender<()>>,
    /// When the last event was pushed.
    pushed: Option<Instant>,
    /// The steps that the request lets expect, until the engine says.
    total: u32,
    /// Nothing more is published: the job was lost.
    lost: bool,
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

    /// Takes note of how many steps the request lets expect.
    pub fn expect(&self, total: u32) {
        self.lock().total = total;
    }

    /// The last progress once more; none of any step where there was none.
    pub fn progress_again(&self) -> EventKind {
        progress_again(&self.lock())
    }

    /// Tells the last progress once more, and returns when the server has it; false when the job is lost.
    pub async fn confirm(&self) -> bool {
        let stored = {
            let mut state = self.lock();
            if state.lost {
                return false;
            }
            let event = self.event(&state, progress_again(&state));
            self.push(&mut state, event, true);
            let (told, stored) = oneshot::channel();
            state.waiting.push(told);
            stored
        };
        stored.await.is_ok()
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

    /// Which run of the job this is, from 1.
    pub fn attempt(&self) -> u32 {
        self.lock().attempt.max(1)
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

    /// Adds a reader, which gets what it missed. A reply subject is one reader, however often it asks.
    pub fn join(&self, reader: Reader) -> Join {
        let mut state = self.lock();
        if state.sealed {
            return Join::TooLate;
        }
        if state.readers.iter().any(|other| other.reply == reader.reply) {
            return Join::Joined;
        }
        if state.readers.len() >= MAX_READERS {
            return Join::TooMany;
        }
        let missed = state.history.clone();
        for event in &missed {
            self.push_to_reader(&mut state.pending, &reader, event);
        }
        state.readers.push(reader);
        self.wake.notify_one();
        Join::Joined
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
            let (batch, waiting, silent_at) = {
                let mut state = self.lock();
                if state.pending.is_empty() && state.ended {
                    state.sealed = true;
                    return Ok(());
                }
                let silent_at = *state.pushed.get_or_insert_with(Instant::now) + AT_LEAST_EVERY;
                (std::mem::take(&mut state.pending), std::mem::take(&mut state.waiting), silent_at)
            };
            if batch.is_empty() {
                if timeout_at(silent_at, self.wake.notified()).await.is_err() {
                    self.emit(self.progress_again());
                }
                continue;
            }
            if let Err(lost) = outlet.deliver(&batch).await {
                let mut state = self.lock();
                state.lost = true;
                // Dropped, they say so.
                state.waiting.clear();
                return Err(lost);
            }
            for told in waiting {
                // Whoever waited may have gone.
                let _ = told.send(());
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
        state.pushed = Some(Instant::now());
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

fn progress_again(state: &State) -> EventKind {
    let progress = state.history.iter().rev().find(|event| matches!(event.kind, EventKind::Progress { .. }));
    progress.map_or_else(
        || EventKind::Progress { step: 0, total: state.total, percent: 0.0, eta_ms: 0 },
        |event| event.kind.clone(),
    )
}

fn is_replaceable(event: &Event) -> bool {
    matches!(event.kind, EventKind::Progress { .. } | EventKind::Preview { .. })
}

#[cfg(test)]
#[path = "told_tests.rs"]
mod tests;
