//! The jobs that this worker holds now, and how the last ones ended.

use std::{
    collections::{HashMap, VecDeque},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU8, Ordering},
    },
};

use tokio::sync::watch;

use super::told::{JobEvents, Join, Reader};
use crate::{
    bus::Delivery,
    contract::{Event, JobId, WorkerId},
    engine::CancelFlag,
};

/// How many ended jobs are remembered, for GET over HTTP. Those that succeeded are in the store too.
const REMEMBERED: usize = 256;

/// Why a job is stopped. The weightier reason holds: a cancel is one also where the worker goes away.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Stop {
    /// The worker goes away, or its device is lost: another worker goes on.
    GoingAway = 1,
    /// Somebody cancelled it.
    Cancelled = 2,
    /// Another worker has it, or it was ended elsewhere.
    Lost = 3,
}

/// A job that this worker holds.
#[derive(Debug)]
pub struct HeldJob {
    /// The job.
    pub id: JobId,
    /// What decides its picture.
    pub fingerprint: String,
    /// Asks the engine to stop it.
    pub cancel: CancelFlag,
    /// Its events.
    pub events: JobEvents,
    /// The weightiest reason to stop; 0: none.
    stop: AtomicU8,
    /// The same job from the queue, delivered once more while it runs here: kept from others until it ends.
    again: Mutex<Vec<Delivery>>,
}

impl HeldJob {
    /// Stops it.
    pub fn stop(&self, why: Stop) {
        self.stop.fetch_max(why as u8, Ordering::AcqRel);
        self.cancel.set();
    }

    /// Why it is stopped, if it is.
    pub fn stopped(&self) -> Option<Stop> {
        match self.stop.load(Ordering::Acquire) {
            0 => None,
            1 => Some(Stop::GoingAway),
            2 => Some(Stop::Cancelled),
            _ => Some(Stop::Lost),
        }
    }

    /// Whether it is stopped and does not go on from here: nothing of it needs to be kept.
    pub fn is_given_up(&self) -> bool {
        self.stopped() > Some(Stop::GoingAway)
    }

    /// Keeps another delivery of the job. Settling one of them settles the message.
    pub fn keep(&self, delivery: Delivery) {
        self.again.lock().unwrap_or_else(PoisonError::into_inner).push(delivery);
    }
}

/// What became of a job that came in.
#[derive(Debug)]
pub enum Begun {
    /// It is to be run.
    New(Hold),
    /// It runs already; the requester reads along.
    Joined,
    /// It runs already, and as many read along as may.
    TooMany,
    /// Another job with this id runs.
    Conflict,
}

/// A place among the jobs that are held: given back when it is dropped, also by a panic, so that no job is taken for one
/// that runs when it does not.
#[derive(Debug)]
pub struct Hold {
    held: Arc<Inner>,
    /// The job.
    pub job: Arc<HeldJob>,
}

impl Drop for Hold {
    fn drop(&mut self) {
        self.held.end(&self.job);
    }
}

/// The message for a job id that stands for another request.
pub fn conflict(id: &JobId) -> String {
    format!("`job_id`: `{id}` was used for another request; the same id stands for the same request")
}

/// The jobs by id.
#[derive(Debug)]
pub struct Held(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    state: Mutex<State>,
    count: watch::Sender<usize>,
}

#[derive(Debug, Default)]
struct State {
    running: HashMap<JobId, Arc<HeldJob>>,
    ended: VecDeque<Arc<Event>>,
}

impl Held {
    /// No job.
    pub fn new() -> Self {
        Self(Arc::new(Inner { state: Mutex::default(), count: watch::Sender::new(0) }))
    }

    /// Joins a job that runs; `None` when there is none of this id.
    pub fn join(&self, id: &JobId, fingerprint: &str, reader: Option<Reader>) -> Option<Begun> {
        join(self.0.lock().running.get(id)?, fingerprint, reader)
    }

