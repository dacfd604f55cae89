//! A job becomes durable: it is in the stream of jobs, and its ticket is written, when the client has its answer.

use std::{sync::PoisonError, time::Duration};

use bytes::Bytes;

use super::{Durable, Log, away};
use crate::{
    bus::{SendError, Sending, Sent, Streams},
    contract::{About, Capability, ErrorCode, Fingerprint, Job, JobId, Operation, Ticket, Webhook},
    http::ApiError,
    queen::{Queen, RETRY_AFTER, busy, inputs, other_request, told, trace::SendSpan},
    storage::Key,
};

/// How often the ticket of a job that another queen has just sent is looked for.
const TICKET_TRIES: u32 = 5;
/// The pause between.
const TICKET_PAUSE: Duration = Duration::from_millis(100);

/// How long the message of a job may be out of the queue while the job is ended or sent again.
const AWAY_FOR_A_MOMENT: Duration = Duration::from_secs(1);

/// A job that came in.
pub(in crate::queen) struct Submission {
    pub id: JobId,
    /// The client chose the id, so that it may be one that is known.
    pub named: bool,
    /// Settled, as it was sent.
    pub operation: Operation,
    /// For the store.
    pub inputs: Vec<(Key, Bytes)>,
    /// Where its events are posted.
    pub webhook: Option<Webhook>,
}

/// What becomes of a job that came in.
enum Decision {
    /// It is known, and runs or has run.
    Known,
    /// It is sent. Of a job that ended in an error which another run may avoid, or that was lost: behind the event of that
    /// number, and of a lost one in place of its message of that number.
    Send { after: Option<u64>, lost: Option<u64> },
}

impl Queen {
    /// Makes a job durable.
    pub(in crate::queen) async fn submit_durably(
        &self,
        durable: &Durable,
        submission: Submission,
    ) -> Result<JobId, ApiError> {
        let Submission { id, named, mut operation, inputs, webhook } = submission;
        // Before anything is asked: what is wrong with it is wrong with any model.
        let job = Job::new(operation.clone(), &self.shared.limits)?;
        self.may_accept()?;
        let largest = inputs.iter().map(|(_, bytes)| bytes.len() as u64).max().unwrap_or(0);
        let chosen = self.shared.fleet.with_taking(|workers| {
            let model = durable.models.choose(operation.model(), operation.capability(), workers)?;
            durable.models.may_be_done(&job, &model, largest, workers)?;
            Ok::<_, ApiError>(model)
        });
        if !durable.is_ready() {
            return Err(busy("JetStream does not answer at present"));
        }
        let log = if named { durable.look(&id).await? } else { Log::nothing(&id) };
        let (after, lost) = match self.decide(durable, &log, &operation, named).await? {
            Decision::Known => return Ok(id),
            Decision::Send { after, lost } => (after, lost),
        };
        let model = chosen?;
        if let Some(webhooks) = self.shared.webhooks.as_ref().filter(|_| webhook.is_some()) {
            webhooks.are_kept(&durable.streams).await?;
        }
        operation.set_model(&model);
        let asked = Fingerprint::of(&operation);
        // To every version of a worker it is the same request, however it was written.
        operation.leave_out_defaults();
        inputs::store(&self.shared.store, inputs).await?;
        if named {
            self.unmark(&id).await?;
        }
        let (owner, about) = self.whose(&log, &operation);
        let span = SendSpan::begin(self.trace);
        let sending = Sending {
            job: id.clone(),
            subject: durable.streams.subject_of_job(
                operation.capability(),
                operation.model().unwrap_or_default(),
                &id,
            ),
            body: Bytes::from(operation.to_json()),
            after,
            lost,
            owner: owner.clone(),
            traceparent: span.as_ref().map(SendSpan::traceparent),
        };
        self.ensure_consumer(operation.capability(), model.clone());
        durable.events.listen();
        durable.awaited.wait_for(&id, &model, self.trace);
        let sent = durable.send(&sending).await;
        if let Some(span) = span {
            span.end("JOBS", operation.capability(), Some(&model), &id);
        }
        let sent = sent?;
        let ticket = Ticket::new(id.clone(), &asked, sent.sequence, after);
        let ticket = Ticket { owner, about: Some(about), webhook, ..ticket };
        if sent.duplicate {
            self.is_the_same(durable, &ticket, &asked).await?;
        }
        durable.put_ticket(&log, &ticket).await?;
        if (after.is_some() || lost.is_some())
            && let Err(error) = durable.streams.drop_dead_letters(&id).await
        {
            tracing::warn!(job = %id, %error, "the dead letter of a job that was sent again could not be removed");
        }
        if !sent.duplicate {
            told::accepted(&durable.metrics, &id, operation.capability(), Some(&model), self.trace);
        }
        Ok(id)
    }

