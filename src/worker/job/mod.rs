//! One job on this worker: claimed, its inputs read, drawn, its pictures stored, concluded. [`JobRun::run`] is the story.

mod follow;
pub mod inputs;
mod limit;
mod notes;
mod outcome;
pub mod pictures;
mod progress;
mod trace;

use std::{
    panic::AssertUnwindSafe,
    sync::Arc,
    time::{Duration, Instant},
};

use follow::{Drawn, Follow};
use futures::FutureExt;
use inputs::{Resolved, check_loras, resolve};
use limit::TimeLimit;
use notes::notes;
#[cfg(test)]
pub use outcome::RETRY_AFTER;
use outcome::{Failure, Standing, fate};
use tokio::sync::mpsc::{UnboundedReceiver, unbounded_channel};
pub use trace::JobTrace;
use trace::Run;
use tracing::Instrument;

use crate::{
    bus::Delivery,
    contract::{CompleteEvent, ErrorCode, EventKind, Job, JobSource, MaskResult, Timings},
    diffusion::ImageSpec,
    engine::{GenerationRequest, GenerationResponse, Snapshot},
    models::ModelInfo,
    storage::StoredResult,
    worker::{
        own::{Claimed, Claiming, Fate, Ours, Ownership, leave_to_others, others_after, tell_readers},
        resume::{Resumed, Snapshots},
        shared::{Context, Happened, Hold, Permits},
    },
};

/// A job that was taken.
pub struct JobRun {
    pub context: Arc<Context>,
    pub hold: Hold,
    pub job: Job,
    pub model: ModelInfo,
    pub permits: Permits,
    pub received: Instant,
    /// Whether the requester chose the job id.
    pub is_named: bool,
    /// The client of queen's that sent it, kept with the result.
    pub owner: Option<String>,
    pub trace: JobTrace,
}

impl JobRun {
    /// Runs the job to its end on a task of its own. One of the queue has a delivery, which is settled.
    pub fn spawn(self, delivery: Option<Delivery>) {
        let span = tracing::info_span!("job", job_id = %self.job.id, trace_id = self.trace.id());
        tokio::spawn(self.run(delivery).instrument(span));
    }

    async fn run(mut self, delivery: Option<Delivery>) {
        self.note_delivery(delivery.as_ref());
        let Some(delivery) = self.leave_if_unable(delivery).await else { return };
        let mut snapshots = Snapshots::new(&self.context, &self.job, &self.model, delivery.is_some());
        let Ours { ownership, attempt, waited, earlier, before } = match self.claiming().claim(delivery).await
        {
            Claimed::Ours(ours) => *ours,
            Claimed::Over { has_ended } => {
                self.give_slot_back();
                if has_ended {
                    snapshots.remove(true).await;
                }
                return;
            }
        };
        let deadline = self.context.identity.limits.deadline;
        let limit = TimeLimit::of(&self.job, deadline, self.received, waited);
        let done = match earlier {
            Some(event) => {
                tracing::info!("the job has a result already");
                self.context.metrics.note(Happened::Duplicate);
                Ok(self.context.renewed(event).await.kind)
            }
            None => self.draw_guarded(&ownership, &mut snapshots, attempt, limit).await,
        };
        self.give_slot_back();
        let fate = match done {
            Ok(kind) => Fate::End { kind, is_done: true },
            Err(failure) => fate(failure, self.standing(&ownership, limit)),
        };
        self.note_end(&fate);
        let (begun, is_queued) = (self.received, ownership.is_queued());
        self.trace.over(&self.job, &self.model.name, Run { begun, is_queued, attempt, fate: &fate, before });
        ownership.conclude(fate, &mut snapshots).await;
    }

