//! Whether a job that a worker took is still being worked on. No stream hangs because a worker died.

use std::time::{Duration, Instant};

use crate::{bus::Fleet, contract::WorkerId};

/// How often it looks.
pub const EVERY: Duration = Duration::from_secs(1);
/// A running job has an event at least every 5 s. After this long without one the store is asked whether the job is
/// done: its last event may have been lost while a connection was away.
pub const LOOK_AFTER: Duration = Duration::from_secs(15);
/// After this long without an event, a worker whose heartbeat says that it runs nothing has lost the job.
pub const IDLE_AFTER: Duration = Duration::from_secs(60);
/// After this long without an event a job is given up, whatever heartbeats say.
pub const SILENT_AFTER: Duration = Duration::from_secs(600);

/// What it found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    /// Nothing to worry about.
    Working,
    /// The job is quiet: see whether it is done.
    Look,
    /// The worker does not have it any more, for the reason given.
    Lost(String),
}

/// Judges a job that `worker` has, and of which an event last came at `last_event`.
pub fn judge(fleet: &Fleet, worker: &WorkerId, last_event: Instant) -> Verdict {
    let silence = fleet.silence(worker, last_event);
    if silence >= fleet.gone_after() {
        let seconds = silence.as_secs_f32();
        return Verdict::Lost(format!(
            "worker `{worker}` has been silent for {seconds:.0} s and is taken for dead; the job may be sent again"
        ));
    }
    let quiet = last_event.elapsed();
    let idle =
        fleet.heartbeat(worker).is_some_and(|h| h.at > last_event && h.info.free_slots == h.info.slots);
    if quiet >= SILENT_AFTER || (quiet >= IDLE_AFTER && idle) {
        let seconds = quiet.as_secs_f32();
        return Verdict::Lost(format!(
            "worker `{worker}` has said nothing of the job for {seconds:.0} s; the job may be sent again"
        ));
    }
    if quiet >= LOOK_AFTER { Verdict::Look } else { Verdict::Working }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::contract::WorkerInfo;

    fn heard(fleet: &Fleet, free_slots: u32) -> WorkerId {
        let info = WorkerInfo { free_slots, ..WorkerInfo::ready("w", &["m"]) };
        fleet.heard(info.clone());
        info.id
    }

    fn ago(duration: Duration) -> Instant {
        Instant::now() - duration
    }

    #[test]
    fn a_dead_worker_has_lost_its_job() {
        let fleet = Fleet::new(Duration::from_millis(30));
        let worker = heard(&fleet, 0);
        assert_eq!(judge(&fleet, &worker, Instant::now()), Verdict::Working);
        std::thread::sleep(Duration::from_millis(40));
        assert!(matches!(judge(&fleet, &worker, ago(Duration::from_secs(9))), Verdict::Lost(_)));
        assert_eq!(
            judge(&fleet, &worker, Instant::now()),
            Verdict::Working,
            "an event is a sign of life too"
        );
    }

    #[test]
    fn a_quiet_job_is_looked_for_and_lost_when_its_worker_is_idle() {
        let fleet = Fleet::new(Duration::from_secs(30));
        let worker = heard(&fleet, 0);
        assert_eq!(judge(&fleet, &worker, ago(LOOK_AFTER)), Verdict::Look);
        assert_eq!(judge(&fleet, &worker, ago(IDLE_AFTER)), Verdict::Look);
        assert!(matches!(judge(&fleet, &worker, ago(SILENT_AFTER)), Verdict::Lost(_)));
        heard(&fleet, 1);
        assert!(matches!(judge(&fleet, &worker, ago(IDLE_AFTER)), Verdict::Lost(_)));
    }
}
