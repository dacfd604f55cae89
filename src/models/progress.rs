//! How far a picture is, whatever model draws it: taken from one and given to another.

use serde::{Deserialize, Serialize};

use super::Picture;
use crate::diffusion;

/// What the steps of a picture have changed. A picture that was begun from the same request, with the same weights,
/// goes on from it, in this process or in another.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub enum Progress {
    /// Of a picture with a checkpoint.
    Checkpoint(diffusion::Progress),
    /// Of a simulation.
    Sim {
        /// Steps done.
        step: u32,
    },
}

/// Progress that is not of this picture.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ProgressError {
    /// Of a simulation for a checkpoint's picture, or the other way.
    #[error("the progress is of another family of models")]
    Family,
    /// Of a picture with other latents, steps or sampler.
    #[error(transparent)]
    Diffusion(#[from] diffusion::ProgressError),
    /// Of a simulation with more steps.
    #[error("the progress is at step {step}; the simulation has {total} steps")]
    Sim {
        /// Steps done in the progress.
        step: u32,
        /// Steps of the picture.
        total: u32,
    },
}

impl Picture {
    /// What the steps so far have changed.
    pub fn progress(&self) -> Progress {
        match self {
            Self::Checkpoint(job) => Progress::Checkpoint(job.progress()),
            Self::Sim(job) => Progress::Sim { step: job.step() },
        }
    }

    /// Goes on from the progress of a picture that was begun from the same request.
    ///
    /// # Errors
    /// Progress that cannot be of this picture; nothing was changed.
    pub fn resume(&mut self, progress: Progress) -> Result<(), ProgressError> {
        match (self, progress) {
            (Self::Checkpoint(job), Progress::Checkpoint(progress)) => Ok(job.resume(progress)?),
            (Self::Sim(job), Progress::Sim { step }) => match job.resume(step) {
                true => Ok(()),
                false => Err(ProgressError::Sim { step, total: job.total() }),
            },
            _ => Err(ProgressError::Family),
        }
    }
}
