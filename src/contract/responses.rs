//! What the HTTP endpoints answer.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{Capability, ErrorCode, Event, JobId, WorkerInfo};

/// The answer to POST /v1/jobs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct JobResponse {
    /// The job.
    pub job_id: JobId,
    /// Where its events are, relative to the server: `/v1/jobs/<job_id>/stream`.
    pub sse_url: String,
}

impl JobResponse {
    /// The answer for a job on this server.
    pub fn new(job_id: JobId) -> Self {
        let sse_url = format!("/v1/jobs/{job_id}/stream");
        Self { job_id, sse_url }
    }
}

/// Where a job is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum JobStatus {
    /// No worker has taken it.
    Queued,
    /// A worker has it.
    Running,
    /// It ended in pictures.
    Completed,
    /// It ended in an error.
    Failed,
    /// It was cancelled.
    Cancelled,
}

/// The answer to GET /v1/jobs/{id}.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct JobView {
    /// The job.
    pub job_id: JobId,
    /// Where it is.
    pub status: JobStatus,
    /// The last event, if there was one.
    pub event: Option<Event>,
}

/// A job in a list.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct JobSummary {
    /// The job.
    pub job_id: JobId,
    /// Where it is.
    pub status: JobStatus,
    /// What was asked for, as the `operation` of its body. Null for a job that an earlier version took.
    pub operation: Option<String>,
    /// The model that it is for, where that is known.
    pub model: Option<String>,
    /// When queen took it, in milliseconds since 1970.
    pub created_ms: u64,
    /// The beginning of its prompt.
    pub prompt: Option<String>,
}

/// The answer to GET /v1/jobs: the asking client's jobs, the newest first.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct JobList {
    /// One page of them.
    pub jobs: Vec<JobSummary>,
    /// What to ask for the next page by, as `before`; null on the last one.
    pub next: Option<String>,
}

/// The answer to GET /v1/workers.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Workers {
    /// Workers whose heartbeat is fresh, and who have not said that they have ended.
    pub workers: Vec<WorkerInfo>,
}

/// The answer to GET /health.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Health {
    /// `ok`, or `degraded` while NATS is away or no worker is up. `starting` and `failed` are a worker's own: `failed`, with
    /// status 503, when its device failed or is stuck, and it is to be started again.
    pub status: String,
    /// `connected`, `disconnected`, or `refused` while the server does not let this process in: its log says why.
    pub nats: String,
    /// Whether jobs survive the process that accepted them.
    pub durable: bool,
    /// Workers whose heartbeat is fresh (a worker with --http says 1: itself).
    pub workers: u32,
}

impl Health {
    /// The status of a worker that is to be started again.
    pub const FAILED: &str = "failed";

    /// The HTTP status that tells it to those who read nothing else.
    pub fn http_status(&self) -> u16 {
        if self.status == Self::FAILED { 503 } else { 200 }
    }
}

/// A durable job that failed on every worker that tried it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct DeadLetter {
    /// The job.
    pub job_id: JobId,
    /// What it asked for.
    pub capability: Capability,
    /// The model that it was for.
    pub model: String,
    /// How its last attempt failed.
    pub code: ErrorCode,
    /// That in words.
    pub message: String,
    /// The letter's number in the stream of dead letters.
    pub sequence: u64,
    /// When it was written (RFC 3339).
    pub time: String,
}

/// The answer to GET /v1/dead-letters.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct DeadLetters {
    /// The newest last.
    pub dead_letters: Vec<DeadLetter>,
}
