//! `control.job.<job_id>.cancel`: every worker hears it, the one that holds the job answers.

use async_nats::{Client, Subject, Subscriber};
use futures::StreamExt;
use serde_json::json;

use super::{BusError, connect::Link, reply::may_be_answered, subscribe};
use crate::contract::{JobId, Subjects, WorkerId};

/// Requests to cancel a job.
pub struct Cancels {
    client: Client,
    subjects: Subjects,
    requests: Subscriber,
}

/// A request to cancel a job.
pub struct CancelRequest {
    /// The job.
    pub job_id: JobId,
    client: Client,
    reply: Option<Subject>,
}

impl Cancels {
    pub(super) async fn open(link: &Link, subjects: &Subjects) -> Result<Self, BusError> {
        let requests = subscribe(&link.client, &subjects.cancel_any()).await?;
        Ok(Self { client: link.client.clone(), subjects: subjects.clone(), requests })
    }

    /// The next request; `None` when the connection has ended.
    pub async fn next(&mut self) -> Option<CancelRequest> {
        loop {
            let message = self.requests.next().await?;
            if let Some(job_id) = self.subjects.job_of_cancel(&message.subject) {
                let reply = message.reply.filter(|subject| may_be_answered(subject, &self.subjects));
                return Some(CancelRequest { job_id, client: self.client.clone(), reply });
            }
        }
    }
}

impl CancelRequest {
    /// Says that this worker holds the job and stops it: `{"job_id", "worker_id"}`.
    pub async fn answer(self, worker_id: &WorkerId) {
        let Some(reply) = self.reply else { return };
        let body = json!({ "job_id": self.job_id, "worker_id": worker_id }).to_string();
        if let Err(error) = self.client.publish(reply, body.into()).await {
            tracing::warn!(job_id = %self.job_id, %error, "a cancel could not be answered");
        }
    }
}
