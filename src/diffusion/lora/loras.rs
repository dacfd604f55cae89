//! The LoRAs that a model has read: kept warm by file, and read again when the file has changed.

use std::{
    path::PathBuf,
    sync::{Arc, Mutex, MutexGuard, PoisonError, Weak},
};

use super::{
    LoraSpec,
    adapt::{Adaptable, Lora},
    content::Content,
    stamp::Stamp,
};
use crate::diffusion::{DiffusionError, error::LoraFileError};

/// LoRAs kept per model.
const MAX_KEPT: usize = 16;
/// Bytes of LoRAs kept per model: a few of rank 32 for SDXL in half precision.
const MAX_BYTES: usize = 512 << 20;

/// The LoRAs of one model, whose networks are an `N`. The least recently used is dropped first.
pub struct Loras<N> {
    state: Mutex<State<N>>,
}

struct State<N> {
    /// The latest used last.
    kept: Vec<Loaded>,
    /// Networks of pictures that are being drawn, so that pictures with the same LoRAs share a pass.
    in_use: Vec<(String, Weak<N>)>,
    reads: u64,
}

struct Loaded {
    file: PathBuf,
    stamp: Stamp,
    lora: Arc<Lora>,
}

impl<N> Default for Loras<N> {
    fn default() -> Self {
        Self { state: Mutex::new(State { kept: Vec::new(), in_use: Vec::new(), reads: 0 }) }
    }
}

impl<N: Adaptable> Loras<N> {
    /// The networks with these LoRAs in them; none where nothing is changed: no LoRA, or all of strength 0.
    ///
    /// # Errors
    /// A file that cannot be read or is no LoRA of this model; a strength that is no finite number.
    pub fn adapt(&self, networks: &N, loras: &[LoraSpec]) -> Result<Option<Arc<N>>, DiffusionError> {
        let mut state = self.state();
        let (mut adding, mut all, mut text) = (Vec::new(), String::new(), String::new());
        for (index, spec) in loras.iter().enumerate() {
            if !spec.strength.is_finite() {
                return Err(DiffusionError::request("loras", "a strength must be a finite number"));
            }
            let (lora, stamp) = state.lora(networks, spec, index)?;
            if spec.strength == 0.0 {
                continue;
            }
            let name = format!("{:?} {stamp:?} {:?}\n", spec.file, spec.strength);
            all += &name;
            if lora.changes_text {
                text += &name;
            }
            adding.push((lora, spec.strength));
        }
        if adding.is_empty() {
            return Ok(None);
        }
        state.in_use.retain(|(_, networks)| networks.strong_count() > 0);
        let same = state.in_use.iter().find(|(name, _)| *name == all);
        if let Some(same) = same.and_then(|(_, networks)| networks.upgrade()) {
            return Ok(Some(same));
        }
        let mut adapted = networks.clone();
        for (lora, strength) in adding {
            lora.add_to(&mut adapted, strength)?;
        }
        adapted.rename_text_encoders(text);
        let adapted = Arc::new(adapted);
        state.in_use.push((all, Arc::downgrade(&adapted)));
        Ok(Some(adapted))
    }

    /// How often a file was read.
    pub fn reads(&self) -> u64 {
        self.state().reads
    }

    fn state(&self) -> MutexGuard<'_, State<N>> {
        // A panic while a file was read leaves the list as it was before.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<N: Adaptable> State<N> {
    fn lora(
        &mut self,
        networks: &N,
        spec: &LoraSpec,
        index: usize,
    ) -> Result<(Arc<Lora>, Stamp), DiffusionError> {
        let unusable = |source| DiffusionError::LoraFile { index, file: spec.name.clone(), source };
        let metadata = spec.file.metadata().map_err(LoraFileError::Unreadable).map_err(unusable)?;
        let stamp = Stamp::of(&metadata);
        if let Some(at) = self.kept.iter().position(|kept| kept.file == spec.file) {
            let kept = self.kept.remove(at);
            if kept.stamp == stamp {
                let lora = kept.lora.clone();
                self.kept.push(kept);
                return Ok((lora, stamp));
            }
        }
        self.reads += 1;
        let content = Content::read(&spec.file).map_err(unusable)?;
        let stamp = content.stamp();
        let lora = Arc::new(Lora::read(networks, content, &spec.name, index)?);
        self.keep(Loaded { file: spec.file.clone(), stamp, lora: lora.clone() });
        Ok((lora, stamp))
    }

    /// One that is larger than all that may be kept is not kept.
    fn keep(&mut self, new: Loaded) {
        if new.lora.bytes > MAX_BYTES {
            return;
        }
        self.kept.push(new);
        let bytes = |kept: &[Loaded]| kept.iter().map(|kept| kept.lora.bytes).sum::<usize>();
        while self.kept.len() > MAX_KEPT || bytes(&self.kept) > MAX_BYTES {
            self.kept.remove(0);
        }
    }
}