    /// Whether the job is known, by what streams, memory and store say of its id.
    async fn decide(
        &self,
        durable: &Durable,
        log: &Log,
        operation: &Operation,
        named: bool,
    ) -> Result<Decision, ApiError> {
        let id = &log.id;
        // Which model a job got that named none may have been decided when other workers were up.
        let is_same = |matches: &dyn Fn(&Fingerprint) -> bool| {
            matches(&Fingerprint::of(operation))
                || operation.model().is_none()
                    && durable.models.known().iter().any(|model| matches(&with_model(operation, model)))
        };
        let known = |is_same: bool| match is_same {
            true => Ok(Decision::Known),
            false => Err(other_request(id)),
        };
        if let Some(ticket) = log.ticket() {
            if !self.asker.finds(ticket.owner.as_deref()) {
                return Err(other_request(id));
            }
            let is_same = is_same(&|asked| ticket.is_of(asked));
            if let (Some(seq), true) = (log.may_run_again(), is_same) {
                return Ok(Decision::Send { after: Some(seq), lost: None });
            }
            let known = known(is_same)?;
            if !durable.is_lost(log).await? {
                return Ok(known);
            }
            tracing::warn!(job = %id, sequence = ticket.sequence, "a job that NATS has lost is sent again");
            let after = log.last.as_ref().map(|last| last.event.seq).or(ticket.after);
            return Ok(Decision::Send { after, lost: Some(ticket.sequence) });
        }
        let remembered = self.shared.table.get(id);
        if remembered.as_ref().is_some_and(|record| !self.asker.finds(record.owner.as_deref())) {
            return Err(other_request(id));
        }
        if let Some(record) = remembered
            && record.may_run_again().is_none()
        {
            return known(is_same(&|asked| asked.is(&record.fingerprint)));
        }
        if named && let Some(result) = self.stored(id).await? {
            if !self.asker.finds(result.owner.as_deref()) {
                return Err(other_request(id));
            }
            return known(is_same(&|asked| asked.is(&result.fingerprint)));
        }
        match (log.may_run_again(), log.ended()) {
            (None, Some(_)) => Ok(Decision::Known),
            (after, _) => Ok(Decision::Send { after, lost: None }),
        }
    }

    /// Whose a job is that is sent, and what is said of it: of one that was sent before, as it was then.
    pub(super) fn whose(&self, log: &Log, operation: &Operation) -> (Option<String>, About) {
        let before = log.ticket();
        let mut about = About::of(operation);
        if let Some(before) = before.and_then(|ticket| ticket.about.as_ref()) {
            about.created_ms = before.created_ms;
        }
        (before.and_then(|ticket| ticket.owner.clone()).or_else(|| self.asker.name()), about)
    }

    /// Whether a sending that was there before is of the same request.
    async fn is_the_same(
        &self,
        durable: &Durable,
        ours: &Ticket,
        asked: &Fingerprint,
    ) -> Result<(), ApiError> {
        let id = &ours.job_id;
        let same = |is_same: bool| match is_same {
            true => Ok(()),
            false => Err(other_request(id)),
        };
        let body = durable.streams.job_at(ours.sequence, id).await.map_err(|error| away(&error))?;
        if let Some(body) = body {
            let theirs = Operation::parse(None, &body).map_err(|_| other_request(id))?;
            return same(theirs.fingerprint() == asked.plain());
        }
        // It was taken from the stream already. Whoever sent it is writing its ticket, or has.
        for _ in 0..TICKET_TRIES {
            let ticket = durable.streams.stored_ticket(id).await.map_err(|error| away(&error))?;
            if let Some(stored) = ticket {
                return same(stored.ticket.is_of(asked));
            }
            tokio::time::sleep(TICKET_PAUSE).await;
        }
        match self.stored(id).await? {
            Some(result) => same(self.asker.finds(result.owner.as_deref()) && asked.is(&result.fingerprint)),
            // Its events are all that is left of it, and they do not say what it was.
            None => Ok(()),
        }
    }
}

