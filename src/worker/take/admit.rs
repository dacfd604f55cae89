//! Whether this worker can do what a body asks for: read and checked, the same for a message and for a body over HTTP.

use serde::Deserialize;

use crate::{
    bus::{Incoming, Via},
    contract::{
        ContractError, ErrorCode, Job, JobId, JobSource, Limits, MaskSource, Operation, check_scheduler,
        model_token, unmarked,
    },
    models::ModelInfo,
    worker::shared::Identity,
};

/// A job that this worker can do.
#[derive(Debug)]
pub struct Admitted {
    pub job: Job,
    pub model: ModelInfo,
    /// Whether the requester chose the job id.
    pub is_named: bool,
}

/// A job that is not taken.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refusal {
    /// The code on the wire.
    pub code: ErrorCode,
    /// In words.
    pub message: String,
}

/// Why a body is not admitted.
#[derive(Debug)]
pub enum NotAdmitted {
    /// It is wrong with any worker.
    Wrong(Refusal),
    /// This worker cannot do it, and another may.
    NotHere(Box<Job>, Refusal),
}

impl From<ContractError> for Refusal {
    fn from(error: ContractError) -> Self {
        Self { code: error.code(), message: error.to_string() }
    }
}

impl Refusal {
    /// With this code and these words.
    pub fn new(code: ErrorCode, message: impl Into<String>) -> Self {
        Self { code, message: message.into() }
    }

    /// A job for another worker.
    pub fn for_another(worker: &impl std::fmt::Display) -> Self {
        ContractError::field("worker_id", format!("this is not `{worker}`")).into()
    }
}

/// The operation in a message. One of the queue has the id and the model of its subject where it names none.
///
/// # Errors
/// What is wrong with it, with any worker.
pub fn read(message: &Incoming) -> Result<Operation, Refusal> {
    let Some(capability) = message.capability else {
        let reason = format!("`{}` is for none; there are generate, transform, inpaint", message.subject);
        return Err(ContractError::UnsupportedOperation(reason).into());
    };
    let mut operation = Operation::parse(Some(capability), &message.body)?;
    if let (None, Via::Queue { model, .. }) = (operation.model(), &message.via) {
        operation.set_model(model);
    }
    if let (None, Some(id)) = (operation.job_id(), &message.job_id) {
        operation.set_job_id(id);
    }
    Ok(operation)
}

/// Checks an operation against the contract and against what this worker has. `queue`: the model whose queue it came from.
/// `again`: gives the operation once more, to look at what others would say of it.
///
/// # Errors
/// Why this worker does not take it, and whether another may.
pub fn admit(
    identity: &Identity,
    operation: Operation,
    queue: Option<&str>,
    again: impl FnOnce() -> Option<Operation>,
) -> Result<Admitted, NotAdmitted> {
    let is_named = operation.job_id().is_some();
    let job = match Job::new(operation, &identity.limits) {
        Ok(job) => job,
        // What the contract allows, a worker with other limits may do.
        Err(error) => {
            let Some(operation) = again() else { return Err(NotAdmitted::Wrong(error.into())) };
            let job =
                Job::new(operation, &Limits::WIDEST).map_err(|error| NotAdmitted::Wrong(error.into()))?;
            return Err(NotAdmitted::NotHere(Box::new(job), error.into()));
        }
    };
    if let Some(name) = &job.scheduler {
        check_scheduler(name, []).map_err(|error| NotAdmitted::Wrong(error.into()))?;
    }
    let not_here = |job, error: ContractError| NotAdmitted::NotHere(Box::new(job), error.into());
    if let Some(asked) = &job.hive_id
        && identity.hive_id.as_ref() != Some(asked)
    {
        let own = match &identity.hive_id {
            Some(own) => format!("this worker is of hive `{own}`, not of `{asked}`"),
            None => format!("this worker is of no hive, so not of `{asked}`"),
        };
        return Err(not_here(job, ContractError::field("hive_id", own)));
    }
    if !identity.capabilities.contains(&job.capability()) {
        let served: Vec<_> = identity.capabilities.iter().map(|c| c.operation()).collect();
        let reason = format!("this worker does {} and nothing else", served.join(", "));
        return Err(not_here(job, ContractError::UnsupportedOperation(reason)));
    }
    if !job.loras.is_empty() && identity.loras.is_none() {
        let reason = "this worker has no folder of LoRAs; start it with --lora-dir";
        return Err(not_here(job, ContractError::field("loras", reason)));
    }
    if let (JobSource::Inpaint { mask: MaskSource::Pointing(pointing), .. }, None) =
        (&job.source, &identity.segmenter)
    {
        let reason = "this worker makes no masks; start it with --segmenter, or send a `mask_image`";
        let error = ContractError::field(pointing.field(), reason);
        return Err(not_here(job, error));
    }
    let found = match &job.model {
        None => identity.catalog.first(),
        Some(name) => identity.catalog.iter().find(|model| model.name == *name),
    };
    let Some(model) = found.cloned() else {
        let known: Vec<_> = identity.catalog.iter().map(|model| model.name.as_str()).collect();
        let asked = job.model.clone().unwrap_or_default();
        let error = ContractError::UnsupportedModel { model: asked.clone(), known: known.join(", ") };
        // No other worker that waits on another model's queue has that model either.
        return Err(match queue {
            Some(queue) if model_token(queue) != model_token(&asked) => NotAdmitted::Wrong(error.into()),
            _ => not_here(job, error),
        });
    };
    Ok(Admitted { job, model, is_named })
}

/// The job id that an operation would have, of a request that is wrong elsewhere.
pub fn job_id_of(message: &Incoming) -> Option<JobId> {
    #[derive(Deserialize)]
    struct Named {
        job_id: JobId,
    }
    let in_body = || Some(serde_json::from_slice::<Named>(unmarked(&message.body)).ok()?.job_id);
    message.job_id.clone().or_else(in_body)
}

/// Why a message of the queue is not the one that its subject says.
pub fn misnamed(message: &Incoming) -> Option<String> {
    #[derive(Deserialize)]
    struct Named {
        job_id: Option<String>,
    }
    let Via::Queue { delivery, .. } = &message.via else { return None };
    let Some(id) = &message.job_id else {
        return Some(format!(
            "the subject of message {} names no job: `{}`",
            delivery.sequence, message.subject
        ));
    };
    let differs = |field: &str, named: &str| {
        (named != id.as_str()).then(|| format!("`{field}` is `{named}`, and the subject names job `{id}`"))
    };
    let in_body = serde_json::from_slice::<Named>(unmarked(&message.body)).ok().and_then(|body| body.job_id);
    let in_body = in_body.filter(|named| !named.is_empty());
    let in_header = message.named.as_deref().and_then(|named| differs("Job-Id", named));
    in_header.or_else(|| in_body.and_then(|named| differs("job_id", &named)))
}
