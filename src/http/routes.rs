//! Paths, and what is refused before a job is looked at.

use std::convert::Infallible;

use axum::{
    Json, Router,
    body::Body,
    extract::{
        DefaultBodyLimit, FromRequestParts, Path, Query,
        rejection::{BytesRejection, PathRejection, QueryRejection},
    },
    http::{
        HeaderMap, HeaderName, StatusCode,
        header::{
            CONTENT_DISPOSITION, CONTENT_LENGTH, CONTENT_SECURITY_POLICY, CONTENT_TYPE,
            X_CONTENT_TYPE_OPTIONS,
        },
        request::Parts,
    },
    response::{IntoResponse, Response},
    routing::{get, post},
};
use bytes::Bytes;
use serde::Deserialize;
use serde_json::json;

use super::{
    ApiError, DEFAULT_BODY_LIMIT, DEFAULT_PICTURES, Jobs, Watch, body, many,
    picture::Pictures,
    sse::{Writer, sse},
};
use crate::contract::{ErrorCode, HttpCode, JobId, JobResponse};

/// The header of a client that connects again.
pub(super) const LAST_EVENT_ID: &str = "last-event-id";

const RESOURCE_POLICY: HeaderName = HeaderName::from_static("cross-origin-resource-policy");
/// What a picture is, strangers had a say in. Whatever is in its bytes, a browser makes nothing else of it, and shows it in no
/// page but queen's own.
const NOTHING_BUT_A_PICTURE: [(HeaderName, &str); 4] = [
    (X_CONTENT_TYPE_OPTIONS, "nosniff"),
    (CONTENT_DISPOSITION, "inline"),
    (CONTENT_SECURITY_POLICY, "sandbox; default-src 'none'"),
    (RESOURCE_POLICY, "same-origin"),
];

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
pub(super) struct Shared<J> {
    pub jobs: J,
    max_body: usize,
    pub pictures: Pictures,
}

impl<J> Shared<J> {
    fn new(jobs: J, limits: RouteLimits) -> Self {
        Self { jobs, max_body: limits.max_body, pictures: limits.pictures }
    }
}

/// What is shared, as whoever sent the request may see it.
pub(super) struct Asked<J>(pub Shared<J>);

impl<J: Jobs> FromRequestParts<Shared<J>> for Asked<J> {
    type Rejection = Infallible;

    async fn from_request_parts(parts: &mut Parts, shared: &Shared<J>) -> Result<Self, Infallible> {
        let jobs = shared.jobs.asked_by(&parts.extensions);
        Ok(Self(Shared { jobs, max_body: shared.max_body, pictures: shared.pictures.clone() }))
    }
}

/// POST /v1/jobs, GET and DELETE /v1/jobs/{id}, GET /v1/jobs/{id}/stream, GET /v1/jobs/{id}/images/{index}, GET /health.
pub fn job_routes<J: Jobs>(jobs: J, limits: RouteLimits) -> Router {
    with_state(Router::new(), Shared::new(jobs, limits))
}

/// As [`job_routes`], with GET /v1/events.
pub fn watched_job_routes<J: Watch>(jobs: J, limits: RouteLimits) -> Router {
    with_state(Router::new().route("/v1/events", get(many::events::<J>)), Shared::new(jobs, limits))
}

fn with_state<J: Jobs>(more: Router<Shared<J>>, shared: Shared<J>) -> Router {
    more.route("/v1/jobs", post(submit::<J>))
        .route("/v1/jobs/{id}", get(view::<J>).delete(cancel::<J>))
        .route("/v1/jobs/{id}/stream", get(stream::<J>))
        .route("/v1/jobs/{id}/images/{index}", get(image::<J>))
        .route("/health", get(health::<J>))
        .layer(DefaultBodyLimit::max(shared.max_body))
        .with_state(shared)
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

/// What of the query of a job's stream is read.
#[derive(Deserialize)]
struct StreamQuery {
    images: Option<String>,
}

async fn submit<J: Jobs>(
    Asked(shared): Asked<J>,
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
    Asked(shared): Asked<J>,
    id: Result<Path<String>, PathRejection>,
) -> Result<Response, ApiError> {
    Ok(Json(shared.jobs.view(&job_id(id)?).await?).into_response())
}

async fn cancel<J: Jobs>(
    Asked(shared): Asked<J>,
    id: Result<Path<String>, PathRejection>,
) -> Result<Response, ApiError> {
    let id = job_id(id)?;
    shared.jobs.cancel(&id).await?;
    Ok((StatusCode::ACCEPTED, Json(json!({ "job_id": id }))).into_response())
}

async fn stream<J: Jobs>(
    Asked(shared): Asked<J>,
    id: Result<Path<String>, PathRejection>,
    query: Result<Query<StreamQuery>, QueryRejection>,
    headers: HeaderMap,
) -> Result<Response, ApiError> {
    let id = job_id(id)?;
    let images = query.ok().and_then(|Query(query)| query.images);
    let with_picture = flag("images", images.as_deref(), true)?;
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
    Ok(sse(Writer { jobs: shared.jobs, pictures: shared.pictures, with_picture }, opened))
}

/// What a query says by 1 or 0.
pub(super) fn flag(name: &str, text: Option<&str>, unless_told: bool) -> Result<bool, ApiError> {
    match text.unwrap_or_default() {
        "" => Ok(unless_told),
        "1" | "true" => Ok(true),
        "0" | "false" => Ok(false),
        _ => Err(ApiError::new(ErrorCode::InvalidRequest, format!("`{name}`: 0 and 1 are read"))),
    }
}

async fn image<J: Jobs>(
    Asked(shared): Asked<J>,
    path: Result<Path<(String, String)>, PathRejection>,
) -> Result<Response, ApiError> {
    let Path((id, index)) = path.map_err(|_| bad_path())?;
    let id = JobId::new(id)?;
    let index = index.parse().map_err(|_| {
        ApiError::new(ErrorCode::InvalidRequest, format!("`index`: `{index}` is no number of a picture"))
    })?;
    let picture = shared.pictures.read(&shared.jobs, &id, index).await?;
    let own =
        [(CONTENT_TYPE, picture.content_type().to_owned()), (CONTENT_LENGTH, picture.len().to_string())];
    Ok((own, NOTHING_BUT_A_PICTURE, Body::from_stream(picture.parts())).into_response())
}

async fn health<J: Jobs>(Asked(shared): Asked<J>) -> Response {
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
