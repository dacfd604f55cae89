//! What queen's log says of a job: a line when it is accepted and one when it has ended, without a word of what it asks for.

use std::{
    collections::{HashMap, VecDeque},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Instant,
};

use super::{metrics::Metrics, record::Record};
use crate::contract::{Capability, Event, EventKind, JobId, TraceContext};

/// Durable jobs whose end is waited for, to be logged; beyond them the oldest is forgotten.
const MAX_AWAITED: usize = 10_000;

/// A job is accepted. `model`: the one that it is for, or that of whoever takes it.
pub(super) fn accepted(
    metrics: &Metrics,
    id: &JobId,
    capability: Capability,
    model: Option<&str>,
    trace: Option<TraceContext>,
) {
    let (operation, model) = (capability.operation(), model.unwrap_or("any"));
    metrics.accepted(capability, model);
    let trace_id = trace.map(|trace| trace.trace_id());
    tracing::info!(job_id = %id, trace_id, operation, model, "a job is accepted");
}

/// A job that this queen remembers has ended, or is as good as never accepted.
pub(super) fn ended(metrics: &Metrics, record: &Record, model: Option<&str>, trace: Option<TraceContext>) {
    if let Some(event) = record.view().event.filter(|event| event.kind.is_terminal()) {
        tell(metrics, &event, model.unwrap_or("any"), trace);
    }
}

fn tell(metrics: &Metrics, event: &Event, model: &str, trace: Option<TraceContext>) {
    metrics.ended(event, model);
    let (id, worker) = (&event.job_id, &event.worker_id);
    let trace_id = trace.map(|trace| trace.trace_id());
    match &event.kind {
        EventKind::Error { code, .. } => {
            tracing::info!(job_id = %id, trace_id, model, worker_id = %worker, end = "error", %code, "a job has ended");
        }
        EventKind::Complete(complete) => {
            let model = &complete.model;
            tracing::info!(job_id = %id, trace_id, model, worker_id = %worker, end = "complete", "a job has ended");
        }
        kind => {
            tracing::info!(job_id = %id, trace_id, model, worker_id = %worker, end = kind.name(), "a job has ended")
        }
    }
}

/// The durable jobs that this queen accepted, with their models, until they end.
pub(super) struct Awaited {
    metrics: Arc<Metrics>,
    jobs: Mutex<Jobs>,
}

/// A job that is waited for.
struct Waits {
    model: String,
    trace: Option<TraceContext>,
    /// When it was accepted; none: a worker has begun it.
    since: Option<Instant>,
}

#[derive(Default)]
struct Jobs {
    waits: HashMap<JobId, Waits>,
    /// In the order in which they came; a job that has ended may be here still.
    order: VecDeque<JobId>,
}

impl Awaited {
    /// None; what becomes of those that come is counted in `metrics`.
    pub fn new(metrics: Arc<Metrics>) -> Self {
        Self { metrics, jobs: Mutex::default() }
    }

    /// Waits for the end of a job.
    pub fn wait_for(&self, id: &JobId, model: &str, trace: Option<TraceContext>) {
        let mut jobs = self.lock();
        if jobs.order.len() >= MAX_AWAITED
            && let Some(oldest) = jobs.order.pop_front()
        {
            jobs.waits.remove(&oldest);
        }
        let waits = Waits { model: model.to_owned(), trace, since: Some(Instant::now()) };
        if jobs.waits.insert(id.clone(), waits).is_none() {
            jobs.order.push_back(id.clone());
        }
    }

    /// A job has begun, or has ended, which is logged: if it is one of them.
    pub fn hear(&self, event: &Event) {
        if event.kind.is_terminal() {
            if let Some(Waits { model, trace, .. }) = self.take(&event.job_id) {
                tell(&self.metrics, event, &model, trace);
            }
        } else if let Some(Waits { model, since, .. }) = self.lock().waits.get_mut(&event.job_id)
            && let Some(since) = since.take()
        {
            self.metrics.begun(model, since.elapsed());
        }
    }

    fn take(&self, id: &JobId) -> Option<Waits> {
        self.lock().waits.remove(id)
    }

    fn lock(&self) -> MutexGuard<'_, Jobs> {
        self.jobs.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_end_is_told_once_and_memory_is_bounded() {
        let awaited = Awaited::new(Arc::new(Metrics::new()));
        let id = |number: usize| JobId::new(format!("j{number}")).unwrap();
        for number in 0..MAX_AWAITED + 5 {
            awaited.wait_for(&id(number), "m", None);
        }
        assert!(awaited.take(&id(4)).is_none(), "forgotten for newer ones");
        assert_eq!(awaited.take(&id(5)).unwrap().model, "m");
        assert!(awaited.take(&id(5)).is_none());
        assert!(awaited.lock().order.len() <= MAX_AWAITED);
    }
}