    /// Joins a job that runs, or takes note of a new one.
    pub fn begin(
        &self,
        id: &JobId,
        fingerprint: &str,
        worker_id: &WorkerId,
        reader: Option<Reader>,
        traceparent: Option<String>,
    ) -> Begun {
        let mut state = self.0.lock();
        if let Some(begun) =
            state.running.get(id).and_then(|running| join(running, fingerprint, reader.clone()))
        {
            return begun;
        }
        let job = Arc::new(HeldJob {
            id: id.clone(),
            fingerprint: fingerprint.to_owned(),
            cancel: CancelFlag::default(),
            events: JobEvents::new(id.clone(), worker_id.clone(), traceparent),
            stop: AtomicU8::new(0),
            again: Mutex::default(),
        });
        if let Some(reader) = reader {
            job.events.join(reader);
        }
        state.running.insert(id.clone(), job.clone());
        self.0.count.send_replace(state.running.len());
        Begun::New(Hold { held: self.0.clone(), job })
    }

    /// The job, if it is here.
    pub fn running(&self, id: &JobId) -> Option<Arc<HeldJob>> {
        self.0.lock().running.get(id).cloned()
    }

    /// The terminal event of a job that was here.
    pub fn ended(&self, id: &JobId) -> Option<Arc<Event>> {
        self.0.lock().ended.iter().find(|event| event.job_id == *id).cloned()
    }

    /// Stops every job because the worker goes away.
    pub fn hand_back_all(&self) {
        self.0.lock().running.values().for_each(|job| job.stop(Stop::GoingAway));
    }

    /// Waits until no job is here.
    pub async fn emptied(&self) {
        // The sender is a field of self: it cannot be gone.
        let _ = self.0.count.subscribe().wait_for(|count| *count == 0).await;
    }

    /// Jobs here now.
    pub fn len(&self) -> usize {
        *self.0.count.borrow()
    }

    /// Whether no job is here.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

impl Inner {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Forgets a job whose end was published, or that was given back.
    fn end(&self, job: &Arc<HeldJob>) {
        let mut state = self.lock();
        if state.running.get(&job.id).is_some_and(|running| Arc::ptr_eq(running, job)) {
            state.running.remove(&job.id);
        }
        if let Some(last) = job.events.last().filter(|last| last.kind.is_terminal()) {
            state.ended.retain(|event| event.job_id != job.id);
            state.ended.push_back(last);
            if state.ended.len() > REMEMBERED {
                state.ended.pop_front();
            }
        }
        self.count.send_replace(state.running.len());
    }
}

impl Default for Held {
    fn default() -> Self {
        Self::new()
    }
}

fn join(running: &HeldJob, fingerprint: &str, reader: Option<Reader>) -> Option<Begun> {
    if running.fingerprint != fingerprint {
        return Some(Begun::Conflict);
    }
    match reader.map_or(Join::Joined, |reader| running.events.join(reader)) {
        Join::Joined => Some(Begun::Joined),
        Join::TooMany => Some(Begun::TooMany),
        Join::TooLate => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_job_whose_task_panics_is_not_held_any_more() {
        let (held, id) = (Held::new(), JobId::generate());
        let worker = WorkerId::new("w").unwrap();
        let Begun::New(hold) = held.begin(&id, "f", &worker, None, None) else { panic!("it is new") };
        assert_eq!(held.len(), 1);
        let task = std::panic::catch_unwind(std::panic::AssertUnwindSafe(move || {
            let _hold = hold;
            panic!("a defect");
        }));
        assert!(task.is_err() && held.is_empty() && held.running(&id).is_none());
        assert!(matches!(held.begin(&id, "f", &worker, None, None), Begun::New(_)));
    }

    #[test]
    fn the_weightier_reason_to_stop_holds() {
        let held = Held::new();
        let begun = held.begin(&JobId::generate(), "f", &WorkerId::new("w").unwrap(), None, None);
        let Begun::New(hold) = begun else { panic!("it is new") };
        assert_eq!(hold.job.stopped(), None);
        for (why, holds) in [
            (Stop::GoingAway, Stop::GoingAway),
            (Stop::Cancelled, Stop::Cancelled),
            (Stop::GoingAway, Stop::Cancelled),
            (Stop::Lost, Stop::Lost),
            (Stop::Cancelled, Stop::Lost),
        ] {
            hold.job.stop(why);
            assert_eq!(hold.job.stopped(), Some(holds));
        }
    }
}
