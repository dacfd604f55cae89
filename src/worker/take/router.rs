//! The one way in: a message on a subject and a body over HTTP are taken, joined, passed on or refused here.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use super::{
    admit::{Admitted, NotAdmitted, Refusal, admit, job_id_of, misnamed, read},
    refuse::{refuse, refuse_queued},
};
use crate::{
    bus::{Delivery, Incoming, Settle, Via},
    contract::{ErrorCode, Fingerprint, Job, JobId, Operation, WorkerId},
    models::ModelInfo,
    worker::{
        job::{JobRun, JobTrace, inputs::InputError},
        own::{leave_to_others, set_aside},
        shared::{Begun, Context, Happened, Reader, Stop, conflict},
    },
};

/// How long a message of the queue waits whose id a request has here that is still being claimed.
const CLAIM_WITHIN: Duration = Duration::from_secs(1);

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

/// Who asks for a job, and how it began.
struct Asked {
    received: Instant,
    reader: Option<Reader>,
    owner: Option<String>,
    traceparent: Option<String>,
    delivery: Option<Delivery>,
}

/// What became of a job that this worker can do.
enum Taken {
    /// It runs.
    Begun,
    /// It ran already; the requester reads along.
    Joined(Option<Delivery>),
    /// The id stands for another request.
    Conflict(Option<Delivery>),
    /// There is no slot, or no more may read along.
    Full(Refusal, Option<Delivery>),
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
    pub fn route(&self, mut message: Incoming) -> Routed {
        if let Some(why) = misnamed(&message) {
            return self.put_aside(message, why);
        }
        let queue = match &message.via {
            Via::Queue { model, .. } => Some(model.clone()),
            Via::Door | Via::Direct => None,
        };
        let operation = match read(&message) {
            Ok(operation) => operation,
            Err(refusal) => {
                let id = job_id_of(&message);
                return self.refuse(message, id, refusal);
            }
        };
        let own = &self.context.identity.worker_id;
        if let Some(other) = operation.worker_id().filter(|id| *id != own.as_str()).map(str::to_owned) {
            let id = job_id_of(&message).unwrap_or_else(JobId::generate);
            return match (&message.via, WorkerId::new(&*other)) {
                (Via::Door, Ok(worker)) => self.pass_on(message, id, Some(worker)),
                (Via::Queue { .. }, Ok(_)) => {
                    let fingerprint = Fingerprint::of(&operation);
                    self.leave(message, &id, &fingerprint, None, &Refusal::for_another(&other))
                }
                (_, Ok(_)) => self.refuse(message, Some(id), Refusal::for_another(&other)),
                (_, Err(error)) => self.refuse(message, Some(id), error.into()),
            };
        }
        let Admitted { mut job, model, is_named } =
            match admit(&self.context.identity, operation, queue.as_deref(), || read(&message).ok()) {
                Ok(admitted) => admitted,
                Err(NotAdmitted::Wrong(refusal)) => {
                    let id = job_id_of(&message);
                    return self.refuse(message, id, refusal);
                }
                Err(NotAdmitted::NotHere(job, refusal)) => match message.via {
                    Via::Queue { .. } => {
                        let fingerprint = job.fingerprint.of_the_queue();
                        return self.leave(message, &job.id, &fingerprint, job.deadline, &refusal);
                    }
                    Via::Door | Via::Direct => return self.refuse(message, Some(job.id), refusal),
                },
            };
        if queue.is_some() {
            job.fingerprint = job.fingerprint.of_the_queue();
        }
        let (id, stream) = (job.id.clone(), job.stream);
        let traceparent = message.traceparent.clone();
        let reader =
            message.reply.clone().map(|reply| Reader { reply, stream, traceparent: traceparent.clone() });
        let is_queued = queue.is_some();
        let taken = {
            let delivery = match std::mem::replace(&mut message.via, Via::Direct) {
                Via::Queue { model: _, delivery } => Some(delivery),
                via => {
                    message.via = via;
                    None
                }
            };
            let owner = message.owner.clone();
            let asked = Asked { received: message.received, reader, owner, traceparent, delivery };
            self.take(job, model, is_named || is_queued, asked)
        };
        let via = |delivery: Option<Delivery>, via| match (delivery, queue) {
            (Some(delivery), Some(model)) => Via::Queue { model, delivery },
            _ => via,
        };
        match taken {
            Taken::Begun => Routed::Done,
            Taken::Joined(delivery) => {
                if let (Some(delivery), Some(running)) = (delivery, self.context.held.running(&id)) {
                    tracing::info!(job_id = %id, "a job that runs here is delivered again");
                    running.keep(delivery);
                }
                Routed::Done
            }
            Taken::Conflict(None) => {
                self.refuse(message, Some(id.clone()), Refusal::new(ErrorCode::InvalidRequest, conflict(&id)))
            }
            // Whose id it is, its log says: the request that is here may be about to be refused.
            Taken::Conflict(Some(delivery)) if !self.is_claimed(&id) => {
                tokio::spawn(delivery.settle(Settle::Again(CLAIM_WITHIN)));
                Routed::Done
            }
            Taken::Conflict(delivery) => {
                message.via = via(delivery, Via::Direct);
                self.put_aside(message, conflict(&id))
            }
            Taken::Full(refusal, delivery) => {
                let before = std::mem::replace(&mut message.via, Via::Direct);
                message.via = via(delivery, before);
                match message.via {
                    Via::Door => self.pass_on(message, id, None),
                    Via::Direct => self.refuse(message, Some(id), refusal),
                    Via::Queue { .. } => Routed::NoSlot(Box::new(message)),
                }
            }
        }
    }

