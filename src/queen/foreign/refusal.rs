//! An error in the form of the door that it is said at, and what tells a client whether to try again. Whoever refuses a
//! request (a door, the tokens, the rate limit, a path that there is not) gives an [`ApiError`]; the form is found here.

use axum::{
    body::Body,
    extract::Request,
    http::{
        HeaderName, HeaderValue,
        header::{CONTENT_LENGTH, CONTENT_TYPE},
    },
    middleware::Next,
    response::{IntoResponse, Response},
};
use serde_json::Value;

use super::{a1111, openai};
use crate::{
    contract::{ContractError, JobId},
    http::ApiError,
};

/// The job of an answer.
pub(super) const JOB_ID: HeaderName = HeaderName::from_static("x-job-id");
/// Whether the same request may be sent again; the openai packages do what it says, and without it send again whatever
/// has status 408, 409, 429 or 5xx.
const SHOULD_RETRY: HeaderName = HeaderName::from_static("x-should-retry");

/// An error, and the job that it is about.
#[derive(Debug)]
pub(super) struct Failure {
    pub error: ApiError,
    /// The job, if there is one.
    pub job: Option<JobId>,
}

impl<E: Into<ApiError>> From<E> for Failure {
    fn from(error: E) -> Self {
        Self { error: error.into(), job: None }
    }
}

impl IntoResponse for Failure {
    fn into_response(self) -> Response {
        let mut response = self.error.into_response();
        if let Some(id) = &self.job {
            response.headers_mut().insert(JOB_ID, header(id));
        }
        response
    }
}

/// A job's id as the value of a header.
pub(super) fn header(id: &JobId) -> HeaderValue {
    HeaderValue::from_str(id.as_str()).expect("an id is of letters, digits, - and _")
}

/// An error on one field.
pub(super) fn field(name: &str, reason: impl Into<String>) -> ApiError {
    ContractError::field(name, reason).into()
}

/// The doors, by their paths.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Door {
    OpenAi,
    A1111,
}

impl Door {
    fn of(path: &str) -> Option<Self> {
        match path {
            path if openai::has(path) => Some(Self::OpenAi),
            path if a1111::has(path) => Some(Self::A1111),
            _ => None,
        }
    }

    fn form(self, error: &ApiError) -> Value {
        match self {
            Self::OpenAi => openai::refusal(error),
            Self::A1111 => a1111::refusal(error),
        }
    }
}

/// Says errors in the form of the door that they are said at, and whether to try again.
pub(in crate::queen) async fn speak(request: Request, next: Next) -> Response {
    let door = Door::of(request.uri().path());
    let mut response = next.run(request).await;
    let Some((door, error)) = door.zip(response.extensions_mut().remove::<ApiError>()) else {
        return response;
    };
    let (mut parts, _) = response.into_parts();
    if door == Door::A1111 {
        a1111::speaks(&error, &mut parts);
    }
    let retry = if error.body().error.retryable { "true" } else { "false" };
    parts.headers.insert(SHOULD_RETRY, HeaderValue::from_static(retry));
    parts.headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    parts.headers.remove(CONTENT_LENGTH);
    Response::from_parts(parts, Body::from(door.form(&error).to_string()))
}
