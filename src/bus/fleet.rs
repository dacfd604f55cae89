//! The workers that are up, as their heartbeats say.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use async_nats::{Client, Message};
use futures::StreamExt;

use super::BusError;
use crate::contract::{MAX_HEARTBEAT, Subjects, WorkerId, WorkerInfo};

/// A worker that has been silent for this long is gone: three heartbeats of 10 s.
pub const GONE_AFTER: Duration = Duration::from_secs(30);
/// The most workers that are remembered; a heartbeat of one more is left out.
pub const MAX_WORKERS: usize = 10_000;

/// The view of the fleet. Cheap to clone; clones see the same.
#[derive(Clone)]
pub struct Fleet {
    seen: Arc<Mutex<Seen>>,
    gone_after: Duration,
}

struct Seen {
    workers: HashMap<WorkerId, LastHeartbeat>,
    /// Since when heartbeats could have reached us: silence before it is ours, not the workers'.
    listening_since: Instant,
}

/// The last heartbeat of a worker.
#[derive(Debug, Clone, PartialEq)]
pub struct LastHeartbeat {
    /// What it said.
    pub info: WorkerInfo,
    /// When it came.
    pub at: Instant,
}

impl Fleet {
    /// A view that nothing is known in yet.
    pub fn new(gone_after: Duration) -> Self {
        let seen = Seen { workers: HashMap::new(), listening_since: Instant::now() };
        Self { seen: Arc::new(Mutex::new(seen)), gone_after }
    }

    /// Follows the heartbeats until the connection is closed.
    pub async fn follow(&self, client: &Client, subjects: &Subjects) -> Result<(), BusError> {
        let subject = subjects.heartbeat_any();
        let mut heartbeats = client
            .subscribe(subject.clone())
            .await
            .map_err(|e| BusError::Subscribe { subject, reason: e.to_string() })?;
        let (fleet, subjects) = (self.clone(), subjects.clone());
        tokio::spawn(async move {
            while let Some(message) = heartbeats.next().await {
                match read(&message, &subjects) {
                    Ok(info) => fleet.heard(info),
                    Err(reason) => {
                        tracing::warn!(subject = %message.subject, %reason, "a heartbeat that is none is left out");
                    }
                }
            }
        });
        Ok(())
    }

    /// Takes note of a heartbeat.
    pub fn heard(&self, info: WorkerInfo) {
        let mut seen = self.lock();
        if info.is_farewell() {
            if seen.workers.remove(&info.id).is_some() {
                tracing::info!(worker = %info.id, "worker has ended");
            }
            return;
        }
        if !seen.workers.contains_key(&info.id) {
            if seen.workers.len() >= MAX_WORKERS {
                let now = Instant::now();
                let (since, gone_after) = (seen.listening_since, self.gone_after);
                seen.workers.retain(|_, h| now.duration_since(h.at.max(since)) < gone_after);
            }
            if seen.workers.len() >= MAX_WORKERS {
                tracing::warn!(worker = %info.id, "more than {MAX_WORKERS} workers: this one is left out");
                return;
            }
            tracing::info!(worker = %info.id, models = ?info.models, device = %info.device, "worker is up");
        }
        seen.workers.insert(info.id.clone(), LastHeartbeat { info, at: Instant::now() });
    }

    /// Says that no heartbeat can reach us now; time counts from the last such call.
    pub fn deaf(&self) {
        self.lock().listening_since = Instant::now();
    }

    /// Forgets workers that are gone; they are named in the log.
    pub fn forget_gone(&self) {
        let now = Instant::now();
        let mut seen = self.lock();
        let (since, gone_after) = (seen.listening_since, self.gone_after);
        seen.workers.retain(|id, heartbeat| {
            let alive = now.duration_since(heartbeat.at.max(since)) < gone_after;
            if !alive {
                tracing::warn!(worker = %id, "worker is gone: no heartbeat for {gone_after:?}");
            }
            alive
        });
    }

    /// The workers whose heartbeat is fresh, those that are shutting down included, by name.
    pub fn all(&self) -> Vec<WorkerInfo> {
        self.with_all(copied)
    }

    /// Shows the workers whose heartbeat is fresh, in no order. Nothing is copied: heartbeats wait meanwhile.
    pub fn with_all<T>(&self, see: impl FnOnce(&[&WorkerInfo]) -> T) -> T {
        self.with(|_| true, see)
    }

    /// As [`with_all`](Self::with_all), those that take jobs.
    pub fn with_taking<T>(&self, see: impl FnOnce(&[&WorkerInfo]) -> T) -> T {
        self.with(|worker| worker.status.takes_jobs(), see)
    }

    fn with<T>(&self, wanted: impl Fn(&WorkerInfo) -> bool, see: impl FnOnce(&[&WorkerInfo]) -> T) -> T {
        let now = Instant::now();
        let seen = self.lock();
        let fresh = |h: &&LastHeartbeat| now.duration_since(h.at.max(seen.listening_since)) < self.gone_after;
        let workers: Vec<_> =
            seen.workers.values().filter(fresh).map(|h| &h.info).filter(|info| wanted(info)).collect();
        see(&workers)
    }

