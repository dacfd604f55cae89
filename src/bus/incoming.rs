//! A job as it comes in, and the edges of the bus that a worker sees: where jobs come from, where events go.
//! They have doubles in memory (`memory`).

use std::{future::Future, sync::Arc, time::Instant};

use bytes::Bytes;
use futures::future::BoxFuture;

use super::{BusError, Delivery};
use crate::contract::{Capability, Event, JobId, WorkerId};

/// How a message reached this worker.
#[derive(Debug)]
pub enum Via {
    /// On `image.*`: another worker may have it instead.
    Door,
    /// On `worker.<id>.image.*`: nobody else may.
    Direct,
    /// From the queue of durable jobs: it is this worker's until it is settled.
    Queue {
        /// The model whose queue it is.
        model: String,
        /// What keeps and settles it.
        delivery: Delivery,
    },
}

/// A message that asks for a job, unread.
#[derive(Debug)]
pub struct Incoming {
    /// The subject it came on.
    pub subject: String,
    /// How it came.
    pub via: Via,
    /// What the subject implies; `None` for an `image.` subject that is no capability.
    pub capability: Option<Capability>,
    /// The body.
    pub body: Bytes,
    /// Where the answers go: the requester's inbox, also after the message was offered again.
    pub reply: Option<String>,
    /// The job, as the subject says (of the queue) or the `Job-Id` header.
    pub job_id: Option<JobId>,
    /// What a message of the queue says in the `Job-Id` header, which must be what its subject says.
    pub named: Option<String>,
    /// The client of queen's that sent it, kept with the result.
    pub owner: Option<String>,
    /// W3C trace context, passed on to the events.
    pub traceparent: Option<String>,
    /// How often it was offered again.
    pub hops: u32,
    /// When it was received.
    pub received: Instant,
}

/// Where an event goes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum To {
    /// The reply subject of a requester.
    Reply(String),
    /// `events.<job_id>`.
    Events,
    /// `previews.<job_id>`.
    Previews,
}

/// One message about a job.
#[derive(Debug, Clone)]
pub struct Outgoing {
    /// Where it goes.
    pub to: To,
    /// The event; `None` is the empty message that ends the replies.
    pub event: Option<Arc<Event>>,
    /// The job.
    pub job_id: JobId,
    /// This worker.
    pub worker_id: WorkerId,
    /// W3C trace context of the request.
    pub traceparent: Option<String>,
}

/// Where requests come from: jobs that nobody keeps.
pub trait Requests: Send + 'static {
    /// Sees to it that up to `free` jobs may come from `image.*`.
    ///
    /// # Errors
    /// When the client does not take subscriptions any more.
    fn arm(&mut self, free: usize) -> impl Future<Output = Result<(), BusError>> + Send;

    /// The next message; `None` when the source has ended. May be dropped and called again without loss.
    fn next(&mut self) -> impl Future<Output = Option<Incoming>> + Send;

    /// Gives a message that this worker cannot take to another: on the subject it came on, or to `worker` alone.
    /// When there is nobody, its requester is told `busy`.
    fn pass_on(
        &mut self,
        message: Incoming,
        job_id: JobId,
        worker: Option<WorkerId>,
    ) -> impl Future<Output = ()> + Send;

    /// Stops taking jobs from `image.*`, without losing one; what had come by then is still given by [`Self::next`].
    fn close(&mut self) -> impl Future<Output = ()> + Send;

    /// After [`Self::close`]: doors may be armed again.
    fn reopen(&mut self);
}

/// Where durable jobs come from.
pub trait JobQueue: Send + 'static {
    /// A job that waits now, of any queue in turn; `None` when there is none.
    fn look(&mut self) -> impl Future<Output = Option<Incoming>> + Send;

    /// The next job, requested now if `ask` and by earlier calls otherwise. May be dropped and called again without loss.
    fn next(&mut self, ask: bool) -> impl Future<Output = Incoming> + Send;

    /// Stops requesting jobs, without losing one; what had come by then is still given by [`Self::next`].
    fn close(&mut self) -> impl Future<Output = ()> + Send;

    /// After [`Self::close`]: jobs may be requested again.
    ///
    /// # Errors
    /// When the client does not take subscriptions any more.
    fn reopen(&mut self) -> impl Future<Output = Result<(), BusError>> + Send;
}

/// Where events go.
pub trait EventSink: Send + Sync + 'static {
    /// Publishes the messages in order, and returns when the server has them, however long it is away.
    /// An event that is larger than a message may be is left out; a terminal one is sent without its details.
    fn deliver<'a>(&'a self, messages: &'a [Outgoing]) -> BoxFuture<'a, ()>;
}
