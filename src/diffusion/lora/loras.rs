//! The LoRAs that a model has read: kept warm by file, and read again when the file has changed.

use std::{
    path::{Path, PathBuf},
    sync::{Arc, Mutex, MutexGuard, PoisonError, Weak},
};

use super::{
    EmbeddingSpec, LoraSpec,
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

/// A file that a picture is drawn with.
#[derive(Clone, Copy)]
enum Wanted<'a> {
    /// A LoRA, and which of the request's it is.
    Lora(&'a LoraSpec, usize),
    /// A textual inversion.
    Word(&'a EmbeddingSpec),
}

impl Wanted<'_> {
    fn file(&self) -> &Path {
        match self {
            Self::Lora(spec, _) => &spec.file,
            Self::Word(spec) => &spec.file,
        }
    }

    fn word(&self) -> Option<&str> {
        match self {
            Self::Lora(..) => None,
            Self::Word(spec) => Some(&spec.name),
        }
    }

    fn strength(&self) -> f64 {
        match self {
            Self::Lora(spec, _) => spec.strength,
            Self::Word(_) => 1.0,
        }
    }

    /// The error of its file.
    fn unusable(&self, source: LoraFileError) -> DiffusionError {
        match self {
            Self::Lora(spec, index) => {
                DiffusionError::LoraFile { index: *index, file: spec.name.clone(), source }
            }
            Self::Word(spec) => {
                DiffusionError::EmbeddingFile { field: spec.field, name: spec.name.clone(), source }
            }
        }
    }
}

struct Loaded {
    file: PathBuf,
    /// What prompts call it, if it was read as a textual inversion.
    word: Option<String>,
    stamp: Stamp,
    lora: Arc<Lora>,
}

impl<N> Default for Loras<N> {
    fn default() -> Self {
        Self { state: Mutex::new(State { kept: Vec::new(), in_use: Vec::new(), reads: 0 }) }
    }
}

impl<N: Adaptable> Loras<N> {
    /// The networks with these LoRAs in them, and these words; none where nothing is changed: no LoRA, or all of strength
    /// 0, and no word.
    ///
    /// # Errors
    /// A file that cannot be read or is no LoRA, or no textual inversion, of this model; a strength that is no finite number.
    pub fn adapt(
        &self,
        networks: &N,
        loras: &[LoraSpec],
        embeddings: &[EmbeddingSpec],
    ) -> Result<Option<Arc<N>>, DiffusionError> {
        let mut state = self.state();
        let (mut adding, mut all, mut text) = (Vec::new(), String::new(), String::new());
        let wanted = loras.iter().enumerate().map(|(index, spec)| Wanted::Lora(spec, index));
        for wanted in wanted.chain(embeddings.iter().map(Wanted::Word)) {
            let strength = wanted.strength();
            if !strength.is_finite() {
                return Err(DiffusionError::request("loras", "a strength must be a finite number"));
            }
            let (lora, stamp) = state.lora(networks, wanted)?;
            if strength == 0.0 {
                continue;
            }
            let name = format!("{:?} {stamp:?} {strength:?}\n", wanted.file());
            all += &name;
            if lora.changes_text {
                text += &name;
            }
            adding.push((lora, strength));
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
    fn lora(&mut self, networks: &N, wanted: Wanted<'_>) -> Result<(Arc<Lora>, Stamp), DiffusionError> {
        let unusable = |source| wanted.unusable(source);
        let (file, word) = (wanted.file(), wanted.word());
        let metadata = file.metadata().map_err(LoraFileError::Unreadable).map_err(unusable)?;
        let stamp = Stamp::of(&metadata);
        let is_it = |kept: &Loaded| kept.file == file && kept.word.as_deref() == word;
        if let Some(at) = self.kept.iter().position(is_it) {
            let kept = self.kept.remove(at);
            if kept.stamp == stamp {
                let lora = kept.lora.clone();
                self.kept.push(kept);
                return Ok((lora, stamp));
            }
        }
        self.reads += 1;
        let content = Content::read(file).map_err(unusable)?;
        let stamp = content.stamp();
        let lora = Arc::new(match wanted {
            Wanted::Lora(spec, index) => Lora::read(networks, content, &spec.name, index)?,
            Wanted::Word(spec) => Lora::of_word(networks, &content, spec)?,
        });
        self.keep(Loaded { file: file.to_owned(), word: word.map(str::to_owned), stamp, lora: lora.clone() });
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
