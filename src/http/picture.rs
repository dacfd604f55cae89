//! Pictures on their way to clients: one copy of each in memory, so many at one time, and none for ever.

use std::{
    io,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use bytes::Bytes;
use futures::{Stream, stream};
use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore},
    task::AbortHandle,
};

use super::{ApiError, Jobs};
use crate::contract::{ErrorCode, JobId};

/// How long a client waits for its turn.
const TURN_WITHIN: Duration = Duration::from_secs(30);
/// When a client that had no turn may try again.
const RETRY_AFTER: Duration = Duration::from_secs(5);
/// How long a client may take over a picture. Then it is cut off, so that slow ones do not keep others waiting.
const SENT_WITHIN: Duration = Duration::from_secs(120);
/// A picture is sent in parts of so many bytes. A multiple of 3: the base64 of the parts is that of the whole.
const PART: usize = 48 << 10;

/// Reads pictures, so many at one time. Cheap to clone; clones count together.
#[derive(Debug, Clone)]
pub struct Pictures {
    turns: Arc<Semaphore>,
    sent_within: Duration,
}

/// A picture that is being sent.
#[derive(Debug)]
pub struct Picture {
    held: Arc<Mutex<Option<Held>>>,
    length: usize,
    content_type: &'static str,
    clock: AbortHandle,
}

#[derive(Debug)]
struct Held {
    bytes: Bytes,
    _turn: OwnedSemaphorePermit,
}

impl Pictures {
    /// At most `limit` at one time.
    pub fn new(limit: usize) -> Self {
        Self { turns: Arc::new(Semaphore::new(limit)), sent_within: SENT_WITHIN }
    }

    /// Reads a picture of a job when it is its turn.
    ///
    /// # Errors
    /// `busy` without a turn in time, or why it cannot be read.
    pub async fn read<J: Jobs>(&self, jobs: &J, id: &JobId, index: u32) -> Result<Picture, ApiError> {
        let turn = match tokio::time::timeout(TURN_WITHIN, self.turns.clone().acquire_owned()).await {
            Ok(turn) => turn.map_err(|closed| ApiError::new(ErrorCode::Internal, closed.to_string()))?,
            Err(_) => {
                let message = "too many pictures are on their way to clients; try again later";
                return Err(ApiError::new(ErrorCode::Busy, message).with_retry_after(RETRY_AFTER));
            }
        };
        let (bytes, content_type) = jobs.image(id, index).await?;
        let length = bytes.len();
        let held = Arc::new(Mutex::new(Some(Held { bytes, _turn: turn })));
        let (overdue, sent_within) = (Arc::downgrade(&held), self.sent_within);
        let clock = tokio::spawn(async move {
            tokio::time::sleep(sent_within).await;
            if let Some(held) = overdue.upgrade() {
                lock(&held).take();
            }
        });
        Ok(Picture { held, length, content_type, clock: clock.abort_handle() })
    }
}

impl Picture {
    /// Its media type.
    pub fn content_type(&self) -> &'static str {
        self.content_type
    }

    /// Its size in bytes.
    pub fn len(&self) -> usize {
        self.length
    }

    /// Its bytes. The place is free again when the last part was taken, or when the client took too long, which ends the
    /// parts with an error.
    pub fn parts(self) -> impl Stream<Item = io::Result<Bytes>> + Send + use<> {
        stream::try_unfold((self, 0), |(picture, from)| async move {
            if from >= picture.length {
                return Ok(None);
            }
            let until = picture.length.min(from + PART);
            let part = lock(&picture.held).as_ref().map(|held| held.bytes.slice(from..until));
            let overdue =
                || io::Error::new(io::ErrorKind::TimedOut, "the client took too long over a picture");
            Ok(Some((part.ok_or_else(overdue)?, (picture, until))))
        })
    }
}

impl Drop for Picture {
    fn drop(&mut self) {
        self.clock.abort();
    }
}

fn lock(held: &Mutex<Option<Held>>) -> MutexGuard<'_, Option<Held>> {
    held.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
pub(super) mod tests {
    use futures::{StreamExt, TryStreamExt};

    use super::*;
    use crate::contract::{Event, Health, JobView, Operation};
    use crate::http::Opened;

    /// Jobs of which each has one picture.
    #[derive(Clone)]
    pub struct OnePicture(pub Bytes);

    impl Jobs for OnePicture {
        async fn submit(&self, _: Operation) -> Result<JobId, ApiError> {
            unreachable!("no test sends a job")
        }
        async fn events(&self, _: &JobId, _: Option<u64>) -> Result<Opened, ApiError> {
            Ok(stream::empty::<Event>().boxed().into())
        }
        async fn view(&self, id: &JobId) -> Result<JobView, ApiError> {
            Err(ApiError::unknown_job(id))
        }
        async fn cancel(&self, id: &JobId) -> Result<(), ApiError> {
            Err(ApiError::unknown_job(id))
        }
        async fn image(&self, id: &JobId, index: u32) -> Result<(Bytes, &'static str), ApiError> {
            match index {
                0 => Ok((self.0.clone(), "image/png")),
                _ => Err(ApiError::unknown_job(id)),
            }
        }
        async fn health(&self) -> Health {
            unreachable!("no test asks for health")
        }
    }

    fn job() -> JobId {
        JobId::new("j").unwrap()
    }

    #[tokio::test]
    async fn a_picture_is_sent_in_parts_of_the_one_copy() {
        let bytes = Bytes::from((0..PART * 2 + 5).map(|n| n as u8).collect::<Vec<_>>());
        let picture = Pictures::new(1).read(&OnePicture(bytes.clone()), &job(), 0).await.unwrap();
        assert_eq!((picture.len(), picture.content_type()), (bytes.len(), "image/png"));
        let parts: Vec<Bytes> = picture.parts().try_collect().await.unwrap();
        assert_eq!(parts.len(), 3);
        assert_eq!(parts[0].as_ptr(), bytes.as_ptr(), "nothing is copied");
        assert_eq!(parts.concat(), bytes);
    }

    #[tokio::test(start_paused = true)]
    async fn so_many_pictures_are_in_memory_and_others_wait_for_their_turn() {
        let (pictures, jobs) = (Pictures::new(2), OnePicture(Bytes::from_static(b"png")));
        let first = pictures.read(&jobs, &job(), 0).await.unwrap();
        assert!(pictures.read(&jobs, &job(), 1).await.is_err(), "which takes no turn");
        let _second = pictures.read(&jobs, &job(), 0).await.unwrap();
        let error = pictures.read(&jobs, &job(), 0).await.unwrap_err();
        assert_eq!((error.code, error.status), (ErrorCode::Busy, 503));
        let id = job();
        let (third, ()) = tokio::join!(pictures.read(&jobs, &id, 0), async { drop(first) });
        third.unwrap();
    }

    #[tokio::test(start_paused = true)]
    async fn a_client_that_takes_too_long_is_cut_off_and_makes_room() {
        let pictures = Pictures::new(1);
        let jobs = OnePicture(Bytes::from(vec![7; PART * 3]));
        let mut parts = Box::pin(pictures.read(&jobs, &job(), 0).await.unwrap().parts());
        assert!(parts.next().await.unwrap().is_ok());
        tokio::time::sleep(SENT_WITHIN + Duration::from_secs(1)).await;
        assert_eq!(pictures.turns.available_permits(), 1, "though the slow one is still there");
        assert_eq!(parts.next().await.unwrap().unwrap_err().kind(), io::ErrorKind::TimedOut);
    }
}
