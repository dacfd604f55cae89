//! A durable job's checkpoints on this worker: the newest is written, one at a time, off the engine's path; and what of a
//! job is there already when another worker's checkpoint is gone on from.

use std::time::Duration;

use sha2::{Digest, Sha256};
use tokio::task::JoinHandle;

use super::{
    checkpoint::{self, Origin},
    context::Context,
};
use crate::{
    contract::{ImageResult, Job, JobId, hex},
    diffusion::ImageSpec,
    engine::Checkpoint,
    http::MAX_IMAGE_BYTES,
    storage::{Key, StorageError, Store},
};

/// The checkpoints of one job.
pub(super) struct Checkpoints {
    store: Store,
    job: JobId,
    origin: Origin,
    /// The time between two; none for a job that would not come again.
    every: Option<Duration>,
    writing: Option<JoinHandle<()>>,
    waiting: Option<Checkpoint>,
    /// Whether one was written here.
    written: bool,
}

/// What a job goes on from.
pub(super) struct Resumed {
    pub checkpoint: Checkpoint,
    /// The pictures that are finished and stored.
    pub images: Vec<ImageResult>,
}

impl Checkpoints {
    /// Of this job with this model; `is_durable`: it comes again when its worker is gone.
    pub fn new(context: &Context, job: &Job, model: &str, is_durable: bool) -> Self {
        let identity = &context.identity;
        Self {
            store: context.store.clone(),
            job: job.id.clone(),
            origin: Origin::new(&job.fingerprint, model, &identity.device, identity.precision),
            every: is_durable.then_some(identity.checkpoint_every),
            writing: None,
            waiting: None,
            written: false,
        }
    }

    /// How often the engine is to give one.
    pub fn every(&self) -> Option<Duration> {
        self.every
    }

    /// Has one written, now or after the one that is being written; of those that wait the newest is kept.
    pub fn put(&mut self, checkpoint: Checkpoint) {
        self.written = true;
        self.waiting = Some(checkpoint);
        if self.writing.as_ref().is_none_or(JoinHandle::is_finished) {
            self.writing = self.waiting.take().map(|checkpoint| self.write(checkpoint));
        }
    }

    fn write(&self, checkpoint: Checkpoint) -> JoinHandle<()> {
        let (store, job, origin) = (self.store.clone(), self.job.clone(), self.origin.clone());
        tokio::spawn(async move {
            if let Err(error) = checkpoint::write(&store, &job, &origin, checkpoint).await {
                tracing::warn!(job_id = %job, %error, "a checkpoint could not be written");
            }
        })
    }

    /// Returns when the last one is written.
    pub async fn finish(&mut self) {
        while let Some(writing) = self.writing.take() {
            if let Err(error) = writing.await {
                tracing::error!(job_id = %self.job, %error, "the writing of a checkpoint was lost");
            }
            self.writing = self.waiting.take().map(|checkpoint| self.write(checkpoint));
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
            checkpoint::remove(&self.store, &self.job).await;
        }
    }

    /// The checkpoint that an earlier worker left, with the pictures that it had finished. Without one of them there is
    /// none: the job begins anew.
    pub async fn resume(&self, job: &Job, spec: &ImageSpec) -> Option<Resumed> {
        let checkpoint = checkpoint::read(&self.store, &self.job, &self.origin).await?;
        let mut images = vec![];
        for index in 0..checkpoint.index {
            match stored_picture(&self.store, job, spec, index).await {
                Ok(image) => images.push(image),
                Err(error) => {
                    tracing::warn!(job_id = %self.job, index, %error, "a picture before the checkpoint is not there");
                    return None;
                }
            }
        }
        Some(Resumed { checkpoint, images })
    }
}

/// What the complete event says of a picture that was stored by another worker.
async fn stored_picture(
    store: &Store,
    job: &Job,
    spec: &ImageSpec,
    index: u32,
) -> Result<ImageResult, StorageError> {
    let key = Key::Image { job: job.id.clone(), index, format: job.format };
    let bytes = store.get(&key, MAX_IMAGE_BYTES).await?;
    let (width, height) = spec.source.size();
    Ok(ImageResult {
        key: key.path(),
        url: store.url(&key).await?,
        format: job.format,
        width,
        height,
        bytes: bytes.len() as u64,
        sha256: hex(&Sha256::digest(&bytes)),
        seed: job.seed.wrapping_add(u64::from(index)),
    })
}
