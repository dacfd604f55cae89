//! What queen's log says of a job: a line when it is accepted and one when it has ended, without a word of what it asks for.

use std::{
    collections::{HashMap, VecDeque},
    sync::{Mutex, PoisonError},
};

use super::record::Record;
use crate::contract::{Capability, Event, EventKind, JobId};

/// Durable jobs whose end is waited for, to be logged; beyond them the oldest is forgotten.
const MAX_AWAITED: usize = 10_000;

/// A job is accepted. `model`: the one that it is for, or that of whoever takes it.
pub(super) fn accepted(id: &JobId, capability: Capability, model: Option<&str>) {
    let (operation, model) = (capability.operation(), model.unwrap_or("any"));
    tracing::info!(job_id = %id, operation, model, "a job is accepted");
}

/// A job that this queen remembers has ended, or is as good as never accepted.
pub(super) fn ended(record: &Record, model: Option<&str>) {
    if let Some(event) = record.view().event.filter(|event| event.kind.is_terminal()) {
        tell(&event, model.unwrap_or("any"));
    }
}

fn tell(event: &Event, model: &str) {
    let (id, worker) = (&event.job_id, &event.worker_id);
    match &event.kind {
        EventKind::Error { code, .. } => {
            tracing::info!(job_id = %id, model, worker_id = %worker, end = "error", %code, "a job has ended");
        }
        EventKind::Complete(complete) => {
            let model = &complete.model;
            tracing::info!(job_id = %id, model, worker_id = %worker, end = "complete", "a job has ended");
        }
        kind => {
            tracing::info!(job_id = %id, model, worker_id = %worker, end = kind.name(), "a job has ended")
        }
    }
}

/// The durable jobs that this queen accepted, with their models, until they end.
#[derive(Default)]
pub(super) struct Awaited(Mutex<Jobs>);

#[derive(Default)]
struct Jobs {
    models: HashMap<JobId, String>,
    /// In the order in which they came; a job that has ended may be here still.
    order: VecDeque<JobId>,
}

impl Awaited {
    /// Waits for the end of a job.
    pub fn wait_for(&self, id: &JobId, model: &str) {
        let mut jobs = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if jobs.order.len() >= MAX_AWAITED
            && let Some(oldest) = jobs.order.pop_front()
        {
            jobs.models.remove(&oldest);
        }
        if jobs.models.insert(id.clone(), model.to_owned()).is_none() {
            jobs.order.push_back(id.clone());
        }
    }

    /// A job has ended: it is logged if it is one of them.
    pub fn ended(&self, event: &Event) {
        if let Some(model) = self.take(&event.job_id) {
            tell(event, &model);
        }
    }

    fn take(&self, id: &JobId) -> Option<String> {
        let mut jobs = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        jobs.models.remove(id)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_end_is_told_once_and_memory_is_bounded() {
        let awaited = Awaited::default();
        let id = |number: usize| JobId::new(format!("j{number}")).unwrap();
        for number in 0..MAX_AWAITED + 5 {
            awaited.wait_for(&id(number), "m");
        }
        assert_eq!(awaited.take(&id(4)), None, "forgotten for newer ones");
        assert_eq!(awaited.take(&id(5)).as_deref(), Some("m"));
        assert_eq!(awaited.take(&id(5)), None);
        assert!(awaited.0.lock().unwrap().order.len() <= MAX_AWAITED);
    }
}
