//! One job as queen remembers it: its events in order, and who waits for the next.

use std::{
    collections::VecDeque,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use futures::stream::{self, BoxStream, StreamExt};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::contract::{
    About, CompleteEvent, ErrorCode, Event, EventKind, JobId, JobStatus, JobView, WorkerId,
};

/// The most events of one job that are kept; beyond it the oldest progress event is forgotten.
pub const MAX_EVENTS: usize = 256;
/// The `worker_id` of events that queen makes itself, of jobs that no worker has.
pub const QUEEN_ID: &str = "queen";

/// A job.
pub struct Record {
    /// The job.
    pub id: JobId,
    /// What it is; the same id with another one is refused.
    pub fingerprint: String,
    /// The client that sent it, where clients are told apart.
    pub owner: Option<String>,
    /// What a list says of it.
    pub about: About,
    /// Set when a client wants it to stop.
    pub cancel: CancellationToken,
    log: Mutex<Log>,
    changed: watch::Sender<()>,
}

#[derive(Default)]
struct Log {
    events: VecDeque<Event>,
    next_seq: u64,
}

impl Log {
    fn terminal(&self) -> Option<&Event> {
        self.events.back().filter(|event| event.kind.is_terminal())
    }
}

impl Record {
    /// A job without events, whose first will have number `first_seq`.
    pub fn new(id: JobId, fingerprint: String, owner: Option<String>, about: About, first_seq: u64) -> Self {
        let log = Log { events: VecDeque::new(), next_seq: first_seq };
        Self {
            id,
            fingerprint,
            owner,
            about,
            cancel: CancellationToken::new(),
            log: Mutex::new(log),
            changed: watch::Sender::new(()),
        }
    }

    /// Adds an event. What comes after the terminal one is left out, so that there is one. Numbers only rise: an
    /// event of a second run is given the next one. Of previews the newest is kept.
    pub fn push(&self, mut event: Event) {
        {
            let mut log = self.log();
            if log.terminal().is_some() {
                tracing::debug!(job = %self.id, event = event.kind.name(), "event after the end is left out");
                return;
            }
            event.seq = event.seq.max(log.next_seq);
            log.next_seq = event.seq + 1;
            if event.kind.is_terminal() || matches!(event.kind, EventKind::Preview { .. }) {
                log.events.retain(|e| !matches!(e.kind, EventKind::Preview { .. }));
            }
            if log.events.len() >= MAX_EVENTS {
                let oldest = log.events.iter().position(|e| !matches!(e.kind, EventKind::Accepted { .. }));
                log.events.remove(oldest.unwrap_or(0));
            }
            log.events.push_back(event);
        }
        self.changed.send_replace(());
    }

    /// Adds an event of queen's own: `worker` had the job, or none.
    pub fn push_own(&self, worker: Option<&WorkerId>, kind: EventKind) {
        let queen = || WorkerId::new(QUEEN_ID).expect("a valid id");
        let worker_id = worker.cloned().unwrap_or_else(queen);
        self.push(Event { job_id: self.id.clone(), worker_id, attempt: 1, seq: 0, kind });
    }

    /// Ends the job in an error.
    pub fn fail(&self, worker: Option<&WorkerId>, code: ErrorCode, message: impl Into<String>) {
        self.push_own(worker, EventKind::error(code, message));
    }

    /// Whether the terminal event is there.
    pub fn has_ended(&self) -> bool {
        self.log().terminal().is_some()
    }

    /// Where the job is.
    pub fn view(&self) -> JobView {
        let event = self.log().events.back().cloned();
        let status = event.as_ref().map_or(JobStatus::Queued, |e| e.kind.status());
        JobView { job_id: self.id.clone(), status, event }
    }

    /// The complete event, if the job has one.
    pub fn complete(&self) -> Option<CompleteEvent> {
        match &self.log().terminal()?.kind {
            EventKind::Complete(complete) => Some(complete.clone()),
            _ => None,
        }
    }

    /// If the job ended in an error that another run may avoid: the number of that run's first event.
    pub fn may_run_again(&self) -> Option<u64> {
        let log = self.log();
        match log.terminal()?.kind {
            EventKind::Error { retryable: true, .. } => Some(log.next_seq),
            _ => None,
        }
    }

    /// The events after number `after`, and those to come, to the terminal one. A client that has seen that one
    /// gets it again, so that it knows. The stream is cut short by `cut`, when nothing is left to be sent.
    pub fn stream(self: Arc<Self>, after: Option<u64>, cut: CancellationToken) -> BoxStream<'static, Event> {
        let changed = self.changed.subscribe();
        let after = match self.log().terminal() {
            Some(last) if after.is_some_and(|after| after >= last.seq) => last.seq.checked_sub(1),
            _ => after,
        };
        let reader = Reader { record: self, changed, cut, after, ended: false };
        stream::unfold(reader, |mut reader| async move {
            let events = reader.next().await?;
            Some((stream::iter(events), reader))
        })
        .flatten()
        .boxed()
    }

    fn after(&self, after: Option<u64>) -> Vec<Event> {
        self.log().events.iter().filter(|e| after.is_none_or(|after| e.seq > after)).cloned().collect()
    }

    fn log(&self) -> MutexGuard<'_, Log> {
        // Nothing in here can leave the log half changed.
        self.log.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

struct Reader {
    record: Arc<Record>,
    changed: watch::Receiver<()>,
    cut: CancellationToken,
    after: Option<u64>,
    ended: bool,
}

impl Reader {
    /// The next events, at least one; `None` after the terminal one.
    async fn next(&mut self) -> Option<Vec<Event>> {
        while !self.ended {
            self.changed.mark_unchanged();
            let events = self.record.after(self.after);
            if let Some(last) = events.last() {
                self.after = Some(last.seq);
                self.ended = last.kind.is_terminal();
                return Some(events);
            }
            tokio::select! {
                // The sender lives in the record, which this reader holds.
                _ = self.changed.changed() => {}
                () = self.cut.cancelled() => return None,
            }
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::contract::Operation;

    fn record() -> Arc<Record> {
        let operation = Operation::parse(None, br#"{"operation":"image_generation","prompt":"a"}"#).unwrap();
        Arc::new(Record::new(JobId::new("j").unwrap(), "f".into(), None, About::of(&operation), 0))
    }

    fn event(seq: u64, kind: EventKind) -> Event {
        Event {
            job_id: JobId::new("j").unwrap(),
            worker_id: WorkerId::new("w").unwrap(),
            attempt: 1,
            seq,
            kind,
        }
    }

    fn accepted() -> EventKind {
        EventKind::Accepted { model: "m".into(), seed: 1, position: 0 }
    }

    fn progress(step: u32) -> EventKind {
        EventKind::Progress { step, total: 1000, percent: 0.0, eta_ms: 0 }
    }

    async fn seqs(record: &Arc<Record>, after: Option<u64>) -> Vec<u64> {
        record.clone().stream(after, CancellationToken::new()).map(|e| e.seq).collect().await
    }

    #[tokio::test]
    async fn every_reader_gets_every_event_and_one_end() {
        let record = record();
        record.push(event(0, accepted()));
        record.push(event(1, progress(1)));
        let early = tokio::spawn({
            let record = record.clone();
            async move { seqs(&record, None).await }
        });
        tokio::task::yield_now().await;
        record.push(event(4, EventKind::Cancelled { step: 1 }));
        record.push(event(5, EventKind::error(ErrorCode::Internal, "late")));
        assert_eq!(early.await.unwrap(), [0, 1, 4]);
        assert_eq!(seqs(&record, None).await, [0, 1, 4]);
        assert_eq!(seqs(&record, Some(1)).await, [4]);
        assert_eq!(seqs(&record, Some(4)).await, [4], "whoever asks after the end is told the end");
        assert_eq!(record.view().status, JobStatus::Cancelled);
    }

    #[tokio::test]
    async fn numbers_rise_when_another_worker_goes_on() {
        let record = record();
        record.push(event(0, accepted()));
        record.push(event(1, progress(1)));
        record.push(event(0, progress(1)));
        record.push(event(1, EventKind::Cancelled { step: 1 }));
        assert_eq!(seqs(&record, None).await, [0, 1, 2, 3]);
    }

    #[tokio::test]
    async fn memory_is_bounded_and_the_first_event_is_kept() {
        let record = record();
        record.push(event(0, accepted()));
        for step in 1..1000 {
            record.push(event(step.into(), progress(step)));
        }
        record.push(event(1000, EventKind::Cancelled { step: 1 }));
        let seqs = seqs(&record, None).await;
        assert_eq!(seqs.len(), MAX_EVENTS);
        assert_eq!((seqs[0], seqs[MAX_EVENTS - 1]), (0, 1000));
    }

    #[tokio::test]
    async fn a_cut_stream_ends_without_an_end_event() {
        let record = record();
        record.push(event(0, accepted()));
        let cut = CancellationToken::new();
        cut.cancel();
        let seen: Vec<_> = record.clone().stream(None, cut).collect().await;
        assert_eq!(seen.len(), 1);
        assert!(!record.has_ended());
    }
}
