//! One job from its acceptance to its end: inputs, engine, events, upload, `result.json`, `complete`.

pub mod inputs;
pub mod pictures;
mod progress;

use std::{
    panic::AssertUnwindSafe,
    sync::Arc,
    time::{Duration, Instant},
};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use futures::FutureExt;
use inputs::{Resolved, resolve};
use pictures::{encode_preview, upload};
use progress::{Progress, percent};
use tokio::{
    sync::mpsc::{UnboundedReceiver, unbounded_channel},
    task::JoinSet,
    time::timeout_at,
};

use crate::{
    bus::Delivery,
    contract::{
        CompleteEvent, ErrorCode, Event, EventKind, ImageResult, Job, JobSource, OutputFormat, Timings,
    },
    diffusion::ImageSpec,
    engine::{EngineTimings, GenerationRequest, GenerationResponse, Snapshot},
    models::ModelInfo,
    storage::{Key, StorageError, StoredResult},
    worker::{
        resume::{Resumed, Snapshots},
        shared::{Context, HeldJob, Open, Permits, conflict},
    },
};

/// A job that was taken.
pub struct JobRun {
    pub context: Arc<Context>,
    pub running: Arc<HeldJob>,
    pub job: Job,
    pub model: ModelInfo,
    pub permits: Permits,
    pub received: Instant,
    /// Whether the requester chose the job id: only then may there be a result of it.
    pub named: bool,
    pub limit: TimeLimit,
    pub traceparent: Option<String>,
    /// Whether it is a job of the queue.
    pub is_durable: bool,
    /// Which run of the job this is, from 1.
    pub attempt: u32,
    pub snapshots: Snapshots,
}

/// When a job's time is out.
#[derive(Debug, Clone, Copy)]
pub struct TimeLimit {
    pub at: Instant,
    /// The time that it was given.
    pub allowed: Duration,
}

impl TimeLimit {
    /// The job's own limit counts from its acceptance, `waited` before it was received; the worker's from then.
    pub fn of(job: &Job, limit: Duration, received: Instant, waited: Duration) -> Self {
        let own = job
            .deadline
            .map(|allowed| Self { at: received + allowed.saturating_sub(waited).min(limit), allowed });
        match own {
            Some(own) if own.at < received + limit => own,
            _ => Self { at: received + limit, allowed: limit },
        }
    }
}

/// Why a job did not end in pictures.
pub enum Failure {
    Error(ErrorCode, String),
    Cancelled { step: u32 },
}

impl From<StorageError> for Failure {
    fn from(error: StorageError) -> Self {
        Self::Error(error.code(), error.to_string())
    }
}

impl JobRun {
    /// Runs the job to its end on a task of its own. A durable one has a delivery, which it settles.
    pub fn spawn(self, delivery: Option<Delivery>) {
        match delivery {
            None => tokio::spawn(self.run()),
            Some(delivery) => tokio::spawn(self.run_durable(delivery)),
        };
    }

    async fn run(mut self) {
        let (running, outlet) = (self.running.clone(), Open(self.context.sink.clone()));
        let publisher = tokio::spawn(async move { running.events.publish(&outlet).await });
        let done = self.execute_guarded().await;
        let event = match done {
            Ok(event) => event,
            Err(failure) => self.running.events.build(self.end_of(failure)),
        };
        self.note_end(&event);
        self.give_slot_back();
        self.running.events.repeat(event);
        if let Err(error) = publisher.await {
            tracing::error!(job_id = %self.job.id, %error, "the publisher of a job's events was lost");
        }
        self.context.held.end(&self.running);
    }

    fn end_of(&self, failure: Failure) -> EventKind {
        match failure {
            Failure::Error(code, message) => EventKind::error(code, message),
            Failure::Cancelled { .. } if self.running.is_handed_back() => self.going_away(),
            Failure::Cancelled { step } => EventKind::Cancelled { step },
        }
    }

    pub fn going_away(&self) -> EventKind {
        EventKind::error(ErrorCode::ShuttingDown, "the worker shuts down; try again")
    }

    /// Counts and logs how it ended.
    pub fn note_end(&self, event: &Event) {
        let took = self.received.elapsed();
        self.context.metrics.ended(self.job.capability(), &event.kind, took);
        log_end(event, took);
    }

    /// Where the engine did not have the slot, it is free from here on: before anybody hears of the end.
    pub fn give_slot_back(&mut self) {
        drop(self.permits.take_slot());
        self.context.slots.changed();
    }

    pub fn accepted(&self) -> EventKind {
        let position = self.permits.position();
        EventKind::Accepted { model: self.model.name.clone(), seed: self.job.seed, position }
    }

    /// The complete event; a panic is a failure as any other.
    pub async fn execute_guarded(&mut self) -> Result<Event, Failure> {
        AssertUnwindSafe(self.execute()).catch_unwind().await.unwrap_or_else(|_| {
            Err(Failure::Error(ErrorCode::Internal, "the worker has a defect; its log has more".into()))
        })
    }

