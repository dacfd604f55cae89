//! Whether failures are those of jobs or of the device. An error of the device, or failures in a row and a test that fails
//! too, end the engine: its jobs are to be done elsewhere, and have not failed.

use std::sync::{Mutex, MutexGuard, PoisonError};

use super::EngineError;
use crate::contract::ErrorCode;

/// Failures with no success between them after which the device is tested.
pub const FAILURES_BEFORE_TEST: u32 = 2;

/// What the ends of jobs say of the device.
#[derive(Debug, Default)]
pub(super) struct Faults(Mutex<State>);

#[derive(Debug, Default)]
struct State {
    in_a_row: u32,
    /// Why the device is of no use any more.
    lost: Option<String>,
}

impl Faults {
    /// A job was done.
    pub(super) fn succeeded(&self) {
        self.lock().in_a_row = 0;
    }

    /// What a job that failed is told; `test` tests the device. An error of the device stands for every one that comes after
    /// it.
    pub(super) fn failed(
        &self,
        error: EngineError,
        test: impl FnOnce() -> Result<(), EngineError>,
    ) -> EngineError {
        if let Some(reason) = self.lost() {
            return EngineError::Device(reason);
        }
        if error.is_of_device() {
            return self.lose(error.to_string());
        }
        if !may_be_of_device(&error) {
            return error;
        }
        {
            let mut state = self.lock();
            state.in_a_row += 1;
            if state.in_a_row < FAILURES_BEFORE_TEST {
                return error;
            }
            state.in_a_row = 0;
        }
        tracing::warn!(%error, "jobs fail one after the other; the device is tested");
        match test() {
            Ok(()) => {
                tracing::info!("the device computes: the failures are those of the jobs");
                error
            }
            Err(failed) => self.lose(format!("after {error}, its test: {failed}")),
        }
    }

    /// Why the device is of no use any more, if so.
    pub(super) fn lost(&self) -> Option<String> {
        self.lock().lost.clone()
    }

    fn lose(&self, reason: String) -> EngineError {
        self.lock().lost = Some(reason.clone());
        EngineError::Device(reason)
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Whether a broken device may fail so; what a job asks for has no part in it.
fn may_be_of_device(error: &EngineError) -> bool {
    matches!(error.code(), ErrorCode::Internal | ErrorCode::NonFinite | ErrorCode::OutOfMemory)
}

/// Whether a test that ended so shows that the device, or the model, computes nothing. NaN is a matter of the types that
/// weights are kept in, a full memory one of what else is in it, and a refusal one of the model.
pub(super) fn fails_test(error: &EngineError) -> bool {
    error.is_of_device() || error.code() == ErrorCode::Internal
}

#[cfg(test)]
mod tests {
    use super::*;

    fn panicked(text: &str) -> EngineError {
        EngineError::Panicked(text.into())
    }

    fn untested() -> Result<(), EngineError> {
        panic!("the device is not to be tested")
    }

    #[test]
    fn an_error_of_the_device_stands_for_all_that_come_after_it() {
        let faults = Faults::default();
        let poisoned = panicked(r#"DriverError(CUDA_ERROR_ILLEGAL_ADDRESS, "an illegal memory access")"#);
        let told = faults.failed(poisoned, untested);
        assert!(told.is_of_device() && told.to_string().contains("CUDA_ERROR_ILLEGAL_ADDRESS"), "{told}");
        assert_eq!(told.code(), ErrorCode::ShuttingDown);
        assert!(faults.failed(panicked("index out of bounds"), untested).is_of_device());
        assert!(faults.lost().unwrap().contains("CUDA_ERROR_ILLEGAL_ADDRESS"));
    }

    #[test]
    fn failures_in_a_row_lead_to_a_test_and_a_success_between_them_to_none() {
        let faults = Faults::default();
        for _ in 0..3 {
            assert_eq!(faults.failed(panicked("a"), untested).code(), ErrorCode::Internal);
            faults.succeeded();
        }
        let mut tests = 0;
        for _ in 0..4 {
            let test = || {
                tests += 1;
                Ok(())
            };
            assert_eq!(faults.failed(panicked("a"), test).code(), ErrorCode::Internal);
        }
        assert_eq!(tests, 2);
        assert!(faults.lost().is_none());
    }

    #[test]
    fn the_job_at_which_the_test_fails_has_not_failed() {
        let faults = Faults::default();
        assert!(!faults.failed(panicked("first"), untested).is_of_device());
        let told = faults.failed(panicked("second"), || Err(panicked("the test")));
        assert!(told.is_of_device());
        let reason = faults.lost().unwrap();
        assert!(reason.contains("second") && reason.contains("the test"), "{reason}");
    }

    #[test]
    fn what_a_job_asks_for_is_no_fault() {
        let faults = Faults::default();
        for _ in 0..3 {
            let late = EngineError::DeadlineExceeded { step: 1, total: 2 };
            assert_eq!(faults.failed(late, untested).code(), ErrorCode::DeadlineExceeded);
        }
    }
}