    /// The last heartbeat of a worker, however old.
    pub fn heartbeat(&self, worker: &WorkerId) -> Option<LastHeartbeat> {
        self.lock().workers.get(worker).cloned()
    }

    /// How long a worker has been silent, at most since `since`, and not counting time in which we could not hear.
    pub fn silence(&self, worker: &WorkerId, since: Instant) -> Duration {
        let seen = self.lock();
        let heard = seen.workers.get(worker).map(|h| h.at);
        let last = heard.unwrap_or(since).max(since).max(seen.listening_since);
        last.elapsed()
    }

    /// After how much silence a worker is gone.
    pub fn gone_after(&self) -> Duration {
        self.gone_after
    }

    fn lock(&self) -> MutexGuard<'_, Seen> {
        // Nothing in here can leave the map half changed.
        self.seen.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn copied(workers: &[&WorkerInfo]) -> Vec<WorkerInfo> {
    let mut copied: Vec<_> = workers.iter().copied().cloned().collect();
    copied.sort_by(|a, b| a.id.cmp(&b.id));
    copied
}

/// A heartbeat counts for the worker on whose subject it came, so that permissions on subjects mean something.
fn read(message: &Message, subjects: &Subjects) -> Result<WorkerInfo, String> {
    if message.payload.len() > MAX_HEARTBEAT {
        return Err(format!("{} bytes, at most {MAX_HEARTBEAT} are read", message.payload.len()));
    }
    let info: WorkerInfo = serde_json::from_slice(&message.payload).map_err(|e| e.to_string())?;
    if subjects.heartbeat(&info.id) != message.subject.as_str() {
        return Err(format!("it says that it is of worker {}", info.id));
    }
    Ok(info)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::contract::WorkerStatus;

    fn info(id: &str) -> WorkerInfo {
        WorkerInfo::ready(id, &["m"])
    }

    #[test]
    fn a_heartbeat_counts_for_the_worker_on_whose_subject_it_came() {
        let subjects = Subjects::new("p").unwrap();
        let on = |subject: &str| Message {
            subject: subject.into(),
            reply: None,
            payload: serde_json::to_vec(&info("a")).unwrap().into(),
            headers: None,
            status: None,
            description: None,
            length: 0,
        };
        assert_eq!(read(&on("p.worker.a.heartbeat"), &subjects).unwrap(), info("a"));
        assert!(read(&on("p.worker.b.heartbeat"), &subjects).is_err());
    }

    #[test]
    fn a_worker_without_heartbeats_is_gone() {
        let fleet = Fleet::new(Duration::from_millis(40));
        fleet.heard(info("a"));
        assert_eq!(fleet.with_taking(|workers| workers.len()), 1);
        std::thread::sleep(Duration::from_millis(60));
        assert!(fleet.all().is_empty());
        let a = WorkerId::new("a").unwrap();
        assert!(fleet.silence(&a, Instant::now() - Duration::from_secs(9)) >= Duration::from_millis(60));
    }

    #[test]
    fn silence_that_is_ours_is_not_the_workers() {
        let fleet = Fleet::new(Duration::from_millis(40));
        fleet.heard(info("a"));
        std::thread::sleep(Duration::from_millis(60));
        fleet.deaf();
        assert_eq!(fleet.all().len(), 1);
        assert!(fleet.silence(&WorkerId::new("a").unwrap(), Instant::now()) < Duration::from_millis(40));
    }

    #[test]
    fn a_worker_that_shuts_down_or_is_drained_is_shown_and_gets_no_job() {
        let fleet = Fleet::new(GONE_AFTER);
        for status in [WorkerStatus::ShuttingDown, WorkerStatus::Draining] {
            fleet.heard(WorkerInfo { status, ..info("a") });
            assert_eq!((fleet.all().len(), fleet.with_taking(|workers| workers.len())), (1, 0));
            assert_eq!((fleet.with_all(|all| all.len()), fleet.with_taking(|taking| taking.len())), (1, 0));
        }
    }

    #[test]
    fn a_worker_that_has_ended_is_gone_at_once_and_may_come_back() {
        let fleet = Fleet::new(GONE_AFTER);
        fleet.heard(info("a"));
        fleet.heard(WorkerInfo { status: WorkerStatus::ShuttingDown, ..info("a") });
        assert_eq!(fleet.all().len(), 1, "it finishes what it holds");
        fleet.heard(info("a").farewell());
        assert!(fleet.all().is_empty());
        fleet.heard(info("a"));
        assert_eq!(fleet.all(), [info("a")]);
    }

    #[test]
    fn copies_are_sorted_by_name() {
        let fleet = Fleet::new(GONE_AFTER);
        for id in ["c", "a", "b"] {
            fleet.heard(info(id));
        }
        let names: Vec<_> = fleet.all().into_iter().map(|worker| worker.id.to_string()).collect();
        assert_eq!(names, ["a", "b", "c"]);
    }
}
