//! A job on the engine: its pictures one after the other, and what follows from each of their steps.

use std::{
    any::Any,
    panic::{AssertUnwindSafe, catch_unwind},
    time::{Duration, Instant},
};

use super::{
    Checkpoint, EngineError, EngineTimings, Generated, GenerationRequest, GenerationResponse,
    InferencePipeline, PipelineError,
};
use crate::{
    diffusion::ImageSpec,
    models::{Denoising, Held},
};

/// A job between two steps.
pub(super) struct RunningJob {
    request: GenerationRequest,
    /// Keeps its model in memory between its steps.
    _held: Held,
    denoising: Denoising,
    /// Which picture is being drawn, from 0.
    index: u32,
    /// When it last gave a checkpoint, or began.
    last_checkpoint: Instant,
    timings: EngineTimings,
    warnings: Vec<String>,
}

/// Ends a waiting job that was cancelled or whose time ran out; gives back any other.
pub(super) fn end_early(request: GenerationRequest) -> Option<GenerationRequest> {
    match stop_reason(&request, 0, 0) {
        Some(response) => {
            end(request, response);
            None
        }
        None => Some(request),
    }
}

impl RunningJob {
    /// Loads its model if need be, and begins its first picture or goes on from its checkpoint. `None` when that
    /// failed; the job has had its response.
    pub(super) fn begin(pipeline: &InferencePipeline, mut request: GenerationRequest) -> Option<Self> {
        let mut timings = EngineTimings { queue: request.received.elapsed(), ..EngineTimings::default() };
        let begun = guarded(|| pipeline.hold(&request.model)).and_then(|held| {
            timings.load = held.load.unwrap_or_default();
            let begun = Instant::now();
            let resumed = resume(pipeline, &mut request)?;
            let goes_on = resumed.is_some();
            let (index, denoising) = match resumed {
                Some(resumed) => resumed,
                None => (0, begin_picture(pipeline, &request, 0)?),
            };
            timings.text += begun.elapsed();
            Ok((held, goes_on, index, denoising))
        });
        match begun {
            Ok((held, goes_on, index, denoising)) => {
                let (last_checkpoint, warnings) = (Instant::now(), denoising.warnings());
                let job = Self { request, _held: held, denoising, index, last_checkpoint, timings, warnings };
                if goes_on {
                    job.send(GenerationResponse::Resumed { step: job.step() });
                }
                Some(job)
            }
            Err(error) => {
                end(request, GenerationResponse::Failed(error));
                None
            }
        }
    }

    /// The job, unless it was cancelled or its time ran out: then it has had its response.
    pub(super) fn unless_stopped(mut self) -> Option<Self> {
        let Some(response) = stop_reason(&self.request, self.step(), self.total()) else {
            return Some(self);
        };
        let cancelled = matches!(response, GenerationResponse::Cancelled { step } if step > 0);
        if cancelled && self.request.checkpoint_every.is_some() {
            self.send_checkpoint();
        }
        self.end(response)
    }

    /// What follows from a step, with the picture one further or the step failed: progress, preview, the picture, the
    /// next picture, the end. `took` is the time of the pass, which other jobs may have shared.
    pub(super) fn after_step(
        mut self,
        pipeline: &InferencePipeline,
        step: Result<(), EngineError>,
        took: Duration,
    ) -> Option<Self> {
        self.timings.denoise += took;
        match step.and_then(|()| self.follow_step(pipeline)) {
            Ok(true) => {
                let done = GenerationResponse::Done {
                    timings: self.timings,
                    warnings: std::mem::take(&mut self.warnings),
                };
                self.end(done)
            }
            Ok(false) => Some(self),
            Err(error) => self.end(GenerationResponse::Failed(error)),
        }
    }

    /// The name of its model.
    pub(super) fn model(&self) -> &str {
        &self.request.model
    }

    /// The picture that is being drawn.
    pub(super) fn picture(&self) -> &Denoising {
        &self.denoising
    }

    /// The picture that is being drawn, to be advanced.
    pub(super) fn picture_mut(&mut self) -> &mut Denoising {
        &mut self.denoising
    }

    /// True after the last picture.
    fn follow_step(&mut self, pipeline: &InferencePipeline) -> Result<bool, EngineError> {
        let model = &self.request.model;
        let begun = Instant::now();
        let (step, total) = (self.step(), self.total());
        self.send(GenerationResponse::Progress { step, total });
        let finished = self.denoising.is_done();
        let every = self.request.preview_every;
        if every > 0 && self.denoising.step().is_multiple_of(every) && !finished {
            let image = guarded(|| pipeline.preview(model, &self.denoising))?;
            self.send(GenerationResponse::Preview { step, total, image });
        }
        let due = |every| !finished && self.last_checkpoint.elapsed() >= every;
        if self.request.checkpoint_every.is_some_and(due) {
            self.send_checkpoint();
        }
        self.timings.denoise += begun.elapsed();
        if finished { self.finish_picture(pipeline) } else { Ok(false) }
    }

