//! What is known of a job: by the streams, by queen's memory, by the store.

use std::sync::Arc;

use super::{Queen, durable::Log, record::Record};
use crate::{
    contract::{CompleteEvent, EventKind, JobId},
    http::ApiError,
    storage::{Key, StoredResult},
};

/// What is known of a job.
pub(super) enum Known {
    Logged(Box<Log>),
    Remembered(Arc<Record>),
    Stored(Box<StoredResult>),
}

impl Queen {
    /// Whether the job is done by what the store says.
    pub(super) async fn stored(&self, id: &JobId) -> Result<Option<StoredResult>, ApiError> {
        let Some(mut result) = self.shared.store.find_result(id).await? else { return Ok(None) };
        if let EventKind::Complete(complete) = &mut result.event.kind {
            self.renew_urls(complete).await;
        }
        Ok(Some(result))
    }

    /// A presigned URL from a result that was stored a while ago may have run out.
    pub(super) async fn renew_urls(&self, complete: &mut CompleteEvent) {
        for image in &mut complete.images {
            let Ok(key) = Key::parse_reference(&image.key) else { continue };
            match self.shared.store.url(&key).await {
                Ok(url) => image.url = url,
                Err(error) => {
                    tracing::warn!(%key, %error, "the URL of a stored picture could not be renewed")
                }
            }
        }
    }

    /// What is known of a job, by the streams, by memory, by the store. A job that is not to be seen is unknown.
    pub(super) async fn known(&self, id: &JobId) -> Result<Known, ApiError> {
        let known = self.known_to_all(id).await?;
        match self.may_see(&known).await? {
            true => Ok(known),
            false => Err(ApiError::unknown_job(id)),
        }
    }

    /// Whether whoever asks may see it.
    pub(super) async fn may_see(&self, known: &Known) -> Result<bool, ApiError> {
        if let (true, None, Known::Logged(log)) = (self.asker.is_bounded(), known.owner(), known) {
            // Another queen sent it on the core path, or its ticket has aged out: its result says whose it is.
            let result = self.shared.store.find_result(&log.id).await?;
            return Ok(self.asker.finds(result.and_then(|result| result.owner).as_deref()));
        }
        Ok(self.asker.finds(known.owner()))
    }

    /// As [`Self::known`], whoever asks.
    pub(super) async fn known_to_all(&self, id: &JobId) -> Result<Known, ApiError> {
        let remembered = self.shared.table.get(id);
        let logged = match self.durable() {
            Some(durable) => durable.find(id).await,
            None => Ok(None),
        };
        match (logged, remembered) {
            // The events of a core job are in the stream too, but memory knows more: how it ended without a worker.
            (Ok(Some(log)), Some(record)) if log.ticket.is_none() => Ok(Known::Remembered(record)),
            (Ok(Some(log)), _) => Ok(Known::Logged(Box::new(log))),
            (Ok(None) | Err(_), Some(record)) => Ok(Known::Remembered(record)),
            // Nobody can say at present how it is, or that there is no such job.
            (Err(error), None) => Err(error),
            (Ok(None), None) => match self.stored(id).await? {
                Some(result) => Ok(Known::Stored(Box::new(result))),
                None => Err(ApiError::unknown_job(id)),
            },
        }
    }
}
