//! Paths, and what is refused before a job is looked at.

use axum::{
    Json, Router,
    body::Body,
    extract::{DefaultBodyLimit, Path, State, rejection::BytesRejection},
    http::{
        HeaderMap, StatusCode,
        header::{CONTENT_LENGTH, CONTENT_TYPE},
    },
    response::{IntoResponse, Response},
    routing::{get, post},
};
use bytes::Bytes;
use serde_json::json;

use super::{ApiError, DEFAULT_BODY_LIMIT, DEFAULT_PICTURES, Jobs, picture::Pictures, sse::sse};
use crate::contract::{ErrorCode, JobId, JobResponse, Operation};

/// The header of a client that connects again.
const LAST_EVENT_ID: &str = "last-event-id";

/// A body of at most so many bytes is parsed where it arrives: that takes no time that another request would notice.
const SMALL_BODY: usize = 64 << 10;

/// What the endpoints take and give at most.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RouteLimits {
    /// Bytes of a body.
    pub max_body: usize,
    /// Pictures on their way to clients at one time.
    pub max_pictures: usize,
}

impl Default for RouteLimits {
    fn default() -> Self {
        Self { max_body: DEFAULT_BODY_LIMIT, max_pictures: DEFAULT_PICTURES }
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
    let RouteLimits { max_body, max_pictures } = limits;
    Router::new()
        .route("/v1/jobs", post(submit::<J>))
        .route("/v1/jobs/{id}", get(view::<J>).delete(cancel::<J>))
        .route("/v1/jobs/{id}/stream", get(stream::<J>))
        .route("/v1/jobs/{id}/images/{index}", get(image::<J>))
        .route("/health", get(health::<J>))
        .layer(DefaultBodyLimit::max(max_body))
        .with_state(Shared { jobs, max_body, pictures: Pictures::new(max_pictures) })
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
            format!("`body`: at most {} bytes are taken", shared.max_body),
        ),
        _ => ApiError::new(ErrorCode::InvalidRequest, format!("`body`: {}", rejection.body_text())),
    })?;
    let operation = parse(body).await?;
    let id = shared.jobs.submit(operation).await?;
    Ok(Json(JobResponse::new(id)))
}

/// Tens of megabytes are parsed where they hold up nobody.
async fn parse(body: Bytes) -> Result<Operation, ApiError> {
    if body.len() <= SMALL_BODY {
        return Ok(Operation::parse(None, &body)?);
    }
    let parsed = tokio::task::spawn_blocking(move || Operation::parse(None, &body)).await;
    Ok(parsed.map_err(|error| ApiError::new(ErrorCode::Internal, error.to_string()))??)
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
    Ok(sse(shared.jobs, shared.pictures, events))
}

async fn image<J: Jobs>(
    State(shared): State<Shared<J>>,
    Path((id, index)): Path<(String, String)>,
) -> Result<Response, ApiError> {
    let id = job_id(&id)?;
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

fn job_id(text: &str) -> Result<JobId, ApiError> {
    Ok(JobId::new(text)?)
}

#[cfg(test)]
mod tests {
    use futures::FutureExt;

    use super::*;

    #[tokio::test]
    async fn a_large_body_is_parsed_where_it_holds_up_nobody() {
        let body = |size| Bytes::from(vec![b'{'; size]);
        assert_eq!(parse(body(SMALL_BODY)).now_or_never().unwrap().unwrap_err().status, 400);
        let mut parsing = Box::pin(parse(body(1 << 20)));
        assert!((&mut parsing).now_or_never().is_none(), "this thread goes on with other work");
        assert_eq!(parsing.await.unwrap_err().status, 400);
    }
}
