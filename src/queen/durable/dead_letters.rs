//! `/v1/dead-letters`: jobs that failed on every worker that tried them, to be sent again or dropped.

use std::sync::Arc;

use axum::{
    Json,
    extract::{
        Path, Query,
        rejection::{PathRejection, QueryRejection},
    },
};
use schemars::json_schema;
use serde::Deserialize;
use serde_json::{Value, json};

use super::{Durable, away, uninterrupted};
use crate::{
    bus::Sending,
    contract::{
        DeadLetters, ErrorBody, ErrorCode, Fingerprint, HttpCode, JobId, JobResponse, JobStatus, Operation,
        Ticket, TraceContext,
    },
    http::{
        ApiError,
        endpoint::{Endpoints, described, of},
        job_id, only_id,
    },
    queen::{Queen, busy, ended_how, owner::Asked, routes::Front, told},
};

/// Letters that are listed unless told.
const DEFAULT_LIMIT: usize = 100;
/// The most letters that are listed at one time.
const MAX_LIMIT: usize = 1000;
/// The most of a query that a message repeats, in characters.
const MAX_SHOWN: usize = 40;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct ListQuery {
    limit: Option<String>,
}

/// GET /v1/dead-letters, POST /v1/dead-letters/{id}/retry, DELETE /v1/dead-letters/{id}.
pub(in crate::queen) fn endpoints() -> Endpoints<Front> {
    let job = "The job's id.";
    Endpoints::new("Dead letters", of::<ErrorBody>)
        .get(
            "/v1/dead-letters",
            list,
            described(
                "listDeadLetters",
                "Jobs that failed on every worker that tried them, the newest first.",
            )
            .query(
                "limit",
                "Letters at most, 100 unless told.",
                |_| json_schema!({"type": "integer", "minimum": 1, "maximum": MAX_LIMIT}),
            )
            .gives(200, "the letters", of::<DeadLetters>)
            .errs(&[400, 404, 503]),
        )
        .delete(
            "/v1/dead-letters/{id}",
            drop_letter,
            described("dropDeadLetter", "Drops the letter of a job.")
                .path("id", job, of::<JobId>)
                .gives(200, "it is gone", only_id)
                .errs(&[400, 404, 503]),
        )
        .post(
            "/v1/dead-letters/{id}/retry",
            retry,
            described("retryDeadLetter", "Sends the job of a letter again.")
                .path("id", job, of::<JobId>)
                .gives(200, "it waits in the queue", of::<JobResponse>)
                .errs(&[400, 404, 409, 503]),
        )
}

async fn list(
    Asked(queen): Asked,
    query: Result<Query<ListQuery>, QueryRejection>,
) -> Result<Json<DeadLetters>, ApiError> {
    let refuse = |message: String| ApiError::new(ErrorCode::InvalidRequest, message);
    let Query(query) = query
        .map_err(|_| refuse("the query cannot be read; `limit` is all that it may have, once".into()))?;
    let limit = match query.limit.as_deref() {
        None | Some("") => DEFAULT_LIMIT,
        Some(limit) => {
            limit.parse().ok().filter(|limit| (1..=MAX_LIMIT).contains(limit)).ok_or_else(|| {
                let shown: String = limit.chars().take(MAX_SHOWN).collect();
                refuse(format!("`limit`: `{shown}` is none; 1 to {MAX_LIMIT} are allowed"))
            })?
        }
    };
    let durable = queen.with_streams()?;
    let wanted = |owner: Option<&str>| queen.asker.lists(owner);
    let dead_letters = durable.streams.dead_letters(limit, wanted).await.map_err(|error| away(&error))?;
    Ok(Json(DeadLetters { dead_letters }))
}

async fn retry(
    Asked(queen): Asked,
    id: Result<Path<String>, PathRejection>,
) -> Result<Json<JobResponse>, ApiError> {
    let id = job_id(id)?;
    queen.may_accept()?;
    let durable = queen.with_streams()?.clone();
    uninterrupted(async move { send_again(&queen, &durable, id).await.map(JobResponse::new).map(Json) }).await
}

