//! Where a component is that is not in the folder of its name below its checkpoint's.

use std::{path::PathBuf, sync::Arc};

use candle_core::{DType, Device};
use serde_json::Value;

use super::{ConfigFile, MappedFile, Names, TokenizerFiles, Weights, files::ComponentFiles};
use crate::diffusion::DiffusionError;

/// Where a component is.
#[derive(Clone)]
pub enum Place {
    /// In a file.
    File(ComponentFile),
    /// In a folder of its own, in the diffusers layout.
    Folder(PathBuf),
    /// A tokenizer.
    Tokenizer(TokenizerFiles),
    /// What has no weights, by its configuration.
    Config(ConfigFile),
}

/// A component in one file, which may hold others too.
#[derive(Clone)]
pub struct ComponentFile {
    /// The file.
    pub file: Arc<MappedFile>,
    /// How its tensors are named there; none: as diffusers names them.
    pub names: Option<Arc<dyn Names>>,
    /// What its configuration file would say.
    pub config: Value,
}

impl ComponentFile {
    /// Its configuration, called after the file.
    pub(super) fn config(&self, component: &str) -> Result<ConfigFile, DiffusionError> {
        let label = format!("{} (configuration of {component})", self.file.path().display());
        ConfigFile::from_value(label, self.config.clone())
    }

    /// Its weights, to be kept as `dtype` on `device`.
    pub(super) fn weights(&self, device: &Device, dtype: DType) -> Weights {
        Weights::new(ComponentFiles::one(self.file.clone()), self.names.clone(), device, dtype)
    }
}