    /// Takes or joins what came over HTTP. It looks into the folder of LoRAs: not to be called where that holds up others.
    ///
    /// # Errors
    /// Why it is not taken.
    pub fn submit(&self, operation: Operation) -> Result<JobId, Refusal> {
        let received = Instant::now();
        let own = &self.context.identity.worker_id;
        if let Some(other) = operation.worker_id().filter(|id| *id != own.as_str()) {
            return Err(Refusal::for_another(&other));
        }
        let Admitted { job, model, is_named } = admit(&self.context.identity, operation, None, || None)
            .map_err(|not_admitted| match not_admitted {
                NotAdmitted::Wrong(refusal) | NotAdmitted::NotHere(_, refusal) => refusal,
            })?;
        let folder = self.context.identity.loras.as_ref();
        for (index, lora) in job.loras.iter().enumerate() {
            if let Some(Err(source)) = folder.map(|folder| folder.find(&lora.name)) {
                let missing = InputError::Lora { index, source };
                return Err(Refusal::new(missing.code(), missing.to_string()));
            }
        }
        let id = job.id.clone();
        let asked = Asked { received, reader: None, owner: None, traceparent: None, delivery: None };
        match self.take(job, model, is_named, asked) {
            Taken::Begun | Taken::Joined(_) => Ok(id),
            Taken::Conflict(_) => Err(Refusal::new(ErrorCode::InvalidRequest, conflict(&id))),
            Taken::Full(refusal, _) => Err(refusal),
        }
    }

    /// Stops a job that is held here; false when there is none.
    pub fn cancel(&self, id: &JobId) -> bool {
        let running = self.context.held.running(id);
        let running = running.filter(|job| job.events.last().is_none_or(|event| !event.kind.is_terminal()));
        match running {
            Some(job) => {
                job.stop(Stop::Cancelled);
                true
            }
            None => false,
        }
    }

    /// Whether a job is held here that has been accepted.
    fn is_claimed(&self, id: &JobId) -> bool {
        self.context.held.running(id).is_some_and(|job| job.events.last().is_some())
    }

