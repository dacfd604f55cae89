//! What queen writes down of a durable job when it has it: `queued.<job_id>`.

use serde::{Deserialize, Serialize};

use super::{Fingerprint, JobId};

/// The ticket of a durable job. With it any queen can tell of a job that no worker has begun, and take it back.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ticket {
    /// The job.
    pub job_id: JobId,
    /// The request, as earlier versions know it: the same id with another one is another job.
    pub fingerprint: String,
    /// What is the same for all ways to write the request, where that is not the fingerprint.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub plain: Option<String>,
    /// The message's number in the stream of jobs.
    pub sequence: u64,
    /// Of a job that was sent again after it ended: the number of the event that ended it, which ends it no more.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub after: Option<u64>,
}

impl Ticket {
    /// The ticket of a request that is message `sequence` of the stream of jobs.
    pub fn new(job_id: JobId, asked: &Fingerprint, sequence: u64, after: Option<u64>) -> Self {
        let (fingerprint, plain) = (asked.as_sent().to_owned(), asked.plain().to_owned());
        let plain = (plain != fingerprint).then_some(plain);
        Self { job_id, fingerprint, plain, sequence, after }
    }

    /// Whether it is of this request.
    pub fn is_of(&self, asked: &Fingerprint) -> bool {
        asked.is(&self.fingerprint) || self.plain() == asked.plain()
    }

    /// Whether both are of the same request.
    pub fn is_same(&self, other: &Self) -> bool {
        self.fingerprint == other.fingerprint || self.plain() == other.plain()
    }

    fn plain(&self) -> &str {
        self.plain.as_deref().unwrap_or(&self.fingerprint)
    }

    /// Whether the event of this number belongs to an earlier sending of the job.
    pub fn is_past(&self, seq: u64) -> bool {
        self.after.is_some_and(|after| seq <= after)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::contract::Operation;

    fn asked(more: &str) -> Fingerprint {
        let body = format!(r#"{{"operation":"image_generation","prompt":"a","job_id":"j","seed":1{more}}}"#);
        Fingerprint::of(&Operation::parse(None, body.as_bytes()).unwrap())
    }

    #[test]
    fn a_ticket_is_known_by_this_version_and_the_one_before_however_the_request_is_written() {
        let (bare, spelt, other) = (asked(""), asked(r#","n":1"#), asked(r#","n":2"#));
        let ticket = |asked| Ticket::new(JobId::new("j").unwrap(), asked, 3, None);
        assert_eq!(ticket(&spelt).fingerprint, spelt.as_sent(), "what the version before compares");
        assert_eq!(ticket(&bare).plain, None);
        for written in [&bare, &spelt] {
            // And as the version before writes it.
            let before = Ticket { plain: None, ..ticket(written) };
            assert!(ticket(written).is_of(&bare) && ticket(written).is_of(&spelt));
            assert!(before.is_of(written) && before.is_same(&ticket(written)));
            assert!(!ticket(written).is_of(&other) && !ticket(written).is_same(&ticket(&other)));
        }
        assert!(ticket(&bare).is_same(&ticket(&spelt)));
        let read: Ticket = serde_json::from_value(serde_json::to_value(ticket(&spelt)).unwrap()).unwrap();
        assert_eq!(read, ticket(&spelt));
    }
}
