//! When a job's time is out.

use std::time::{Duration, Instant};

use tokio::time::timeout_at;

use super::outcome::Failure;
use crate::contract::{ErrorCode, Job};

/// When a job's time is out.
#[derive(Debug, Clone, Copy)]
pub struct TimeLimit {
    /// Then.
    pub at: Instant,
    /// The time that it was given.
    allowed: Duration,
    /// It was out before the job came here.
    is_past: bool,
    /// It is the job's own, and not this worker's.
    pub is_own: bool,
}

impl TimeLimit {
    /// The job's own limit counts from its acceptance, `waited` before it was received; the worker's from then.
    pub fn of(job: &Job, limit: Duration, received: Instant, waited: Duration) -> Self {
        match job.deadline {
            Some(allowed) if allowed.saturating_sub(waited) < limit => {
                let left = allowed.saturating_sub(waited);
                Self { at: received + left, allowed, is_past: left.is_zero(), is_own: true }
            }
            _ => Self { at: received + limit, allowed: limit, is_past: false, is_own: false },
        }
    }

    /// The time was out before the job was begun.
    pub fn check(&self) -> Result<(), Failure> {
        if self.is_past {
            let message = format!("the deadline of {} ms passed in the queue", self.allowed.as_millis());
            return Err(Failure::Error(ErrorCode::DeadlineExceeded, message));
        }
        Ok(())
    }

    /// Does this within the time.
    pub async fn within<T>(&self, doing: &str, work: impl Future<Output = T>) -> Result<T, Failure> {
        timeout_at(self.at.into(), work).await.map_err(|_| {
            let message = format!("the deadline of {} ms passed while {doing}", self.allowed.as_millis());
            Failure::Error(ErrorCode::DeadlineExceeded, message)
        })
    }
}
