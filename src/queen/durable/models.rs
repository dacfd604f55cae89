//! The models of the pool: those that queen was told of, and those that workers have said they have.

use std::{
    collections::BTreeSet,
    sync::{Mutex, PoisonError},
};

use super::super::{RETRY_AFTER, route};
use crate::{
    contract::{Capability, ErrorCode, Job, WorkerInfo},
    http::ApiError,
};

/// The most models of workers that are remembered.
const MAX_SEEN: usize = 4096;

/// Which models jobs may ask for.
pub struct Models {
    /// `--models`.
    catalogue: Vec<String>,
    /// Of heartbeats, in the order in which they were first heard.
    seen: Mutex<Vec<String>>,
}

impl Models {
    /// A catalogue, without what an empty variable leaves in it.
    pub fn new(catalogue: &[String]) -> Self {
        let names = catalogue.iter().map(|name| name.trim()).filter(|name| !name.is_empty());
        Self { catalogue: names.map(str::to_owned).collect(), seen: Mutex::default() }
    }

    /// `--models`: jobs for them are taken while no worker is up.
    pub fn catalogue(&self) -> &[String] {
        &self.catalogue
    }

    /// Takes note of the workers' models.
    pub fn hear(&self, workers: &[&WorkerInfo]) {
        self.learn(workers.iter().flat_map(|worker| std::iter::once(&worker.model_id).chain(&worker.models)));
    }