    /// The complete event.
    async fn execute(&mut self) -> Result<Event, Failure> {
        let TimeLimit { at: deadline, allowed } = self.limit;
        let late = |what: &str| {
            let message = format!("the deadline of {} ms passed while {what}", allowed.as_millis());
            Failure::Error(ErrorCode::DeadlineExceeded, message)
        };
        if self.named
            && let Some(event) = timeout_at(deadline.into(), self.earlier_result())
                .await
                .map_err(|_| late("looking for an earlier result"))??
        {
            tracing::info!(job_id = %self.job.id, "the job has a result already");
            self.context.metrics.duplicate();
            return Ok(event);
        }
        let Resolved { spec, mut warnings } =
            timeout_at(deadline.into(), self.resolve()).await.map_err(|_| late("reading the inputs"))??;
        if self.running.cancel.is_set() {
            return Err(Failure::Cancelled { step: 0 });
        }
        let spec = Arc::new(spec);
        let earlier = match self.attempt {
            0 | 1 => None,
            _ => timeout_at(deadline.into(), self.snapshots.resume(&self.job, &spec))
                .await
                .map_err(|_| late("reading a snapshot"))?,
        };
        let (resume, mut images) = match earlier {
            Some(Resumed { snapshot, images }) => (Some(snapshot), images),
            None => (None, vec![]),
        };
        let responses = self.hand_to_engine(&spec, deadline, resume)?;
        let mut uploads = JoinSet::new();
        let begun = Instant::now();
        let computed = self.follow(responses, &spec, &mut uploads, &mut images).await;
        match self.is_durable {
            true => self.context.slots.queue_ran(begun.elapsed()),
            false => self.context.slots.changed(),
        }
        let (engine, engine_warnings) = computed?;
        warnings.extend(engine_warnings);
        let computed_at = Instant::now();
        timeout_at(deadline.into(), self.store(engine, warnings, uploads, images, computed_at))
            .await
            .map_err(|_| late("storing the pictures"))?
    }

    /// The complete event of an earlier run of the same request.
    async fn earlier_result(&self) -> Result<Option<Event>, Failure> {
        let Some(StoredResult { fingerprint, mut event }) =
            self.context.store.find_result(&self.job.id).await?
        else {
            return Ok(None);
        };
        if fingerprint != self.job.fingerprint {
            return Err(Failure::Error(ErrorCode::InvalidRequest, conflict(&self.job.id)));
        }
        if let EventKind::Complete(complete) = &mut event.kind {
            // A presigned URL may have run out since.
            for (index, image) in (0..).zip(&mut complete.images) {
                let key = Key::Image { job: self.job.id.clone(), index, format: image.format };
                image.url = self.context.store.url(&key).await?;
            }
        }
        Ok(Some(event))
    }

    async fn resolve(&self) -> Result<Resolved, Failure> {
        let limits = &self.context.identity.limits;
        let loras = self.context.identity.loras.as_ref();
        resolve(&self.job, &self.context.store, limits, &self.model, loras)
            .await
            .map_err(|error| Failure::Error(error.code(), error.to_string()))
    }

    fn hand_to_engine(
        &mut self,
        spec: &ImageSpec,
        deadline: Instant,
        resume: Option<Snapshot>,
    ) -> Result<UnboundedReceiver<GenerationResponse>, Failure> {
        let gone = || Failure::Error(ErrorCode::ShuttingDown, "the worker shuts down; try again".into());
        let queue = self.context.queue().ok_or_else(gone)?;
        let permit = self.permits.take_slot().ok_or_else(gone)?;
        let (response_tx, responses) = unbounded_channel();
        let request = GenerationRequest {
            job_id: self.job.id.clone(),
            model: self.model.name.clone(),
            spec: spec.clone(),
            n: self.job.n,
            preview_every: self.job.preview_every,
            snapshot_every: self.snapshots.every(),
            resume,
            received: self.received,
            deadline,
            cancel: self.running.cancel.clone(),
            permit,
            response_tx,
        };
        queue.add(request).map_err(|_| gone())?;
        // A durable job was accepted before anything of it was read.
        if self.running.events.last().is_none() {
            self.running.events.emit(self.accepted());
        }
        Ok(responses)
    }

