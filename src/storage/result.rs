//! `jobs/<job>/result.json`: the complete event of a job that is done, and what the job was.

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use super::{Key, StorageError, Store};
use crate::contract::{Event, JobId};

/// The most bytes of a `result.json` that are read.
const MAX_RESULT: u64 = 1 << 20;

/// The content of `result.json`. It is written after the pictures: its presence means that the job is done.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct StoredResult {
    /// [`Operation::fingerprint`](crate::contract::Operation::fingerprint): the same id with another one is another job.
    pub fingerprint: String,
    /// The client of queen's that sent the job, by the name of its token. Where no tokens are asked for, and of workers of
    /// earlier versions, there is none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub owner: Option<String>,
    /// The complete event, repeated to whoever asks for the same job again.
    pub event: Event,
}

impl Store {
    /// Writes a job's `result.json`; its pictures must be stored by then.
    pub async fn put_result(&self, job: &JobId, result: &StoredResult) -> Result<(), StorageError> {
        let json = serde_json::to_vec(result).expect("a result has string keys only");
        self.put(&Key::Result { job: job.clone() }, Bytes::from(json), "application/json").await
    }

    /// Reads a job's `result.json`, if the job is done.
    pub async fn find_result(&self, job: &JobId) -> Result<Option<StoredResult>, StorageError> {
        let key = Key::Result { job: job.clone() };
        let Some(bytes) = self.find(&key, MAX_RESULT).await? else { return Ok(None) };
        serde_json::from_slice(&bytes)
            .map(Some)
            .map_err(|e| StorageError::Malformed { key: key.path(), reason: e.to_string() })
    }
}
