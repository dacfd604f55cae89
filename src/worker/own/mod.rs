//! A durable job on this worker: claimed in the job's log, its events stored there one after the other, and settled once.
//!
//! The log decides. Whoever stores the next event has the job; a worker that finds another's event there says nothing
//! more, settles nothing, and computes no further.

mod claim;

use std::{sync::Arc, time::Duration};

use claim::Claim;
pub use claim::{Found, found};

use crate::{
    bus::{Delivery, Settle},
    contract::{Disposition, ErrorCode, Event, EventKind},
    worker::{
        job::{Failure, JobRun},
        shared::{Lost, Open},
    },
};

/// Attempts that may fail; then the job is a dead letter.
pub const MAX_FAILURES: u32 = 3;
/// How long a job waits after its first failure, and after its second.
pub const RETRY_AFTER: [Duration; 2] = [Duration::from_secs(2), Duration::from_secs(15)];
/// How long a job waits whose log could not be read or written, or whose dead letter could not be stored.
pub const AWAY_FOR: Duration = Duration::from_secs(5);
/// How often a claim is tried that another's event got in the way of.
pub const CLAIM_TRIES: u32 = 8;

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

impl JobRun {
    /// Runs a durable job to its end on this worker, and settles its message.
    pub async fn run_durable(mut self, delivery: Delivery) {
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
        self.context.held.end(&self.running);
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
                self.snapshots.remove(self.attempt > 1).await;
                self.running.events.repeat(event.clone());
            }
            Verdict::Bury(code, message) | Verdict::Retry(code, message) => {
                self.snapshots.finish().await;
                self.running.events.leave(EventKind::error(*code, message.clone()));
            }
            Verdict::HandBack => {
                match self.running.is_lost() {
                    true => self.snapshots.stop().await,
                    // Written before the job is given back, so that nothing of it is done twice.
                    false => self.snapshots.finish().await,
                }
                self.running.events.leave(self.going_away());
            }
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
    async fn hand_back(&mut self, claim: &Claim, delivery: Delivery) {
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
    async fn forsake(&mut self, claim: &Claim, delivery: Delivery, lost: Lost) {
        self.snapshots.stop().await;
        let job_id = &self.job.id;
        let message = "this worker has lost the job; ask for it again";
        self.running.events.leave(EventKind::error(ErrorCode::Internal, message));
        let outlet = Open(claim.sink.clone());
        // What is left is for reply subjects; this way out loses no job.
        let _ = self.running.events.publish(&outlet).await;
        if lost == Lost::Unheard {
            return delivery.settle(Settle::Again(AWAY_FOR)).await;
        }
        self.context.metrics.lost();
        match claim.log.last(job_id).await {
            Ok(Some(last)) if last.event.kind.is_terminal() => {
                tracing::info!(%job_id, end = last.event.kind.name(), "the job was ended elsewhere");
                self.snapshots.remove(true).await;
                delivery.settle(Settle::Done).await;
            }
            // Not settled: that is for the worker that has it.
            _ => tracing::warn!(%job_id, "another worker has the job"),
        }
    }
}