    /// Turns the engine's responses into events and starts the upload of each picture. `stored` are the pictures of an
    /// earlier worker; they stay only if the engine goes on from its snapshot.
    async fn follow(
        &mut self,
        mut responses: UnboundedReceiver<GenerationResponse>,
        spec: &Arc<ImageSpec>,
        uploads: &mut JoinSet<Result<ImageResult, Failure>>,
        stored: &mut Vec<ImageResult>,
    ) -> Result<(EngineTimings, Vec<String>), Failure> {
        let running = self.running.clone();
        let events = &running.events;
        let mut progress = Progress::new(self.expected_steps(spec));
        let earlier = std::mem::take(stored);
        loop {
            let response = tokio::select! {
                biased;
                response = timeout_at(progress.repeat_at(), responses.recv()) => response,
                () = self.context.engine_lost() => Ok(None),
            };
            let response = match response {
                Err(_) => {
                    events.emit(progress.tell());
                    continue;
                }
                // The engine was lost, and not by this job: it is given back, unless somebody has cancelled it.
                Ok(None) => {
                    self.context.close();
                    return Err(match running.is_cancelled() {
                        true => Failure::Cancelled { step: progress.at() },
                        false => {
                            let message = "the engine of this worker was lost; try again";
                            Failure::Error(ErrorCode::ShuttingDown, message.into())
                        }
                    });
                }
                Ok(Some(response)) => response,
            };
            match response {
                GenerationResponse::Progress { step, total } => {
                    progress.step(step, total).into_iter().for_each(|kind| events.emit(kind));
                }
                GenerationResponse::Preview { step, total, image } => {
                    if progress.may_preview() {
                        self.emit_preview(step, total, image).await;
                    }
                }
                GenerationResponse::Resumed { step } => {
                    tracing::info!(job_id = %self.job.id, step, "the job goes on from a snapshot");
                    self.context.metrics.resumed();
                    progress.goes_on_from(step);
                    stored.clone_from(&earlier);
                }
                // Of a job that ends here none is needed.
                GenerationResponse::Snapshot(_) if running.is_cancelled() => {}
                GenerationResponse::Snapshot(snapshot) => self.snapshots.put(snapshot),
                GenerationResponse::Image(picture) => {
                    let (context, job) = (self.context.clone(), self.job.clone());
                    let (spec, model) = (spec.clone(), self.model.name.clone());
                    uploads.spawn(async move { upload(&context, job, spec, model, picture).await });
                }
                GenerationResponse::Done { timings, warnings } => return Ok((timings, warnings)),
                GenerationResponse::Failed(error) => {
                    if error.is_of_device() {
                        // Before the job is given back: this worker does not take it again.
                        self.context.close();
                    }
                    return Err(Failure::Error(error.code(), error.to_string()));
                }
                GenerationResponse::Cancelled { step } => return Err(Failure::Cancelled { step }),
            }
        }
    }

    /// Until the engine tells: a strength below 1 runs a part of the schedule.
    fn expected_steps(&self, spec: &ImageSpec) -> u32 {
        let strength = match &self.job.source {
            JobSource::Text { .. } => 1.0,
            JobSource::Image { strength, .. } | JobSource::Inpaint { strength, .. } => *strength,
        };
        let steps = (f64::from(spec.steps) * strength) as u32;
        steps.max(1) * self.job.n
    }

    async fn emit_preview(&self, step: u32, total: u32, image: image::RgbImage) {
        match tokio::task::spawn_blocking(move || encode_preview(&image)).await {
            Ok(Ok(jpeg)) => self.running.events.emit(EventKind::Preview {
                step,
                total,
                percent: percent(step, total),
                image: STANDARD.encode(jpeg),
                format: OutputFormat::Jpeg,
            }),
            Ok(Err(error)) => tracing::warn!(job_id = %self.job.id, %error, "a preview could not be encoded"),
            Err(error) => tracing::warn!(job_id = %self.job.id, %error, "a preview was lost"),
        }
    }

    /// Waits for the uploads and writes `result.json`, last.
    async fn store(
        &self,
        engine: EngineTimings,
        warnings: Vec<String>,
        mut uploads: JoinSet<Result<ImageResult, Failure>>,
        mut images: Vec<ImageResult>,
        computed_at: Instant,
    ) -> Result<Event, Failure> {
        while let Some(uploaded) = uploads.join_next().await {
            let image = uploaded.map_err(|error| {
                Failure::Error(ErrorCode::Internal, format!("storing a picture did not end: {error}"))
            })?;
            images.push(image?);
        }
        // Seeds wrap, keys do not: `jobs/<id>/<index>.<ext>`, of one digit.
        images.sort_by(|a, b| a.key.cmp(&b.key));
        if self.running.is_cancelled() {
            return Err(Failure::Cancelled { step: self.job.n * self.job.steps.unwrap_or(self.model.steps) });
        }
        let event = self.running.events.build(EventKind::Complete(CompleteEvent {
            model: self.model.name.clone(),
            images,
            timings_ms: Timings {
                queue: ms(engine.queue),
                load: ms(engine.load),
                text: ms(engine.text),
                denoise: ms(engine.denoise),
                decode: ms(engine.decode),
                upload: ms(computed_at.elapsed()),
                total: ms(self.received.elapsed()),
            },
            warnings,
        }));
        let result = StoredResult { fingerprint: self.job.fingerprint.clone(), event };
        self.context.store.put_result(&self.job.id, &result).await?;
        Ok(result.event)
    }
}

fn log_end(event: &Event, took: Duration) {
    let (job_id, took_ms) = (&event.job_id, ms(took));
    match &event.kind {
        EventKind::Error { code, message, .. } => {
            tracing::warn!(%job_id, took_ms, %code, %message, "a job failed");
        }
        kind => tracing::info!(%job_id, took_ms, end = kind.name(), "a job ended"),
    }
}

pub fn ms(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}
