//! Whom a job is sent to, by what heartbeats say.

use std::{collections::BTreeSet, sync::Arc};

use crate::{
    bus::Target,
    contract::{Capability, ErrorCode, HiveId, Job, WorkerId, WorkerInfo},
    http::ApiError,
};

/// What a job asks of a worker.
#[derive(Debug, Clone)]
pub struct Wish {
    /// What it must do.
    pub capability: Capability,
    /// That worker alone.
    pub worker: Option<WorkerId>,
    /// A worker of that hive.
    pub hive: Option<HiveId>,
    /// A worker with that model.
    pub model: Option<String>,
    /// A worker that can do it, as far as heartbeats say.
    pub job: Option<Arc<Job>>,
}

/// Where a job goes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Route {
    /// Whom it is sent to.
    pub target: Target,
    /// Whether a heartbeat says that somebody is there.
    pub known: bool,
}

impl Wish {
    /// What this job asks for.
    pub fn of(job: &Job) -> Self {
        Self {
            capability: job.capability(),
            worker: job.worker_id.clone(),
            hive: job.hive_id.clone(),
            model: job.model.clone(),
            job: Some(Arc::new(job.clone())),
        }
    }

    /// Chooses among the workers that take jobs. `pick(n)` is a random number below `n`.
    ///
    /// # Errors
    /// `unsupported_model` or `unsupported_operation` when the pool is up and nobody in it could do the job;
    /// `busy` when the hive has no worker.
    pub fn route(
        &self,
        workers: &[&WorkerInfo],
        pick: impl FnOnce(usize) -> usize,
    ) -> Result<Route, ApiError> {
        if let Some(id) = &self.worker {
            let found: Vec<_> = workers.iter().copied().filter(|w| w.id == *id).collect();
            if !found.is_empty() {
                self.fitting(found)?;
                return Ok(Route { target: Target::Worker(id.clone()), known: true });
            }
            return Ok(Route { target: Target::Worker(id.clone()), known: false });
        }
        if workers.is_empty() {
            return Ok(Route { target: Target::Any, known: false });
        }
        let in_hive: Vec<_> = workers.iter().copied().filter(|w| self.is_of_hive(w)).collect();
        if in_hive.is_empty() {
            let hive = self.hive.as_ref().map_or("", HiveId::as_str);
            let known = names(workers.iter().filter_map(|w| w.hive_id.as_ref()).map(HiveId::as_str));
            let message = format!("no worker of hive `{hive}` is up; hives that are: {known}");
            return Err(ApiError::new(ErrorCode::Busy, message));
        }
        let fitting = self.fitting(in_hive)?;
        // On the shared subject a job may reach every worker with the capability, so each of them must fit.
        let capable = workers.iter().filter(|w| w.capabilities.contains(&self.capability)).count();
        if fitting.len() == capable {
            return Ok(Route { target: Target::Any, known: true });
        }
        let most = fitting.iter().map(|w| w.free_slots).max().unwrap_or(0);
        let freest: Vec<_> = fitting.into_iter().filter(|w| w.free_slots == most).collect();
        let chosen = freest[pick(freest.len())];
        Ok(Route { target: Target::Worker(chosen.id.clone()), known: true })
    }

    /// Whether one of these workers has the model, the hive and the capability.
    pub fn has_taker(&self, workers: &[&WorkerInfo]) -> bool {
        self.route(workers, |_| 0).is_ok_and(|route| route.known)
    }

    fn is_of_hive(&self, worker: &WorkerInfo) -> bool {
        self.hive.is_none() || self.hive == worker.hive_id
    }

    /// Those of `workers`, at least one, that can do the job.
    fn fitting<'a>(&self, workers: Vec<&'a WorkerInfo>) -> Result<Vec<&'a WorkerInfo>, ApiError> {
        let capability = self.capability;
        let capable: Vec<_> = workers.into_iter().filter(|w| w.capabilities.contains(&capability)).collect();
        if capable.is_empty() {
            return Err(unsupported_operation(capability));
        }
        let Some(model) = &self.model else { return self.able(capable) };
        let known = names(capable.iter().flat_map(|w| &w.models).map(String::as_str));
        let fitting: Vec<_> = capable.into_iter().filter(|w| w.models.contains(model)).collect();
        if fitting.is_empty() {
            let message = format!("`model`: no worker that is up has `{model}`; there are: {known}");
            return Err(ApiError::new(ErrorCode::UnsupportedModel, message));
        }
        self.able(fitting)
    }

    /// Those of `workers`, at least one, whose limits and LoRAs allow it.
    fn able<'a>(&self, workers: Vec<&'a WorkerInfo>) -> Result<Vec<&'a WorkerInfo>, ApiError> {
        let Some(job) = &self.job else { return Ok(workers) };
        let mut refusal = None;
        let able: Vec<_> = workers
            .into_iter()
            .filter(|worker| worker.can_do(job).map_err(|error| refusal = Some(error)).is_ok())
            .collect();
        match refusal {
            Some(error) if able.is_empty() => Err(error.into()),
            _ => Ok(able),
        }
    }
}

