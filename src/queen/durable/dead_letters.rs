//! `/v1/dead-letters`: jobs that failed on every worker that tried them, to be sent again or dropped.

use std::sync::Arc;

use axum::{
    Json, Router,
    extract::{Path, Query, State, rejection::QueryRejection},
    routing::{delete, get, post},
};
use serde::Deserialize;
use serde_json::{Value, json};

use super::{Durable, away, uninterrupted};
use crate::{
    bus::Sending,
    contract::{DeadLetters, ErrorCode, JobId, JobResponse, JobStatus, Operation, Ticket},
    http::ApiError,
    queen::{Queen, busy, ended_how},
};

/// Letters that are listed unless told.
const DEFAULT_LIMIT: usize = 100;
/// The most letters that are listed at one time.
const MAX_LIMIT: usize = 1000;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct ListQuery {
    limit: Option<usize>,
}

/// GET /v1/dead-letters, POST /v1/dead-letters/{id}/retry, DELETE /v1/dead-letters/{id}.
pub(in crate::queen) fn routes(queen: Queen) -> Router {
    Router::new()
        .route("/v1/dead-letters", get(list))
        .route("/v1/dead-letters/{id}", delete(drop_letter))
        .route("/v1/dead-letters/{id}/retry", post(retry))
        .with_state(queen)
}

async fn list(
    State(queen): State<Queen>,
    query: Result<Query<ListQuery>, QueryRejection>,
) -> Result<Json<DeadLetters>, ApiError> {
    let Query(query) =
        query.map_err(|rejection| ApiError::new(ErrorCode::InvalidRequest, rejection.body_text()))?;
    let limit = query.limit.unwrap_or(DEFAULT_LIMIT);
    if !(1..=MAX_LIMIT).contains(&limit) {
        let message = format!("`limit`: {limit} is out of bounds; 1 to {MAX_LIMIT} are allowed");
        return Err(ApiError::new(ErrorCode::InvalidRequest, message));
    }
    let durable = queen.with_streams()?;
    let dead_letters = durable.streams.dead_letters(limit).await.map_err(|error| away(&error))?;
    Ok(Json(DeadLetters { dead_letters }))
}

async fn retry(State(queen): State<Queen>, Path(id): Path<String>) -> Result<Json<JobResponse>, ApiError> {
    let id = JobId::new(id)?;
    queen.may_accept()?;
    let durable = queen.with_streams()?.clone();
    uninterrupted(async move { send_again(&queen, &durable, id).await.map(JobResponse::new).map(Json) }).await
}

/// Sends the job of a dead letter again; its id.
async fn send_again(queen: &Queen, durable: &Durable, id: JobId) -> Result<JobId, ApiError> {
    let stored = durable.streams.dead_letter(&id).await.map_err(|error| away(&error))?;
    let letter = stored.ok_or_else(|| no_letter(&id))?;
    let log = durable.look(&id).await?;
    match (&log.last, log.ended()) {
        // Its events are forgotten, or say that it is dead.
        (None, _) if log.ticket.is_none() => {}
        (_, Some(JobStatus::Failed)) => {}
        (_, Some(status)) => return Err(ApiError::has_ended(&id, ended_how(status))),
        (_, None) => {
            let message = format!("job `{id}` waits or runs: it was sent again, or is not dead yet");
            return Err(ApiError::new(ErrorCode::InvalidRequest, message).with_status(409));
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
    let fingerprint = operation.fingerprint();
    let after = log.last.as_ref().map(|last| last.event.seq);
    let sending = Sending {
        job: id.clone(),
        subject: durable.streams.subject_of_job(capability, model, &id),
        body: operation.to_json().into(),
        after,
        lost: None,
        traceparent: letter.traceparent,
    };
    queen.unmark(&id).await?;
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
    let ticket = Ticket { job_id: id.clone(), fingerprint, sequence: sent.sequence, after };
    durable.put_ticket(&log, &ticket).await?;
    durable.streams.drop_dead_letters(&id).await.map_err(|error| away(&error))?;
    Ok(id)
}

async fn drop_letter(State(queen): State<Queen>, Path(id): Path<String>) -> Result<Json<Value>, ApiError> {
    let id = JobId::new(id)?;
    let durable = queen.with_streams()?;
    match durable.streams.drop_dead_letters(&id).await.map_err(|error| away(&error))? {
        0 => Err(no_letter(&id)),
        _ => Ok(Json(json!({ "job_id": id }))),
    }
}

fn no_letter(id: &JobId) -> ApiError {
    ApiError::new(ErrorCode::InvalidRequest, format!("there is no dead letter of job `{id}`"))
        .with_status(404)
}

impl Queen {
    /// The streams, if this queen uses them.
    fn with_streams(&self) -> Result<&Arc<Durable>, ApiError> {
        match &self.shared.durable {
            Some(durable) if durable.is_ready() => Ok(durable),
            Some(_) => Err(busy("NATS has no JetStream at present, and so no dead letters")),
            None => {
                let message = "queen was started with --core, and has no dead letters";
                Err(ApiError::new(ErrorCode::InvalidRequest, message).with_status(404))
            }
        }
    }
}
