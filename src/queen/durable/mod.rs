//! Durable jobs: what queen has accepted is in a stream, and any queen can tell of it.
//!
//! A job is durable unless queen was started with `--core`, there is no JetStream, or the job names a worker or a hive:
//! the queue of durable jobs is one per model, and a job in it cannot be routed to one worker. Such jobs are sent on the
//! core path. A JetStream that is there and does not answer means that new jobs are refused for a while, never that they
//! are taken without being kept.
//!
//! Nothing of a durable job is in queen's memory: `events.<job>` says how it goes, its ticket that it waits.

mod cancel;
mod dead_letters;
mod models;
mod stream;
mod submit;
mod waiting;

use std::{
    collections::HashSet,
    sync::{
        Arc, Mutex, Once, PoisonError,
        atomic::{AtomicU8, Ordering},
    },
    time::{Duration, Instant},
};

use super::{QueenOptions, busy, metrics::Metrics, told::Awaited};
use crate::{
    bus::{BusError, EventLog, JobEvents, Line, Logged, Register, StoredTicket, Streams, Sweeper, Swept},
    contract::{ErrorCode, Event, EventKind, JobId, JobStatus, JobView, Ticket},
    http::ApiError,
};

pub(super) use dead_letters::endpoints;
use models::Models;
pub(super) use submit::Submission;

/// How often JetStream is looked for while it is not there.
const LOOK_AGAIN: Duration = Duration::from_secs(3);
/// How often it is looked for what a server that was killed left behind.
const SWEEP_EVERY: Duration = Duration::from_secs(5);

/// A job stands still when nothing was heard of it for this many times the time after which it is delivered again,
const STILL_AFTER_WAITS: u32 = 4;
/// and for this long besides: a failed attempt is made again after a while.
const STILL_AFTER: Duration = Duration::from_secs(20);

/// Whether the streams are there. Nothing is known, or they are away: jobs are refused for a while.
const UNKNOWN: u8 = 0;
/// There is no JetStream: jobs take the core path.
const ABSENT: u8 = 1;
/// The streams are there.
const READY: u8 = 2;

/// The durable side of a queen.
pub(super) struct Durable {
    pub streams: Streams,
    pub models: Models,
    pub metrics: Arc<Metrics>,
    state: AtomicU8,
    /// Consumers that were there a moment ago.
    consumers: Mutex<HashSet<String>>,
    /// A job of which nothing was heard for this long stands still.
    still_after: Duration,
    events: JobEvents,
    /// Whose ends are logged.
    pub awaited: Arc<Awaited>,
    /// The jobs by their tickets.
    pub register: Register,
    /// Tickets are read.
    reading: Once,
    lines: tokio::sync::Mutex<waiting::GivenOut>,
    /// When the queue was last swept, and what was seen of each line.
    swept: Mutex<Option<(Instant, Vec<Line>)>>,
}

/// What the streams say of a job.
pub(super) struct Log {
    pub id: JobId,
    pub ticket: Option<StoredTicket>,
    /// The last event, unless it is of an earlier sending.
    pub last: Option<Logged>,
    /// The last event, of whichever sending.
    pub last_ever: Option<Logged>,
}

impl Durable {
    pub fn new(streams: Streams, options: &QueenOptions, metrics: Arc<Metrics>) -> Self {
        let awaited = Arc::new(Awaited::new(metrics.clone()));
        let register = Register::default();
        let (told, entered) = (awaited.clone(), register.clone());
        let heard = move |event: &Event| {
            told.hear(event);
            if event.kind.is_terminal() {
                entered.ended(event);
            }
        };
        Self {
            events: JobEvents::telling(&streams, heard),
            awaited,
            register,
            reading: Once::new(),
            lines: tokio::sync::Mutex::default(),
            swept: Mutex::default(),
            metrics,
            streams,
            models: Models::new(&options.models),
            state: AtomicU8::new(UNKNOWN),
            consumers: Mutex::default(),
            still_after: options.streams.ack_wait * STILL_AFTER_WAITS + STILL_AFTER,
        }
    }

    /// Whether jobs are durable.
    pub fn is_ready(&self) -> bool {
        self.state.load(Ordering::Relaxed) == READY
    }

    /// Whether jobs are to take the core path.
    pub fn is_absent(&self) -> bool {
        self.state.load(Ordering::Relaxed) == ABSENT
    }

    /// Looks for JetStream, and makes the streams. If it is not there now it is looked for in the background.
    ///
    /// # Errors
    /// [`BusError::Mismatch`]: the streams are others than ours, which only somebody can change.
    pub async fn start(self: &Arc<Self>) -> Result<(), BusError> {
        let told = match self.streams.ensure().await {
            Ok(()) => {
                self.is_there();
                None
            }
            Err(error @ (BusError::Mismatch { .. } | BusError::Earlier { .. })) => return Err(error),
            Err(error) => {
                tracing::warn!(%error, "jobs are not durable until JetStream is there");
                self.note(&error, false);
                Some(error.to_string())
            }
        };
        tokio::spawn(self.clone().look_after_it(told));
        Ok(())
    }

    /// The streams are there: from the first time on their tickets are read.
    fn is_there(&self) {
        self.state.store(READY, Ordering::Relaxed);
        self.reading.call_once(|| {
            tokio::spawn(self.register.clone().follow(self.streams.clone()));
        });
    }