/// Workers are up, and none of them does that.
pub fn unsupported_operation(capability: Capability) -> ApiError {
    let message = format!("`operation`: no worker that is up does `{}`", capability.operation());
    ApiError::new(ErrorCode::UnsupportedOperation, message)
}

fn names<'a>(names: impl Iterator<Item = &'a str>) -> String {
    let names: BTreeSet<_> = names.collect();
    if names.is_empty() { "none".into() } else { names.into_iter().collect::<Vec<_>>().join(", ") }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn worker(id: &str, models: &[&str], free_slots: u32) -> WorkerInfo {
        WorkerInfo { slots: 4, free_slots, ..WorkerInfo::ready(id, models) }
    }

    fn wish(model: Option<&str>) -> Wish {
        Wish {
            capability: Capability::Generate,
            worker: None,
            hive: None,
            model: model.map(Into::into),
            job: None,
        }
    }

    fn route(
        wish: &Wish,
        workers: &[WorkerInfo],
        pick: impl FnOnce(usize) -> usize,
    ) -> Result<Route, ApiError> {
        wish.route(&workers.iter().collect::<Vec<_>>(), pick)
    }

    fn to(id: &str) -> Target {
        Target::Worker(WorkerId::new(id).unwrap())
    }

    #[test]
    fn what_everybody_can_do_goes_to_anybody() {
        let pool = [worker("a", &["m", "x"], 1), worker("b", &["m"], 1)];
        for model in [None, Some("m")] {
            assert_eq!(route(&wish(model), &pool, |_| 0).unwrap().target, Target::Any);
        }
    }

    #[test]
    fn a_model_that_some_have_goes_to_the_freest_of_them() {
        let pool = [worker("a", &["x"], 1), worker("b", &["m"], 9), worker("c", &["x"], 3)];
        assert_eq!(route(&wish(Some("x")), &pool, |_| 0).unwrap().target, to("c"));
        let pool = [worker("a", &["x"], 0), worker("b", &["m"], 9), worker("c", &["x"], 0)];
        assert_eq!(route(&wish(Some("x")), &pool, |n| n - 1).unwrap().target, to("c"));
    }

    #[test]
    fn a_model_that_nobody_has_is_named_with_those_that_there_are() {
        let pool = [worker("a", &["m", "x"], 1), worker("b", &["m"], 1)];
        let error = route(&wish(Some("y")), &pool, |_| 0).unwrap_err();
        assert_eq!((error.code, error.status), (ErrorCode::UnsupportedModel, 404));
        assert!(error.message.ends_with("there are: m, x"), "{error}");
        let inpaint = Wish { capability: Capability::Inpaint, ..wish(None) };
        assert_eq!(route(&inpaint, &pool, |_| 0).unwrap_err().code, ErrorCode::UnsupportedOperation);
    }

    #[test]
    fn a_hive_or_a_worker_that_is_asked_for_gets_the_job() {
        let hive = |name: &str| Some(HiveId::new(name).unwrap());
        let pool = [worker("a", &["m"], 9), WorkerInfo { hive_id: hive("h"), ..worker("b", &["m"], 1) }];
        let of_hive = |name| Wish { hive: hive(name), ..wish(None) };
        assert_eq!(route(&of_hive("h"), &pool, |_| 0).unwrap().target, to("b"));
        assert_eq!(route(&of_hive("i"), &pool, |_| 0).unwrap_err().status, 503);
        let of_worker = |id: &str| Wish { worker: Some(WorkerId::new(id).unwrap()), ..wish(None) };
        assert_eq!(route(&of_worker("a"), &pool, |_| 0).unwrap(), Route { target: to("a"), known: true });
        assert_eq!(route(&of_worker("z"), &pool, |_| 0).unwrap(), Route { target: to("z"), known: false });
    }
}
