//! The requester's side of a job: publish and inbox on one connection, replies parsed into events.

use std::time::Duration;

use async_nats::{HeaderMap, Message, StatusCode, Subscriber};
use bytes::Bytes;
use futures::StreamExt;
use serde::Deserialize;

use super::{BusError, Connectivity, Link, SERVICE};
use crate::contract::{Capability, Event, JobId, Subjects, WorkerId, headers};

/// How long a worker has to answer that it holds a job that is to be cancelled.
const CANCEL_ANSWER: Duration = Duration::from_secs(2);

/// How long workers have to say that they are there.
const DISCOVERY_WITHIN: Duration = Duration::from_millis(300);

/// What is read of a worker's answer to discovery.
#[derive(Default, Deserialize)]
#[serde(default)]
struct ServiceInfo {
    metadata: Metadata,
    endpoints: Vec<Endpoint>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Metadata {
    /// Separated by commas.
    models: String,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Endpoint {
    subject: String,
}

/// Asks for jobs.
#[derive(Clone)]
pub struct Requester {
    pub(super) link: Link,
    pub(super) subjects: Subjects,
}

/// Whom a job is sent to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Target {
    /// Any worker with a free slot.
    Any,
    /// That worker.
    Worker(WorkerId),
}

/// An answer to one of the times that a job was sent; `sending` counts them from 0.
#[derive(Debug, Clone, PartialEq)]
pub enum Reply {
    /// An event.
    Event {
        /// Which sending.
        sending: u32,
        /// The event.
        event: Box<Event>,
    },
    /// The last reply of a worker.
    End {
        /// Which sending.
        sending: u32,
    },
    /// 503: nobody listens there.
    NoResponders {
        /// Which sending.
        sending: u32,
    },
}

/// One job's inbox. Dropped, it is unsubscribed.
pub struct Exchange {
    requester: Requester,
    job: JobId,
    owner: Option<String>,
    traceparent: Option<String>,
    inbox: String,
    replies: Subscriber,
    sendings: u32,
}

impl Requester {
    /// A requester on this connection.
    pub fn new(link: Link, subjects: Subjects) -> Self {
        Self { link, subjects }
    }

    /// Whether NATS is reachable now.
    pub fn is_connected(&self) -> bool {
        self.link.is_connected()
    }

    /// How often a connection was made.
    pub fn connections(&self) -> u64 {
        self.link.connections()
    }

    /// How the connection to NATS stands now.
    pub fn connectivity(&self) -> Connectivity {
        self.link.connectivity()
    }

    /// Opens an inbox for a job of this client's.
    pub async fn open(
        &self,
        job: JobId,
        owner: Option<String>,
        traceparent: Option<String>,
    ) -> Result<Exchange, BusError> {
        let inbox = self.link.client.new_inbox();
        let subject = format!("{inbox}.*");
        let replies = self
            .link
            .client
            .subscribe(subject.clone())
            .await
            .map_err(|e| BusError::Subscribe { subject, reason: e.to_string() })?;
        Ok(Exchange { requester: self.clone(), job, owner, traceparent, inbox, replies, sendings: 0 })
    }

    /// Tells whoever holds the job to stop; nothing is awaited.
    pub async fn cancel(&self, job: &JobId) -> Result<(), BusError> {
        let subject = self.subjects.cancel(job);
        self.link
            .client
            .publish(subject.clone(), Bytes::new())
            .await
            .map_err(|e| BusError::Publish { subject, reason: e.to_string() })
    }

    /// As [`Requester::cancel`]; whether a worker answered that it holds the job.
    pub async fn cancel_and_ask(&self, job: &JobId) -> bool {
        let answer = self.link.client.request(self.subjects.cancel(job), Bytes::new());
        matches!(tokio::time::timeout(CANCEL_ANSWER, answer).await, Ok(Ok(_)))
    }

    /// Asks every worker who it is, and waits for no answer: whoever is asked sends a heartbeat too. Nothing is said of what
    /// did not work.
    pub async fn ask_for_heartbeats(&self) {
        // Nobody listens there.
        let reply = self.link.client.new_inbox();
        let asked =
            self.link.client.publish_with_reply(format!("$SRV.INFO.{SERVICE}"), reply, Bytes::new()).await;
        if let Err(error) = asked {
            tracing::debug!(%error, "workers cannot be asked for heartbeats");
        }
    }

