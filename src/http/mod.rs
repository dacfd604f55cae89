//! The job endpoints, the same in queen and in a worker started with `--http`.
//!
//! What a job is and where it runs is behind [`Jobs`]; here are paths, statuses, limits and the SSE format.

mod body;
mod error;
mod picture;
mod routes;
mod serve;
mod sse;

use std::future::Future;

use bytes::Bytes;
use futures::stream::BoxStream;

use crate::contract::{Event, Health, JobId, JobView, Operation};

#[cfg(feature = "queen")]
pub(crate) use body::read_object;
pub use error::ApiError;
#[cfg(feature = "queen")]
pub(crate) use picture::Picture;
pub use picture::Pictures;
pub use routes::{RouteLimits, fallback, job_id, job_routes};
pub use serve::serve;
pub use sse::KEEP_ALIVE;

/// The largest body of POST /v1/jobs, unless told: two inputs of 16 MiB each, in base64, and the rest.
pub const DEFAULT_BODY_LIMIT: usize = 48 << 20;
/// Pictures that may be on their way to clients at one time, unless told.
pub const DEFAULT_PICTURES: usize = 64;
/// The largest picture that an endpoint reads from the store, in bytes.
pub const MAX_IMAGE_BYTES: u64 = 64 << 20;

/// What is known, while a job has no event yet, of why it waits; asked again and again, so it looks at memory alone.
pub type Waiting = Box<dyn Fn() -> Option<String> + Send + Sync>;

/// The stream of a job's events, opened.
pub struct Opened {
    /// The events.
    pub events: BoxStream<'static, Event>,
    /// Of a job that no worker has.
    pub waiting: Option<Waiting>,
}

impl From<BoxStream<'static, Event>> for Opened {
    fn from(events: BoxStream<'static, Event>) -> Self {
        Self { events, waiting: None }
    }
}

/// What the endpoints are about. Cheap to clone.
pub trait Jobs: Clone + Send + Sync + 'static {
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
