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
/// What JetStream knows a message by: a second one with the same value within two minutes is not stored.
pub const MESSAGE_ID: &str = "Nats-Msg-Id";
/// On an event of a durable job: attempts that failed, the present one counted until it is given back.
pub const JOB_FAILURES: &str = "Job-Failures";
/// On an event of a job that has a log: the attempt was given back, and whoever gets the job next may begin at once.
pub const JOB_GIVEN_BACK: &str = "Job-Given-Back";
/// On an event of a durable job: the number in the stream of jobs of the message that its writer holds.
pub const JOB_QUEUED: &str = "Job-Queued";
/// On an event of a job that has a log: the beginning of the request's fingerprint.
pub const JOB_REQUEST: &str = "Job-Request";
/// On a durable job that is sent again after it ended: the number of the event that ended it, which ends it no more.
pub const JOB_AFTER: &str = "Job-After";
/// On a durable job and its dead letter: the client of queen's that sent it, by the name of its token.
pub const JOB_OWNER: &str = "Job-Owner";
/// On a dead letter: the subject that the job came on.
pub const JOB_SUBJECT: &str = "Job-Subject";
/// On a dead letter: the error code.
pub const JOB_ERROR_CODE: &str = "Job-Error-Code";
/// On a dead letter: why, in words.
pub const JOB_ERROR: &str = "Job-Error";
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
