//! The one way in: a message on a subject and a body over HTTP are read, checked and begun here.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use serde::Deserialize;

use super::refuse::{refuse, set_aside};
use crate::{
    bus::{Delivery, Incoming, Outgoing, Settle, To, Via},
    contract::{ContractError, ErrorCode, Event, EventKind, Job, JobId, Operation, WorkerId, model_token},
    models::ModelInfo,
    worker::{
        job::{JobRun, TimeLimit},
        resume::Snapshots,
        shared::{Begun, Context, HeldJob, Permits, Reader, conflict},
    },
};

/// How long a job of the queue waits that this worker cannot do and another may.
const OTHERS_AFTER: Duration = Duration::from_secs(1);
/// After this many deliveries a job that no worker could do is refused.
const OTHERS_TRY: u64 = 30;

/// Routes jobs. Cheap to clone; handlers hold it, and through it the queue, never the engine.
#[derive(Clone)]
pub struct JobRouter {
    pub(super) context: Arc<Context>,
}

/// What became of a message.
#[derive(Debug)]
pub enum Routed {
    /// It was taken, joined or refused.
    Done,
    /// It is for another worker: this one if named, else whoever has a free slot.
    PassOn {
        /// The message.
        message: Box<Incoming>,
        /// Its job.
        job_id: JobId,
        /// The worker that it is for.
        worker: Option<WorkerId>,
    },
    /// It is of the queue, and there is no slot for it.
    NoSlot(Box<Incoming>),
}

/// A job that is not taken.
#[derive(Debug)]
pub struct Refusal {
    /// The code on the wire.
    pub code: ErrorCode,
    /// In words.
    pub message: String,
    /// Whether it ends the job for everybody (`events.<job_id>`), or answers this requester alone.
    ends_the_job: bool,
}

impl From<ContractError> for Refusal {
    fn from(error: ContractError) -> Self {
        Self { code: error.code(), message: error.to_string(), ends_the_job: true }
    }
}

impl Refusal {
    fn to_requester(code: ErrorCode, message: impl Into<String>) -> Self {
        Self { code, message: message.into(), ends_the_job: false }
    }
}

impl JobRouter {
    /// A router for this worker.
    pub fn new(context: Arc<Context>) -> Self {
        Self { context }
    }

    /// What the jobs share.
    pub fn context(&self) -> &Arc<Context> {
        &self.context
    }

    /// Takes, joins or refuses what came; what another worker may take is given back.
    pub fn route(&self, message: Incoming) -> Routed {
        let read = self.read(&message);
        let (job, named) = match read {
            Ok(read) => read,
            Err(refusal) => {
                let id = job_id_of(&message).unwrap_or_else(JobId::generate);
                return self.refuse(message, id, refusal);
            }
        };
        let id = job.id.clone();
        let own = &self.context.identity.worker_id;
        if let Some(other) = job.worker_id.clone().filter(|id| id != own) {
            return match message.via {
                Via::Door => self.pass_on(message, id, Some(other)),
                Via::Direct | Via::Queue { .. } => {
                    let refusal = ContractError::field("worker_id", format!("this is not `{other}`"));
                    self.refuse_or_leave(message, id, refusal.into())
                }
            };
        }
        let model = match self.check(&job) {
            Ok(model) => model,
            // No other worker that waits on this queue has that model either.
            Err(refusal) if is_in_another_queue(&job, &message) => return self.refuse(message, id, refusal),
            Err(refusal) => return self.refuse_or_leave(message, id, refusal),
        };
        let reader = message.reply.clone().map(|reply| Reader {
            reply,
            stream: job.stream,
            traceparent: message.traceparent.clone(),
        });
        // Somebody who asks again for what runs here needs no slot.
        match self.context.held.join(&id, &job.fingerprint, reader.clone()) {
            Some(Begun::Conflict) => return self.refuse_other(message, id),
            Some(_) => return self.joined(message, &id),
            None => {}
        }
        let permits = if self.context.is_closed() { None } else { self.context.slots.try_take() };
        let Some(permits) = permits else {
            return match message.via {
                Via::Door => self.pass_on(message, id, None),
                Via::Direct => {
                    let refusal = self.no_slot();
                    self.refuse(message, id, refusal)
                }
                Via::Queue { .. } => Routed::NoSlot(Box::new(message)),
            };
        };
        let traceparent = message.traceparent.clone();
        match self.begin(&job, reader, traceparent.clone()) {
            Begun::New(running) => {
                let received = message.received;
                let delivery = match message.via {
                    Via::Queue { delivery, .. } => Some(delivery),
                    Via::Door | Via::Direct => None,
                };
                let start =
                    Start { model, permits, received, named: named || delivery.is_some(), traceparent };
                self.run(running, job, start, delivery);
                Routed::Done
            }
            Begun::Joined => self.joined(message, &id),
            Begun::Conflict => self.refuse_other(message, id),
        }
    }