/// Sends the job of a dead letter again; its id.
async fn send_again(queen: &Queen, durable: &Durable, id: JobId) -> Result<JobId, ApiError> {
    let stored = durable.streams.dead_letter(&id).await.map_err(|error| away(&error))?;
    let letter = stored.ok_or_else(|| no_letter(&id))?;
    let log = durable.look(&id).await?;
    let owner = log.owner().map(str::to_owned).or_else(|| letter.owner.clone());
    if !queen.asker.finds(owner.as_deref()) {
        return Err(no_letter(&id));
    }
    match (&log.last, log.ended()) {
        // Its events are forgotten, or say that it is dead.
        (None, _) if log.ticket.is_none() => {}
        (_, Some(JobStatus::Failed)) => {}
        // It has died, and NATS has lost the event that says so.
        (_, None) if durable.is_lost(&log).await? => {}
        (_, Some(status)) => return Err(ApiError::has_ended(&id, ended_how(status))),
        (_, None) => {
            let message = format!("job `{id}` waits or runs: it was sent again, or is not dead yet");
            return Err(ApiError::of_request(HttpCode::Conflict, message));
        }
    }
    let (capability, model) = (letter.letter.capability, &letter.letter.model);
    let mut operation = Operation::parse(Some(capability), &letter.body)?;
    // One that was set aside has an id of its own by now; one that was sent by hand may have named neither.
    operation.set_job_id(&id);
    if operation.model().is_none() {
        operation.set_model(model);
    }
    operation.settle()?;
    let asked = Fingerprint::of(&operation);
    let (_, about) = queen.whose(&log, &operation);
    operation.leave_out_defaults();
    let after = log.last.as_ref().map(|last| last.event.seq);
    let lost = log.ticket().filter(|_| log.ended().is_none()).map(|ticket| ticket.sequence);
    // The job goes on in the trace that it was of.
    let trace = letter.traceparent.as_deref().and_then(TraceContext::parse);
    let sending = Sending {
        job: id.clone(),
        subject: durable.streams.subject_of_job(capability, model, &id),
        body: operation.to_json().into(),
        after,
        lost,
        owner: owner.clone(),
        traceparent: letter.traceparent,
    };
    queen.unmark(&id).await?;
    durable.events.listen();
    durable.awaited.wait_for(&id, model, trace);
    let sent = durable.send(&sending).await?;
    if sent.duplicate {
        // A retry a moment ago sent it; or its events were purged, and the stream knows the id of its first sending.
        // Then nothing waits in the queue, and without its letter the job would be lost.
        let there = durable.streams.job_at(sent.sequence, &id).await.map_err(|error| away(&error))?;
        if there.is_none() {
            return Err(busy(&format!(
                "the stream took job `{id}` for one that it has seen; try again later"
            )));
        }
    }
    let ticket = Ticket::new(id.clone(), &asked, sent.sequence, after);
    let webhook = log.ticket().and_then(|ticket| ticket.webhook.clone());
    let ticket = Ticket { owner, about: Some(about), webhook, ..ticket };
    durable.put_ticket(&log, &ticket).await?;
    durable.streams.drop_dead_letters(&id).await.map_err(|error| away(&error))?;
    told::accepted(&durable.metrics, &id, capability, Some(model), trace);
    Ok(id)
}

async fn drop_letter(
    Asked(queen): Asked,
    id: Result<Path<String>, PathRejection>,
) -> Result<Json<Value>, ApiError> {
    let id = job_id(id)?;
    let durable = queen.with_streams()?;
    let letter = durable.streams.dead_letter(&id).await.map_err(|error| away(&error))?;
    if letter.is_some_and(|letter| !queen.asker.finds(letter.owner.as_deref())) {
        return Err(no_letter(&id));
    }
    match durable.streams.drop_dead_letters(&id).await.map_err(|error| away(&error))? {
        0 => Err(no_letter(&id)),
        _ => Ok(Json(json!({ "job_id": id }))),
    }
}

fn no_letter(id: &JobId) -> ApiError {
    ApiError::not_found(format!("there is no dead letter of job `{id}`"))
}

fn not_durable(message: &str) -> ApiError {
    ApiError::of_request(HttpCode::NotDurable, message)
}

impl Queen {
    /// The streams, if this queen uses them.
    fn with_streams(&self) -> Result<&Arc<Durable>, ApiError> {
        match &self.shared.durable {
            Some(durable) if durable.is_ready() => Ok(durable),
            Some(durable) if durable.is_absent() => Err(not_durable(
                "the NATS server has no JetStream (nats-server -js turns it on), and so there are no dead letters",
            )),
            Some(_) => Err(busy("JetStream does not answer at present, and so dead letters cannot be read")),
            None => Err(not_durable("queen was started with --core, and has no dead letters")),
        }
    }
}
