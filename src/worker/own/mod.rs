//! Whose a job is. The log decides: whoever stores the next event has the job; a worker that finds another's event there
//! says nothing more, settles nothing, and computes no further. A job whose id the worker itself has drawn is nobody else's,
//! and has no log.

mod claim;
mod found;
mod give_back;
mod lease;

use std::sync::Arc;

use tokio::{task::JoinHandle, time::Duration};

use claim::{AWAY_FOR, CLAIM_TRIES};
pub use claim::{Claimed, Claiming, Ours};
pub use found::MAX_FAILURES;
pub use give_back::{end_unrun, leave_to_others, others_after, set_aside, tell_readers};
use lease::Lease;

use crate::{
    bus::{Delivery, Settle},
    contract::{ErrorCode, EventKind},
    worker::{
        resume::Snapshots,
        shared::{Context, Happened, HeldJob, Lost, Open, Stop},
    },
};

/// An event that was stored so short a time ago says well enough that the job is still ours.
const FRESH: Duration = Duration::from_secs(2);

/// How a job leaves this worker.
#[derive(Debug, Clone, PartialEq)]
pub enum Fate {
    /// It ends. `is_done`: it was run as far as it goes; else nobody could.
    End {
        /// The last event.
        kind: EventKind,
        /// Whether it was run.
        is_done: bool,
    },
    /// It has failed for good, and is kept among the dead letters.
    Bury(ErrorCode, String),
    /// It is tried again after this long.
    Retry(ErrorCode, String, Duration),
    /// It goes on elsewhere, after this long; this attempt has not failed.
    GiveBack(Duration),
}

/// A job that is this worker's, and the way its events go out.
pub struct Ownership {
    context: Arc<Context>,
    job: Arc<HeldJob>,
    publisher: JoinHandle<Result<(), Lost>>,
    standing: Standing,
}

enum Standing {
    /// Nobody else can have it.
    Requested,
    /// It was claimed in its log; one of the queue has a message, which is settled once.
    Leased { lease: Arc<Lease>, delivery: Option<Delivery> },
}

impl Ownership {
    fn requested(context: &Arc<Context>, job: &Arc<HeldJob>) -> Self {
        let (events, outlet) = (job.clone(), Open(context.sink.clone()));
        let publisher = tokio::spawn(async move { events.events.publish(&outlet).await });
        Self { context: context.clone(), job: job.clone(), publisher, standing: Standing::Requested }
    }

    fn leased(context: &Arc<Context>, job: &Arc<HeldJob>, lease: Lease, delivery: Option<Delivery>) -> Self {
        let lease = Arc::new(lease);
        let (told, outlet) = (job.clone(), lease.clone());
        let publisher = tokio::spawn(async move {
            let published = told.events.publish(&*outlet).await;
            if published.is_err() {
                told.stop(Stop::Lost);
            }
            published
        });
        Self {
            context: context.clone(),
            job: job.clone(),
            publisher,
            standing: Standing::Leased { lease, delivery },
        }
    }

    /// Whether the job is of the queue, and comes again where it does not end.
    pub fn is_queued(&self) -> bool {
        matches!(&self.standing, Standing::Leased { delivery: Some(_), .. })
    }

    /// How often its message was delivered.
    pub fn times(&self) -> u64 {
        match &self.standing {
            Standing::Leased { delivery: Some(delivery), .. } => delivery.times,
            Standing::Requested | Standing::Leased { delivery: None, .. } => 1,
        }
    }

    /// Attempts that failed, this one counted.
    pub fn failures(&self) -> u32 {
        match &self.standing {
            Standing::Requested => 1,
            Standing::Leased { lease, .. } => lease.failures,
        }
    }

    /// What tells whether the job is still this worker's.
    pub fn title(&self) -> Title {
        let lease = match &self.standing {
            Standing::Requested => None,
            Standing::Leased { lease, .. } => Some(lease.clone()),
        };
        Title { job: self.job.clone(), lease }
    }

    /// Ends a job that nobody else can have in an error.
    async fn refuse(self, code: ErrorCode, message: String) {
        self.job.events.emit(EventKind::error(code, message));
        if let Err(lost) = published(self.publisher).await {
            tracing::error!(?lost, "the end of a job was not told");
        }
    }

