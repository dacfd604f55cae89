//! The events of a durable job as they are stored, and its previews, which are not.

use futures::StreamExt;

use super::{
    BusError, Logged, Streams,
    event_log::logged,
    ordered::{Ordered, Range},
    subscribe,
};
use crate::contract::{Event, EventKind, JobId};

/// The stored events of a job, from the first, and those to come.
///
/// What is published on `events.<job>` is never read from there: an event that the stream refused was published too.
#[derive(Debug)]
pub struct StoredEvents {
    messages: Ordered,
}

/// The previews of a job from now on.
#[derive(Debug)]
pub struct Previews {
    job: JobId,
    messages: async_nats::Subscriber,
}

impl StoredEvents {
    /// The next event; `None` when the connection is closed for good. Can be dropped and called again.
    pub async fn next(&mut self) -> Option<Logged> {
        loop {
            let delivered = self.messages.next().await?;
            match logged(&delivered.message) {
                Ok(logged) => return Some(logged),
                Err(error) => tracing::warn!(%error, "an event that is none is left out"),
            }
        }
    }
}

impl Previews {
    /// The next preview; `None` when the connection is closed for good. Can be dropped and called again.
    pub async fn next(&mut self) -> Option<Event> {
        loop {
            let message = self.messages.next().await?;
            match serde_json::from_slice::<Event>(&message.payload) {
                Ok(event) if event.job_id == self.job && matches!(event.kind, EventKind::Preview { .. }) => {
                    return Some(event);
                }
                _ => tracing::debug!(job = %self.job, "a preview that is none is left out"),
            }
        }
    }
}

impl Streams {
    /// Reads the events of a job from the first.
    ///
    /// # Errors
    /// When JetStream does not answer now; later outages are sat out.
    pub async fn events_of(&self, job: &JobId) -> Result<StoredEvents, BusError> {
        let range =
            Range { stream: self.events.clone(), subject: self.subjects.events(job), headers_only: false };
        Ok(StoredEvents { messages: self.read(range).await? })
    }

    /// Listens to the previews of a job.
    ///
    /// # Errors
    /// When the client does not take a subscription.
    pub async fn previews_of(&self, job: &JobId) -> Result<Previews, BusError> {
        let messages = subscribe(&self.context.client(), &self.subjects.previews(job)).await?;
        Ok(Previews { job: job.clone(), messages })
    }
}