    /// The models of the workers that are up now, asked by the services protocol; whoever is asked sends a heartbeat too. Each
    /// worker's first model comes first. Nothing is said of what did not work.
    pub async fn models_of_the_pool(&self) -> Vec<String> {
        let inbox = self.link.client.new_inbox();
        let mut models = vec![];
        let ask = async {
            let mut answers = self.link.client.subscribe(inbox.clone()).await.ok()?;
            let subject = format!("$SRV.INFO.{SERVICE}");
            self.link.client.publish_with_reply(subject, inbox.clone(), Bytes::new()).await.ok()?;
            loop {
                let answer = answers.next().await?;
                if answer.status == Some(StatusCode::NO_RESPONDERS) {
                    return None::<()>;
                }
                let info: ServiceInfo = serde_json::from_slice(&answer.payload).unwrap_or_default();
                // Every pool of the server answers.
                let is_ours =
                    |end: &Endpoint| Capability::ALL.iter().any(|c| self.subjects.image(*c) == end.subject);
                if info.endpoints.iter().any(is_ours) {
                    models.extend(info.metadata.models.split(',').map(str::to_owned));
                }
            }
        };
        // How many will answer is not known, so that this always takes its time where one does.
        let _ = tokio::time::timeout(DISCOVERY_WITHIN, ask).await;
        models.retain(|model| !model.is_empty());
        models
    }

    /// Sends what is buffered, within a bound, before the process ends.
    pub async fn flush(&self) {
        // `flush` waits for the socket alone, and for ever while NATS is away.
        let _ = tokio::time::timeout(CANCEL_ANSWER, self.link.client.flush()).await;
    }
}

impl Exchange {
    /// Sends the job. Returns the number of this sending, which its replies carry.
    pub async fn send(
        &mut self,
        target: &Target,
        capability: Capability,
        body: Bytes,
    ) -> Result<u32, BusError> {
        let subjects = &self.requester.subjects;
        let subject = match target {
            Target::Any => subjects.image(capability),
            Target::Worker(worker) => subjects.direct(worker, capability),
        };
        let limit = self.requester.link.client.max_payload();
        if body.len() > limit {
            return Err(BusError::TooLarge { subject, bytes: body.len(), limit });
        }
        let sending = self.sendings;
        self.sendings += 1;
        let mut header = HeaderMap::new();
        header.insert(headers::JOB_ID, self.job.as_str());
        if let Some(owner) = &self.owner {
            header.insert(headers::JOB_OWNER, owner.as_str());
        }
        if let Some(trace) = &self.traceparent {
            header.insert(headers::TRACEPARENT, trace.as_str());
        }
        self.requester
            .link
            .client
            .publish_with_reply_and_headers(
                subject.clone(),
                format!("{}.{sending}", self.inbox),
                header,
                body,
            )
            .await
            .map_err(|e| BusError::Publish { subject, reason: e.to_string() })?;
        Ok(sending)
    }

    /// The next reply that can be read; `None` when the connection is closed for good.
    pub async fn next(&mut self) -> Option<Reply> {
        loop {
            let message = self.replies.next().await?;
            let prefix = self.inbox.len() + 1;
            let Some(sending) = message.subject.get(prefix..).and_then(|n| n.parse().ok()) else { continue };
            match read(&message, sending, &self.job) {
                Ok(reply) => return Some(reply),
                Err(reason) => {
                    tracing::warn!(job = %self.job, %reason, "a reply that is none is left out");
                }
            }
        }
    }
}

fn read(message: &Message, sending: u32, job: &JobId) -> Result<Reply, String> {
    if message.status == Some(StatusCode::NO_RESPONDERS) {
        return Ok(Reply::NoResponders { sending });
    }
    let kind = message.headers.as_ref().and_then(|h| h.get(headers::JOB_EVENT));
    if message.payload.is_empty() {
        return match kind {
            Some(kind) if kind.as_str() == headers::EVENT_END => Ok(Reply::End { sending }),
            _ => Err("it is empty and no end".into()),
        };
    }
    let event: Event = serde_json::from_slice(&message.payload).map_err(|e| e.to_string())?;
    if event.job_id != *job {
        return Err(format!("it is an event of job {}", event.job_id));
    }
    Ok(Reply::Event { sending, event: Box::new(event) })
}