    /// The job runs here already; a delivery of it is kept from other workers until it ends.
    fn joined(&self, message: Incoming, id: &JobId) -> Routed {
        if let Via::Queue { delivery, .. } = message.via
            && let Some(running) = self.context.held.running(id)
        {
            tracing::info!(job_id = %id, "a job that runs here is delivered again");
            running.hold(delivery);
        }
        Routed::Done
    }

    /// Takes or joins what came over HTTP.
    ///
    /// # Errors
    /// Why it is not taken.
    pub fn submit(&self, operation: Operation) -> Result<JobId, Refusal> {
        let received = Instant::now();
        let named = operation.job_id().is_some();
        let job = Job::new(operation, &self.context.identity.limits)?;
        let id = job.id.clone();
        if let Some(other) = job.worker_id.as_ref().filter(|id| **id != self.context.identity.worker_id) {
            return Err(ContractError::field("worker_id", format!("this is not `{other}`")).into());
        }
        let model = self.check(&job)?;
        let conflicts = || Refusal::to_requester(ErrorCode::InvalidRequest, conflict(&id));
        match self.context.held.join(&id, &job.fingerprint, None) {
            Some(Begun::Conflict) => return Err(conflicts()),
            Some(_) => return Ok(id),
            None => {}
        }
        if self.context.is_closed() {
            return Err(self.no_slot());
        }
        let permits = self.context.slots.try_take().ok_or_else(|| self.no_slot())?;
        match self.begin(&job, None, None) {
            Begun::New(running) => {
                let start = Start { model, permits, received, named, traceparent: None };
                self.run(running, job, start, None);
            }
            Begun::Joined => {}
            Begun::Conflict => return Err(conflicts()),
        }
        Ok(id)
    }

    /// Stops a job that is held here; false when there is none.
    pub fn cancel(&self, id: &JobId) -> bool {
        let running = self.context.held.running(id);
        let running = running.filter(|job| job.events.last().is_none_or(|event| !event.kind.is_terminal()));
        match running {
            Some(job) => {
                job.cancel.set();
                true
            }
            None => false,
        }
    }

    fn read(&self, message: &Incoming) -> Result<(Job, bool), Refusal> {
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
        let named = operation.job_id().is_some();
        Ok((Job::new(operation, &self.context.identity.limits)?, named))
    }

    /// Hive, capability, LoRAs and model.
    fn check(&self, job: &Job) -> Result<ModelInfo, Refusal> {
        let identity = &self.context.identity;
        if let Some(asked) = &job.hive_id
            && identity.hive_id.as_ref() != Some(asked)
        {
            let own = match &identity.hive_id {
                Some(own) => format!("this worker is of hive `{own}`, not of `{asked}`"),
                None => format!("this worker is of no hive, so not of `{asked}`"),
            };
            return Err(ContractError::field("hive_id", own).into());
        }
        if !identity.capabilities.contains(&job.capability()) {
            let served: Vec<_> = identity.capabilities.iter().map(|c| c.operation()).collect();
            let reason = format!("this worker does {} and nothing else", served.join(", "));
            return Err(ContractError::UnsupportedOperation(reason).into());
        }
        if !job.loras.is_empty() && identity.loras.is_none() {
            let reason = "this worker has no folder of LoRAs; start it with --lora-dir";
            return Err(ContractError::field("loras", reason).into());
        }
        let found = match &job.model {
            None => identity.catalog.first(),
            Some(name) => identity.catalog.iter().find(|model| model.name == *name),
        };
        found.cloned().ok_or_else(|| {
            let known: Vec<_> = identity.catalog.iter().map(|model| model.name.as_str()).collect();
            let model = job.model.clone().unwrap_or_default();
            ContractError::UnsupportedModel { model, known: known.join(", ") }.into()
        })
    }

    fn begin(&self, job: &Job, reader: Option<Reader>, traceparent: Option<String>) -> Begun {
        let worker_id = &self.context.identity.worker_id;
        self.context.held.begin(&job.id, &job.fingerprint, worker_id, reader, traceparent)
    }

