//! Paths, and what is refused before a job is looked at.

use axum::{
    Json, Router,
    extract::{DefaultBodyLimit, Path, State, rejection::BytesRejection},
    http::{HeaderMap, StatusCode, header::CONTENT_TYPE},
    response::{IntoResponse, Response},
    routing::{get, post},
};
use bytes::Bytes;
use serde_json::json;

use super::{ApiError, Jobs, sse::sse};
use crate::contract::{ErrorCode, JobId, JobResponse, Operation};

/// The header of a client that connects again.
const LAST_EVENT_ID: &str = "last-event-id";

#[derive(Clone)]
struct Shared<J> {
    jobs: J,
    body_limit: usize,
}

/// POST /v1/jobs, GET and DELETE /v1/jobs/{id}, GET /v1/jobs/{id}/stream, GET /v1/jobs/{id}/images/{index}, GET /health.
/// A body of more than `body_limit` bytes is refused.
pub fn job_routes<J: Jobs>(jobs: J, body_limit: usize) -> Router {
    Router::new()
        .route("/v1/jobs", post(submit::<J>))
        .route("/v1/jobs/{id}", get(view::<J>).delete(cancel::<J>))
        .route("/v1/jobs/{id}/stream", get(stream::<J>))
        .route("/v1/jobs/{id}/images/{index}", get(image::<J>))
        .route("/health", get(health::<J>))
        .layer(DefaultBodyLimit::max(body_limit))
        .with_state(Shared { jobs, body_limit })
}

/// Answers in JSON where there is no endpoint, or none for the method.
pub fn fallback(router: Router) -> Router {
    let refuse = |status: u16, message: &'static str| async move {
        ApiError::new(ErrorCode::InvalidRequest, message).with_status(status)
    };
    router
        .fallback(move || refuse(404, "there is no such endpoint"))
        .method_not_allowed_fallback(move || refuse(405, "this endpoint does not take that method"))
}

async fn submit<J: Jobs>(
    State(shared): State<Shared<J>>,
    body: Result<Bytes, BytesRejection>,
) -> Result<Json<JobResponse>, ApiError> {
    let body = body.map_err(|rejection| match rejection.status() {
        StatusCode::PAYLOAD_TOO_LARGE => ApiError::new(
            ErrorCode::PayloadTooLarge,
            format!("`body`: at most {} bytes are taken", shared.body_limit),
        ),
        _ => ApiError::new(ErrorCode::InvalidRequest, format!("`body`: {}", rejection.body_text())),
    })?;
    let operation = Operation::parse(None, &body)?;
    let id = shared.jobs.submit(operation).await?;
    Ok(Json(JobResponse::new(id)))
}

async fn view<J: Jobs>(
    State(shared): State<Shared<J>>,
    Path(id): Path<String>,
) -> Result<Response, ApiError> {
    Ok(Json(shared.jobs.view(&job_id(&id)?).await?).into_response())
}

async fn cancel<J: Jobs>(
    State(shared): State<Shared<J>>,
    Path(id): Path<String>,
) -> Result<Response, ApiError> {
    let id = job_id(&id)?;
    shared.jobs.cancel(&id).await?;
    Ok((StatusCode::ACCEPTED, Json(json!({ "job_id": id }))).into_response())
}

async fn stream<J: Jobs>(
    State(shared): State<Shared<J>>,
    Path(id): Path<String>,
    headers: HeaderMap,
) -> Result<Response, ApiError> {
    let id = job_id(&id)?;
    let after = match headers.get(LAST_EVENT_ID) {
        None => None,
        Some(value) => {
            Some(value.to_str().ok().and_then(|text| text.trim().parse().ok()).ok_or_else(|| {
                ApiError::new(ErrorCode::InvalidRequest, "`Last-Event-ID`: must be the `seq` of an event")
            })?)
        }
    };
    let events = shared.jobs.events(&id, after).await?;
    Ok(sse(shared.jobs, events).into_response())
}

async fn image<J: Jobs>(
    State(shared): State<Shared<J>>,
    Path((id, index)): Path<(String, String)>,
) -> Result<Response, ApiError> {
    let id = job_id(&id)?;
    let index = index.parse().map_err(|_| {
        ApiError::new(ErrorCode::InvalidRequest, format!("`index`: `{index}` is no number of a picture"))
    })?;
    let (bytes, content_type) = shared.jobs.image(&id, index).await?;
    Ok(([(CONTENT_TYPE, content_type)], bytes).into_response())
}

async fn health<J: Jobs>(State(shared): State<Shared<J>>) -> Response {
    let health = shared.jobs.health().await;
    let status = StatusCode::from_u16(health.http_status()).unwrap_or(StatusCode::SERVICE_UNAVAILABLE);
    (status, Json(health)).into_response()
}

fn job_id(text: &str) -> Result<JobId, ApiError> {
    Ok(JobId::new(text)?)
}