    /// The complete event; a panic is a failure as any other.
    async fn draw_guarded(
        &mut self,
        ownership: &Ownership,
        snapshots: &mut Snapshots,
        attempt: u32,
        limit: TimeLimit,
    ) -> Result<EventKind, Failure> {
        let drawing = self.draw(ownership, snapshots, attempt, limit);
        AssertUnwindSafe(drawing).catch_unwind().await.unwrap_or_else(|_| {
            Err(Failure::Error(ErrorCode::Internal, "the worker has a defect; its log has more".into()))
        })
    }

    /// Inputs, engine, pictures, `result.json`: the complete event.
    async fn draw(
        &mut self,
        ownership: &Ownership,
        snapshots: &mut Snapshots,
        attempt: u32,
        limit: TimeLimit,
    ) -> Result<EventKind, Failure> {
        limit.check()?;
        let Resolved { spec, mask, warnings } =
            limit.within("reading the inputs", self.resolve(attempt)).await??;
        let mut warnings = [notes(&self.job), warnings].concat();
        if self.hold.job.stopped().is_some() {
            return Err(Failure::Stopped { step: 0 });
        }
        let spec = Arc::new(spec);
        limit
            .within("reading the LoRAs", snapshots.identify_files(self.context.identity.folders(), &spec))
            .await?;
        let earlier = match attempt {
            0 | 1 => None,
            _ => {
                limit.within("reading a snapshot", snapshots.resume(&self.job, &spec, &mut warnings)).await?
            }
        };
        let (resume, stored) = match earlier {
            Some(Resumed { snapshot, images }) => (Some(snapshot), images),
            None => (None, vec![]),
        };
        let responses = self.hand_to_engine(&spec, limit, snapshots.every(), resume)?;
        let begun = Instant::now();
        let mut follow = Follow::new(self, ownership.title(), spec, attempt, stored);
        let computed = follow.until_drawn(responses, snapshots).await;
        match ownership.is_queued() {
            true => self.context.slots.queue_ran(begun.elapsed()),
            false => self.context.slots.changed(),
        }
        let drawn = computed?;
        warnings.extend(drawn.warnings.iter().cloned());
        limit.within("storing the pictures", self.store(ownership, drawn, mask, warnings)).await?
    }

    async fn resolve(&self, attempt: u32) -> Result<Resolved, Failure> {
        let resolved = resolve(&self.context, &self.job, &self.model, attempt).await;
        resolved.map_err(|error| match error.is_of_this_worker() {
            true => Failure::Elsewhere(error.code(), error.to_string()),
            false => Failure::Error(error.code(), error.to_string()),
        })
    }

