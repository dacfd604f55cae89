//! What becomes of a job that did not end in pictures: one table.

use std::time::Duration;

use crate::{
    contract::{Disposition, ErrorCode, EventKind},
    storage::StorageError,
    worker::{
        own::{Fate, MAX_FAILURES, going_away},
        shared::Stop,
    },
};

/// How long a job waits after its first failure, and after its second.
pub const RETRY_AFTER: [Duration; 2] = [Duration::from_secs(2), Duration::from_secs(15)];

/// Runs of a job in which a device may fail without counting.
const DEVICES_UNCOUNTED: u32 = 8;

/// Why a job did not end in pictures.
#[derive(Debug, Clone, PartialEq)]
pub enum Failure {
    /// It failed.
    Error(ErrorCode, String),
    /// This worker cannot do it, and another may.
    Elsewhere(ErrorCode, String),
    /// The device failed, not the job.
    Device(String),
    /// It was stopped, after this step.
    Stopped { step: u32 },
}

impl From<StorageError> for Failure {
    fn from(error: StorageError) -> Self {
        Self::Error(error.code(), error.to_string())
    }
}

/// Where a job stands when it fails.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Standing {
    /// Why it was stopped, if it was.
    pub stop: Option<Stop>,
    /// It is of the queue, and comes again where it does not end.
    pub is_queued: bool,
    /// Attempts that failed, this one counted.
    pub failures: u32,
    /// How long it would wait for another worker.
    pub others_after: Duration,
    /// Which run of the job this is, from 1.
    pub attempt: u32,
    /// The time limit is the job's own: another worker has no other.
    pub has_own_limit: bool,
}

/// What becomes of it.
pub fn fate(failure: Failure, standing: Standing) -> Fate {
    let Standing { stop, is_queued, failures, others_after, attempt, has_own_limit } = standing;
    let now = Fate::GiveBack(Duration::ZERO);
    let end = |kind, is_done| Fate::End { kind, is_done };
    if stop == Some(Stop::Lost) {
        return now;
    }
    match failure {
        Failure::Stopped { .. } if stop == Some(Stop::GoingAway) => match is_queued {
            true => now,
            false => end(going_away(), true),
        },
        Failure::Stopped { step } => end(EventKind::Cancelled { step }, true),
        Failure::Elsewhere(..) if is_queued && stop == Some(Stop::Cancelled) => {
            end(EventKind::Cancelled { step: 0 }, true)
        }
        Failure::Elsewhere(..) if is_queued => Fate::GiveBack(others_after),
        Failure::Elsewhere(code, message) => end(EventKind::error(code, message), false),
        Failure::Device(_) if is_queued && stop == Some(Stop::Cancelled) => {
            end(EventKind::Cancelled { step: 0 }, true)
        }
        // So many devices do not fail by chance: the job may be what breaks them.
        Failure::Device(message) if is_queued && attempt > DEVICES_UNCOUNTED => {
            fate(Failure::Error(ErrorCode::Internal, message), standing)
        }
        Failure::Device(_) if is_queued => now,
        Failure::Device(message) => end(EventKind::error(ErrorCode::ShuttingDown, message), true),
        Failure::Error(code, message) => match code.disposition() {
            Disposition::Term => end(EventKind::error(code, message), false),
            // A worker that may take longer may do it.
            Disposition::Ack if code == ErrorCode::DeadlineExceeded && is_queued && !has_own_limit => {
                again(code, message, failures)
            }
            Disposition::Ack => end(EventKind::error(code, message), true),
            Disposition::RetryElsewhere | Disposition::HandBack if stop == Some(Stop::Cancelled) => {
                end(EventKind::Cancelled { step: 0 }, true)
            }
            Disposition::RetryElsewhere | Disposition::HandBack if !is_queued => {
                end(EventKind::error(code, message), true)
            }
            Disposition::HandBack => now,
            Disposition::RetryElsewhere => again(code, message, failures),
        },
    }
}

