//! A running job's state between two steps, and how another engine goes on from it. Where it is kept is not known here.

use serde::{Deserialize, Serialize};

use super::{EngineError, GenerationRequest, InferencePipeline, running_job};
use crate::models::{Picture, Progress, ProgressError};

/// With the request, all that a job goes on from. Pictures before `index` are not drawn again.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Snapshot {
    /// The first picture that is being drawn, from 0.
    pub index: u32,
    /// How far it is, and those after it that are drawn together with it.
    pub pictures: Vec<Progress>,
}

/// A snapshot that is not of this job.
#[derive(Debug, thiserror::Error)]
enum Unfit {
    /// The job has no such picture.
    #[error("it is of picture {index}, counted from 0, and the job has {n}")]
    Index { index: u32, n: u32 },
    /// It is of more pictures than a job draws together.
    #[error("it is of {0} pictures")]
    Count(usize),
    /// Not of the picture.
    #[error(transparent)]
    Progress(#[from] ProgressError),
}

impl Snapshot {
    /// The pictures, begun and brought to where they were; none when this is not a snapshot of the job, which is
    /// logged.
    ///
    /// # Errors
    /// When the model does not take the request, or fails.
    pub(super) fn restore(
        self,
        pipeline: &InferencePipeline,
        request: &GenerationRequest,
    ) -> Result<Option<Vec<Picture>>, EngineError> {
        let restored = self.try_restore(pipeline, request)?;
        if let Err(reason) = &restored {
            tracing::warn!(
                job_id = %request.job_id, %reason, "the snapshot is not of this job, which starts over"
            );
        }
        Ok(restored.ok())
    }

    fn try_restore(
        self,
        pipeline: &InferencePipeline,
        request: &GenerationRequest,
    ) -> Result<Result<Vec<Picture>, Unfit>, EngineError> {
        let (first, n, count) = (self.index, request.n, self.pictures.len());
        if !(1..=running_job::MOST_TOGETHER).contains(&count) {
            return Ok(Err(Unfit::Count(count)));
        }
        let mut pictures = Vec::with_capacity(count);
        for (index, progress) in (u64::from(first)..).zip(self.pictures) {
            let Some(index) = u32::try_from(index).ok().filter(|index| *index < n) else {
                return Ok(Err(Unfit::Index { index: u32::try_from(index).unwrap_or(u32::MAX), n }));
            };
            let mut picture = running_job::begin_picture(pipeline, request, index)?;
            // Inside the guard: what came from outside must not take the engine down, whatever is in it.
            let resumed = running_job::guarded(|| Ok(picture.resume(progress)))?;
            match resumed {
                Err(error) => return Ok(Err(error.into())),
                Ok(()) => pictures.push(picture),
            }
        }
        Ok(Ok(pictures))
    }
}