    fn run(&self, running: Arc<HeldJob>, job: Job, start: Start, delivery: Option<Delivery>) {
        let context = self.context.clone();
        let Start { model, permits, received, named, traceparent } = start;
        let waited = delivery.as_ref().map(Delivery::waited).unwrap_or_default();
        let limit = TimeLimit::of(&job, context.identity.limits.deadline, received, waited);
        let is_durable = delivery.is_some();
        let snapshots = Snapshots::new(&context, &job, &model.name, is_durable);
        let run = JobRun {
            context,
            running,
            job,
            model,
            permits,
            received,
            named,
            limit,
            traceparent,
            is_durable,
            attempt: 1,
            snapshots,
        };
        run.spawn(delivery);
    }

    fn no_slot(&self) -> Refusal {
        if self.context.is_closed() {
            Refusal::to_requester(ErrorCode::ShuttingDown, "the worker shuts down; try again")
        } else {
            Refusal::to_requester(ErrorCode::Busy, "this worker has no free slot; try again")
        }
    }

    fn pass_on(&self, message: Incoming, job_id: JobId, worker: Option<WorkerId>) -> Routed {
        self.context.metrics.passed_on();
        Routed::PassOn { message: Box::new(message), job_id, worker }
    }

    /// Another request has this id.
    fn refuse_other(&self, message: Incoming, job_id: JobId) -> Routed {
        let message_of = conflict(&job_id);
        if let Via::Queue { delivery, .. } = message.via {
            self.context.metrics.refused();
            tokio::spawn(async move { set_aside(&job_id, delivery, &message_of).await });
            return Routed::Done;
        }
        let refusal = Refusal::to_requester(ErrorCode::InvalidRequest, message_of);
        self.refuse(message, job_id, refusal)
    }

    /// What this worker cannot do, another may: a job of the queue goes back to it, until enough have looked at it.
    fn refuse_or_leave(&self, message: Incoming, job_id: JobId, refusal: Refusal) -> Routed {
        match message.via {
            Via::Queue { delivery, .. } if delivery.times < OTHERS_TRY => {
                tracing::debug!(%job_id, message = %refusal.message, "a job is left to other workers");
                tokio::spawn(delivery.settle(Settle::Again(OTHERS_AFTER)));
                Routed::Done
            }
            via => self.refuse(Incoming { via, ..message }, job_id, refusal),
        }
    }

    fn refuse(&self, message: Incoming, job_id: JobId, refusal: Refusal) -> Routed {
        tracing::info!(%job_id, code = %refusal.code, message = %refusal.message, "a request is refused");
        self.context.metrics.refused();
        if let Via::Queue { delivery, .. } = message.via {
            let context = self.context.clone();
            let Refusal { code, message: words, .. } = refusal;
            tokio::spawn(async move {
                refuse(&context, &job_id, delivery, code, words, message.traceparent).await;
            });
            return Routed::Done;
        }
        let worker_id = self.context.identity.worker_id.clone();
        let event = Arc::new(Event {
            job_id: job_id.clone(),
            worker_id: worker_id.clone(),
            attempt: 1,
            seq: 0,
            kind: EventKind::error(refusal.code, refusal.message),
        });
        let outgoing = |to: To, event: Option<Arc<Event>>| Outgoing {
            to,
            event,
            job_id: job_id.clone(),
            worker_id: worker_id.clone(),
            traceparent: message.traceparent.clone(),
        };
        let mut messages = vec![];
        if let Some(reply) = &message.reply {
            messages.push(outgoing(To::Reply(reply.clone()), Some(event.clone())));
            messages.push(outgoing(To::Reply(reply.clone()), None));
        }
        if refusal.ends_the_job {
            messages.push(outgoing(To::Events, Some(event)));
        }
        let sink = self.context.sink.clone();
        tokio::spawn(async move { sink.deliver(&messages).await });
        Routed::Done
    }
}

/// Whether a job came through the queue of a model other than its own.
fn is_in_another_queue(job: &Job, message: &Incoming) -> bool {
    match (&job.model, &message.via) {
        (Some(own), Via::Queue { model, .. }) => model_token(own) != model_token(model),
        _ => false,
    }
}

/// What a job begins with.
struct Start {
    model: ModelInfo,
    permits: Permits,
    received: Instant,
    named: bool,
    traceparent: Option<String>,
}

/// The job id of a request that is wrong elsewhere.
fn job_id_of(message: &Incoming) -> Option<JobId> {
    #[derive(Deserialize)]
    struct Named {
        job_id: JobId,
    }
    let in_body = || Some(serde_json::from_slice::<Named>(&message.body).ok()?.job_id);
    message.job_id.clone().or_else(in_body)
}
