//! A checkpoint in one safetensors file: where its components are in it, as the family says that has recognised it. What
//! it lacks is in other files.

use std::{collections::BTreeMap, path::Path, sync::Arc};

use serde_json::Value;

use super::{ComponentFile, ConfigFile, MappedFile, TokenizerFiles};
use crate::diffusion::DiffusionError;

/// The file, and what its family finds in it.
pub struct SingleFile {
    /// The file with the network that denoises.
    pub file: Arc<MappedFile>,
    /// What `model_index.json` would say of the whole checkpoint.
    pub index: Value,
    /// What the scheduler's configuration file would say.
    pub scheduler: Value,
    /// The components with weights that are in the file.
    pub components: BTreeMap<&'static str, ComponentFile>,
    /// The tokenizers that the program has.
    pub tokenizers: BTreeMap<&'static str, TokenizerFiles>,
}

impl SingleFile {
    /// Maps a file that may be a checkpoint, or a component of one.
    ///
    /// # Errors
    /// When it is no safetensors file.
    pub fn map(path: &Path) -> Result<Arc<MappedFile>, DiffusionError> {
        let extension = path.extension().and_then(|extension| extension.to_str()).unwrap_or_default();
        if ["ckpt", "pt", "pth", "bin"].contains(&extension) {
            return Err(DiffusionError::NoWeights {
                folder: path.to_owned(),
                expected: "a .safetensors file".into(),
                found: format!(".{extension} (pickled weights can run code when read; convert them)"),
            });
        }
        Ok(Arc::new(MappedFile::open(path)?))
    }

    /// What `model_index.json` would say.
    pub(super) fn index(&self) -> Result<ConfigFile, DiffusionError> {
        self.configuration("index", &self.index)
    }

    /// What the scheduler's configuration file would say.
    pub(super) fn scheduler(&self) -> Result<ConfigFile, DiffusionError> {
        self.configuration("scheduler", &self.scheduler)
    }

    fn configuration(&self, of: &str, value: &Value) -> Result<ConfigFile, DiffusionError> {
        let label = format!("{} (configuration of {of})", self.file.path().display());
        ConfigFile::from_value(label, value.clone())
    }
}
