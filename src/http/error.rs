//! What an endpoint answers when it does not do what was asked: a code, words, a status.

use std::time::Duration;

use axum::{
    Json,
    http::{HeaderValue, StatusCode, header::RETRY_AFTER},
    response::{IntoResponse, Response},
};

use crate::{
    contract::{ContractError, ErrorBody, ErrorCode, ErrorDetail, HttpCode, JobId, WireCode},
    storage::StorageError,
};

/// An error answer: an [`ErrorBody`].
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct ApiError {
    /// How a job would end by it.
    pub code: ErrorCode,
    /// What is told in place of `code`, where it is about the request and not about a job.
    pub http: Option<HttpCode>,
    /// What is wrong, and with which field.
    pub message: String,
    /// The HTTP status.
    pub status: u16,
    /// When to try again, if that is known.
    pub retry_after: Option<Duration>,
}

impl ApiError {
    /// An error with the status that the contract gives its code.
    pub fn new(code: ErrorCode, message: impl Into<String>) -> Self {
        Self { code, http: None, message: message.into(), status: code.http_status(), retry_after: None }
    }

    /// An error that is about the request alone.
    pub fn of_request(http: HttpCode, message: impl Into<String>) -> Self {
        let code = if http.retryable() { ErrorCode::Busy } else { ErrorCode::InvalidRequest };
        Self { code, http: Some(http), message: message.into(), status: http.status(), retry_after: None }
    }

    /// 404 for what there is not.
    pub fn not_found(message: impl Into<String>) -> Self {
        Self::of_request(HttpCode::NotFound, message)
    }

    /// 404 for a job that nothing is known of.
    pub fn unknown_job(id: &JobId) -> Self {
        Self::not_found(format!("there is no job `{id}` here"))
    }

    /// 409 for what cannot be done to a job that has ended.
    pub fn has_ended(id: &JobId, how: &str) -> Self {
        Self::of_request(HttpCode::Conflict, format!("job `{id}` has ended: {how}"))
    }

    /// With a time to wait before the next attempt.
    pub fn with_retry_after(mut self, after: Duration) -> Self {
        self.retry_after = Some(after);
        self
    }

    /// The body of the answer.
    pub fn body(&self) -> ErrorBody {
        let (code, retryable) = match self.http {
            Some(http) => (WireCode::Http(http), http.retryable()),
            None => (WireCode::Job(self.code), self.code.retryable()),
        };
        ErrorBody { error: ErrorDetail { code, message: self.message.clone(), retryable } }
    }
}

impl From<ContractError> for ApiError {
    fn from(error: ContractError) -> Self {
        Self::new(error.code(), error.to_string())
    }
}

impl From<StorageError> for ApiError {
    fn from(error: StorageError) -> Self {
        Self::new(error.code(), error.to_string())
    }
}

impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        let status = StatusCode::from_u16(self.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        let mut response = (status, Json(self.body())).into_response();
        if let Some(after) = self.retry_after {
            // Whole seconds, rounded up: 0 would mean at once.
            let seconds = after.as_secs_f64().ceil().max(1.0) as u64;
            response.headers_mut().insert(RETRY_AFTER, HeaderValue::from(seconds));
        }
        // Whoever answers in the form of another API finds in it what to say.
        response.extensions_mut().insert(self);
        response
    }
}
