//! Events of a job, as they travel on the reply subject, on `events.<job_id>` and over SSE.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{ErrorCode, JobId, JobStatus, OutputFormat, WorkerId};

/// One event of a job.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Event {
    /// The job.
    pub job_id: JobId,
    /// The worker that runs it.
    pub worker_id: WorkerId,
    /// The run of a durable job, from 1.
    pub attempt: u32,
    /// The event's number within the job, from 0, going on across attempts; the SSE id.
    pub seq: u64,
    /// What happened.
    #[serde(flatten)]
    pub kind: EventKind,
}

/// What happened.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum EventKind {
    /// A worker has the job.
    Accepted {
        /// The model that will draw it.
        model: String,
        /// The seed of the first picture.
        seed: u64,
        /// Jobs ahead of it on this worker.
        position: u32,
    },
    /// A denoising step was done.
    Progress {
        /// Steps done, over all pictures of the job.
        step: u32,
        /// Steps in all.
        total: u32,
        /// 0 to 100.
        percent: f32,
        /// Milliseconds to the last step, at the present pace. 0 while no step is done: nothing is known then.
        eta_ms: u64,
    },
    /// A small picture of how it looks now.
    Preview {
        /// Steps done.
        step: u32,
        /// Steps in all.
        total: u32,
        /// 0 to 100.
        percent: f32,
        /// Base64, at most 256 pixels a side.
        image: String,
        /// Always JPEG.
        format: OutputFormat,
    },
    /// The pictures are stored. Terminal.
    Complete(CompleteEvent),
    /// The job failed. Terminal.
    Error {
        /// Why.
        code: ErrorCode,
        /// Why, in words; names the field, key or file.
        message: String,
        /// Whether the same request may succeed later or elsewhere.
        retryable: bool,
    },
    /// The job was cancelled. Terminal.
    Cancelled {
        /// Steps done by then.
        step: u32,
    },
}

/// The terminal event of a job that succeeded; `result.json` holds it too.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct CompleteEvent {
    /// The model that drew them.
    pub model: String,
    /// One entry a picture, in order.
    pub images: Vec<ImageResult>,
    /// Where the time went.
    pub timings_ms: Timings,
    /// The mask that was made of what the job points at.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mask: Option<Box<MaskResult>>,
    /// What the sender should know: a prompt that was cut, a mask that was resized.
    pub warnings: Vec<String>,
}

/// A stored mask, a grey PNG of the size of `init_image`: white was repainted. `object:<key>` is a `mask_image` of other jobs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct MaskResult {
    /// Its key in the store.
    pub key: String,
    /// Where it can be fetched: presigned on S3, `file://` on a folder.
    pub url: String,
    /// Pixels.
    pub width: u32,
    /// Pixels.
    pub height: u32,
}

/// A stored picture.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct ImageResult {
    /// Its key in the store.
    pub key: String,
    /// Where it can be fetched: presigned on S3, `file://` on a folder.
    pub url: String,
    /// How it is encoded.
    pub format: OutputFormat,
    /// Pixels.
    pub width: u32,
    /// Pixels.
    pub height: u32,
    /// Size of the object in bytes.
    pub bytes: u64,
    /// SHA-256 of the object, lower-case hexadecimal.
    pub sha256: String,
    /// The seed that draws this picture alone.
    pub seed: u64,
}

/// Milliseconds that each part of a job took.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Timings {
    /// From receipt to the engine's first work on it.
    pub queue: u64,
    /// Loading the model, if it was not in memory.
    pub load: u64,
    /// Text encoder, and VAE encode of inputs.
    pub text: u64,
    /// All denoising steps.
    pub denoise: u64,
    /// VAE decode.
    pub decode: u64,
    /// Encoding the file and storing it.
    pub upload: u64,
    /// From receipt to this event.
    pub total: u64,
}

impl EventKind {
    /// An error event's kind, with `retryable` as the code says.
    pub fn error(code: ErrorCode, message: impl Into<String>) -> Self {
        Self::Error { code, message: message.into(), retryable: code.retryable() }
    }

    /// The `type` on the wire.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Accepted { .. } => "accepted",
            Self::Progress { .. } => "progress",
            Self::Preview { .. } => "preview",
            Self::Complete(_) => "complete",
            Self::Error { .. } => "error",
            Self::Cancelled { .. } => "cancelled",
        }
    }

    /// Whether this ends the job.
    pub fn is_terminal(&self) -> bool {
        match self {
            Self::Accepted { .. } | Self::Progress { .. } | Self::Preview { .. } => false,
            Self::Complete(_) | Self::Error { .. } | Self::Cancelled { .. } => true,
        }
    }

    /// Where a job is whose last event this was.
    pub fn status(&self) -> JobStatus {
        match self {
            Self::Accepted { .. } | Self::Progress { .. } | Self::Preview { .. } => JobStatus::Running,
            Self::Complete(_) => JobStatus::Completed,
            Self::Error { .. } => JobStatus::Failed,
            Self::Cancelled { .. } => JobStatus::Cancelled,
        }
    }
}
