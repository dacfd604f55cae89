//! A running job's state between two steps, and how another engine goes on from it. Where it is kept is not known here.

use serde::{Deserialize, Serialize};

use super::{EngineError, GenerationRequest, InferencePipeline, running_job};
use crate::models::{Denoising, Progress, ProgressError};

/// With the request, all that a job goes on from. Pictures before `index` are not drawn again.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Checkpoint {
    /// The picture that is being drawn, from 0.
    pub index: u32,
    /// How far it is.
    pub progress: Progress,
}

/// A checkpoint that is not of this job.
#[derive(Debug, thiserror::Error)]
enum Unfit {
    /// The job has no such picture.
    #[error("it is of picture {index}, counted from 0, and the job has {n}")]
    Index { index: u32, n: u32 },
    /// Not of the picture.
    #[error(transparent)]
    Progress(#[from] ProgressError),
    /// A checkpoint is of a picture that has steps left.
    #[error("its picture has no step left")]
    Done,
}

impl Checkpoint {
    /// The picture, begun and brought to where it was; none when this is not a checkpoint of the job, which is logged.
    ///
    /// # Errors
    /// When the model does not take the request, or fails.
    pub(super) fn restore(
        self,
        pipeline: &InferencePipeline,
        request: &GenerationRequest,
    ) -> Result<Option<Denoising>, EngineError> {
        let restored = self.try_restore(pipeline, request)?;
        if let Err(reason) = &restored {
            tracing::warn!(
                job_id = %request.job_id, %reason, "the checkpoint is not of this job, which starts over"
            );
        }
        Ok(restored.ok())
    }

    fn try_restore(
        self,
        pipeline: &InferencePipeline,
        request: &GenerationRequest,
    ) -> Result<Result<Denoising, Unfit>, EngineError> {
        let (index, n) = (self.index, request.n);
        if index >= n {
            return Ok(Err(Unfit::Index { index, n }));
        }
        let mut denoising = running_job::begin_picture(pipeline, request, index)?;
        // Inside the guard: what came from outside must not take the engine down, whatever is in it.
        let resumed = running_job::guarded(|| Ok(denoising.resume(self.progress)))?;
        Ok(match resumed {
            Err(error) => Err(error.into()),
            Ok(()) if denoising.is_done() => Err(Unfit::Done),
            Ok(()) => Ok(denoising),
        })
    }
}
