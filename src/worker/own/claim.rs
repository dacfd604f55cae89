//! Claiming a job: its log is read, and the event that makes it this worker's is stored.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use futures::{FutureExt, future::BoxFuture};

use super::{AWAY_FOR, CLAIM_TRIES, MAX_FAILURES};
use crate::{
    bus::{AppendError, BusError, Delivery, Entry, EventLog, EventSink, Logged, Outgoing, Settle, To},
    contract::{ErrorCode, Event, EventKind},
    storage::Key,
    worker::{
        job::{JobRun, ms},
        shared::{Lost, Outlet},
    },
};

/// The pause before an event that was not stored is stored again.
const STORE_AGAIN: Duration = Duration::from_millis(500);
/// A job whose events cannot be stored for this long is given up; whoever gets it next finds what it has done.
const UNHEARD_AFTER: Duration = Duration::from_secs(600);
/// The most bytes of a marker that are read: it says all by being there.
const MAX_MARKER: u64 = 1 << 10;

/// The log of a job that this worker has claimed: the way out for its events.
pub struct Claim {
    pub log: Arc<dyn EventLog>,
    pub sink: Arc<dyn EventSink>,
    traceparent: Option<String>,
    /// The number in the stream of the last event.
    last: AtomicU64,
    /// Attempts that failed, this one counted until it is given back.
    pub failures: u32,
}

/// What is found in the log of a job that was delivered.
pub enum Found {
    /// It has ended, and this is how.
    Ended(Box<Event>),
    /// It has failed too often.
    WornOut(Box<Logged>),
    /// It is to be run: after this event of the stream, as this attempt, from this number.
    Open { last: u64, failures: u32, attempt: u32, seq: u64 },
}

pub fn found(last: Option<Logged>, after: Option<u64>) -> Found {
    let Some(last) = last else { return Found::Open { last: 0, failures: 0, attempt: 1, seq: 0 } };
    let (attempt, seq) = (last.event.attempt + 1, last.event.seq + 1);
    let ended = last.event.kind.is_terminal();
    if ended && after.is_some_and(|after| last.event.seq <= after) {
        // It was sent again: what ended it then does not end it now.
        return Found::Open { last: last.sequence, failures: 0, attempt, seq };
    }
    if ended {
        return Found::Ended(Box::new(last.event));
    }
    match last.failures {
        failures if failures >= MAX_FAILURES => Found::WornOut(Box::new(last)),
        failures => Found::Open { last: last.sequence, failures, attempt, seq },
    }
}

impl Claim {
    /// Stores an event, however long JetStream is away.
    pub async fn store(&self, event: Arc<Event>, failures: u32) -> Result<(), Lost> {
        let entry = Entry { event, failures, traceparent: self.traceparent.clone() };
        let begun = tokio::time::Instant::now();
        loop {
            match self.log.append(&entry, self.last.load(Ordering::Acquire)).await {
                Ok(sequence) => {
                    self.last.store(sequence, Ordering::Release);
                    return Ok(());
                }
                Err(AppendError::Fenced) => return Err(Lost::ToAnother),
                Err(AppendError::Bus(error)) => {
                    let job_id = &entry.event.job_id;
                    if begun.elapsed() >= UNHEARD_AFTER {
                        tracing::error!(%job_id, %error, "an event could not be stored; the job is given up");
                        return Err(Lost::Unheard);
                    }
                    tracing::warn!(%job_id, %error, "an event is not stored yet");
                    tokio::time::sleep(STORE_AGAIN).await;
                }
            }
        }
    }
}

impl Outlet for Claim {
    fn deliver<'a>(&'a self, messages: &'a [Outgoing]) -> BoxFuture<'a, Result<(), Lost>> {
        async move {
            for message in messages {
                match &message.event {
                    Some(event) if message.to == To::Events => {
                        self.store(event.clone(), self.failures).await?
                    }
                    _ => self.sink.deliver(std::slice::from_ref(message)).await,
                }
            }
            Ok(())
        }
        .boxed()
    }
}

