//! What becomes of a job whose client has left: it is cancelled, so that nothing is drawn for nobody.

use tokio::{runtime::Handle, task::JoinHandle};

use crate::{
    contract::{ErrorCode, JobId},
    http::{ApiError, Jobs},
    queen::Queen,
};

/// Holds a job for its client. Dropped before the job has ended, it has the job cancelled, unless the job stays.
pub(super) struct Leaving {
    queen: Queen,
    state: State,
    stays: bool,
}

enum State {
    /// It may become a job: what has been begun is not stopped half-way.
    Submitting(JoinHandle<Result<JobId, ApiError>>),
    There(JobId),
    /// It has ended, or never was one.
    Over,
}

impl Leaving {
    /// Holds what becomes of a submission. `stays`: whatever its client does.
    pub fn of(queen: Queen, submitting: JoinHandle<Result<JobId, ApiError>>, stays: bool) -> Self {
        Self { queen, state: State::Submitting(submitting), stays }
    }

    /// Waits for the job that becomes of the submission.
    ///
    /// # Errors
    /// Why there is none.
    pub async fn job(&mut self) -> Result<JobId, ApiError> {
        let submitted = match &mut self.state {
            State::Submitting(submitting) => submitting.await,
            State::There(id) => return Ok(id.clone()),
            State::Over => return Err(ApiError::new(ErrorCode::Internal, "the job has ended")),
        };
        self.state = State::Over;
        let id = submitted.map_err(|error| ApiError::new(ErrorCode::Internal, error.to_string()))??;
        self.state = State::There(id.clone());
        Ok(id)
    }

    /// Whether the job stays, whatever its client does.
    pub fn stays(&self) -> bool {
        self.stays
    }

    /// The job has ended: nothing is left to be cancelled.
    pub fn ended(&mut self) {
        self.state = State::Over;
    }

    /// Gives the job up while its client is still there to be told; whether it goes on.
    pub async fn give_up(&mut self) -> bool {
        if !self.stays
            && let State::There(id) = std::mem::replace(&mut self.state, State::Over)
        {
            cancel(&self.queen, &id).await;
        }
        self.stays
    }
}

impl Drop for Leaving {
    fn drop(&mut self) {
        let state = std::mem::replace(&mut self.state, State::Over);
        // Without a runtime this process is ending, and workers end what they have.
        let (false, Ok(runtime)) = (self.stays, Handle::try_current()) else { return };
        let queen = self.queen.clone();
        // A queen that ends waits until it has been said.
        let place = queen.shared.leaving.clone().try_acquire_owned();
        match state {
            State::Over => {}
            State::There(id) => drop(runtime.spawn(async move {
                cancel(&queen, &id).await;
                drop(place);
            })),
            State::Submitting(submitting) => drop(runtime.spawn(async move {
                if let Ok(Ok(id)) = submitting.await {
                    cancel(&queen, &id).await;
                }
                drop(place);
            })),
        }
    }
}

async fn cancel(queen: &Queen, id: &JobId) {
    match queen.cancel(id).await {
        Ok(()) => tracing::info!(job_id = %id, "a job is cancelled: its client has left"),
        // It has ended by itself, most likely.
        Err(error) => tracing::debug!(job_id = %id, %error, "a job whose client has left was not cancelled"),
    }
}
