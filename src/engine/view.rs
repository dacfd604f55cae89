//! How the engine is, told to others beside it. Nobody who reads asks the device for anything: it may hang.

use std::{
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use super::watch::StepWatch;
use crate::{metrics::Family, models::ModelSet};

/// How often the device is asked for its free memory at most.
const MEMORY_EVERY: Duration = Duration::from_secs(1);

/// What the engine's threads write down.
#[derive(Debug, Default)]
pub(super) struct Tally {
    /// Pictures in the last pass.
    pass: AtomicU64,
    out_of_memory: AtomicU64,
    /// When the device was last asked, and the bytes that were free; none: it does not tell.
    memory: Mutex<Option<(Instant, Option<u64>)>>,
}

impl Tally {
    /// A pass was gone by so many pictures.
    pub(super) fn passed(&self, pictures: usize) {
        self.pass.store(pictures as u64, Ordering::Relaxed);
    }

    /// The device ran out of memory.
    pub(super) fn ran_out(&self) {
        self.out_of_memory.fetch_add(1, Ordering::Relaxed);
    }

    /// Asks the device for its free memory, unless it was asked a moment ago.
    pub(super) fn look_at_memory(&self, free: impl FnOnce() -> Option<u64>) {
        let is_fresh = |(at, _): &(Instant, Option<u64>)| at.elapsed() < MEMORY_EVERY;
        if self.memory.lock().unwrap_or_else(PoisonError::into_inner).as_ref().is_some_and(is_fresh) {
            return;
        }
        // A device that hangs holds up nobody who reads.
        let free = free();
        *self.memory.lock().unwrap_or_else(PoisonError::into_inner) = Some((Instant::now(), free));
    }
}

/// How the engine is. Cheap to clone.
#[derive(Clone)]
pub struct EngineView {
    pub(super) models: Arc<ModelSet>,
    pub(super) watch: Arc<StepWatch>,
    pub(super) tally: Arc<Tally>,
}

impl EngineView {
    /// The models in memory, the least recently used first.
    pub fn resident(&self) -> Vec<String> {
        self.models.in_memory()
    }

    /// The models whose next job costs no loading, those on their way into memory too.
    pub fn at_hand(&self) -> Vec<String> {
        self.models.at_hand()
    }

    /// Every model, with the bytes of its weights in memory.
    pub fn resident_bytes(&self) -> Vec<(String, u64)> {
        self.models.bytes_in_memory()
    }

    /// Writes how long models took to load.
    pub fn write_loads(&self, family: Family<'_>) {
        self.models.loads().write(family);
    }

    /// How long the engine has been at its present piece of work (a step, reading the inputs, decoding); none: it is at none.
    pub fn step_age(&self) -> Option<Duration> {
        self.watch.age()
    }

    /// Pictures that shared the last pass.
    pub fn pictures_in_a_pass(&self) -> u64 {
        self.tally.pass.load(Ordering::Relaxed)
    }

    /// How often the device ran out of memory.
    pub fn out_of_memory(&self) -> u64 {
        self.tally.out_of_memory.load(Ordering::Relaxed)
    }

    /// Bytes of the device that were free when it was last asked, after a picture; none: it does not tell.
    pub fn free_memory(&self) -> Option<u64> {
        (*self.tally.memory.lock().unwrap_or_else(PoisonError::into_inner)).and_then(|(_, free)| free)
    }
}
