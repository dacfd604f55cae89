//! The models of a worker: which are in memory, and which go when another needs the room. The least recently used goes
//! first; one that is held stays.

use std::{
    any::Any,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use super::{Model, ModelError, ModelInfo, ModelOptions, ModelSource, device};
use crate::{
    contract::ErrorCode,
    metrics::{Histograms, JOB_SECONDS},
};

/// Every model of the worker, by name; some of them in memory.
pub struct ModelSet {
    models: Vec<Entry>,
    options: ModelOptions,
    budget: u64,
    memory: Mutex<Memory>,
    /// Told whenever a model was loaded, or could not be.
    settled: Condvar,
    /// How long models took to load.
    loads: Histograms<1>,
}

struct Entry {
    info: ModelInfo,
    source: ModelSource,
    weight_bytes: u64,
}

/// What is in memory, and what is on its way there.
#[derive(Default)]
struct Memory {
    /// In the order of use, the latest last.
    loaded: Vec<Loaded>,
    /// Entries whose room is taken and whose weights are being read.
    loading: Vec<usize>,
    /// Entries in memory that go as soon as nobody holds them.
    leaving: Vec<usize>,
}

impl Memory {
    fn has(&self, index: usize) -> bool {
        self.loaded.iter().any(|loaded| loaded.entry == index)
    }
}

/// A model in memory.
struct Loaded {
    entry: usize,
    model: Arc<Model>,
}

/// A model in memory, that stays there as long as this lives.
pub struct Held {
    /// The model.
    pub model: Arc<Model>,
    /// How long loading took; none when it was in memory.
    pub load: Option<Duration>,
}

/// Room in memory for a model that is to be loaded; see [`ModelSet::load`].
#[must_use = "the room stays taken until the model is loaded into it"]
pub struct Reserved(usize);

/// Memory that weights may take, in bytes.
struct Room {
    /// Beside all that is loaded.
    free: u64,
    /// When every idle model has gone.
    possible: u64,
}

impl ModelSet {
    /// Checks every source, and loads those that the options name, or else all in their order while they fit. The rest is
    /// loaded when it is first used.
    ///
    /// # Errors
    /// The first source that cannot be used: what is wrong with it, or how much memory it lacks.
    pub fn open(sources: &[ModelSource], options: ModelOptions) -> Result<Self, ModelError> {
        let mut models = Vec::with_capacity(sources.len());
        let (mut reserve, mut picture) = (0, 0);
        for source in sources {
            let (info, needs) = Model::inspect(source, &options.device, options.precision)?;
            if let Some(limit) = options.limit {
                reserve = limit.reserve(source.name(), needs)?.max(reserve);
            }
            let (width, height) = info.native_size;
            picture = needs.activations.bytes(u64::from(width) * u64::from(height)).max(picture);
            models.push(Entry { info, source: source.clone(), weight_bytes: needs.weights });
        }
        let (budget, limit) = options.budget(reserve);
        if let Some(entry) = models.iter().find(|entry| entry.weight_bytes > budget) {
            let (model, needed) = (entry.info.name.clone(), entry.weight_bytes);
            return Err(ModelError::TooLarge { model, needed, available: budget, limit });
        }
        let largest = models.iter().map(|entry| entry.weight_bytes).max().unwrap_or(0);
        let budget = match options.device.is_cpu() {
            true => budget,
            // A full GPU has no swap and no cache of files to give up: several models leave room for a picture.
            false => budget.saturating_sub(picture).max(largest),
        };
        let (memory, settled) = (Mutex::default(), Condvar::new());
        let loads = Histograms::new(["model"], JOB_SECONDS);
        let set = Self { models, options, budget, memory, settled, loads };
        if set.options.preload.is_empty() {
            for index in 0..set.models.len() {
                set.load_at_start(index)?;
            }
        }
        for name in &set.options.preload {
            set.preload(name)?;
        }
        Ok(set)
    }

    /// Loads a model that must be there from the start, beside those that are.
    fn preload(&self, name: &str) -> Result<(), ModelError> {
        let index = self.find(name).ok_or_else(|| ModelError::Unknown(name.to_owned()))?;
        let mut memory = self.lock();
        if memory.has(index) {
            return Ok(());
        }
        let (needed, available) = (self.models[index].weight_bytes, self.room(&memory).free);
        if needed > available {
            let beside = self.names(&memory.loaded);
            return Err(ModelError::NotPreloaded { model: name.to_owned(), needed, available, beside });
        }
        let model = self.read(index)?;
        memory.loaded.push(Loaded { entry: index, model });
        Ok(())
    }

    fn load_at_start(&self, index: usize) -> Result<(), ModelError> {
        let entry = &self.models[index];
        let mut memory = self.lock();
        let mut reason = "beside the others it has no room".to_owned();
        if entry.weight_bytes <= self.room(&memory).free {
            match self.read(index) {
                Ok(model) => {
                    memory.loaded.push(Loaded { entry: index, model });
                    return Ok(());
                }
                Err(error) if error.code() == ErrorCode::OutOfMemory && !memory.loaded.is_empty() => {
                    device::give_back(&self.options.device);
                    reason = error.to_string();
                }
                Err(error) => return Err(error),
            }
        }
        tracing::info!(
            model = entry.info.name,
            weight_bytes = entry.weight_bytes,
            reason,
            "a model is loaded when it is first used"
        );
        Ok(())
    }

    /// Every model, in the order of the sources.
    pub fn catalog(&self) -> Vec<ModelInfo> {
        self.models.iter().map(|entry| entry.info.clone()).collect()
    }

    /// The models in memory, the least recently used first.
    pub fn in_memory(&self) -> Vec<String> {
        self.names(&self.lock().loaded)
    }

    /// The models whose next job costs no loading: those that are in memory and stay, and those on their way there.
    pub fn at_hand(&self) -> Vec<String> {
        let memory = self.lock();
        let all = memory.loaded.iter().map(|loaded| loaded.entry).chain(memory.loading.iter().copied());
        let stays = all.filter(|entry| !memory.leaving.contains(entry));
        stays.map(|entry| self.models[entry].info.name.clone()).collect()
    }

    fn names(&self, loaded: &[Loaded]) -> Vec<String> {
        loaded.iter().map(|loaded| self.models[loaded.entry].info.name.clone()).collect()
    }

    /// Every model, in the order of the sources, with the bytes of its weights in memory.
    pub fn bytes_in_memory(&self) -> Vec<(String, u64)> {
        let memory = self.lock();
        let bytes = |(index, entry): (usize, &Entry)| {
            let bytes = if memory.has(index) { entry.weight_bytes } else { 0 };
            (entry.info.name.clone(), bytes)
        };
        self.models.iter().enumerate().map(bytes).collect()
    }

    /// How long models took to load, by their names.
    pub fn loads(&self) -> &Histograms<1> {
        &self.loads
    }

    /// Bytes of the device that are free; none: it does not tell.
    pub fn free_memory(&self) -> Option<u64> {
        Some(device::free_memory(&self.options.device)).filter(|free| *free != u64::MAX)
    }

    /// Whether a model is being loaded.
    pub fn is_loading(&self) -> bool {
        !self.lock().loading.is_empty()
    }

    /// Whether [`hold`](Self::hold) would find the model in memory or room for it.
    pub fn has_room_for(&self, name: &str) -> bool {
        let memory = self.lock();
        self.find(name).is_none_or(|index| {
            memory.has(index) || self.models[index].weight_bytes <= self.room(&memory).possible
        })
    }

    /// The model, loaded if it is not in memory; idle models go for it as far as needed.
    ///
    /// # Errors
    /// When there is no model of that name, no room for it, or when loading fails.
    pub fn hold(&self, name: &str) -> Result<Held, ModelError> {
        loop {
            if let Some(held) = self.hold_loaded(name)? {
                return Ok(held);
            }
            if let Some(reserved) = self.reserve(name)? {
                return self.load(reserved);
            }
            let index = self.find(name);
            let loading = |memory: &mut Memory| index.is_some_and(|index| memory.loading.contains(&index));
            drop(self.settled.wait_while(self.lock(), loading).unwrap_or_else(PoisonError::into_inner));
        }
    }

    /// The model, if it is in memory.
    ///
    /// # Errors
    /// When there is no model of that name.
    pub fn hold_loaded(&self, name: &str) -> Result<Option<Held>, ModelError> {
        let index = self.find(name).ok_or_else(|| ModelError::Unknown(name.to_owned()))?;
        let loaded = &mut self.lock().loaded;
        let Some(at) = loaded.iter().position(|loaded| loaded.entry == index) else { return Ok(None) };
        let found = loaded.remove(at);
        let model = found.model.clone();
        loaded.push(found);
        Ok(Some(Held { model, load: None }))
    }

    /// Takes room for a model, which [`load`](Self::load) then reads; idle models go for it as far as needed. None when it
    /// is in memory by now, or on its way.
    ///
    /// # Errors
    /// When there is no model of that name, or no room for it.
    pub fn reserve(&self, name: &str) -> Result<Option<Reserved>, ModelError> {
        let index = self.find(name).ok_or_else(|| ModelError::Unknown(name.to_owned()))?;
        let mut memory = self.lock();
        if memory.loading.contains(&index) || memory.has(index) {
            return Ok(None);
        }
        self.make_room(index, &mut memory)?;
        memory.loading.push(index);
        Ok(Some(Reserved(index)))
    }

    /// Reads a model into the room that was taken for it. Other models can be held meanwhile.
    ///
    /// # Errors
    /// When loading fails; the room is free again.
    pub fn load(&self, reserved: Reserved) -> Result<Held, ModelError> {
        let settles = Settles { set: self, index: reserved.0 };
        let begun = Instant::now();
        let model = loop {
            match self.read(reserved.0) {
                // What is free on a device is not all that decides whether a model fits.
                Err(error)
                    if error.code() == ErrorCode::OutOfMemory && self.evict(&mut self.lock()).is_some() =>
                {
                    let model = &self.models[reserved.0].info.name;
                    tracing::warn!(model, %error, "loading ran out of memory; it is tried again");
                }
                other => break other?,
            }
        };
        self.lock().loaded.push(Loaded { entry: reserved.0, model: model.clone() });
        drop(settles);
        Ok(Held { model, load: Some(begun.elapsed()) })
    }

    /// Puts every idle model out of memory, and gives back what the device keeps for later; whether that made room.
    pub fn put_out_idle(&self) -> bool {
        let mut memory = self.lock();
        let mut evicted = false;
        while self.evict(&mut memory).is_some() {
            evicted = true;
        }
        device::give_back(&self.options.device) > 0 || evicted
    }

    /// Lets a model go that is in memory, or on its way there: at once when nobody holds it, else by
    /// [`let_go`](Self::let_go).
    ///
    /// # Errors
    /// When there is no model of that name.
    pub fn unload(&self, name: &str) -> Result<(), ModelError> {
        let index = self.find(name).ok_or_else(|| ModelError::Unknown(name.to_owned()))?;
        let mut memory = self.lock();
        let is_here = memory.loading.contains(&index) || memory.has(index);
        if is_here && !memory.leaving.contains(&index) {
            memory.leaving.push(index);
        }
        drop(memory);
        self.let_go();
        Ok(())
    }

    /// Puts those models out of memory that were [unloaded](Self::unload) and that nobody holds any more.
    pub fn let_go(&self) {
        let mut memory = self.lock();
        let mut evicted = false;
        while let Some(at) =
            memory.loaded.iter().position(|loaded| memory.leaving.contains(&loaded.entry) && loaded.is_idle())
        {
            self.put_out(&mut memory, at);
            evicted = true;
        }
        drop(memory);
        if evicted {
            device::give_back(&self.options.device);
        }
    }

    /// Keeps a model that was [unloaded](Self::unload) and is still there.
    pub fn stay(&self, name: &str) {
        let index = self.find(name);
        self.lock().leaving.retain(|leaving| Some(*leaving) != index);
    }

    fn find(&self, name: &str) -> Option<usize> {
        self.models.iter().position(|entry| entry.info.name == name)
    }

    /// A panic while it was held leaves it as it was before.
    fn lock(&self) -> MutexGuard<'_, Memory> {
        self.memory.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn bytes(&self, entries: impl Iterator<Item = usize>) -> u64 {
        entries.map(|entry| self.models[entry].weight_bytes).sum()
    }

    fn room(&self, memory: &Memory) -> Room {
        let loading = self.bytes(memory.loading.iter().copied());
        let kept = self.bytes(memory.loaded.iter().map(|loaded| loaded.entry)) + loading;
        let idle =
            self.bytes(memory.loaded.iter().filter(|loaded| loaded.is_idle()).map(|loaded| loaded.entry));
        // What is loading has taken a part of its room by now, and counts whole.
        let unused = device::free_memory(&self.options.device).saturating_sub(loading);
        let free = self.budget.saturating_sub(kept).min(unused);
        // What an idle model gives back is taken again by the next: that it shows as free is not waited for.
        Room { free, possible: free.saturating_add(idle).min(self.budget.saturating_sub(kept - idle)) }
    }

    fn make_room(&self, index: usize, memory: &mut Memory) -> Result<(), ModelError> {
        let needed = self.models[index].weight_bytes;
        // Who is in the way is looked at first: a model that is let go in between is room, and nobody's fault.
        let busy = memory.loaded.iter().filter(|loaded| !loaded.is_idle()).map(|loaded| loaded.entry);
        let busy: Vec<_> = busy.chain(memory.loading.iter().copied()).collect();
        let room = self.room(memory);
        if needed > room.possible {
            return Err(ModelError::NoRoom {
                model: self.models[index].info.name.clone(),
                needed,
                available: room.possible,
                busy: busy.into_iter().map(|entry| self.models[entry].info.name.clone()).collect(),
            });
        }
        let mut free = room.free;
        while needed > free
            && let Some(evicted) = self.evict(memory)
        {
            free = free.saturating_add(evicted);
        }
        Ok(())
    }

    /// Puts the least recently used idle model out of memory; the bytes of its weights.
    fn evict(&self, memory: &mut Memory) -> Option<u64> {
        let at = memory.loaded.iter().position(Loaded::is_idle)?;
        Some(self.put_out(memory, at))
    }

    /// Puts the model at this place out of memory; the bytes of its weights.
    fn put_out(&self, memory: &mut Memory, at: usize) -> u64 {
        let index = memory.loaded.remove(at).entry;
        memory.leaving.retain(|leaving| *leaving != index);
        let entry = &self.models[index];
        let (model, weight_bytes) = (&entry.info.name, entry.weight_bytes);
        tracing::info!(model, weight_bytes, "a model was put out of memory");
        weight_bytes
    }

    fn read(&self, index: usize) -> Result<Arc<Model>, ModelError> {
        let entry = &self.models[index];
        let begun = Instant::now();
        let load = || Model::load(&entry.source, &self.options.device, self.options.precision);
        // The library of tokenizers panics on some that are damaged, at the start as at a job.
        let loaded = catch_unwind(AssertUnwindSafe(load)).unwrap_or_else(|panic| {
            let (model, reason) = (entry.info.name.clone(), panic_message(panic.as_ref()));
            Err(ModelError::Panicked { model, reason })
        });
        let model = Arc::new(loaded?);
        entry.info.identity.note_loaded()?;
        self.loads.observe([&entry.info.name], begun.elapsed());
        tracing::info!(
            model = entry.info.name,
            weight_bytes = entry.weight_bytes,
            load_ms = u64::try_from(begun.elapsed().as_millis()).unwrap_or(u64::MAX),
            "a model was loaded"
        );
        Ok(model)
    }
}

/// What a panic says.
pub(crate) fn panic_message(panic: &(dyn Any + Send)) -> String {
    panic
        .downcast_ref::<&str>()
        .map(|text| (*text).to_owned())
        .or_else(|| panic.downcast_ref::<String>().cloned())
        .unwrap_or_else(|| "no message".into())
}

/// Takes a model off the list of those that are loading, however loading ends.
struct Settles<'a> {
    set: &'a ModelSet,
    index: usize,
}

impl Drop for Settles<'_> {
    fn drop(&mut self) {
        let mut memory = self.set.lock();
        memory.loading.retain(|index| *index != self.index);
        if !memory.has(self.index) {
            memory.leaving.retain(|index| *index != self.index);
        }
        drop(memory);
        self.set.settled.notify_all();
    }
}

impl Loaded {
    fn is_idle(&self) -> bool {
        Arc::strong_count(&self.model) == 1
    }
}

#[cfg(test)]
#[path = "set_tests.rs"]
mod tests;
