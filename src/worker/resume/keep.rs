//! A durable job's snapshots on this worker: the newest is written, one at a time, off the engine's path; and what of a
//! job is there already when another worker's snapshot is gone on from.

use std::time::Duration;

use bytes::Bytes;
use sha2::{Digest, Sha256};
use tokio::task::JoinHandle;

use super::file::{self as snapshot, Kept, Origin};
use crate::{
    contract::{ImageResult, Job, JobId, hex},
    diffusion::ImageSpec,
    engine::Snapshot,
    http::MAX_IMAGE_BYTES,
    storage::{Key, StorageError, Store},
    worker::shared::Context,
};

/// The snapshots of one job.
pub struct Snapshots {
    store: Store,
    job: JobId,
    origin: Origin,
    /// The time between two; none for a job that would not come again.
    every: Option<Duration>,
    writing: Option<JoinHandle<()>>,
    waiting: Option<Kept>,
    /// Which attempt drew the pictures that were there when the job was gone on with.
    drawn_by: Vec<u32>,
    /// Whether one was written here.
    written: bool,
}

/// What a job goes on from.
pub struct Resumed {
    pub snapshot: Snapshot,
    /// The pictures that are finished and stored.
    pub images: Vec<ImageResult>,
}

impl Snapshots {
    /// Of this job with this model; `is_durable`: it comes again when its worker is gone.
    pub fn new(context: &Context, job: &Job, model: &str, is_durable: bool) -> Self {
        let identity = &context.identity;
        Self {
            store: context.store.clone(),
            job: job.id.clone(),
            origin: Origin::new(&job.fingerprint, model, &identity.device, identity.precision),
            every: is_durable.then_some(identity.snapshot_every),
            writing: None,
            waiting: None,
            drawn_by: vec![],
            written: false,
        }
    }

    /// How often the engine is to give one.
    pub fn every(&self) -> Option<Duration> {
        self.every
    }

    /// Has one written, now or after the one that is being written; of those that wait the newest is kept.
    /// The pictures before it were drawn by this attempt, unless they were there.
    pub fn put(&mut self, snapshot: Snapshot, attempt: u32) {
        self.written = true;
        let mut drawn_by = self.drawn_by.clone();
        drawn_by.resize(snapshot.index as usize, attempt);
        self.waiting = Some(Kept { snapshot, drawn_by });
        if self.writing.as_ref().is_none_or(JoinHandle::is_finished) {
            self.writing = self.waiting.take().map(|snapshot| self.write(snapshot));
        }
    }

    fn write(&self, snapshot: Kept) -> JoinHandle<()> {
        let (store, job, origin) = (self.store.clone(), self.job.clone(), self.origin.clone());
        tokio::spawn(async move {
            if let Err(error) = snapshot::write(&store, &job, &origin, snapshot).await {
                tracing::warn!(%error, "a snapshot could not be written");
            }
        })
    }

    /// Returns when the last one is written.
    pub async fn finish(&mut self) {
        while let Some(writing) = self.writing.take() {
            if let Err(error) = writing.await {
                tracing::error!(%error, "the writing of a snapshot was lost");
            }
            self.writing = self.waiting.take().map(|snapshot| self.write(snapshot));
        }
    }

    /// Begins no more; returns when the one that is being written is there. Given up in between, it might come to the
    /// store after it was removed.
    pub async fn stop(&mut self) {
        self.waiting = None;
        self.finish().await;
    }

    /// Removes what is there, if one was written here, or may have been elsewhere.
    pub async fn remove(&mut self, elsewhere: bool) {
        self.stop().await;
        if self.written || elsewhere {
            snapshot::remove(&self.store, &self.job).await;
        }
    }

    /// The snapshot that an earlier worker left, with the pictures that it had finished. Without one of them there is
    /// none: the job begins anew.
    pub async fn resume(&mut self, job: &Job, spec: &ImageSpec) -> Option<Resumed> {
        let Kept { snapshot, drawn_by } = snapshot::read(&self.store, &self.job, &self.origin).await?;
        if drawn_by.len() != snapshot.index as usize {
            tracing::warn!("the job's snapshot does not say who drew its pictures; the job begins anew");
            return None;
        }
        let mut images = vec![];
        for (index, &attempt) in (0..).zip(&drawn_by) {
            match stored_picture(&self.store, job, spec, index, attempt).await {
                Ok(image) => images.push(image),
                Err(error) => {
                    tracing::warn!(index, %error, "a picture before the snapshot is not there");
                    return None;
                }
            }
        }
        self.drawn_by = drawn_by;
        Some(Resumed { snapshot, images })
    }
}

/// What the complete event says of a picture that was stored by another worker.
async fn stored_picture(
    store: &Store,
    job: &Job,
    spec: &ImageSpec,
    index: u32,
    attempt: u32,
) -> Result<ImageResult, StorageError> {
    let key = Key::Image { job: job.id.clone(), index, attempt, format: job.format };
    let bytes = store.get(&key, MAX_IMAGE_BYTES).await?;
    let (width, height) = spec.source.size();
    let (size, sha256) = (bytes.len() as u64, sha256(bytes).await);
    Ok(ImageResult {
        key: key.path(),
        url: store.url(&key).await?,
        format: job.format,
        width,
        height,
        bytes: size,
        sha256,
        seed: job.seed.wrapping_add(u64::from(index)),
    })
}

/// Of up to [`MAX_IMAGE_BYTES`], which takes a while.
async fn sha256(bytes: Bytes) -> String {
    let digest = |bytes: &Bytes| hex(&Sha256::digest(bytes));
    let there = bytes.clone();
    // Not done there, the runtime is ending.
    tokio::task::spawn_blocking(move || digest(&there)).await.unwrap_or_else(|_| digest(&bytes))
}