    fn hand_to_engine(
        &mut self,
        spec: &ImageSpec,
        limit: TimeLimit,
        snapshot_every: Option<Duration>,
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
            snapshot_every,
            resume,
            received: self.received,
            deadline: limit.at,
            cancel: self.hold.job.cancel.clone(),
            permit,
            response_tx,
        };
        queue.add(request).map_err(|_| gone())?;
        Ok(responses)
    }

    /// Waits for the uploads and writes `result.json`, last.
    async fn store(
        &self,
        ownership: &Ownership,
        mut drawn: Drawn,
        mask: Option<MaskResult>,
        warnings: Vec<String>,
    ) -> Result<EventKind, Failure> {
        let images = drawn.stored().await?;
        if self.hold.job.is_given_up() || !ownership.title().still_ours().await {
            return Err(Failure::Stopped { step: self.steps_in_all() });
        }
        let engine = drawn.timings;
        self.context.metrics.drawn(&self.model.name, &engine, self.steps_in_all());
        self.trace.drawn(&engine, drawn.at);
        let event = self.hold.job.events.build(EventKind::Complete(CompleteEvent {
            model: self.model.name.clone(),
            images,
            timings_ms: Timings {
                queue: ms(engine.queue),
                load: ms(engine.load),
                text: ms(engine.text),
                denoise: ms(engine.denoise),
                decode: ms(engine.decode),
                upload: ms(drawn.at.elapsed()),
                total: ms(self.received.elapsed()),
            },
            mask: mask.map(Box::new),
            warnings,
        }));
        let result = StoredResult {
            fingerprint: self.job.fingerprint.written().to_owned(),
            owner: self.owner.clone(),
            event,
        };
        self.context.store.put_result(&self.job.id, &result).await?;
        Ok(result.event.kind)
    }

    /// A job of the queue that asks for files which are not here is left to other workers, before anything is written of it.
    async fn leave_if_unable(&self, delivery: Option<Delivery>) -> Option<Option<Delivery>> {
        let Some(delivery) = delivery else { return Some(None) };
        let missing = match check_loras(&self.job.loras, self.context.identity.loras.as_ref()).await {
            Err(missing) if missing.is_of_this_worker() => missing,
            // What is wrong with any worker ends the job when it is claimed.
            Ok(()) | Err(_) => return Some(Some(delivery)),
        };
        let Job { id, fingerprint, deadline, .. } = &self.job;
        self.hold.job.events.leave(EventKind::error(missing.code(), missing.to_string()));
        tell_readers(&self.context, &self.hold.job).await;
        leave_to_others(&self.context, id, fingerprint, *deadline, delivery, &missing.to_string()).await;
        None
    }

    fn claiming(&self) -> Claiming<'_> {
        self.hold.job.events.expect(self.steps_in_all());
        let position = self.permits.position();
        Claiming {
            context: &self.context,
            held: &self.hold.job,
            job: &self.job,
            is_named: self.is_named,
            traceparent: self.trace.traceparent.clone(),
            accepted: EventKind::Accepted { model: self.model.name.clone(), seed: self.job.seed, position },
        }
    }

    fn standing(&self, ownership: &Ownership, limit: TimeLimit) -> Standing {
        Standing {
            stop: self.hold.job.stopped(),
            is_queued: ownership.is_queued(),
            failures: ownership.failures(),
            others_after: others_after(ownership.times()),
            attempt: self.hold.job.events.attempt(),
            has_own_limit: limit.is_own,
        }
    }

    /// What the request lets expect: a strength below 1 runs a part of the schedule.
    fn steps_in_all(&self) -> u32 {
        let strength = match &self.job.source {
            JobSource::Text { .. } => 1.0,
            JobSource::Image { strength, .. } | JobSource::Inpaint { strength, .. } => *strength,
        };
        let steps = (f64::from(self.job.steps.unwrap_or(self.model.steps)) * strength) as u32;
        steps.max(1) * self.job.n
    }

    /// Where the engine did not have the slot, it is free from here on: before anybody hears of the end.
    fn give_slot_back(&mut self) {
        drop(self.permits.take_slot());
        self.context.slots.changed();
    }

    fn note_delivery(&self, delivery: Option<&Delivery>) {
        if let Some(delivery) = delivery.filter(|delivery| delivery.times > 1) {
            self.context.metrics.note(Happened::Redelivered);
            tracing::info!(times = delivery.times, "a job is delivered again");
        }
    }

    /// Counts and logs how it ended.
    fn note_end(&self, fate: &Fate) {
        let (metrics, model) = (&self.context.metrics, &self.model.name);
        let kind = match fate {
            Fate::End { kind, .. } => kind.clone(),
            Fate::Bury(code, message) => EventKind::error(*code, message.clone()),
            Fate::Retry(code, ..) => return metrics.failed(model, *code),
            Fate::GiveBack(_) => return,
        };
        if let EventKind::Error { code, .. } = &kind {
            metrics.failed(model, *code);
        }
        let took = self.received.elapsed();
        metrics.ended(self.job.capability(), model, &kind, took);
        match kind {
            EventKind::Error { code, message, .. } => {
                tracing::warn!(took_ms = ms(took), %code, %message, "a job failed");
            }
            kind => tracing::info!(took_ms = ms(took), end = kind.name(), "a job ended"),
        }
    }
}

fn ms(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}
