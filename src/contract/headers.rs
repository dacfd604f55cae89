//! Names of the message headers.

/// The job's identifier.
pub const JOB_ID: &str = "Job-Id";
/// The event's type, or [`EVENT_END`].
pub const JOB_EVENT: &str = "Job-Event";
/// The event's number within the job.
pub const JOB_SEQ: &str = "Job-Seq";
/// The worker that sent it.
pub const WORKER_ID: &str = "Worker-Id";
/// The original reply subject of a core job that was offered again.
pub const JOB_REPLY: &str = "Job-Reply";
/// How often a core job was offered again.
pub const JOB_HOPS: &str = "Job-Hops";
/// W3C trace context.
pub const TRACEPARENT: &str = "traceparent";
/// The NATS services convention for errors: a number, the HTTP status of the error code.
pub const SERVICE_ERROR_CODE: &str = "Nats-Service-Error-Code";
/// The NATS services convention for errors: the message.
pub const SERVICE_ERROR: &str = "Nats-Service-Error";
/// The value of [`JOB_EVENT`] on the empty message that ends a job's replies.
pub const EVENT_END: &str = "end";
/// After this many offers a worker answers `busy` instead of offering once more.
pub const MAX_HOPS: u32 = 16;
