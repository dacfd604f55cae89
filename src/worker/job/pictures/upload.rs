//! A finished picture's way into the store.

use std::{sync::Arc, time::Instant};

use super::encode::encode;
use crate::{
    contract::{ErrorCode, ImageResult, Job, TraceContext},
    diffusion::ImageSpec,
    engine::Generated,
    storage::Key,
    traces::{self, Span},
    worker::{job::outcome::Failure, own::Title, shared::Context},
};

/// What the pictures of a job are stored with.
pub struct Upload {
    pub(in crate::worker) context: Arc<Context>,
    pub(in crate::worker) job: Job,
    pub(in crate::worker) spec: Arc<ImageSpec>,
    pub(in crate::worker) model: String,
    pub(in crate::worker) attempt: u32,
    pub(in crate::worker) title: Title,
    /// What its spans are parts of.
    pub(in crate::worker) trace: Option<TraceContext>,
}

impl Upload {
    /// Encodes a picture and stores it, if the job is still this worker's.
    pub async fn run(self, picture: Generated) -> Result<ImageResult, Failure> {
        let Self { context, job, spec, model, attempt, title, trace } = self;
        let told = move |name: &str, begun: Instant| {
            if let Some(trace) = trace {
                traces::record(Span::of(trace, name, begun, Instant::now()));
            }
        };
        let defect = |error: String| Failure::Error(ErrorCode::Internal, error);
        let (width, height) = picture.image.dimensions();
        let (index, seed) = (picture.index, picture.seed);
        let key = Key::Image { job: job.id.clone(), index, attempt, format: job.format };
        let format = job.format;
        let (metrics, of) = (context.metrics.clone(), model.clone());
        let turn =
            context.encoders.clone().acquire_owned().await.map_err(|error| defect(error.to_string()))?;
        let encoding = tokio::task::spawn_blocking(move || {
            let begun = Instant::now();
            let encoded = encode(&job, &spec, &model, &picture);
            metrics.encoded(&model, begun.elapsed());
            told("encode", begun);
            drop(turn);
            encoded
        });
        let encoded = encoding
            .await
            .map_err(|error| defect(format!("encoding did not end: {error}")))?
            .map_err(|error| defect(error.to_string()))?;
        if !title.still_ours().await {
            return Err(Failure::Stopped { step: 0 });
        }
        let bytes = encoded.bytes.len() as u64;
        let begun = Instant::now();
        context.store.put(&key, encoded.bytes, format.content_type()).await?;
        context.metrics.stored(&of, begun.elapsed());
        told("upload", begun);
        Ok(ImageResult {
            key: key.path(),
            url: context.store.url(&key).await?,
            format,
            width,
            height,
            bytes,
            sha256: encoded.sha256,
            seed,
        })
    }
}
