//! The jobs that this worker holds now, and how the last ones ended.

use std::{
    collections::{HashMap, VecDeque},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
};

use tokio::sync::watch;

use super::told::{JobEvents, Reader};
use crate::{
    bus::Delivery,
    contract::{Event, JobId, WorkerId},
    engine::CancelFlag,
};

/// How many ended jobs are remembered, for GET over HTTP. Those that succeeded are in the store too.
const REMEMBERED: usize = 256;

/// A job that this worker holds.
#[derive(Debug)]
pub struct HeldJob {
    /// The job.
    pub id: JobId,
    /// What decides its picture.
    pub fingerprint: String,
    /// Asks it to stop.
    pub cancel: CancelFlag,
    /// Its events.
    pub events: JobEvents,
    handed_back: AtomicBool,
    lost: AtomicBool,
    /// The same job from the queue, delivered once more while it runs here: kept from others until it ends.
    again: Mutex<Vec<Delivery>>,
}

impl HeldJob {
    /// Stops it because the worker goes away, not because somebody asked.
    pub fn hand_back(&self) {
        self.handed_back.store(true, Ordering::Release);
        self.cancel.set();
    }

    /// Stops it because another worker has it.
    pub fn lose(&self) {
        self.lost.store(true, Ordering::Release);
        self.cancel.set();
    }

    /// Whether another worker has it.
    pub fn is_lost(&self) -> bool {
        self.lost.load(Ordering::Acquire)
    }

    /// Keeps another delivery of the job. Settling one of them settles the message.
    pub fn hold(&self, delivery: Delivery) {
        self.again.lock().unwrap_or_else(PoisonError::into_inner).push(delivery);
    }

    /// Whether somebody wants it stopped for good, or another worker has it: it does not go on from here.
    pub fn is_cancelled(&self) -> bool {
        self.cancel.is_set() && !self.is_handed_back()
    }

    /// Whether it was stopped because the worker goes away.
    pub fn is_handed_back(&self) -> bool {
        self.handed_back.load(Ordering::Acquire)
    }
}

/// What became of a job that came in.
#[derive(Debug)]
pub enum Begun {
    /// It is to be run.
    New(Arc<HeldJob>),
    /// It runs already; the requester reads along.
    Joined,
    /// Another job with this id runs.
    Conflict,
}

/// The message for a job id that stands for another request.
pub fn conflict(id: &JobId) -> String {
    format!("`job_id`: `{id}` was used for another request; the same id stands for the same request")
}

/// The jobs by id.
#[derive(Debug)]
pub struct Held {
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
        Self { state: Mutex::default(), count: watch::Sender::new(0) }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Joins a job that runs; `None` when there is none of this id.
    pub fn join(&self, id: &JobId, fingerprint: &str, reader: Option<Reader>) -> Option<Begun> {
        join(self.lock().running.get(id)?, fingerprint, reader)
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
        let mut state = self.lock();
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
            handed_back: AtomicBool::new(false),
            lost: AtomicBool::new(false),
            again: Mutex::default(),
        });
        if let Some(reader) = reader {
            job.events.join(reader);
        }
        state.running.insert(id.clone(), job.clone());
        self.count.send_replace(state.running.len());
        Begun::New(job)
    }

    /// Forgets a job whose end was published.
    pub fn end(&self, job: &Arc<HeldJob>) {
        let mut state = self.lock();
        if state.running.get(&job.id).is_some_and(|running| Arc::ptr_eq(running, job)) {
            state.running.remove(&job.id);
        }
        if let Some(last) = job.events.last() {
            state.ended.retain(|event| event.job_id != job.id);
            state.ended.push_back(last);
            if state.ended.len() > REMEMBERED {
                state.ended.pop_front();
            }
        }
        self.count.send_replace(state.running.len());
    }

    /// The job, if it is here.
    pub fn running(&self, id: &JobId) -> Option<Arc<HeldJob>> {
        self.lock().running.get(id).cloned()
    }

    /// The terminal event of a job that was here.
    pub fn ended(&self, id: &JobId) -> Option<Arc<Event>> {
        self.lock().ended.iter().find(|event| event.job_id == *id).cloned()
    }

    /// Stops every job because the worker goes away.
    pub fn hand_back_all(&self) {
        self.lock().running.values().for_each(|job| job.hand_back());
    }

    /// Waits until no job is here.
    pub async fn emptied(&self) {
        // The sender is a field of self: it cannot be gone.
        let _ = self.count.subscribe().wait_for(|count| *count == 0).await;
    }

    /// Jobs here now.
    pub fn len(&self) -> usize {
        *self.count.borrow()
    }

    /// Whether no job is here.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
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
    let joined = reader.is_none_or(|reader| running.events.join(reader));
    joined.then_some(Begun::Joined)
}
