//! Paths, and what is refused before a job is looked at.

use std::convert::Infallible;

use axum::{
    Json, Router,
    body::Body,
    extract::{
        DefaultBodyLimit, FromRef, FromRequestParts, Path, Query,
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
};
use bytes::Bytes;
use schemars::{Schema, SchemaGenerator, json_schema};
use serde::Deserialize;
use serde_json::{Value, json};

use super::{
    ApiError, DEFAULT_BODY_LIMIT, DEFAULT_PICTURES, Jobs, Watch, body,
    endpoint::{EVENT_STREAM, Endpoints, bytes, described, events_of, of, switch, text},
    many,
    picture::Pictures,
    sse::{Writer, sse},
};
use crate::contract::{
    ErrorBody, ErrorCode, Event, Health, HttpCode, JobId, JobResponse, JobView, Operation,
};

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

/// What the endpoints of jobs have.
#[derive(Clone)]
pub struct JobsState<J> {
    pub(super) jobs: J,
    max_body: usize,
    pub(super) pictures: Pictures,
}

impl<J> JobsState<J> {
    /// The endpoints are about these jobs.
    pub fn new(jobs: J, limits: RouteLimits) -> Self {
        Self { jobs, max_body: limits.max_body, pictures: limits.pictures }
    }
}

/// What there is, as whoever sent the request may see it.
pub(super) struct Asked<J>(pub JobsState<J>);

impl<J: Jobs, S: Sync> FromRequestParts<S> for Asked<J>
where
    JobsState<J>: FromRef<S>,
{
    type Rejection = Infallible;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Infallible> {
        let JobsState { jobs, max_body, pictures } = JobsState::from_ref(state);
        Ok(Self(JobsState { jobs: jobs.asked_by(&parts.extensions), max_body, pictures }))
    }
}

/// The endpoints of jobs, on their own.
pub fn job_routes<J: Jobs>(jobs: J, limits: RouteLimits) -> Router {
    let max_body = limits.max_body;
    let state = JobsState::new(jobs, limits);
    job_endpoints::<J, _>().into_router().layer(DefaultBodyLimit::max(max_body)).with_state(state)
}

/// POST /v1/jobs, GET and DELETE /v1/jobs/{id}, GET /v1/jobs/{id}/stream, GET /v1/jobs/{id}/images/{index}, GET /health.
/// Whoever serves them has a [`DefaultBodyLimit`] of [`RouteLimits::max_body`] around them.
pub fn job_endpoints<J, S>() -> Endpoints<S>
where
    J: Jobs,
    S: Clone + Send + Sync + 'static,
    JobsState<J>: FromRef<S>,
{
    let job = "A job's id.";
    Endpoints::new("Jobs", of::<ErrorBody>)
        .post(
            "/v1/jobs",
            submit::<J>,
            described(
                "submitJob",
                "Sends a job. The same `job_id` with the same body gives the same job again.",
            )
            .takes(of::<Operation>)
            .gives(200, "the job, and where its events are", of::<JobResponse>)
            .errs(&[400, 404, 413, 415, 503]),
        )
        .get(
            "/v1/jobs/{id}",
            view::<J>,
            described("getJob", "Where a job is, and its last event.")
                .path("id", job, of::<JobId>)
                .gives(200, "where it is", of::<JobView>)
                .errs(&[400, 404, 503]),
        )
        .delete(
            "/v1/jobs/{id}",
            cancel::<J>,
            described("cancelJob", "Asks for a job to be cancelled. Its last event says how it ended.")
                .path("id", job, of::<JobId>)
                .gives(202, "it is on record", only_id)
                .errs(&[400, 404, 409, 503]),
        )
        .get(
            "/v1/jobs/{id}/stream",
            stream::<J>,
            described(
                "streamJob",
                "The events of a job (event.json), to the last one, which ends the stream.",
            )
            .path("id", job, of::<JobId>)
            .query("images", "0: `complete` comes without its first picture in base64.", switch)
            .header(
                "Last-Event-ID",
                "The `seq` of the last event that is known: the stream goes on after it.",
                text,
            )
            .gives_as(200, "the events", &[EVENT_STREAM], events_of::<Event>)
            .errs(&[400, 404, 503]),
        )
        .get(
            "/v1/jobs/{id}/images/{index}",
            image::<J>,
            described("getImage", "A picture of a job, as it is stored.")
                .path("id", job, of::<JobId>)
                .path("index", "Which one, from 0.", index)
                .gives_as(200, "the picture", &["image/png", "image/jpeg", "image/webp"], bytes)
                .errs(&[400, 404, 502, 503]),
        )
        .get(
            "/health",
            health::<J>,
            described("health", "How the service is.").gives(200, "it answers", of::<Health>).for_all(),
        )
}

/// GET /v1/events.
pub fn watch_endpoints<J, S>() -> Endpoints<S>
where
    J: Watch,
    S: Clone + Send + Sync + 'static,
    JobsState<J>: FromRef<S>,
{
    Endpoints::new("Jobs", of::<ErrorBody>).get(
        "/v1/events",
        many::events::<J>,
        described("streamEvents", "The events of many jobs, and the fleet, on one stream that has no end.")
            .query("jobs", "Ids of jobs, separated by commas; at most 64.", text)
            .query("fleet", "1: the workers too, at once and when they change (workers.json).", switch)
            .query("images", "1: `complete` comes with its first picture in base64.", switch)
            .query("cursor", "The `id` of the last event that is known: the stream goes on after it.", text)
            .header("Last-Event-ID", "As `cursor`, from a browser that connects again.", text)
            .gives_as(200, "the events", &[EVENT_STREAM], events_of::<Value>)
            .errs(&[400, 503]),
    )
}

/// `{"job_id": ...}`.
pub fn only_id(generator: &mut SchemaGenerator) -> Schema {
    let id = of::<JobId>(generator);
    json_schema!({"type": "object", "properties": {"job_id": id}, "required": ["job_id"]})
}

fn index(_: &mut SchemaGenerator) -> Schema {
    json_schema!({"type": "integer", "minimum": 0, "maximum": u32::MAX})
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
