//! What an endpoint answers when it does not do what was asked: the body, and the codes that HTTP has beside those of jobs.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::ErrorCode;

/// Why a request over HTTP is not done, where that is about the request and not about a job. The names are stable on the wire.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum HttpCode {
    /// 401: a token is asked for, and is missing or unknown.
    Unauthorized,
    /// 403: another web page sent it, it asks for a name that is not queen's, or the token may not do this.
    Forbidden,
    /// 404: there is no such endpoint, job, picture, worker or dead letter.
    NotFound,
    /// 405: the endpoint does not take that method.
    MethodNotAllowed,
    /// 409: not in the state that the job is in.
    Conflict,
    /// 415: the body is in a form or an encoding that is not read.
    UnsupportedMediaType,
    /// 429: more requests than one client may send.
    RateLimited,
    /// 501: the pool keeps no durable jobs.
    NotDurable,
}

impl HttpCode {
    /// The HTTP status.
    pub fn status(self) -> u16 {
        match self {
            Self::Unauthorized => 401,
            Self::Forbidden => 403,
            Self::NotFound => 404,
            Self::MethodNotAllowed => 405,
            Self::Conflict => 409,
            Self::UnsupportedMediaType => 415,
            Self::RateLimited => 429,
            Self::NotDurable => 501,
        }
    }

    /// Whether the same request may succeed later.
    pub fn retryable(self) -> bool {
        match self {
            Self::RateLimited => true,
            Self::Unauthorized
            | Self::Forbidden
            | Self::NotFound
            | Self::MethodNotAllowed
            | Self::Conflict
            | Self::UnsupportedMediaType
            | Self::NotDurable => false,
        }
    }
}

/// A code in an answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(untagged)]
pub enum WireCode {
    /// Of a job: the codes of its error events.
    Job(ErrorCode),
    /// Of HTTP alone.
    Http(HttpCode),
}

/// The body of every answer that is no success.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct ErrorBody {
    /// What is wrong.
    pub error: ErrorDetail,
}

/// What is wrong with a request.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct ErrorDetail {
    /// Why, for programs.
    pub code: WireCode,
    /// Why, in words; names the field or the key.
    pub message: String,
    /// Whether the same request may succeed later or elsewhere.
    pub retryable: bool,
}
