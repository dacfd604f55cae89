//! `worker.<id>.control`: what an operator tells one worker, and its answer. Both sides are here.

use std::time::Duration;

use async_nats::{Client, RequestErrorKind, Subject, Subscriber};
use bytes::Bytes;
use futures::StreamExt;
use serde::Deserialize;

use super::{BusError, Requester, connect::Link, reply::may_be_answered, subscribe};
use crate::contract::{Command, ErrorBody, ErrorDetail, Subjects, WorkerId, WorkerInfo};

/// Commands to this worker.
pub struct Controls {
    client: Client,
    subjects: Subjects,
    requests: Subscriber,
}

/// A command to this worker, unread.
pub struct ControlRequest {
    /// The body.
    pub body: Bytes,
    client: Client,
    reply: Option<Subject>,
}

impl Controls {
    pub(super) async fn open(link: &Link, subjects: &Subjects, worker: &WorkerId) -> Result<Self, BusError> {
        let requests = subscribe(&link.client, &subjects.control(worker)).await?;
        Ok(Self { client: link.client.clone(), subjects: subjects.clone(), requests })
    }

    /// The next command; `None` when the connection has ended.
    pub async fn next(&mut self) -> Option<ControlRequest> {
        let message = self.requests.next().await?;
        let reply = message.reply.filter(|subject| may_be_answered(subject, &self.subjects));
        Some(ControlRequest { body: message.payload, client: self.client.clone(), reply })
    }
}

impl ControlRequest {
    /// Says how the worker is after the command, or why it was not done.
    pub async fn answer(self, done: Result<&WorkerInfo, &ErrorBody>) {
        let Some(reply) = self.reply else { return };
        let body = match done {
            Ok(info) => serde_json::to_vec(info),
            Err(error) => serde_json::to_vec(error),
        };
        let body = body.expect("both have string keys only");
        if let Err(error) = self.client.publish(reply, body.into()).await {
            tracing::warn!(%error, "a command could not be answered");
        }
    }
}

/// Why a command has no answer that says it is done.
#[derive(Debug, thiserror::Error)]
pub enum ControlError {
    /// The worker says why it does not do it.
    #[error("{}", .0.message)]
    Refused(ErrorDetail),
    /// Nobody hears commands to that worker.
    #[error(
        "worker `{0}` hears no commands: it has ended, is of an earlier version, or its NATS user may not subscribe to them"
    )]
    NobodyThere(WorkerId),
    /// It did not answer in time. The command may be done yet.
    #[error("worker `{worker}` has not answered within {}", humantime::format_duration(*within))]
    Silent {
        /// The worker.
        worker: WorkerId,
        /// For how long it was waited.
        within: Duration,
    },
    /// The answer is none of the contract's.
    #[error("the answer of worker `{worker}` is not understood: {reason}")]
    Foreign {
        /// The worker.
        worker: WorkerId,
        /// What is wrong with it.
        reason: String,
    },
    /// It could not be asked.
    #[error("worker `{worker}` could not be asked: {reason}")]
    NotSent {
        /// The worker.
        worker: WorkerId,
        /// Why.
        reason: String,
    },
}

/// What a worker answers.
#[derive(Deserialize)]
#[serde(untagged)]
enum Answer {
    Refused(ErrorBody),
    Done(Box<WorkerInfo>),
}

impl Requester {
    /// Tells a worker what to do; how it is after that.
    ///
    /// # Errors
    /// [`ControlError`]: why it was not done, or that nothing is known of it.
    pub async fn control(
        &self,
        worker: &WorkerId,
        command: &Command,
        within: Duration,
    ) -> Result<WorkerInfo, ControlError> {
        let request = async_nats::Request::new().payload(command.to_json().into()).timeout(Some(within));
        let asked = self.link.client.send_request(self.subjects.control(worker), request).await;
        let answer = asked.map_err(|error| match error.kind() {
            RequestErrorKind::NoResponders => ControlError::NobodyThere(worker.clone()),
            RequestErrorKind::TimedOut => ControlError::Silent { worker: worker.clone(), within },
            _ => ControlError::NotSent { worker: worker.clone(), reason: error.to_string() },
        })?;
        match serde_json::from_slice(&answer.payload) {
            Ok(Answer::Done(info)) if info.id == *worker => Ok(*info),
            Ok(Answer::Done(info)) => {
                let reason = format!("it is of worker {}", info.id);
                Err(ControlError::Foreign { worker: worker.clone(), reason })
            }
            Ok(Answer::Refused(body)) => Err(ControlError::Refused(body.error)),
            Err(error) => Err(ControlError::Foreign { worker: worker.clone(), reason: error.to_string() }),
        }
    }
}
