//! Paths, and what is refused before a job is looked at.

use axum::{
    Json, Router,
    body::Body,
    extract::{
        DefaultBodyLimit, Path, State,
        rejection::{BytesRejection, PathRejection},
    },
    http::{
        HeaderMap, StatusCode,
        header::{CONTENT_LENGTH, CONTENT_TYPE},
    },
    response::{IntoResponse, Response},
    routing::{get, post},
};
use bytes::Bytes;
use serde_json::json;

use super::{ApiError, DEFAULT_BODY_LIMIT, DEFAULT_PICTURES, Jobs, body, picture::Pictures, sse::sse};
use crate::contract::{ErrorCode, HttpCode, JobId, JobResponse};

/// The header of a client that connects again.
const LAST_EVENT_ID: &str = "last-event-id";

/// What the endpoints take and give at most.
#[derive(Debug, Clone)]
pub struct RouteLimits {
    /// Bytes of a body.
    pub max_body: usize,
    /// Pictures on their way to clients.
    pub pictures: Pictures,
}

impl Default for RouteLimits {
    fn default() -> Self {
        Self { max_body: DEFAULT_BODY_LIMIT, pictures: Pictures::new(DEFAULT_PICTURES) }
    }
}

#[derive(Clone)]
struct Shared<J> {
    jobs: J,
    max_body: usize,
    pictures: Pictures,
}

/// POST /v1/jobs, GET and DELETE /v1/jobs/{id}, GET /v1/jobs/{id}/stream, GET /v1/jobs/{id}/images/{index}, GET /health.
pub fn job_routes<J: Jobs>(jobs: J, limits: RouteLimits) -> Router {
    let RouteLimits { max_body, pictures } = limits;
    Router::new()
        .route("/v1/jobs", post(submit::<J>))
        .route("/v1/jobs/{id}", get(view::<J>).delete(cancel::<J>))
        .route("/v1/jobs/{id}/stream", get(stream::<J>))
        .route("/v1/jobs/{id}/images/{index}", get(image::<J>))
        .route("/health", get(health::<J>))
        .layer(DefaultBodyLimit::max(max_body))
        .with_state(Shared { jobs, max_body, pictures })
}

/// Answers in JSON where there is no endpoint, or none for the method.
pub fn fallback(router: Router) -> Router {
    let refuse = |code: HttpCode, message: &'static str| async move { ApiError::of_request(code, message) };
    router
        .fallback(move || refuse(HttpCode::NotFound, "there is no such endpoint"))
        .method_not_allowed_fallback(move || {
            refuse(HttpCode::MethodNotAllowed, "this endpoint does not take that method")
        })
}

async fn submit<J: Jobs>(
    State(shared): State<Shared<J>>,
    headers: HeaderMap,
    body: Result<Bytes, BytesRejection>,
) -> Result<Json<JobResponse>, ApiError> {
    let submitted = async {
        let operation = body::read(&headers, body, shared.max_body).await?;
        shared.jobs.submit(operation).await
    };
    let id = submitted.await.inspect_err(|error| shared.jobs.refused(error))?;
    Ok(Json(JobResponse::new(id)))
}

async fn view<J: Jobs>(
    State(shared): State<Shared<J>>,
    id: Result<Path<String>, PathRejection>,
) -> Result<Response, ApiError> {
    Ok(Json(shared.jobs.view(&job_id(id)?).await?).into_response())
}

async fn cancel<J: Jobs>(
    State(shared): State<Shared<J>>,
    id: Result<Path<String>, PathRejection>,
) -> Result<Response, ApiError> {
    let id = job_id(id)?;
    shared.jobs.cancel(&id).await?;
    Ok((StatusCode::ACCEPTED, Json(json!({ "job_id": id }))).into_response())
}

async fn stream<J: Jobs>(
    State(shared): State<Shared<J>>,
    id: Result<Path<String>, PathRejection>,
    headers: HeaderMap,
) -> Result<Response, ApiError> {
    let id = job_id(id)?;
    let after = match headers.get(LAST_EVENT_ID) {
        None => None,
        Some(value) if value.is_empty() => None,
        Some(value) => {
            Some(value.to_str().ok().and_then(|text| text.trim().parse().ok()).ok_or_else(|| {
                ApiError::new(ErrorCode::InvalidRequest, "`Last-Event-ID`: must be the `seq` of an event")
            })?)
        }
    };
    let opened = shared.jobs.events(&id, after).await?;
    Ok(sse(shared.jobs, shared.pictures, opened))
}

async fn image<J: Jobs>(
    State(shared): State<Shared<J>>,
    path: Result<Path<(String, String)>, PathRejection>,
) -> Result<Response, ApiError> {
    let Path((id, index)) = path.map_err(|_| bad_path())?;
    let id = JobId::new(id)?;
    let index = index.parse().map_err(|_| {
        ApiError::new(ErrorCode::InvalidRequest, format!("`index`: `{index}` is no number of a picture"))
    })?;
    let picture = shared.pictures.read(&shared.jobs, &id, index).await?;
    let headers =
        [(CONTENT_TYPE, picture.content_type().to_owned()), (CONTENT_LENGTH, picture.len().to_string())];
    Ok((headers, Body::from_stream(picture.parts())).into_response())
}

async fn health<J: Jobs>(State(shared): State<Shared<J>>) -> Response {
    let health = shared.jobs.health().await;
    let status = StatusCode::from_u16(health.http_status()).unwrap_or(StatusCode::SERVICE_UNAVAILABLE);
    (status, Json(health)).into_response()
}

/// The job that a path names.
///
/// # Errors
/// `invalid_request` for what is no id.
pub fn job_id(id: Result<Path<String>, PathRejection>) -> Result<JobId, ApiError> {
    let Path(id) = id.map_err(|_| bad_path())?;
    Ok(JobId::new(id)?)
}

fn bad_path() -> ApiError {
    ApiError::new(ErrorCode::InvalidRequest, "the path is not UTF-8")
}
