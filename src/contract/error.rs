//! Error codes, what each one means for a client and for a durable job, and the error of this module.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Why a job did not end in a picture. The names are stable on the wire.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum ErrorCode {
    /// The body is not what the contract says; the message names the field.
    InvalidRequest,
    /// An input picture or mask cannot be decoded within the limits.
    ImageInvalid,
    /// No model of that name here.
    UnsupportedModel,
    /// This worker or model does not do that operation.
    UnsupportedOperation,
    /// The message, or an input image, is larger than allowed.
    PayloadTooLarge,
    /// No free slot.
    Busy,
    /// The job's time ran out.
    DeadlineExceeded,
    /// The job was cancelled.
    Cancelled,
    /// The device ran out of memory.
    OutOfMemory,
    /// NaN or infinity in latents or pixels.
    NonFinite,
    /// The object store did not take or give an object.
    Storage,
    /// A defect of ours.
    Internal,
    /// The worker is shutting down.
    ShuttingDown,
}

/// What becomes of a durable job whose run ended with an error code.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Disposition {
    /// Error event, then term: nobody could do it.
    Term,
    /// Error or cancelled event, then ack: it has ended.
    Ack,
    /// Negative acknowledgement with a delay; a dead letter after the third failure.
    RetryElsewhere,
    /// Given back without counting as a failure.
    HandBack,
}

impl ErrorCode {
    /// Every code.
    pub const ALL: [Self; 13] = [
        Self::InvalidRequest,
        Self::ImageInvalid,
        Self::UnsupportedModel,
        Self::UnsupportedOperation,
        Self::PayloadTooLarge,
        Self::Busy,
        Self::DeadlineExceeded,
        Self::Cancelled,
        Self::OutOfMemory,
        Self::NonFinite,
        Self::Storage,
        Self::Internal,
        Self::ShuttingDown,
    ];

    /// The name on the wire.
    pub fn code(self) -> &'static str {
        match self {
            Self::InvalidRequest => "invalid_request",
            Self::ImageInvalid => "image_invalid",
            Self::UnsupportedModel => "unsupported_model",
            Self::UnsupportedOperation => "unsupported_operation",
            Self::PayloadTooLarge => "payload_too_large",
            Self::Busy => "busy",
            Self::DeadlineExceeded => "deadline_exceeded",
            Self::Cancelled => "cancelled",
            Self::OutOfMemory => "out_of_memory",
            Self::NonFinite => "non_finite",
            Self::Storage => "storage",
            Self::Internal => "internal",
            Self::ShuttingDown => "shutting_down",
        }
    }

    /// The code of that name.
    pub fn from_code(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|code| code.code() == name)
    }

    /// Whether the same request may succeed later or elsewhere.
    pub fn retryable(self) -> bool {
        match self {
            Self::InvalidRequest
            | Self::ImageInvalid
            | Self::UnsupportedModel
            | Self::UnsupportedOperation
            | Self::PayloadTooLarge
            | Self::DeadlineExceeded
            | Self::Cancelled => false,
            Self::Busy
            | Self::OutOfMemory
            | Self::NonFinite
            | Self::Storage
            | Self::Internal
            | Self::ShuttingDown => true,
        }
    }

    /// The HTTP status that queen answers with.
    pub fn http_status(self) -> u16 {
        match self {
            Self::InvalidRequest | Self::ImageInvalid | Self::UnsupportedOperation => 400,
            Self::UnsupportedModel => 404,
            Self::Cancelled => 409,
            Self::PayloadTooLarge => 413,
            Self::OutOfMemory | Self::NonFinite | Self::Internal => 500,
            Self::Storage => 502,
            Self::Busy | Self::ShuttingDown => 503,
            Self::DeadlineExceeded => 504,
        }
    }

    /// What becomes of a durable job that ended with this code.
    pub fn disposition(self) -> Disposition {
        match self {
            Self::InvalidRequest
            | Self::ImageInvalid
            | Self::UnsupportedModel
            | Self::UnsupportedOperation
            | Self::PayloadTooLarge => Disposition::Term,
            Self::DeadlineExceeded | Self::Cancelled => Disposition::Ack,
            Self::OutOfMemory | Self::NonFinite | Self::Storage | Self::Internal => {
                Disposition::RetryElsewhere
            }
            Self::Busy | Self::ShuttingDown => Disposition::HandBack,
        }
    }
}

impl std::fmt::Display for ErrorCode {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.code())
    }
}

/// A message that breaks the contract.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ContractError {
    /// The bytes are no JSON.
    #[error("the body is not JSON: {0}")]
    NotJson(String),
    /// The body is JSON, of another shape than an operation.
    #[error("`{field}`: {reason}")]
    Field {
        /// The path of the field in the body, for example `loras[0].path`.
        field: String,
        /// What is wrong with it, and what is allowed.
        reason: String,
    },
    /// A picture that is none.
    #[error("`{field}`: {reason}")]
    Image {
        /// `init_image` or `mask_image`.
        field: String,
        /// What is wrong with it.
        reason: String,
    },
    /// A model that is not served here.
    #[error("`model`: `{model}` is not served here; there are: {known}")]
    UnsupportedModel {
        /// The name asked for.
        model: String,
        /// The names served, separated by commas.
        known: String,
    },
    /// An operation that is not served here.
    #[error("`operation`: {0}")]
    UnsupportedOperation(String),
    /// The body or an input is too large.
    #[error("`{field}`: {bytes} bytes, at most {limit} are taken")]
    TooLarge {
        /// The field, or `body`.
        field: String,
        /// Its size in bytes.
        bytes: u64,
        /// The most that is taken, in bytes.
        limit: u64,
    },
}

impl ContractError {
    /// An error on one field.
    pub fn field(field: impl Into<String>, reason: impl Into<String>) -> Self {
        Self::Field { field: field.into(), reason: reason.into() }
    }

    /// The code on the wire.
    pub fn code(&self) -> ErrorCode {
        match self {
            Self::NotJson(_) | Self::Field { .. } => ErrorCode::InvalidRequest,
            Self::Image { .. } => ErrorCode::ImageInvalid,
            Self::UnsupportedModel { .. } => ErrorCode::UnsupportedModel,
            Self::UnsupportedOperation(_) => ErrorCode::UnsupportedOperation,
            Self::TooLarge { .. } => ErrorCode::PayloadTooLarge,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_code_is_written_as_serde_writes_it() {
        for code in ErrorCode::ALL {
            assert_eq!(serde_json::to_value(code).unwrap(), code.code());
            assert_eq!(ErrorCode::from_code(code.code()), Some(code));
        }
    }

    #[test]
    fn what_is_sent_back_to_be_run_again_is_retryable() {
        for code in ErrorCode::ALL {
            let again = matches!(code.disposition(), Disposition::RetryElsewhere | Disposition::HandBack);
            assert_eq!(again, code.retryable(), "{code}");
        }
    }
}
