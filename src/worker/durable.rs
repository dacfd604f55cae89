//! A durable job on this worker: claimed in the job's log, its events stored there one after the other, and settled once.
//!
//! The log decides. Whoever stores the next event has the job; a worker that finds another's event there says nothing
//! more, settles nothing, and computes no further.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use futures::{FutureExt, future::BoxFuture};

use super::{
    context::Context,
    job::{Failure, JobRun, ms},
    job_events::{Lost, Outlet},
};
use crate::{
    bus::{AppendError, BusError, Delivery, Entry, EventLog, EventSink, Logged, Outgoing, Settle, To},
    contract::{Disposition, ErrorCode, Event, EventKind, JobId},
    storage::Key,
};

/// Attempts that may fail; then the job is a dead letter.
pub(super) const MAX_FAILURES: u32 = 3;
/// How long a job waits after its first failure, and after its second.
const RETRY_AFTER: [Duration; 2] = [Duration::from_secs(2), Duration::from_secs(15)];
/// How long a job waits whose log could not be read or written, or whose dead letter could not be stored.
const AWAY_FOR: Duration = Duration::from_secs(5);
/// The pause before an event that was not stored is stored again.
const STORE_AGAIN: Duration = Duration::from_millis(500);
/// A job whose events cannot be stored for this long is given up; whoever gets it next finds what it has done.
const UNHEARD_AFTER: Duration = Duration::from_secs(600);
/// The most bytes of a marker that are read: it says all by being there.
const MAX_MARKER: u64 = 1 << 10;
/// How often a claim is tried that another's event got in the way of.
const CLAIM_TRIES: u32 = 8;

/// The log of a job that this worker has claimed: the way out for its events.
pub(super) struct Claim {
    log: Arc<dyn EventLog>,
    sink: Arc<dyn EventSink>,
    traceparent: Option<String>,
    /// The number in the stream of the last event.
    last: AtomicU64,
    /// Attempts that failed, this one counted until it is given back.
    failures: u32,
}

/// What is found in the log of a job that was delivered.
enum Found {
    /// It has ended, and this is how.
    Ended(Box<Event>),
    /// It has failed too often.
    WornOut(Box<Logged>),
    /// It is to be run: after this event of the stream, as this attempt, from this number.
    Open { last: u64, failures: u32, attempt: u32, seq: u64 },
}

/// How a durable job leaves this worker.
enum Verdict {
    /// It has ended.
    End(Event, Settle),
    /// It has failed for good; the message is kept among the dead letters.
    Bury(ErrorCode, String),
    /// It has failed, and is tried again.
    Retry(ErrorCode, String),
    /// The worker goes away; the job has not failed.
    HandBack,
}

fn found(last: Option<Logged>, after: Option<u64>) -> Found {
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
    async fn store(&self, event: Arc<Event>, failures: u32) -> Result<(), Lost> {
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
                    Some(event) if message.to == To::Events => self.store(event.clone(), self.failures).await?,
                    _ => self.sink.deliver(std::slice::from_ref(message)).await,
                }
            }
            Ok(())
        }
        .boxed()
    }
}

impl JobRun {
    /// Runs a durable job to its end on this worker, and settles its message.
    pub(super) async fn run_durable(mut self, delivery: Delivery) {
        let job_id = self.job.id.clone();
        if delivery.times > 1 {
            self.context.metrics.redelivered();
            tracing::info!(%job_id, times = delivery.times, "a job is delivered again");
        }
        match self.claim(&delivery).await {
            Ok(claim) => self.run_claimed(Arc::new(claim), delivery).await,
            Err(settle) => {
                drop(self.permits.take_slot());
                self.context.slots.changed();
                delivery.settle(settle).await;
            }
        }
        self.context.registry.end(&self.running);
    }

