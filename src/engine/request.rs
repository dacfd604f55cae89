//! What goes into the engine and what comes out. A request is self-contained: it carries its permit and its way back.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use image::RgbImage;
use tokio::sync::{OwnedSemaphorePermit, mpsc};

use super::{PipelineError, Snapshot};
use crate::{
    contract::{ErrorCode, JobId},
    diffusion::{ImageSpec, says_device_failed},
    models::ModelError,
};

/// A job for the engine.
#[derive(Debug)]
pub struct GenerationRequest {
    /// The job, for the log.
    pub job_id: JobId,
    /// The model by name.
    pub model: String,
    /// The first picture; picture i uses seed + i (wrapping).
    pub spec: ImageSpec,
    /// How many pictures.
    pub n: u32,
    /// Steps between previews; 0: none.
    pub preview_every: u32,
    /// Time between two snapshots; none: it gives none.
    pub snapshot_every: Option<Duration>,
    /// What it goes on from. One that is not of this job is logged, and the job starts over.
    pub resume: Option<Snapshot>,
    /// When the worker received the job.
    pub received: Instant,
    /// When its time is out.
    pub deadline: Instant,
    /// Set to stop it at the next step.
    pub cancel: CancelFlag,
    /// The slot; given back when the last picture has left the device.
    pub permit: OwnedSemaphorePermit,
    /// Where its responses go: a few a step at most, and the last ends it.
    pub response_tx: mpsc::UnboundedSender<GenerationResponse>,
}

/// What the engine says of a job. `Done`, `Failed` and `Cancelled` are the last word, exactly one of them;
/// the slot is free by then.
#[derive(Debug)]
pub enum GenerationResponse {
    /// It goes on from its snapshot; before anything else.
    Resumed {
        /// Steps, over all pictures, that are not computed again.
        step: u32,
    },
    /// A denoising step was done; both numbers are over all pictures.
    Progress {
        /// Steps done.
        step: u32,
        /// Steps in all.
        total: u32,
        /// Time of the pass that did it, which other pictures may have shared.
        took: Duration,
    },
    /// How the present picture looks now.
    Preview {
        /// Steps done.
        step: u32,
        /// Steps in all.
        total: u32,
        /// At most 256 pixels a side.
        image: RgbImage,
    },
    /// What another engine would go on from, as the last step left it: every `snapshot_every`, and before
    /// `Cancelled` when a step was done. A copy of numbers: it is encoded by whoever keeps it.
    Snapshot(Snapshot),
    /// A picture is finished.
    Image(Generated),
    /// Every picture was sent.
    Done {
        /// Where the time went.
        timings: EngineTimings,
        /// What the sender should know.
        warnings: Vec<String>,
    },
    /// It failed.
    Failed(EngineError),
    /// It was cancelled.
    Cancelled {
        /// Steps done by then.
        step: u32,
    },
}

/// A finished picture.
#[derive(Debug, Clone)]
pub struct Generated {
    /// Which of the job's pictures, from 0.
    pub index: u32,
    /// The seed that draws it alone.
    pub seed: u64,
    /// The scheduler that was used, by its contract name.
    pub scheduler: &'static str,
    /// The pixels.
    pub image: RgbImage,
}

/// Where the engine's time on a job went.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct EngineTimings {
    /// From receipt to the first work on it.
    pub queue: Duration,
    /// Loading the model; none when it was in memory.
    pub load: Duration,
    /// Text encoder, and VAE encode of inputs.
    pub text: Duration,
    /// The passes that it went its steps in, each counted whole however many jobs shared it, and its previews.
    pub denoise: Duration,
    /// VAE decode.
    pub decode: Duration,
}

/// Why the engine could not finish a job.
#[derive(Debug, thiserror::Error)]
pub enum EngineError {
    /// The model refused or failed.
    #[error(transparent)]
    Pipeline(#[from] PipelineError),
    /// Its time ran out.
    #[error("the deadline passed after {step} of {total} steps")]
    DeadlineExceeded {
        /// Steps done.
        step: u32,
        /// Steps in all; 0 while it had not begun.
        total: u32,
    },
    /// A defect: the code for the model panicked. The engine goes on.
    #[error("the model panicked: {0}")]
    Panicked(String),
    /// The device computes no more. The job has not failed; another worker goes on with it.
    #[error("the device of this worker failed: {0}; try again")]
    Device(String),
}

impl EngineError {
    /// The code on the wire. That of a device which failed is the code of a worker that ends, for it does.
    pub fn code(&self) -> ErrorCode {
        match self {
            _ if self.is_of_device() => ErrorCode::ShuttingDown,
            Self::Pipeline(error) => error.code(),
            Self::DeadlineExceeded { .. } => ErrorCode::DeadlineExceeded,
            Self::Panicked(_) | Self::Device(_) => ErrorCode::Internal,
        }
    }

    /// Whether there is no room for a model beside others that are held, which passes.
    pub(super) fn is_for_now(&self) -> bool {
        match self {
            Self::Pipeline(PipelineError::Model(ModelError::NoRoom { busy, .. })) => !busy.is_empty(),
            Self::Pipeline(_) | Self::DeadlineExceeded { .. } | Self::Panicked(_) | Self::Device(_) => false,
        }
    }

    /// Whether the device failed, and not the job: the job is given back without counting as a failure, and this worker
    /// takes no other.
    pub fn is_of_device(&self) -> bool {
        match self {
            Self::Pipeline(error) => error.is_of_device(),
            Self::Panicked(text) => says_device_failed(text),
            Self::DeadlineExceeded { .. } => false,
            Self::Device(_) => true,
        }
    }
}

/// Asks a job to stop at its next step; clones share the flag.
#[derive(Debug, Clone, Default)]
pub struct CancelFlag(Arc<AtomicBool>);

impl CancelFlag {
    /// Asks it to stop.
    pub fn set(&self) {
        self.0.store(true, Ordering::Release);
    }

    /// Whether it was asked to stop.
    pub fn is_set(&self) -> bool {
        self.0.load(Ordering::Acquire)
    }
}

#[cfg(test)]
pub(super) mod tests {
    use tokio::sync::Semaphore;

    use super::*;
    use crate::diffusion::Source;

    /// A request for `sim`, and the semaphore of one slot that its permit is from.
    pub(in crate::engine) fn request(seed: u64) -> (GenerationRequest, Arc<Semaphore>) {
        let (request, slots, _) = request_with_responses(seed);
        (request, slots)
    }

    pub(in crate::engine) fn request_with_responses(
        seed: u64,
    ) -> (GenerationRequest, Arc<Semaphore>, mpsc::UnboundedReceiver<GenerationResponse>) {
        let slots = Arc::new(Semaphore::new(1));
        let permit = slots.clone().try_acquire_owned().unwrap();
        let (response_tx, responses) = mpsc::unbounded_channel();
        let request = GenerationRequest {
            job_id: JobId::generate(),
            model: "sim".into(),
            spec: ImageSpec {
                steps: 4,
                seed,
                ..ImageSpec::new("a circle", Source::Text { width: 64, height: 64 })
            },
            n: 1,
            preview_every: 0,
            snapshot_every: None,
            resume: None,
            received: Instant::now(),
            deadline: Instant::now() + Duration::from_secs(60),
            cancel: CancelFlag::default(),
            permit,
            response_tx,
        };
        (request, slots, responses)
    }
}
