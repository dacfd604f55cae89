//! What a run has left behind, as it was read: by the senders, from the streams, from the store, from queens.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::Value;

use super::wishes::Wish;

/// Everything that [`verify`](super::verify::verify) looks at.
#[derive(Debug, Clone, Default)]
pub struct Evidence {
    /// What was sent, by job.
    pub sent: BTreeMap<String, Sent>,
    /// Events as they are stored, by job, in the stream's order.
    pub events: BTreeMap<String, Vec<Stored>>,
    /// The newest ticket of each job that has one.
    pub tickets: BTreeMap<String, Value>,
    pub letters: Vec<Letter>,
    /// What the stream of jobs still has.
    pub jobs_left: Vec<Left>,
    /// Jobs that a worker was given and has not acknowledged.
    pub ack_pending: u64,
    /// Whether nats-server was killed. A consumer may then wait for ever for the end of a delivery whose message is gone:
    /// the server writes down both, and not both at the same time.
    pub nats_was_killed: bool,
    /// Jobs of which a power cut took messages: what is stored of them may have holes, and a few may be gone until they
    /// are sent again.
    pub taken: BTreeSet<String>,
    /// Jobs whose snapshot a worker could not remove, as its log says: the store refused it, for the worker's clock was off.
    pub not_removed: BTreeSet<String>,
    /// Objects by their key.
    pub objects: BTreeMap<String, Object>,
    /// What queens say of the jobs.
    pub views: Vec<View>,
    /// What readers of event streams have read.
    pub read: Vec<Read>,
    /// What senders and readers were told and must never be told.
    pub complaints: Vec<String>,
}

/// A job as its sender knows it.
#[derive(Debug, Clone)]
pub struct Sent {
    pub wish: Wish,
    pub answer: Answer,
    /// Times that it was posted, answered or not.
    pub posts: u32,
    /// It was gone after a power cut, and was sent again.
    pub restored: bool,
    /// The answer to DELETE, if it was asked for and answered.
    pub cancel: Option<u16>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Answer {
    /// 200: it must never be lost.
    Accepted,
    /// Refused for good, with this status and body.
    Refused(u16, String),
    /// No answer at all that could be relied on: it may be there or not.
    Unknown,
}

/// An event in the stream.
#[derive(Debug, Clone)]
pub struct Stored {
    pub name: String,
    pub seq: u64,
    pub attempt: u64,
    pub value: Value,
}

impl Stored {
    pub fn new(value: Value) -> Option<Self> {
        let number = |field: &str| value[field].as_u64();
        let (name, seq, attempt) = (value["type"].as_str()?.to_owned(), number("seq")?, number("attempt")?);
        Some(Self { name, seq, attempt, value })
    }

    pub fn is_terminal(&self) -> bool {
        matches!(self.name.as_str(), "complete" | "error" | "cancelled")
    }

    pub fn code(&self) -> &str {
        self.value["code"].as_str().unwrap_or_default()
    }
}

/// A message in the stream of jobs.
#[derive(Debug, Clone)]
pub struct Left {
    pub job: String,
    pub sequence: u64,
}

/// A dead letter.
#[derive(Debug, Clone)]
pub struct Letter {
    pub job: String,
    pub code: String,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Object {
    pub bytes: u64,
    pub sha256: String,
    /// Of what is JSON.
    pub json: Option<Value>,
}

/// An answer to GET /v1/jobs/{id}.
#[derive(Debug, Clone)]
pub struct View {
    pub queen: usize,
    pub job: String,
    pub http: u16,
    pub body: Value,
}

/// What one reader of a job's stream has read, over all its connections.
#[derive(Debug, Clone, Default)]
pub struct Read {
    pub job: String,
    /// `seq` and type, in the order they came.
    pub events: Vec<(u64, String)>,
    pub connections: u32,
    /// The last line, `[DONE]` and the like.
    pub ended: Option<String>,
}

impl Evidence {
    /// The events of a job's last sending: of one that ended and was sent again, what came after that end.
    pub fn last_sending(&self, job: &str) -> &[Stored] {
        let events = self.events.get(job).map_or(&[][..], Vec::as_slice);
        let after = self.tickets.get(job).and_then(|ticket| ticket["after"].as_u64());
        let from = after.map_or(0, |after| events.iter().take_while(|event| event.seq <= after).count());
        &events[from..]
    }

    /// How a job ended.
    pub fn end(&self, job: &str) -> Option<&Stored> {
        self.last_sending(job).iter().rev().find(|event| event.is_terminal())
    }

    /// Whether another attempt than the one that ended has been at it.
    pub fn lost_an_attempt(&self, job: &str) -> bool {
        let mut events = self.events.get(job).into_iter().flatten();
        self.is_taken(job) || events.any(|event| event.attempt > 1)
    }

    /// Whether a power cut may have taken something of it.
    pub fn is_taken(&self, job: &str) -> bool {
        self.taken.contains(job)
    }

    /// The checksums of the pictures that a `complete` event names.
    pub fn sums(event: &Value) -> Vec<String> {
        let images = event["images"].as_array().map_or(&[][..], Vec::as_slice);
        images.iter().map(|image| image["sha256"].to_string()).collect()
    }
}
