//! What queen writes down of a durable job when it has it: `queued.<job_id>`.

use std::time::SystemTime;

use serde::{Deserialize, Serialize};

use super::{Capability, Fingerprint, JobId, Operation, Webhook};

/// Characters of a prompt that a list of jobs shows.
pub const SHOWN_PROMPT: usize = 200;

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
    /// The client of queen's that sent it, by the name of its token; of earlier versions, and where no tokens are asked for,
    /// there is none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub owner: Option<String>,
    /// What a list says of it. Earlier versions say nothing.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub about: Option<About>,
    /// Where its events are posted, if anywhere.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub webhook: Option<Webhook>,
}

/// What a list of jobs says of one.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct About {
    /// What it needs of a worker.
    pub capability: Capability,
    /// The model that it is for, where that is known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub model: Option<String>,
    /// The beginning of its prompt, at most [`SHOWN_PROMPT`] characters.
    pub prompt: String,
    /// When queen took it, in milliseconds since 1970, by queen's clock.
    pub created_ms: u64,
}

impl About {
    /// What is said of a request that comes in now.
    pub fn of(operation: &Operation) -> Self {
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        Self {
            capability: operation.capability(),
            model: operation.model().map(str::to_owned),
            prompt: operation.prompt().chars().take(SHOWN_PROMPT).collect(),
            created_ms: u64::try_from(now.as_millis()).unwrap_or(u64::MAX),
        }
    }
}

impl Ticket {
    /// The ticket of a request that is message `sequence` of the stream of jobs.
    pub fn new(job_id: JobId, asked: &Fingerprint, sequence: u64, after: Option<u64>) -> Self {
        let (fingerprint, plain) = (asked.as_sent().to_owned(), asked.plain().to_owned());
        let plain = (plain != fingerprint).then_some(plain);
        Self { job_id, fingerprint, plain, sequence, after, owner: None, about: None, webhook: None }
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

    #[test]
    fn a_ticket_of_an_earlier_version_says_less_and_is_read() {
        let old = r#"{"job_id":"j","fingerprint":"f","sequence":3}"#;
        let read: Ticket = serde_json::from_str(old).unwrap();
        assert_eq!((read.sequence, &read.owner, &read.about), (3, &None, &None));
        let body = format!(r#"{{"operation":"image_generation","prompt":"{}"}}"#, "\u{e9}".repeat(300));
        let about = About::of(&Operation::parse(None, body.as_bytes()).unwrap());
        assert_eq!((about.prompt.chars().count(), about.model.as_deref()), (SHOWN_PROMPT, None));
        let new = Ticket { owner: Some("alice".into()), about: Some(about), ..read };
        let text = serde_json::to_string(&new).unwrap();
        assert_eq!(serde_json::from_str::<Ticket>(&text).unwrap(), new);
    }
}
