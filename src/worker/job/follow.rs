//! What the engine says of a job, turned into events, uploads and snapshots.

use std::{sync::Arc, time::Instant};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use tokio::{sync::mpsc::UnboundedReceiver, task::JoinSet};
use tracing::Instrument;

use super::{
    JobRun,
    outcome::Failure,
    pictures::{Upload, encode_preview},
    progress::{Progress, percent},
};
use crate::{
    contract::{ErrorCode, EventKind, ImageResult, Job, OutputFormat, TraceContext},
    diffusion::ImageSpec,
    engine::{EngineTimings, GenerationResponse},
    worker::{
        own::Title,
        resume::Snapshots,
        shared::{Context, Happened, HeldJob},
    },
};

/// A job in the engine.
pub struct Follow {
    context: Arc<Context>,
    held: Arc<HeldJob>,
    job: Job,
    model: String,
    title: Title,
    trace: Option<TraceContext>,
    spec: Arc<ImageSpec>,
    attempt: u32,
    progress: Progress,
    /// Pictures that an earlier attempt has stored; they stay only if the engine goes on from its snapshot.
    earlier: Vec<ImageResult>,
    stored: Vec<ImageResult>,
    uploads: JoinSet<Result<ImageResult, Failure>>,
}

/// A job whose pictures are drawn, and on their way into the store.
pub struct Drawn {
    pub timings: EngineTimings,
    pub warnings: Vec<String>,
    /// When the last was drawn.
    pub at: Instant,
    stored: Vec<ImageResult>,
    uploads: JoinSet<Result<ImageResult, Failure>>,
}

impl Follow {
    /// A job that was handed to the engine. `earlier` are the pictures that an earlier attempt has stored.
    pub fn new(
        run: &JobRun,
        title: Title,
        spec: Arc<ImageSpec>,
        attempt: u32,
        earlier: Vec<ImageResult>,
    ) -> Self {
        Self {
            context: run.context.clone(),
            held: run.hold.job.clone(),
            job: run.job.clone(),
            model: run.model.name.clone(),
            title,
            trace: run.trace.run(),
            spec,
            attempt,
            progress: Progress::new(run.steps_in_all()),
            earlier,
            stored: vec![],
            uploads: JoinSet::new(),
        }
    }

    /// Returns when the engine has drawn the last picture.
    pub async fn until_drawn(
        &mut self,
        mut responses: UnboundedReceiver<GenerationResponse>,
        snapshots: &mut Snapshots,
    ) -> Result<Drawn, Failure> {
        loop {
            let response = tokio::select! {
                biased;
                response = responses.recv() => response,
                () = self.context.engine_lost() => None,
            };
            // The engine was lost, and not by this job.
            let Some(response) = response else {
                self.context.close();
                return Err(match self.held.is_given_up() {
                    true => Failure::Stopped { step: self.progress.at() },
                    false => Failure::Device("the engine of this worker was lost; try again".into()),
                });
            };
            match response {
                GenerationResponse::Progress { step, total, took } => {
                    self.context.metrics.passed(&self.model, step.saturating_sub(self.progress.at()), took);
                    self.progress
                        .step(step, total, took)
                        .into_iter()
                        .for_each(|kind| self.held.events.emit(kind));
                }
                GenerationResponse::Preview { step, total, image } => {
                    self.tell_preview(step, total, image).await;
                }
                GenerationResponse::Resumed { step } => {
                    tracing::info!(step, "the job goes on from a snapshot");
                    self.context.metrics.note(Happened::Resumed);
                    self.progress.goes_on_from(step);
                    self.stored = std::mem::take(&mut self.earlier);
                }
                // Of a job that ends here none is needed.
                GenerationResponse::Snapshot(_) if self.held.is_given_up() => {}
                GenerationResponse::Snapshot(snapshot) => snapshots.put(snapshot, self.attempt),
                GenerationResponse::Image(picture) => {
                    let upload = Upload {
                        context: self.context.clone(),
                        job: self.job.clone(),
                        spec: self.spec.clone(),
                        model: self.model.clone(),
                        attempt: self.attempt,
                        title: self.title.clone(),
                        trace: self.trace,
                    };
                    self.uploads.spawn(upload.run(picture).in_current_span());
                }
                GenerationResponse::Done { timings, warnings } => {
                    let stored = std::mem::take(&mut self.stored);
                    let uploads = std::mem::take(&mut self.uploads);
                    return Ok(Drawn { timings, warnings, at: Instant::now(), stored, uploads });
                }
                GenerationResponse::Failed(error) if error.is_of_device() => {
                    // Before the job is given back: this worker does not take it again.
                    self.context.close();
                    return Err(Failure::Device(error.to_string()));
                }
                GenerationResponse::Failed(error) => {
                    return Err(Failure::Error(error.code(), error.to_string()));
                }
                GenerationResponse::Cancelled { step } => return Err(Failure::Stopped { step }),
            }
        }
    }

    async fn tell_preview(&self, step: u32, total: u32, image: image::RgbImage) {
        match tokio::task::spawn_blocking(move || encode_preview(&image)).await {
            Ok(Ok(jpeg)) => self.held.events.emit(EventKind::Preview {
                step,
                total,
                percent: percent(step, total),
                image: STANDARD.encode(jpeg),
                format: OutputFormat::Jpeg,
            }),
            Ok(Err(error)) => tracing::warn!(%error, "a preview could not be encoded"),
            Err(error) => tracing::warn!(%error, "a preview was lost"),
        }
    }
}

impl Drawn {
    /// Waits until every picture is stored; they are in the order of their indices.
    pub async fn stored(&mut self) -> Result<Vec<ImageResult>, Failure> {
        while let Some(uploaded) = self.uploads.join_next().await {
            let image = uploaded.map_err(|error| {
                Failure::Error(ErrorCode::Internal, format!("storing a picture did not end: {error}"))
            })?;
            self.stored.push(image?);
        }
        // Seeds wrap, keys do not: they begin with the index, of one digit.
        self.stored.sort_by(|a, b| a.key.cmp(&b.key));
        Ok(std::mem::take(&mut self.stored))
    }
}
