//! What queen writes down of a durable job when it has it: `queued.<job_id>`.

use serde::{Deserialize, Serialize};

use super::JobId;

/// The ticket of a durable job. With it any queen can tell of a job that no worker has begun, and take it back.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ticket {
    /// The job.
    pub job_id: JobId,
    /// [`Operation::fingerprint`](super::Operation::fingerprint): the same id with another one is another job.
    pub fingerprint: String,
    /// The message's number in the stream of jobs.
    pub sequence: u64,
    /// Of a job that was sent again after it ended: the number of the event that ended it, which ends it no more.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub after: Option<u64>,
}

impl Ticket {
    /// Whether the event of this number belongs to an earlier sending of the job.
    pub fn is_past(&self, seq: u64) -> bool {
        self.after.is_some_and(|after| seq <= after)
    }
}