impl JobRun {
    /// Claims the job by storing `accepted`; or ends it, and says what becomes of the message.
    pub async fn claim(&mut self, delivery: &Delivery) -> Result<Claim, Settle> {
        let (context, id) = (self.context.clone(), self.job.id.clone());
        let away = |error: BusError| {
            tracing::warn!(job_id = %id, %error, "a job's log is out of reach; the job waits");
            Settle::Again(AWAY_FOR)
        };
        for _ in 0..CLAIM_TRIES {
            let found = found(context.log.last(&id).await.map_err(away)?, delivery.after);
            let (last, failures, attempt, seq) = match found {
                Found::Ended(event) => {
                    tracing::info!(job_id = %id, end = event.kind.name(), "the job has ended already");
                    context.metrics.duplicate();
                    self.snapshots.remove(true).await;
                    return Err(Settle::Done);
                }
                Found::WornOut(last) => {
                    let worker = &last.event.worker_id;
                    let message = format!(
                        "{} attempts failed; the last was given up by worker `{worker}` without a word",
                        last.failures
                    );
                    self.running.events.go_on(last.event.attempt, last.event.seq + 1);
                    if let Err(error) = delivery.bury(&id, ErrorCode::Internal, &message).await {
                        return Err(away(error));
                    }
                    context.metrics.dead_letter();
                    let kind = EventKind::error(ErrorCode::Internal, message);
                    match self.append(kind, last.sequence, last.failures).await {
                        Err(AppendError::Fenced) => continue,
                        Err(AppendError::Bus(error)) => return Err(away(error)),
                        Ok(_) => {
                            self.snapshots.remove(true).await;
                            return Err(Settle::Gone);
                        }
                    }
                }
                Found::Open { last, failures, attempt, seq } => (last, failures, attempt, seq),
            };
            self.running.events.go_on(attempt, seq);
            self.attempt = attempt;
            let (kind, ends) = match self.ended_in_the_queue().await {
                Some(kind) => (kind, true),
                None => (self.accepted(), false),
            };
            match self.append(kind, last, failures + u32::from(!ends)).await {
                Err(AppendError::Fenced) => {}
                Err(AppendError::Bus(error)) => return Err(away(error)),
                Ok(_) if ends => {
                    self.snapshots.remove(attempt > 1).await;
                    return Err(Settle::Done);
                }
                Ok(last) => {
                    return Ok(Claim {
                        log: context.log.clone(),
                        sink: context.sink.clone(),
                        traceparent: self.traceparent.clone(),
                        last: AtomicU64::new(last),
                        failures: failures + 1,
                    });
                }
            }
        }
        tracing::warn!(job_id = %id, "another worker is at work on the job; it waits");
        Err(Settle::Again(AWAY_FOR))
    }

    /// Why a job has ended before anybody ran it.
    async fn ended_in_the_queue(&self) -> Option<EventKind> {
        if tokio::time::Instant::now() >= self.limit.at.into() {
            let message = format!("the deadline of {} ms passed in the queue", ms(self.limit.allowed));
            return Some(EventKind::error(ErrorCode::DeadlineExceeded, message));
        }
        self.was_cancelled().await.then_some(EventKind::Cancelled { step: 0 })
    }

    /// Whether somebody cancelled it while it waited, longer ago than events are kept.
    async fn was_cancelled(&self) -> bool {
        let key = Key::Cancelled { job: self.job.id.clone() };
        match self.context.store.find(&key, MAX_MARKER).await {
            Ok(found) => found.is_some(),
            Err(error) => {
                tracing::warn!(job_id = %self.job.id, %error, "cannot see whether the job was cancelled");
                false
            }
        }
    }

    /// Stores an event outside of the publisher's turn; its number in the stream.
    async fn append(&self, kind: EventKind, after: u64, failures: u32) -> Result<u64, AppendError> {
        let event = Arc::new(self.running.events.build(kind));
        let entry = Entry { event, failures, traceparent: self.traceparent.clone() };
        let sequence = self.context.log.append(&entry, after).await?;
        self.running.events.stored(Event::clone(&entry.event));
        Ok(sequence)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::contract::{JobId, WorkerId};

    fn logged(kind: EventKind, failures: u32) -> Option<Logged> {
        let event = Event {
            job_id: JobId::new("j").unwrap(),
            worker_id: WorkerId::new("w").unwrap(),
            attempt: 2,
            seq: 7,
            kind,
        };
        Some(Logged { event, sequence: 40, failures })
    }

    #[test]
    fn an_end_ends_the_job_unless_it_was_sent_again_after_it() {
        let end = || logged(EventKind::Cancelled { step: 1 }, 1);
        assert!(matches!(found(end(), None), Found::Ended(_)));
        assert!(matches!(found(end(), Some(6)), Found::Ended(_)));
        let again = Found::Open { last: 40, failures: 0, attempt: 3, seq: 8 };
        assert_eq!(format!("{:?}", Shown(&found(end(), Some(7)))), format!("{:?}", Shown(&again)));
    }

    #[test]
    fn a_job_that_failed_three_times_is_worn_out() {
        let progress = || EventKind::Progress { step: 1, total: 2, percent: 50.0, eta_ms: 0 };
        assert!(matches!(found(logged(progress(), MAX_FAILURES), None), Found::WornOut(_)));
        assert!(matches!(found(logged(progress(), 2), None), Found::Open { failures: 2, attempt: 3, .. }));
        assert!(matches!(found(None, None), Found::Open { last: 0, failures: 0, attempt: 1, seq: 0 }));
    }

    struct Shown<'a>(&'a Found);

    impl std::fmt::Debug for Shown<'_> {
        fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
            match self.0 {
                Found::Ended(_) => f.write_str("ended"),
                Found::WornOut(_) => f.write_str("worn out"),
                Found::Open { last, failures, attempt, seq } => {
                    write!(f, "{last} {failures} {attempt} {seq}")
                }
            }
        }
    }
}
