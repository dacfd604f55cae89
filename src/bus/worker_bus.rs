//! Everything that a worker has on NATS, opened over one connection.

use std::sync::Arc;

use tokio::sync::{Notify, watch};

use super::{
    BusError, Cancels, Connectivity, Controls, Discovery, DoorOptions, Doors, Heartbeat, JobStreams,
    NatsOptions, NatsSink, ReadCounts, StreamOptions, Streams,
    barrier::{Barrier, Passed},
    connect::{Link, open},
    offers::Offers,
};
use crate::contract::WorkerInfo;

/// A worker's connection. Nothing is subscribed until asked for.
pub struct WorkerBus {
    link: Link,
    barrier: Barrier,
    sink: NatsSink,
    options: DoorOptions,
    /// Somebody wants a heartbeat now.
    asked: Arc<Notify>,
}

impl WorkerBus {
    /// Connects, waiting for as long as NATS is away.
    ///
    /// # Errors
    /// Options that cannot work, or a server that refuses us.
    pub async fn connect(nats: &NatsOptions, options: DoorOptions) -> Result<Self, BusError> {
        let link = open(nats, options.worker_id.as_str()).await?;
        let barrier = Barrier::start(&link).await?;
        let sink = NatsSink::new(link.clone(), barrier.clone(), options.subjects.clone());
        Ok(Self { link, barrier, sink, options, asked: Arc::default() })
    }

    /// Where events go.
    pub fn sink(&self) -> NatsSink {
        self.sink.clone()
    }

    /// Where jobs come from: the worker's own subject from now on, `image.*` when it is armed.
    ///
    /// # Errors
    /// When the client does not take a subscription.
    pub async fn doors(&self) -> Result<Doors, BusError> {
        let offers =
            Offers::start(&self.link, &self.sink, &self.options.subjects, &self.options.worker_id).await?;
        Doors::open(self.link.clone(), self.barrier.clone(), offers, self.options.clone()).await
    }

    /// The streams of durable jobs, for their events.
    pub fn streams(&self, options: StreamOptions) -> Streams {
        Streams::new(self.link.client.clone(), self.options.subjects.clone(), options)
    }

    /// Where durable jobs for these models, and for what this worker can do, come from, unless the options say that there are none.
    ///
    /// # Errors
    /// [`BusError::Mismatch`] when a stream or consumer is there and is another than ours, or when the client does not
    /// take a subscription.
    pub async fn queue(&self, streams: &Streams, models: Vec<String>) -> Result<JobStreams, BusError> {
        let (link, barrier, streams) = (self.link.clone(), self.barrier.clone(), streams.clone());
        match streams.options.core {
            true => Ok(JobStreams::none(link, barrier, streams)),
            false => JobStreams::open(link, barrier, streams, &self.options.capabilities, &models).await,
        }
    }

    /// Requests to cancel.
    ///
    /// # Errors
    /// When the client does not take a subscription.
    pub async fn cancels(&self) -> Result<Cancels, BusError> {
        Cancels::open(&self.link, &self.options.subjects).await
    }

    /// Commands to this worker.
    ///
    /// # Errors
    /// When the client does not take a subscription.
    pub async fn controls(&self) -> Result<Controls, BusError> {
        Controls::open(&self.link, &self.options.subjects, &self.options.worker_id).await
    }

    /// Told to whoever wants a heartbeat now.
    pub fn heartbeat_asked(&self) -> Arc<Notify> {
        self.asked.clone()
    }

    /// Answers discovery until the guard is dropped.
    ///
    /// # Errors
    /// When the client does not take a subscription.
    pub async fn discovery(
        &self,
        info: watch::Receiver<WorkerInfo>,
        counts: ReadCounts,
    ) -> Result<Discovery, BusError> {
        Discovery::start(&self.link, self.options.clone(), info, counts, self.asked.clone()).await
    }

    /// Publishes `info` regularly and when it changes, until the guard is dropped.
    pub fn heartbeat(&self, info: watch::Receiver<WorkerInfo>) -> Heartbeat {
        Heartbeat::start(self.link.clone(), &self.options.subjects, info, self.asked.clone())
    }

    /// Says that this worker has ended: nobody is to wait for a heartbeat that does not come. The heartbeats are to be over.
    pub async fn farewell(&self, info: WorkerInfo) {
        let subject = self.options.subjects.heartbeat(&info.id);
        let body = serde_json::to_vec(&info.farewell()).expect("a heartbeat has string keys only");
        if self.link.is_connected()
            && let Err(error) = self.link.client.publish(subject, body.into()).await
        {
            tracing::warn!(%error, "the last heartbeat could not be published");
        }
    }

    /// How the connection stands now; clones go on telling.
    pub fn connectivity(&self) -> impl Fn() -> Connectivity + Send + Sync + Clone + use<> {
        let link = self.link.clone();
        move || link.connectivity()
    }

    /// How often a connection was made; clones go on telling.
    pub fn connections(&self) -> impl Fn() -> u64 + Send + Sync + Clone + use<> {
        let link = self.link.clone();
        move || link.connections()
    }

    /// Waits until the server has read everything published so far; false when that could not be confirmed.
    pub async fn round_trip(&self) -> bool {
        self.link.is_connected() && self.barrier.pass().await == Passed::Yes
    }
}
