//! The job endpoints, the same in queen and in a worker started with `--http`.
//!
//! What a job is and where it runs is behind [`Jobs`]; here are paths, statuses, limits and the SSE format.

mod body;
mod cursor;
pub mod endpoint;
mod error;
mod many;
#[cfg(feature = "queen")]
pub mod openapi;
mod picture;
mod routes;
mod serve;
mod server;
mod sse;

use std::future::Future;

use bytes::Bytes;
use futures::{StreamExt, stream, stream::BoxStream};

use axum::http::Extensions;

use crate::contract::{Event, Health, JobId, JobView, Operation, Queued};

#[cfg(feature = "queen")]
pub(crate) use body::read_object;
pub use cursor::{Cursor, Seen};
pub use error::ApiError;
pub use many::MAX_WATCHED;
#[cfg(feature = "queen")]
pub(crate) use picture::Picture;
pub use picture::Pictures;
#[cfg(feature = "queen")]
pub(crate) use routes::only_id;
pub use routes::{JobsState, RouteLimits, fallback, job_endpoints, job_id, job_routes, watch_endpoints};
pub use serve::serve;
pub use server::{HttpServer, Listener, STOP_LIMIT};
pub use sse::KEEP_ALIVE;

/// The largest body of POST /v1/jobs, unless told: two inputs of 16 MiB each, in base64, and the rest.
pub const DEFAULT_BODY_LIMIT: usize = 48 << 20;
/// Pictures that may be on their way to clients at one time, unless told.
pub const DEFAULT_PICTURES: usize = 64;
/// The largest picture that an endpoint reads from the store, in bytes.
pub const MAX_IMAGE_BYTES: u64 = 64 << 20;

/// The stream of a job's events, opened.
pub struct Opened {
    /// The events.
    pub events: BoxStream<'static, Event>,
    /// Of a job that no worker has: where it stands in line, until its first event. It need not end by itself.
    pub queued: Option<BoxStream<'static, Queued>>,
}

impl From<BoxStream<'static, Event>> for Opened {
    fn from(events: BoxStream<'static, Event>) -> Self {
        Self { events, queued: None }
    }
}

/// What is told of a job.
#[derive(Debug)]
pub enum Heard {
    /// An event.
    Event(Event),
    /// It has none yet, and waits.
    Queued(Queued),
}

impl Opened {
    /// Both in one: where the job stands in line, and from its first event on nothing but events.
    pub fn heard(self) -> BoxStream<'static, Heard> {
        let next = |Self { mut events, queued }| async move {
            let Some(mut line) = queued else {
                let event = events.next().await?;
                return Some((Heard::Event(event), Self { events, queued: None }));
            };
            tokio::select! {
                biased;
                event = events.next() => Some((Heard::Event(event?), Self { events, queued: None })),
                Some(queued) = line.next() => Some((Heard::Queued(queued), Self { events, queued: Some(line) })),
            }
        };
        stream::unfold(self, next).boxed()
    }
}

/// What the endpoints are about. Cheap to clone.
pub trait Jobs: Clone + Send + Sync + 'static {
    /// What of them whoever sent a request may see, and sends jobs as.
    fn asked_by(&self, request: &Extensions) -> Self {
        let _ = request;
        self.clone()
    }

    /// Takes a job. The same id with the same body gives the same job again.
    fn submit(&self, operation: Operation) -> impl Future<Output = Result<JobId, ApiError>> + Send;

    /// The events of a job, from the first that is remembered or from the one after number `after`,
    /// to the terminal one, which ends the stream.
    fn events(&self, id: &JobId, after: Option<u64>)
    -> impl Future<Output = Result<Opened, ApiError>> + Send;

    /// Where the job is.
    fn view(&self, id: &JobId) -> impl Future<Output = Result<JobView, ApiError>> + Send;

    /// Asks for the job to be cancelled. 404 if it is unknown, 409 if it has ended.
    fn cancel(&self, id: &JobId) -> impl Future<Output = Result<(), ApiError>> + Send;

    /// The bytes of one of its pictures, and their media type. 404 if there is none of that index.
    fn image(
        &self,
        id: &JobId,
        index: u32,
    ) -> impl Future<Output = Result<(Bytes, &'static str), ApiError>> + Send;

    /// Takes note of a job that was not taken: its body cannot be read, or [`Jobs::submit`] refused it.
    fn refused(&self, error: &ApiError) {
        let _ = error;
    }

    /// How the service is.
    fn health(&self) -> impl Future<Output = Health> + Send;
}

/// What a client of GET /v1/events wants to be told.
#[derive(Debug, Clone)]
pub struct Watched {
    /// The events of these jobs, at most [`MAX_WATCHED`].
    pub jobs: Vec<JobId>,
    /// The workers, at once and when they change.
    pub fleet: bool,
    /// What it has already.
    pub cursor: Cursor,
}

/// What it is told.
#[derive(Debug)]
pub enum Told {
    /// What is heard of one of the jobs.
    Job(Heard),
    /// Nothing is known of that job.
    Unknown(JobId),
    /// The workers: the answer of GET /v1/workers, in JSON.
    Fleet(Bytes),
}

/// Jobs of which many can be followed at one time.
pub trait Watch: Jobs {
    /// Opens a stream. An end of a job does not end it; only who serves it does.
    fn watch(&self, watched: Watched) -> Result<BoxStream<'static, Told>, ApiError>;
}
