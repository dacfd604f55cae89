//! What queen refuses of a request before anything is done for it.

use super::Queen;
use crate::{
    contract::{Operation, check_scheduler},
    http::ApiError,
};

impl Queen {
    /// Refuses what would come to nothing, whoever took the job.
    ///
    /// # Errors
    /// The field that asks for it.
    pub(super) fn refuse_early(&self, operation: &Operation) -> Result<(), ApiError> {
        let Some(name) = operation.scheduler() else { return Ok(()) };
        Ok(self.shared.fleet.with_all(|workers| {
            check_scheduler(name, workers.iter().flat_map(|worker| &worker.schedulers).map(String::as_str))
        })?)
    }
}
