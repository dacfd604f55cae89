//! Where the parts of a checkpoint are read from: configuration files, weights, tokenizers. What is read from them is
//! for the networks to say.

mod weights;

use std::path::{Path, PathBuf};

use candle_core::{DType, Device};

pub use weights::{Scope, Weights};

use super::{
    DiffusionError,
    config::{ConfigFile, TextConfig},
    tokenizer::ClipTokenizer,
};

/// A checkpoint that was found, nothing of it loaded yet.
#[derive(Debug)]
pub struct Checkpoint {
    folder: PathBuf,
    index: ConfigFile,
}

impl Checkpoint {
    /// A folder in the diffusers layout.
    ///
    /// # Errors
    /// When there is no usable `model_index.json`.
    pub fn open(folder: &Path) -> Result<Self, DiffusionError> {
        let index = ConfigFile::read(&folder.join("model_index.json"))?;
        Ok(Self { folder: folder.to_owned(), index })
    }

    /// `model_index.json`: the pipeline's class, and the class of each component.
    pub fn index(&self) -> &ConfigFile {
        &self.index
    }

    /// The class of a component, for example `CLIPTextModel` of `text_encoder`; none when the checkpoint has no such
    /// component.
    pub fn class_of(&self, component: &str) -> Option<&str> {
        self.index.value(component)?.get(1)?.as_str()
    }

    /// Where a component's files are.
    pub fn folder(&self, component: &str) -> PathBuf {
        self.folder.join(component)
    }

    /// The configuration file of a component.
    pub fn config(&self, component: &str) -> Result<ConfigFile, DiffusionError> {
        let name = if component == "scheduler" { "scheduler_config.json" } else { "config.json" };
        ConfigFile::read(&self.folder.join(component).join(name))
    }

    /// The weights of a component, to be kept as `dtype` on `device`.
    pub fn weights(&self, component: &str, device: &Device, dtype: DType) -> Result<Weights, DiffusionError> {
        let stem = if component.starts_with("text_encoder") { "model" } else { "diffusion_pytorch_model" };
        Weights::open(&self.folder.join(component), stem, device, dtype)
    }

    /// The tokenizer `tokenizer` or `tokenizer_2` for a CLIP text encoder.
    pub fn tokenizer(&self, component: &str, encoder: &TextConfig) -> Result<ClipTokenizer, DiffusionError> {
        let folder = self.folder.join(component);
        ClipTokenizer::load(&folder, encoder.max_position_embeddings, encoder.vocab_size)
    }
}