    /// Joins a job that runs here, which needs no slot, or begins it.
    fn take(&self, job: Job, model: ModelInfo, is_named: bool, asked: Asked) -> Taken {
        let Asked { received, reader, owner, traceparent, delivery } = asked;
        let too_many =
            || Refusal::new(ErrorCode::Busy, "as many requests read along with this job as may; try again");
        match self.context.held.join(&job.id, job.fingerprint.plain(), reader.clone()) {
            Some(Begun::Conflict) => return Taken::Conflict(delivery),
            Some(Begun::TooMany) => return Taken::Full(too_many(), delivery),
            Some(Begun::Joined | Begun::New(_)) => return Taken::Joined(delivery),
            None => {}
        }
        let trace = JobTrace::of(traceparent);
        let permits = if self.context.takes_jobs() { self.context.slots.try_take() } else { None };
        let Some(permits) = permits else { return Taken::Full(self.no_slot(), delivery) };
        let worker_id = &self.context.identity.worker_id;
        let plain = job.fingerprint.plain();
        match self.context.held.begin(&job.id, plain, worker_id, reader, trace.traceparent.clone()) {
            Begun::New(hold) => {
                let context = self.context.clone();
                let run = JobRun { context, hold, job, model, permits, received, is_named, owner, trace };
                run.spawn(delivery);
                Taken::Begun
            }
            Begun::Joined => Taken::Joined(delivery),
            Begun::TooMany => Taken::Full(too_many(), delivery),
            Begun::Conflict => Taken::Conflict(delivery),
        }
    }

    fn no_slot(&self) -> Refusal {
        match (self.context.is_closed(), self.context.takes_jobs()) {
            (true, _) => Refusal::new(ErrorCode::ShuttingDown, "the worker shuts down; try again"),
            (false, false) => {
                Refusal::new(ErrorCode::Busy, "this worker was drained and takes no jobs; try again")
            }
            (false, true) => Refusal::new(ErrorCode::Busy, "this worker has no free slot; try again"),
        }
    }

    fn pass_on(&self, message: Incoming, job_id: JobId, worker: Option<WorkerId>) -> Routed {
        self.context.metrics.note(Happened::PassedOn);
        Routed::PassOn { message: Box::new(message), job_id, worker }
    }

    /// A message of the queue that is not what its subject says, or whose id stands for another request.
    fn put_aside(&self, message: Incoming, why: String) -> Routed {
        self.context.metrics.note(Happened::Refused);
        if let Via::Queue { delivery, .. } = message.via {
            tokio::spawn(async move { set_aside(message.job_id.as_ref(), delivery, &why).await });
        }
        Routed::Done
    }

    /// What this worker cannot do goes back to the queue, for one that can.
    fn leave(
        &self,
        message: Incoming,
        id: &JobId,
        fingerprint: &Fingerprint,
        deadline: Option<Duration>,
        refusal: &Refusal,
    ) -> Routed {
        let Via::Queue { delivery, .. } = message.via else { return Routed::Done };
        let (context, id) = (self.context.clone(), id.clone());
        let (fingerprint, why) = (fingerprint.clone(), refusal.message.clone());
        tokio::spawn(async move {
            leave_to_others(&context, &id, &fingerprint, deadline, delivery, &why).await;
        });
        Routed::Done
    }

    /// Its sender is told, and nobody else: an id in a request that is wrong may be another's job.
    fn refuse(&self, message: Incoming, id: Option<JobId>, refusal: Refusal) -> Routed {
        let id = id.unwrap_or_else(JobId::generate);
        tracing::info!(job_id = %id, code = %refusal.code, message = %refusal.message, "a request is refused");
        self.context.metrics.note(Happened::Refused);
        let context = self.context.clone();
        match message.via {
            Via::Queue { delivery, .. } => {
                let traceparent = message.traceparent;
                tokio::spawn(
                    async move { refuse_queued(&context, &id, delivery, refusal, traceparent).await },
                );
            }
            Via::Door | Via::Direct => {
                let (reply, traceparent) = (message.reply, message.traceparent);
                tokio::spawn(async move { refuse(&context, id, reply, traceparent, refusal).await });
            }
        }
        Routed::Done
    }
}