    /// Streams that were there once are taken for away and not for absent, whatever a server says that begins anew: a job is
    /// refused for a while rather than taken without being kept.
    fn note(&self, error: &BusError, were_there: bool) {
        let is_absent = matches!(error, BusError::NoJetStream) && !were_there;
        self.state.store(if is_absent { ABSENT } else { UNKNOWN }, Ordering::Relaxed);
    }

    /// Looks for the streams again and again, makes those that are missing, and sweeps the queue. `told`: why they are not
    /// there.
    async fn look_after_it(self: Arc<Self>, mut told: Option<String>) {
        let mut were_there = told.is_none();
        let mut sweeper = Sweeper::new(self.streams.clone(), self.still_after)
            .making_consumers_of(self.models.catalogue().to_vec());
        loop {
            tokio::time::sleep(if told.is_some() { LOOK_AGAIN } else { SWEEP_EVERY }).await;
            if !self.streams.is_connected() {
                continue;
            }
            match self.streams.ensure().await {
                Ok(()) => {
                    if told.take().is_some() {
                        tracing::info!("jobs are durable");
                    }
                    were_there = true;
                    self.is_there();
                }
                Err(error) => {
                    let again = error.to_string();
                    if told.as_ref() != Some(&again) {
                        tracing::warn!(%error, "jobs are not durable now");
                    }
                    self.note(&error, were_there);
                    told = Some(again);
                    continue;
                }
            }
            self.consumers.lock().unwrap_or_else(PoisonError::into_inner).clear();
            let begun = Instant::now();
            match sweeper.sweep().await {
                Ok(swept) => self.note_sweep(begun, swept, sweeper.lines()),
                Err(error) => tracing::warn!(%error, "the queue could not be swept"),
            }
        }
    }

    fn note_sweep(&self, begun: Instant, swept: Swept, lines: &[Line]) {
        let Swept { ended, sent_again, mended } = swept;
        for (what, number) in [("ended", ended), ("sent_again", sent_again), ("mended", mended)] {
            self.metrics.swept.add([what], number);
        }
        self.metrics.sweep_seconds.observe([], begun.elapsed());
        let mut last = self.swept.lock().unwrap_or_else(PoisonError::into_inner);
        *last = Some((Instant::now(), lines.to_vec()));
    }

    /// When the queue was last swept, and what was seen of each line; none: it was not yet.
    pub fn swept_lines(&self) -> Option<(Instant, Vec<Line>)> {
        self.swept.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// What the streams say of a job; `None`: nothing.
    pub async fn find(&self, id: &JobId) -> Result<Option<Log>, ApiError> {
        let log = self.look(id).await?;
        Ok((log.ticket.is_some() || log.last_ever.is_some()).then_some(log))
    }

    /// What the streams say of a job, if only that they know nothing.
    async fn look(&self, id: &JobId) -> Result<Log, ApiError> {
        if !self.is_ready() {
            return Err(busy("JetStream does not answer at present"));
        }
        if !self.streams.is_connected() {
            // Its requests would run into their time limit.
            return Err(busy("queen has no connection to NATS at present"));
        }
        // In this order: an event that is older than the ticket is known for one.
        let last_ever = self.streams.last(id).await.map_err(|error| away(&error))?;
        let ticket = self.streams.stored_ticket(id).await.map_err(|error| away(&error))?;
        let is_past = |logged: &Logged| ticket.as_ref().is_some_and(|t| t.ticket.is_past(logged.event.seq));
        let last = last_ever.clone().filter(|logged| !is_past(logged));
        Ok(Log { id: id.clone(), ticket, last, last_ever })
    }
}

impl Log {
    /// How the job ended, if it has.
    pub fn ended(&self) -> Option<JobStatus> {
        let kind = &self.last.as_ref()?.event.kind;
        kind.is_terminal().then(|| kind.status())
    }

    /// Where the job is.
    pub fn view(&self) -> JobView {
        let event = self.last.as_ref().map(|logged| logged.event.clone());
        let status = event.as_ref().map_or(JobStatus::Queued, |event| event.kind.status());
        JobView { job_id: self.id.clone(), status, event }
    }

    /// The number of the error that the job ended in, if another run may avoid it.
    fn may_run_again(&self) -> Option<u64> {
        let event = &self.last.as_ref()?.event;
        matches!(event.kind, EventKind::Error { retryable: true, .. }).then_some(event.seq)
    }

    /// The client that sent it, where that is known.
    pub fn owner(&self) -> Option<&str> {
        self.ticket()?.owner.as_deref()
    }

    fn ticket(&self) -> Option<&Ticket> {
        self.ticket.as_ref().map(|stored| &stored.ticket)
    }

    /// Events up to this number are of earlier sendings.
    fn past(&self) -> Option<u64> {
        self.ticket()?.after
    }
}

/// JetStream does not answer: the client may ask again.
pub(super) fn away(error: &BusError) -> ApiError {
    busy(&error.to_string())
}

/// Does what must not stop half-way when the client goes: a job in the queue without its ticket is one that nobody knows.
pub(super) async fn uninterrupted<T: Send + 'static>(
    work: impl Future<Output = Result<T, ApiError>> + Send + 'static,
) -> Result<T, ApiError> {
    match tokio::spawn(work).await {
        Ok(done) => done,
        Err(error) => Err(ApiError::new(ErrorCode::Internal, error.to_string())),
    }
}
