//! How often the store failed, those times included that were tried again and went well.

use std::sync::atomic::{AtomicU64, Ordering};

/// Failures since the start.
#[derive(Debug, Default)]
pub(super) struct Failures(AtomicU64);

impl Failures {
    pub(super) fn count(&self) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn number(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}
