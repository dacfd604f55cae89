//! A job on the engine: its pictures, a few at a time, and what follows from each of their steps.

use std::{
    panic::{AssertUnwindSafe, catch_unwind},
    time::{Duration, Instant},
};

use super::{
    EngineError, EngineTimings, Generated, GenerationRequest, GenerationResponse, InferencePipeline,
    PipelineError, Snapshot,
};
use crate::{
    contract::ErrorCode,
    diffusion::ImageSpec,
    models::{Held, Picture, panic_message},
};

/// Pictures of one job that are drawn together at most, where the model shares passes among them. What each keeps
/// between steps counts towards the size of a snapshot.
pub(super) const MOST_TOGETHER: usize = 8;

/// The shortest time between two previews of a job.
pub const PREVIEW_EVERY: Duration = Duration::from_secs(1);

/// A job between two steps.
pub(super) struct RunningJob {
    request: GenerationRequest,
    /// Keeps its model in memory between its steps.
    _held: Held,
    /// Which of its pictures is the first of `pictures`, from 0. Those before it are finished.
    first: u32,
    /// Pictures that are drawn together, in their order: one at least. They have the same steps.
    pictures: Vec<Picture>,
    /// When it last gave a snapshot, or began.
    last_snapshot: Instant,
    /// When it last gave a preview.
    last_preview: Option<Instant>,
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
    /// Begins its first pictures, or goes on from its snapshot. `None` when that failed; the job has had its response.
    pub(super) fn begin(
        pipeline: &InferencePipeline,
        mut request: GenerationRequest,
        held: Result<Held, EngineError>,
    ) -> Option<Self> {
        let mut timings = EngineTimings { queue: request.received.elapsed(), ..EngineTimings::default() };
        let begun = held.and_then(|held| {
            timings.load = held.load.unwrap_or_default();
            timings.queue = timings.queue.saturating_sub(timings.load);
            let begun = Instant::now();
            let resumed = resume(pipeline, &mut request)?;
            let goes_on = resumed.is_some();
            let (first, pictures) = match resumed {
                Some(resumed) => resumed,
                None => (0, begin_pictures(pipeline, &request, 0)?),
            };
            timings.text += begun.elapsed();
            Ok((held, goes_on, first, pictures))
        });
        match begun {
            Ok((held, goes_on, first, pictures)) => {
                let last_snapshot = Instant::now();
                let mut job = Self {
                    request,
                    _held: held,
                    first,
                    pictures,
                    last_snapshot,
                    last_preview: None,
                    timings,
                    warnings: Vec::new(),
                };
                job.keep_warnings();
                if goes_on {
                    job.send(GenerationResponse::Resumed { step: job.step() });
                }
                Some(job)
            }
            Err(error) => {
                let error = pipeline.failed(&request.model, error);
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
        if cancelled && self.request.snapshot_every.is_some() {
            self.send_snapshot();
        }
        self.end(response)
    }

    /// The job, unless it was cancelled. A drawn picture is decoded even when the job's time ran out in its last step.
    pub(super) fn unless_cancelled(self) -> Option<Self> {
        if self.request.cancel.is_set() { self.unless_stopped() } else { Some(self) }
    }

    /// What follows from a step of some of its pictures, with each of them one further or the step failed: progress,
    /// preview, snapshot, the end. `took` is the time of the pass, which other jobs may have shared.
    pub(super) fn after_step(
        mut self,
        pipeline: &InferencePipeline,
        step: Result<(), EngineError>,
        took: Duration,
    ) -> Option<Self> {
        self.timings.denoise += took;
        match step.and_then(|()| self.follow_step(pipeline, took)) {
            Ok(()) => Some(self),
            Err(error) => self.fail(pipeline, error),
        }
    }

    /// Whether its pictures have gone their last step, and wait to be decoded.
    pub(super) fn is_drawn(&self) -> bool {
        self.pictures.iter().all(Picture::is_done)
    }

    /// Decodes the first of its pictures, and after the last of them begins the next ones or ends.
    pub(super) fn finish_picture(mut self, pipeline: &InferencePipeline) -> Option<Self> {
        match self.decode(pipeline) {
            Ok(true) => {
                let done = GenerationResponse::Done {
                    timings: self.timings,
                    warnings: std::mem::take(&mut self.warnings),
                };
                pipeline.succeeded();
                self.end(done)
            }
            Ok(false) => Some(self),
            Err(error) => self.fail(pipeline, error),
        }
    }

    /// Ends it because its device is of no use any more.
    pub(super) fn leave(self, reason: &str) {
        self.end(GenerationResponse::Failed(EngineError::Device(reason.to_owned())));
    }

    /// The name of its model.
    pub(super) fn model(&self) -> &str {
        &self.request.model
    }

    /// The pictures that are being drawn.
    pub(super) fn pictures(&self) -> &[Picture] {
        &self.pictures
    }

    /// The pictures that are being drawn, to be advanced.
    pub(super) fn pictures_mut(&mut self) -> &mut [Picture] {
        &mut self.pictures
    }

    fn follow_step(&mut self, pipeline: &InferencePipeline, took: Duration) -> Result<(), EngineError> {
        let begun = Instant::now();
        let (step, total) = (self.step(), self.total());
        self.send(GenerationResponse::Progress { step, total, took });
        let drawn = self.is_drawn();
        let (every, picture) = (self.request.preview_every, &self.pictures[0]);
        // More than are told need not be decoded: they would hold up the jobs of the same turn.
        let may_preview = self.last_preview.is_none_or(|at| at.elapsed() >= PREVIEW_EVERY);
        if every > 0 && picture.step().is_multiple_of(every) && !drawn && may_preview {
            let image = guarded(|| pipeline.preview(&self.request.model, picture))?;
            self.last_preview = Some(begun);
            self.send(GenerationResponse::Preview { step, total, image });
        }
        let due = |every| !drawn && self.last_snapshot.elapsed() >= every;
        if self.request.snapshot_every.is_some_and(due) {
            self.send_snapshot();
        }
        self.timings.denoise += begun.elapsed();
        Ok(())
    }

    /// True after the job's last picture.
    fn decode(&mut self, pipeline: &InferencePipeline) -> Result<bool, EngineError> {
        let begun = Instant::now();
        let model = &self.request.model;
        let image = with_room(pipeline, || pipeline.finish(model, &self.pictures[0]))?;
        self.timings.decode += begun.elapsed();
        self.keep_warnings();
        let picture = self.pictures.remove(0);
        let (index, seed) = (self.first, seed(&self.request, self.first));
        let scheduler = picture.scheduler_name();
        self.send(GenerationResponse::Image(Generated { index, seed, scheduler, image }));
        self.first += 1;
        if self.first == self.request.n {
            return Ok(true);
        }
        if self.pictures.is_empty() {
            let begun = Instant::now();
            self.pictures = begin_pictures(pipeline, &self.request, self.first)?;
            self.timings.text += begun.elapsed();
        }
        Ok(false)
    }

    fn keep_warnings(&mut self) {
        for warning in self.pictures.iter().flat_map(Picture::warnings) {
            if !self.warnings.contains(&warning) {
                self.warnings.push(warning);
            }
        }
    }

    fn send_snapshot(&mut self) {
        let pictures = self.pictures.iter().map(Picture::progress).collect();
        self.send(GenerationResponse::Snapshot(Snapshot { index: self.first, pictures }));
        self.last_snapshot = Instant::now();
    }

    #[cfg(test)]
    pub(super) fn seed(&self) -> u64 {
        seed(&self.request, self.first)
    }

    #[cfg(test)]
    pub(super) fn cancel(&self) -> super::CancelFlag {
        self.request.cancel.clone()
    }

    fn step(&self) -> u32 {
        let total = self.pictures.first().map_or(0, Picture::total);
        self.first * total + self.pictures.iter().map(Picture::step).sum::<u32>()
    }

    fn total(&self) -> u32 {
        self.request.n * self.pictures.first().map_or(0, Picture::total)
    }

    fn send(&self, response: GenerationResponse) {
        send(&self.request, response);
    }

    fn fail(self, pipeline: &InferencePipeline, error: EngineError) -> Option<Self> {
        let error = pipeline.failed(&self.request.model, error);
        self.end(GenerationResponse::Failed(error))
    }

    fn end(self, response: GenerationResponse) -> Option<Self> {
        end(self.request, response);
        None
    }
}

/// The pictures that a job's snapshot is of, as they were, with the index of the first; none when there is no
/// snapshot, or it is not of this job.
fn resume(
    pipeline: &InferencePipeline,
    request: &mut GenerationRequest,
) -> Result<Option<(u32, Vec<Picture>)>, EngineError> {
    let Some(snapshot) = request.resume.take() else { return Ok(None) };
    let first = snapshot.index;
    Ok(snapshot.restore(pipeline, request)?.map(|pictures| (first, pictures)))
}

/// Begins picture `first` of the job, and those after it that the model draws together with it.
fn begin_pictures(
    pipeline: &InferencePipeline,
    request: &GenerationRequest,
    first: u32,
) -> Result<Vec<Picture>, EngineError> {
    let together = guarded(|| pipeline.pictures_together(&request.model))?.clamp(1, MOST_TOGETHER);
    let last = first.saturating_add(together as u32).min(request.n).max(first + 1);
    (first..last).map(|index| begin_picture(pipeline, request, index)).collect()
}

/// Begins one of the job's pictures.
pub(super) fn begin_picture(
    pipeline: &InferencePipeline,
    request: &GenerationRequest,
    index: u32,
) -> Result<Picture, EngineError> {
    let spec = ImageSpec { seed: seed(request, index), ..request.spec.clone() };
    with_room(pipeline, || pipeline.begin(&request.model, &spec))
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
pub(super) fn end(request: GenerationRequest, response: GenerationResponse) {
    let GenerationRequest { job_id, permit, response_tx, .. } = request;
    drop(permit);
    if response_tx.send(response).is_err() {
        tracing::warn!(%job_id, "the job's end has no reader");
    }
}

/// Runs model code, guarded. Where the device runs out of memory, what it can do without is put out, and the work is
/// done once more.
pub(super) fn with_room<T>(
    pipeline: &InferencePipeline,
    mut work: impl FnMut() -> Result<T, PipelineError>,
) -> Result<T, EngineError> {
    let done = guarded(&mut work);
    if done.as_ref().is_err_and(|error| error.code() == ErrorCode::OutOfMemory) {
        pipeline.tally().ran_out();
    }
    match done {
        Err(error) if error.code() == ErrorCode::OutOfMemory && pipeline.make_room() => {
            tracing::warn!(%error, "the device ran out of memory; it is tried again with what is free now");
            guarded(work)
        }
        other => other,
    }
}

/// Runs model code so that a panic in it fails one job instead of the engine.
pub(super) fn guarded<T>(work: impl FnOnce() -> Result<T, PipelineError>) -> Result<T, EngineError> {
    match catch_unwind(AssertUnwindSafe(work)) {
        Ok(result) => Ok(result?),
        Err(panic) => Err(EngineError::Panicked(panic_message(panic.as_ref()))),
    }
}