fn again(code: ErrorCode, message: String, failures: u32) -> Fate {
    if failures >= MAX_FAILURES {
        return Fate::Bury(code, message);
    }
    let number = (failures.max(1) as usize - 1).min(RETRY_AFTER.len() - 1);
    Fate::Retry(code, message, RETRY_AFTER[number])
}

#[cfg(test)]
mod tests {
    use super::*;

    const OTHERS_AFTER: Duration = Duration::from_millis(7);

    #[test]
    fn every_row_of_the_table() {
        use ErrorCode::{DeadlineExceeded, Internal, InvalidRequest, OutOfMemory, ShuttingDown, Storage};
        let error = |code| Failure::Error(code, "x".into());
        let elsewhere = || Failure::Elsewhere(InvalidRequest, "x".into());
        let back = || Fate::GiveBack(Duration::ZERO);
        let told = |code| EventKind::error(code, "x");
        let end = |kind| Fate::End { kind, is_done: true };
        let refused = |code| Fate::End { kind: told(code), is_done: false };
        let cancelled = |step| end(EventKind::Cancelled { step });
        let away = || end(going_away());
        let retry = |code, number: usize| Fate::Retry(code, "x".into(), RETRY_AFTER[number]);
        let (stopped, device) = (Failure::Stopped { step: 3 }, Failure::Device("x".into()));
        let (lost, asked, going) = (Some(Stop::Lost), Some(Stop::Cancelled), Some(Stop::GoingAway));
        // What failed, why it was stopped, failures; what becomes of it in the queue, and where it was asked for.
        let rows = [
            (stopped.clone(), asked, 1, cancelled(3), cancelled(3)),
            (stopped.clone(), None, 1, cancelled(3), cancelled(3)),
            (stopped.clone(), going, 1, back(), away()),
            (stopped, lost, 1, back(), back()),
            (device.clone(), None, 1, back(), end(told(ShuttingDown))),
            (device.clone(), None, 3, back(), end(told(ShuttingDown))),
            (device.clone(), asked, 1, cancelled(0), end(told(ShuttingDown))),
            (device, going, 1, back(), end(told(ShuttingDown))),
            (elsewhere(), None, 1, Fate::GiveBack(OTHERS_AFTER), refused(InvalidRequest)),
            (elsewhere(), asked, 1, cancelled(0), refused(InvalidRequest)),
            (error(InvalidRequest), None, 1, refused(InvalidRequest), refused(InvalidRequest)),
            (error(DeadlineExceeded), None, 1, end(told(DeadlineExceeded)), end(told(DeadlineExceeded))),
            (error(OutOfMemory), None, 1, retry(OutOfMemory, 0), end(told(OutOfMemory))),
            (error(OutOfMemory), None, 2, retry(OutOfMemory, 1), end(told(OutOfMemory))),
            (error(OutOfMemory), None, 3, Fate::Bury(OutOfMemory, "x".into()), end(told(OutOfMemory))),
            (error(Storage), going, 1, retry(Storage, 0), end(told(Storage))),
            (error(Storage), asked, 1, cancelled(0), cancelled(0)),
            (error(Storage), lost, 1, back(), back()),
            (error(ShuttingDown), None, 1, back(), end(told(ShuttingDown))),
            (error(ShuttingDown), asked, 1, cancelled(0), cancelled(0)),
        ];
        for (failure, stop, failures, queued, asked_for) in rows {
            for (is_queued, expected) in [(true, queued), (false, asked_for)] {
                let standing = Standing {
                    stop,
                    is_queued,
                    failures,
                    others_after: OTHERS_AFTER,
                    attempt: 2,
                    has_own_limit: true,
                };
                assert_eq!(fate(failure.clone(), standing), expected, "{failure:?} {standing:?}");
            }
        }
        let late = Standing {
            stop: None,
            is_queued: true,
            failures: 1,
            others_after: OTHERS_AFTER,
            attempt: DEVICES_UNCOUNTED + 1,
            has_own_limit: false,
        };
        assert_eq!(
            fate(error(DeadlineExceeded), late),
            retry(DeadlineExceeded, 0),
            "the limit is this worker's"
        );
        assert_eq!(fate(Failure::Device("x".into()), late), retry(Internal, 0), "it breaks every device");
    }
}
