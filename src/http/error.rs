//! What an endpoint answers when it does not do what was asked: a code, words, a status.

use std::time::Duration;

use axum::{
    Json,
    http::{HeaderValue, StatusCode, header::RETRY_AFTER},
    response::{IntoResponse, Response},
};
use serde_json::json;

use crate::{
    contract::{ContractError, ErrorCode, JobId},
    storage::StorageError,
};

/// An error answer: `{"error": {"code", "message", "retryable"}}`.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct ApiError {
    /// The code on the wire.
    pub code: ErrorCode,
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
        Self { code, message: message.into(), status: code.http_status(), retry_after: None }
    }

    /// 404 for a job that nothing is known of.
    pub fn unknown_job(id: &JobId) -> Self {
        Self::new(ErrorCode::InvalidRequest, format!("there is no job `{id}` here")).with_status(404)
    }

    /// 409 for what cannot be done to a job that has ended.
    pub fn has_ended(id: &JobId, how: &str) -> Self {
        Self::new(ErrorCode::InvalidRequest, format!("job `{id}` has ended: {how}")).with_status(409)
    }

    /// With another status.
    pub fn with_status(mut self, status: u16) -> Self {
        self.status = status;
        self
    }

    /// With a time to wait before the next attempt.
    pub fn with_retry_after(mut self, after: Duration) -> Self {
        self.retry_after = Some(after);
        self
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
        let error = json!({"code": self.code, "message": self.message, "retryable": self.code.retryable()});
        let mut response = (status, Json(json!({ "error": error }))).into_response();
        if let Some(after) = self.retry_after {
            // Whole seconds, rounded up: 0 would mean at once.
            let seconds = after.as_secs_f64().ceil().max(1.0) as u64;
            response.headers_mut().insert(RETRY_AFTER, HeaderValue::from(seconds));
        }
        response
    }
}