    /// Tells how the job leaves, and settles its message: each once. A dead letter is stored before the job ends, the end
    /// before the message goes.
    pub async fn conclude(self, fate: Fate, snapshots: &mut Snapshots) {
        let fate = match fate {
            Fate::Bury(code, message) => self.bury(code, message).await,
            other => other,
        };
        let events = &self.job.events;
        // Where the job goes on elsewhere, those who asked this worker for it are told to ask again.
        match &fate {
            Fate::End { kind, .. } => events.emit(kind.clone()),
            Fate::Bury(code, message) | Fate::Retry(code, message, _) => {
                snapshots.finish().await;
                events.leave(EventKind::error(*code, message.clone()));
            }
            Fate::GiveBack(_) => {
                match self.job.stopped() {
                    // Those who read along are told of it when it is certain.
                    Some(Stop::Lost) => snapshots.stop().await,
                    // Written before the job is given back, so that nothing of it is done twice.
                    _ => {
                        snapshots.finish().await;
                        events.leave(going_away());
                    }
                }
            }
        }
        // Of an attempt of which NATS has lost every event there may be a snapshot all the same.
        let was_elsewhere = self.times() > 1 || self.job.events.attempt() > 1;
        let Self { context, job, publisher, standing } = self;
        let published = published(publisher).await;
        let Standing::Leased { lease, delivery } = standing else { return };
        let settled = match (published, &fate) {
            (Err(lost), _) => {
                return give_back::forsake(&context, &job, &lease, delivery, lost, snapshots).await;
            }
            (Ok(()), Fate::End { is_done: true, .. }) => Settle::Done,
            (Ok(()), Fate::End { is_done: false, .. }) => Settle::Gone,
            (Ok(()), Fate::GiveBack(after)) => {
                let event = job.events.build(job.events.progress_again());
                if let Err(lost) = lease.give_back(event).await {
                    return give_back::forsake(&context, &job, &lease, delivery, lost, snapshots).await;
                }
                tracing::info!("the job is handed back");
                Settle::Again(*after)
            }
            (Ok(()), Fate::Bury(..)) => Settle::Again(AWAY_FOR),
            (Ok(()), Fate::Retry(_, _, delay)) => {
                tracing::warn!(failures = lease.failures, ?delay, "the job is tried again");
                Settle::Again(*delay)
            }
        };
        if let Some(delivery) = delivery {
            delivery.settle(settled).await;
        }
        if matches!(fate, Fate::End { .. }) {
            snapshots.remove(was_elsewhere).await;
        }
    }

    /// Keeps the message among the dead letters, and then ends the job.
    async fn bury(&self, code: ErrorCode, message: String) -> Fate {
        let Standing::Leased { delivery: Some(delivery), .. } = &self.standing else {
            return Fate::Bury(code, message);
        };
        if let Err(error) = delivery.bury(&self.job.id, code, &message).await {
            tracing::error!(%error, "a dead letter could not be stored");
            return Fate::Bury(code, message);
        }
        tracing::warn!(%code, %message, "the job is a dead letter");
        self.context.metrics.note(Happened::DeadLetter);
        Fate::End { kind: EventKind::error(code, message), is_done: false }
    }
}

/// Waits until the last event of a job is published.
async fn published(publisher: JoinHandle<Result<(), Lost>>) -> Result<(), Lost> {
    publisher.await.unwrap_or_else(|error| {
        tracing::error!(%error, "the publisher of a job's events was lost");
        Err(Lost::Unheard)
    })
}

/// Tells whether a job is still this worker's. Cheap to clone.
#[derive(Clone)]
pub struct Title {
    job: Arc<HeldJob>,
    lease: Option<Arc<Lease>>,
}

impl Title {
    /// Whether the job is this worker's at this moment, which is asked of its log unless that has just said so: before
    /// anything is written that others read.
    pub async fn still_ours(&self) -> bool {
        match &self.lease {
            None => true,
            Some(lease) if lease.unconfirmed_for() < FRESH => self.job.stopped() != Some(Stop::Lost),
            Some(_) => self.job.events.confirm().await,
        }
    }
}

/// What those are told who read along, when the job goes on elsewhere.
pub fn going_away() -> EventKind {
    EventKind::error(ErrorCode::ShuttingDown, "the worker shuts down; try again")
}