    /// Takes note of models that workers have.
    pub fn learn<'a>(&self, models: impl IntoIterator<Item = &'a String>) {
        let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        for model in models {
            if !seen.contains(model) && seen.len() < MAX_SEEN {
                seen.push(model.clone());
            }
        }
    }

    /// Every model that a job may ask for.
    pub fn known(&self) -> Vec<String> {
        let seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        self.catalogue.iter().chain(seen.iter()).cloned().collect()
    }

    /// Refuses what no worker that is up can do, unless the catalogue says that others may come.
    ///
    /// # Errors
    /// The field that asks for more than any of them does.
    /// `largest`: bytes of its largest input that is in the store.
    pub fn may_be_done(
        &self,
        job: &Job,
        model: &str,
        largest: u64,
        workers: &[&WorkerInfo],
    ) -> Result<(), ApiError> {
        if self.catalogue.iter().any(|name| name == model) {
            return Ok(());
        }
        let has_model = |worker: &&&WorkerInfo| worker.models.iter().any(|name| name == model);
        let mut refusal = None;
        for worker in
            workers.iter().filter(|worker| worker.capabilities.contains(&job.capability())).filter(has_model)
        {
            match worker.can_do(job).and_then(|()| worker.can_read("init_image", largest)) {
                Ok(()) => return Ok(()),
                Err(error) => refusal = Some(error),
            }
        }
        refusal.map_or(Ok(()), |error| Err(error.into()))
    }

    /// The model of a job that asks for `named`, or for none. `workers` are those that take jobs.
    ///
    /// # Errors
    /// `unsupported_operation` when workers are up and none has the capability, `unsupported_model` with those that
    /// there are, `busy` while no model is known at all.
    pub fn choose(
        &self,
        named: Option<&str>,
        capability: Capability,
        workers: &[&WorkerInfo],
    ) -> Result<String, ApiError> {
        self.hear(workers);
        let capable = || workers.iter().filter(|worker| worker.capabilities.contains(&capability));
        if !workers.is_empty() && capable().next().is_none() {
            return Err(route::unsupported_operation(capability));
        }
        let known = self.known();
        match named {
            Some(model) if known.iter().any(|name| name == model) => return Ok(model.to_owned()),
            Some(model) if !known.is_empty() => {
                let names =
                    known.into_iter().collect::<BTreeSet<_>>().into_iter().collect::<Vec<_>>().join(", ");
                let message = format!("`model`: the pool has no `{model}`; there are: {names}");
                return Err(ApiError::new(ErrorCode::UnsupportedModel, message));
            }
            Some(_) | None => {}
        }
        // The same one each time, whatever order they are looked at in.
        let of_worker = || capable().min_by(|a, b| a.id.cmp(&b.id)).map(|worker| worker.model_id.clone());
        self.catalogue.first().cloned().or_else(of_worker).or_else(|| known.into_iter().next()).ok_or_else(
            || {
                let message = "no worker is up, and which models the pool has is not known; start one: \
                     sd-worker-cpu --model <folder> --nats-url <queen's> (or tell queen: --models)";
                ApiError::new(ErrorCode::Busy, message).with_retry_after(RETRY_AFTER)
            },
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::contract::{Limits, Operation, WorkerLimits};

    fn worker(models: &[&str]) -> WorkerInfo {
        WorkerInfo::ready("w", models)
    }

    fn choose(models: &Models, named: Option<&str>, workers: &[WorkerInfo]) -> Result<String, ErrorCode> {
        let workers: Vec<_> = workers.iter().collect();
        models.choose(named, Capability::Generate, &workers).map_err(|error| error.code)
    }

    #[test]
    fn the_catalogue_comes_first_then_workers_then_memory() {
        let models = Models::new(&["big".into(), " ".into(), "small".into()]);
        assert_eq!(choose(&models, None, &[worker(&["other"])]), Ok("big".into()));
        assert_eq!(choose(&models, Some("small"), &[]), Ok("small".into()));
        assert_eq!(choose(&models, Some("other"), &[]), Ok("other".into()), "it was heard of");
        assert_eq!(choose(&models, Some("none"), &[]), Err(ErrorCode::UnsupportedModel));

        let models = Models::new(&[String::new()]);
        assert_eq!(choose(&models, None, &[]), Err(ErrorCode::Busy));
        assert_eq!(choose(&models, Some("m"), &[]), Err(ErrorCode::Busy));
        assert_eq!(choose(&models, None, &[worker(&["m", "n"])]), Ok("m".into()));
        assert_eq!(choose(&models, None, &[]), Ok("m".into()), "its worker may come back");
    }

    #[test]
    fn what_no_worker_that_is_up_can_do_is_refused_unless_another_may_come() {
        let limits =
            |max_steps| WorkerLimits { max_steps, max_pixels: 1 << 22, max_images: 8, max_input: 1 << 24 };
        let worker = |max_steps| WorkerInfo { limits: Some(limits(max_steps)), ..worker(&["m"]) };
        let operation =
            Operation::parse(Some(Capability::Generate), br#"{"prompt":"a","steps":20}"#).unwrap();
        let job = Job::new(operation, &Limits::WIDEST).unwrap();
        let may = |catalogue: &[String], workers: &[WorkerInfo]| {
            let workers: Vec<_> = workers.iter().collect();
            Models::new(catalogue).may_be_done(&job, "m", 0, &workers).map_err(|error| error.message)
        };
        assert_eq!(may(&[], &[]), Ok(()), "its worker may come back");
        assert_eq!(may(&[], &[worker(10), worker(20)]), Ok(()));
        let error = may(&[], &[worker(10), worker(5)]).unwrap_err();
        assert!(error.starts_with("`steps`: 20"), "{error}");
        assert_eq!(may(&["m".into()], &[worker(10)]), Ok(()), "the catalogue says that others may come");
    }

    #[test]
    fn a_capability_that_no_worker_has_is_refused_while_workers_are_up() {
        let models = Models::new(&["m".into()]);
        let inpaint = |workers: &[WorkerInfo]| {
            let workers: Vec<_> = workers.iter().collect();
            models.choose(None, Capability::Inpaint, &workers)
        };
        assert_eq!(inpaint(&[worker(&["m"])]).unwrap_err().code, ErrorCode::UnsupportedOperation);
        assert_eq!(inpaint(&[]).unwrap(), "m");
    }
}