impl Queen {
    /// Sees to it, beside the job, that it has a consumer, also where no worker is up.
    fn ensure_consumer(&self, capability: Capability, model: String) {
        if let Some(durable) = self.durable().cloned() {
            tokio::spawn(async move { durable.ensure_consumer(capability, &model).await });
        }
    }
}

impl Durable {
    /// Looks for the consumer now and then. A job is as safe without.
    async fn ensure_consumer(&self, capability: Capability, model: &str) {
        let name = Streams::consumer_name(capability, model);
        if self.consumers.lock().unwrap_or_else(PoisonError::into_inner).contains(&name) {
            return;
        }
        match self.streams.ensure_consumer(capability, model).await {
            Ok(()) => {
                self.consumers.lock().unwrap_or_else(PoisonError::into_inner).insert(name);
            }
            Err(error) => tracing::warn!(%error, "the consumer of a job could not be made"),
        }
    }

    /// Whether a job with a ticket has neither an end nor a message in the queue. A server that comes back after a power
    /// cut has forgotten the last messages that it had acknowledged. It is looked for twice: while a job ends or is sent
    /// again its message is away for a moment.
    pub(super) async fn is_lost(&self, log: &Log) -> Result<bool, ApiError> {
        if log.ended().is_some() {
            return Ok(false);
        }
        let in_queue = async || self.streams.job_in_queue(&log.id).await.map_err(|error| away(&error));
        if in_queue().await?.is_some() {
            return Ok(false);
        }
        tokio::time::sleep(AWAY_FOR_A_MOMENT).await;
        Ok(in_queue().await?.is_none() && self.look(&log.id).await?.ended().is_none())
    }

    /// Sends a job. Streams that were removed meanwhile are made again.
    pub(super) async fn send(&self, sending: &Sending) -> Result<Sent, ApiError> {
        let sent = match self.streams.send_job(sending).await {
            Err(SendError::Away(reason)) => match self.streams.ensure().await {
                Ok(()) => self.streams.send_job(sending).await,
                Err(_) => Err(SendError::Away(reason)),
            },
            sent => sent,
        };
        sent.map_err(|error| match &error {
            SendError::TooLarge { .. } => {
                ApiError::new(ErrorCode::PayloadTooLarge, format!("`body`: {error}"))
            }
            SendError::Full(_) | SendError::Away(_) => {
                ApiError::new(ErrorCode::Busy, error.to_string()).with_retry_after(RETRY_AFTER)
            }
            SendError::Unconfirmed(_) => unconfirmed(&sending.job, &error),
            SendError::Refused(_) => ApiError::new(ErrorCode::Internal, error.to_string()),
        })
    }

    /// Writes the ticket of a job that was sent, after that which `log` has.
    pub(super) async fn put_ticket(&self, log: &Log, ticket: &Ticket) -> Result<(), ApiError> {
        let id = &ticket.job_id;
        let mut before = log.ticket.clone();
        loop {
            let after = before.as_ref().map_or(0, |stored| stored.sequence);
            match self.streams.put_ticket_after(ticket, after).await {
                Ok(true) => {
                    self.register.enter(ticket.clone());
                    return Ok(());
                }
                Ok(false) => {}
                Err(error) => return Err(unconfirmed(id, &error)),
            }
            let now = self.streams.stored_ticket(id).await.map_err(|error| unconfirmed(id, &error))?;
            match &now {
                // Another queen was first with the same.
                Some(now) if now.ticket.sequence >= ticket.sequence => {
                    let owner = &now.ticket.owner;
                    let is_its = owner.is_none() || *owner == ticket.owner;
                    return match is_its && now.ticket.is_same(ticket) {
                        true => Ok(()),
                        false => Err(other_request(id)),
                    };
                }
                // It is gone, or of an earlier sending.
                _ => before = now,
            }
        }
    }
}

impl Log {
    fn nothing(id: &JobId) -> Self {
        Self { id: id.clone(), ticket: None, last: None, last_ever: None }
    }
}

fn with_model(operation: &Operation, model: &str) -> Fingerprint {
    let mut operation = operation.clone();
    operation.set_model(model);
    Fingerprint::of(&operation)
}

/// Nobody knows whether the job was taken, and sending it again does no harm.
fn unconfirmed(id: &JobId, error: &impl std::fmt::Display) -> ApiError {
    let message =
        format!("{error}; it may have been accepted: send it again with `job_id` `{id}`, which is safe");
    ApiError::new(ErrorCode::Busy, message).with_retry_after(RETRY_AFTER)
}
