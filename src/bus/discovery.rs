//! Discovery by the NATS services protocol (ADR-32): `$SRV.PING`, `$SRV.INFO` and `$SRV.STATS`, service `sd-worker`.
//!
//! Jobs do not come through the protocol's endpoints: those have no notion of a free slot.

use std::{sync::Arc, time::SystemTime};

use async_nats::{Client, Message, Subject};
use futures::{StreamExt, stream::SelectAll};
use serde_json::{Value, json};
use tokio::{
    sync::{Notify, watch},
    task::JoinHandle,
};

use super::{BusError, DoorOptions, connect::Link, reply::may_be_answered, subscribe};
use crate::contract::{Capability, WorkerInfo};

/// The name of the service.
pub const SERVICE: &str = "sd-worker";

/// What a worker counted since it started, per capability.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Counts {
    /// Jobs that were begun.
    pub requests: u64,
    /// Of them, those that ended in an error.
    pub errors: u64,
    /// Nanoseconds from receipt to the end, summed.
    pub nanoseconds: u64,
}

/// Where the counts are read from.
pub type ReadCounts = Box<dyn Fn(Capability) -> Counts + Send + Sync>;

/// Answers discovery until it is dropped.
#[derive(Debug)]
pub struct Discovery(JoinHandle<()>);

impl Drop for Discovery {
    fn drop(&mut self) {
        self.0.abort();
    }
}

struct Service {
    client: Client,
    options: DoorOptions,
    info: watch::Receiver<WorkerInfo>,
    counts: ReadCounts,
    /// RFC 3339.
    started: String,
    /// Told when somebody asks who is there.
    asked: Arc<Notify>,
}

impl Discovery {
    pub(super) async fn start(
        link: &Link,
        options: DoorOptions,
        info: watch::Receiver<WorkerInfo>,
        counts: ReadCounts,
        asked: Arc<Notify>,
    ) -> Result<Self, BusError> {
        let mut requests = SelectAll::new();
        for verb in ["PING", "INFO", "STATS"] {
            let subjects = [
                format!("$SRV.{verb}"),
                format!("$SRV.{verb}.{SERVICE}"),
                format!("$SRV.{verb}.{SERVICE}.{}", options.worker_id),
            ];
            for subject in subjects {
                requests.push(subscribe(&link.client, &subject).await?.map(move |m| (verb, m)).boxed());
            }
        }
        let started = humantime::format_rfc3339_millis(SystemTime::now()).to_string();
        let service = Service { client: link.client.clone(), options, info, counts, started, asked };
        Ok(Self(tokio::spawn(async move {
            while let Some((verb, request)) = requests.next().await {
                service.answer(verb, request).await;
            }
        })))
    }
}

impl Service {
    async fn answer(&self, verb: &str, request: Message) {
        if verb == "INFO" {
            // A queen that has just begun: with a heartbeat it knows all of it.
            self.asked.notify_one();
        }
        let answerable = |subject: &Subject| may_be_answered(subject, &self.options.subjects);
        let Some(reply) = request.reply.filter(answerable) else { return };
        let body = match verb {
            "PING" => self.identity("ping"),
            "INFO" => self.info(),
            _ => self.stats(),
        };
        if let Err(error) = self.client.publish(reply, body.to_string().into()).await {
            tracing::warn!(%error, "a discovery request could not be answered");
        }
    }

    fn identity(&self, kind: &str) -> Value {
        let info = self.info.borrow();
        json!({
            "type": format!("io.nats.micro.v1.{kind}_response"),
            "name": SERVICE,
            "id": info.id,
            "version": info.version,
            "metadata": {
                "models": info.models.join(","),
                "device": info.device,
                "slots": info.slots.to_string(),
                "hive_id": info.hive_id.as_ref().map(ToString::to_string).unwrap_or_default(),
                "implementation": info.implementation,
            },
        })
    }

    fn info(&self) -> Value {
        let mut body = self.identity("info");
        body["description"] = "Draws pictures; ask on the subjects of the endpoints".into();
        body["endpoints"] = self.endpoints(|_, endpoint| endpoint);
        body
    }

    fn stats(&self) -> Value {
        let mut body = self.identity("stats");
        body["started"] = self.started.clone().into();
        body["endpoints"] = self.endpoints(|capability, mut endpoint| {
            let counts = (self.counts)(capability);
            endpoint["num_requests"] = counts.requests.into();
            endpoint["num_errors"] = counts.errors.into();
            endpoint["last_error"] = "".into();
            endpoint["processing_time"] = counts.nanoseconds.into();
            endpoint["average_processing_time"] =
                counts.nanoseconds.checked_div(counts.requests).unwrap_or(0).into();
            endpoint
        });
        body
    }

    fn endpoints(&self, more: impl Fn(Capability, Value) -> Value) -> Value {
        self.options
            .capabilities
            .iter()
            .map(|capability| {
                let endpoint = json!({
                    "name": capability.token(),
                    "subject": self.options.subjects.image(*capability),
                    "queue_group": self.options.queue_group,
                });
                more(*capability, endpoint)
            })
            .collect()
    }
}