    /// Claims the job by storing `accepted`; or ends it, and says what becomes of the message.
    async fn claim(&mut self, delivery: &Delivery) -> Result<Claim, Settle> {
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
                    self.forget_checkpoint(true).await;
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
                            self.forget_checkpoint(true).await;
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
                    self.forget_checkpoint(attempt > 1).await;
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

    async fn run_claimed(&mut self, claim: Arc<Claim>, delivery: Delivery) {
        let (running, outlet) = (self.running.clone(), claim.clone());
        let publisher = tokio::spawn(async move {
            let published = running.events.publish(&*outlet).await;
            if published.is_err() {
                running.lose();
            }
            published
        });
        let done = self.execute_guarded().await;
        self.give_slot_back();
        let verdict = match done {
            Ok(event) => Verdict::End(event, Settle::Done),
            Err(failure) => self.verdict(failure, &claim),
        };
        let verdict = match verdict {
            Verdict::Bury(code, message) => self.bury(&delivery, code, message).await,
            other => other,
        };
        // Where the job goes on elsewhere, those who asked this worker for it are told to ask again.
        match &verdict {
            Verdict::End(event, _) => {
                self.note_end(event);
                self.forget_checkpoint(self.attempt > 1).await;
                self.running.events.repeat(event.clone());
            }
            Verdict::Bury(code, message) | Verdict::Retry(code, message) => {
                self.running.events.leave(EventKind::error(*code, message.clone()));
            }
            Verdict::HandBack => self.running.events.leave(self.going_away()),
        }
        let published = publisher.await.unwrap_or_else(|error| {
            tracing::error!(job_id = %self.job.id, %error, "the publisher of a job's events was lost");
            Err(Lost::Unheard)
        });
        match (published, verdict) {
            (Err(lost), _) => self.forsake(&claim, delivery, lost).await,
            (Ok(()), Verdict::End(_, how)) => delivery.settle(how).await,
            (Ok(()), Verdict::HandBack) => self.hand_back(&claim, delivery).await,
            (Ok(()), Verdict::Bury(..) | Verdict::Retry(..)) => {
                let delay = RETRY_AFTER[(claim.failures.max(1) as usize - 1).min(RETRY_AFTER.len() - 1)];
                tracing::warn!(job_id = %self.job.id, failures = claim.failures, ?delay, "the job is tried again");
                delivery.settle(Settle::Again(delay)).await;
            }
        }
    }

    fn verdict(&self, failure: Failure, claim: &Claim) -> Verdict {
        if self.running.is_lost() {
            return Verdict::HandBack;
        }
        let end = |kind, how| Verdict::End(self.running.events.build(kind), how);
        match failure {
            Failure::Cancelled { .. } if self.running.is_handed_back() => Verdict::HandBack,
            Failure::Cancelled { step } => end(EventKind::Cancelled { step }, Settle::Done),
            Failure::Error(code, message) => match code.disposition() {
                Disposition::Term => end(EventKind::error(code, message), Settle::Gone),
                Disposition::Ack => end(EventKind::error(code, message), Settle::Done),
                Disposition::HandBack => Verdict::HandBack,
                Disposition::RetryElsewhere if claim.failures >= MAX_FAILURES => Verdict::Bury(code, message),
                Disposition::RetryElsewhere => Verdict::Retry(code, message),
            },
        }
    }

    /// Keeps the message among the dead letters, and then ends the job.
    async fn bury(&self, delivery: &Delivery, code: ErrorCode, message: String) -> Verdict {
        if let Err(error) = delivery.bury(&self.job.id, code, &message).await {
            tracing::error!(job_id = %self.job.id, %error, "a dead letter could not be stored");
            return Verdict::Bury(code, message);
        }
        tracing::warn!(job_id = %self.job.id, %code, %message, "the job is a dead letter");
        self.context.metrics.dead_letter();
        Verdict::End(self.running.events.build(EventKind::error(code, message)), Settle::Gone)
    }

    /// Gives the job back; that it was here is no failure.
    async fn hand_back(&self, claim: &Claim, delivery: Delivery) {
        let kind = self.running.events.last_progress().unwrap_or_else(|| {
            let total = self.job.n * self.job.steps.unwrap_or(self.model.steps);
            EventKind::Progress { step: 0, total, percent: 0.0, eta_ms: 0 }
        });
        let event = Arc::new(self.running.events.build(kind));
        match claim.store(event, claim.failures - 1).await {
            Ok(()) => {
                tracing::info!(job_id = %self.job.id, "the job is handed back");
                delivery.settle(Settle::Again(Duration::ZERO)).await;
            }
            Err(lost) => self.forsake(claim, delivery, lost).await,
        }
    }

    /// The job is another's. What waits for it here is told so.
    async fn forsake(&self, claim: &Claim, delivery: Delivery, lost: Lost) {
        let job_id = &self.job.id;
        let message = "this worker has lost the job; ask for it again";
        self.running.events.leave(EventKind::error(ErrorCode::Internal, message));
        let outlet = super::job_events::Open(claim.sink.clone());
        // What is left is for reply subjects; this way out loses no job.
        let _ = self.running.events.publish(&outlet).await;
        if lost == Lost::Unheard {
            return delivery.settle(Settle::Again(AWAY_FOR)).await;
        }
        self.context.metrics.lost();
        match claim.log.last(job_id).await {
            Ok(Some(last)) if last.event.kind.is_terminal() => {
                tracing::info!(%job_id, end = last.event.kind.name(), "the job was ended elsewhere");
                self.forget_checkpoint(true).await;
                delivery.settle(Settle::Done).await;
            }
            // Not settled: that is for the worker that has it.
            _ => tracing::warn!(%job_id, "another worker has the job"),
        }
    }
}

impl JobRun {
    async fn forget_checkpoint(&self, _there: bool) {}
}

/// A durable job that is refused by what it says: its sender is told, and the message goes.
pub(super) async fn refuse(
    context: &Context,
    id: &JobId,
    delivery: Delivery,
    code: ErrorCode,
    message: String,
    traceparent: Option<String>,
) {
    for _ in 0..CLAIM_TRIES {
        let last = match context.log.last(id).await {
            Ok(last) => last,
            Err(error) => {
                tracing::warn!(job_id = %id, %error, "a job's log is out of reach; the job waits");
                return delivery.settle(Settle::Again(AWAY_FOR)).await;
            }
        };
        let (last, attempt, seq) = match found(last, delivery.after) {
            Found::Ended(_) => return delivery.settle(Settle::Done).await,
            Found::WornOut(last) => (last.sequence, last.event.attempt, last.event.seq + 1),
            Found::Open { last, attempt, seq, .. } => (last, attempt, seq),
        };
        let event = Event {
            job_id: id.clone(),
            worker_id: context.identity.worker_id.clone(),
            attempt,
            seq,
            kind: EventKind::error(code, message.clone()),
        };
        let entry = Entry { event: Arc::new(event), failures: 0, traceparent: traceparent.clone() };
        match context.log.append(&entry, last).await {
            Ok(_) => return delivery.settle(Settle::Gone).await,
            Err(AppendError::Fenced) => {}
            Err(AppendError::Bus(error)) => {
                tracing::warn!(job_id = %id, %error, "an event could not be stored; the job waits");
                return delivery.settle(Settle::Again(AWAY_FOR)).await;
            }
        }
    }
    delivery.settle(Settle::Again(AWAY_FOR)).await;
}

/// A message whose id stands for another job: it is kept among the dead letters, and that job hears nothing of it.
pub(super) async fn set_aside(id: &JobId, delivery: Delivery, message: &str) {
    tracing::warn!(job_id = %id, message, "a job is set aside");
    match delivery.bury(id, ErrorCode::InvalidRequest, message).await {
        Ok(()) => delivery.settle(Settle::Gone).await,
        Err(error) => {
            tracing::error!(job_id = %id, %error, "a dead letter could not be stored");
            delivery.settle(Settle::Again(AWAY_FOR)).await;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::contract::WorkerId;

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
                Found::Open { last, failures, attempt, seq } => write!(f, "{last} {failures} {attempt} {seq}"),
            }
        }
    }
}