    fn finish_picture(&mut self, pipeline: &InferencePipeline) -> Result<bool, EngineError> {
        let begun = Instant::now();
        let image = guarded(|| pipeline.finish(&self.request.model, &self.denoising))?;
        self.timings.decode += begun.elapsed();
        for warning in self.denoising.warnings() {
            if !self.warnings.contains(&warning) {
                self.warnings.push(warning);
            }
        }
        let (index, seed) = (self.index, seed(&self.request, self.index));
        let scheduler = self.denoising.scheduler_name();
        self.send(GenerationResponse::Image(Generated { index, seed, scheduler, image }));
        if self.index + 1 == self.request.n {
            return Ok(true);
        }
        self.index += 1;
        let begun = Instant::now();
        self.denoising = begin_picture(pipeline, &self.request, self.index)?;
        self.timings.text += begun.elapsed();
        Ok(false)
    }

    fn send_checkpoint(&mut self) {
        let checkpoint = Checkpoint { index: self.index, progress: self.denoising.progress() };
        self.send(GenerationResponse::Checkpoint(checkpoint));
        self.last_checkpoint = Instant::now();
    }

    #[cfg(test)]
    pub(super) fn seed(&self) -> u64 {
        seed(&self.request, self.index)
    }

    #[cfg(test)]
    pub(super) fn cancel(&self) -> super::CancelFlag {
        self.request.cancel.clone()
    }

    fn step(&self) -> u32 {
        self.index * self.denoising.total() + self.denoising.step()
    }

    fn total(&self) -> u32 {
        self.request.n * self.denoising.total()
    }

    fn send(&self, response: GenerationResponse) {
        send(&self.request, response);
    }

    fn end(self, response: GenerationResponse) -> Option<Self> {
        end(self.request, response);
        None
    }
}

/// The picture that a job's checkpoint is of, and where it was; none when there is none, or it is not of this job.
fn resume(
    pipeline: &InferencePipeline,
    request: &mut GenerationRequest,
) -> Result<Option<(u32, Denoising)>, EngineError> {
    let Some(checkpoint) = request.resume.take() else { return Ok(None) };
    let index = checkpoint.index;
    Ok(checkpoint.restore(pipeline, request)?.map(|denoising| (index, denoising)))
}

/// Begins one of the job's pictures.
pub(super) fn begin_picture(
    pipeline: &InferencePipeline,
    request: &GenerationRequest,
    index: u32,
) -> Result<Denoising, EngineError> {
    let spec = ImageSpec { seed: seed(request, index), ..request.spec.clone() };
    guarded(|| pipeline.begin(&request.model, &spec))
}

fn seed(request: &GenerationRequest, index: u32) -> u64 {
    request.spec.seed.wrapping_add(u64::from(index))
}

fn stop_reason(request: &GenerationRequest, step: u32, total: u32) -> Option<GenerationResponse> {
    if request.cancel.is_set() {
        return Some(GenerationResponse::Cancelled { step });
    }
    (Instant::now() >= request.deadline)
        .then(|| GenerationResponse::Failed(EngineError::DeadlineExceeded { step, total }))
}

fn send(request: &GenerationRequest, response: GenerationResponse) {
    // Nobody listens any more: the job runs on, its next look at the cancel flag decides.
    if request.response_tx.send(response).is_err() {
        tracing::debug!(job_id = %request.job_id, "a response has no reader");
    }
}

/// Gives the slot back before the last word is said, so that who hears it can take the next job.
fn end(request: GenerationRequest, response: GenerationResponse) {
    let GenerationRequest { job_id, permit, response_tx, .. } = request;
    drop(permit);
    if response_tx.send(response).is_err() {
        tracing::warn!(%job_id, "the job's end has no reader");
    }
}

/// Runs model code so that a panic in it fails one job instead of the engine.
pub(super) fn guarded<T>(work: impl FnOnce() -> Result<T, PipelineError>) -> Result<T, EngineError> {
    match catch_unwind(AssertUnwindSafe(work)) {
        Ok(result) => Ok(result?),
        Err(panic) => Err(EngineError::Panicked(panic_message(panic.as_ref()))),
    }
}

fn panic_message(panic: &(dyn Any + Send)) -> String {
    panic
        .downcast_ref::<&str>()
        .map(|text| (*text).to_owned())
        .or_else(|| panic.downcast_ref::<String>().cloned())
        .unwrap_or_else(|| "no message".into())
}
