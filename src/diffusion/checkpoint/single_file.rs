//! A checkpoint in one safetensors file: where its components are in it, as the family says that has recognised it.

use std::{collections::BTreeMap, path::Path, sync::Arc};

use candle_core::{DType, Device, Tensor};
use serde_json::Value;

use super::{ConfigFile, MappedFile, TokenizerFiles, Weights};
use crate::diffusion::DiffusionError;

/// The file, and what its family finds in it.
pub struct SingleFile {
    /// All weights.
    pub file: Arc<MappedFile>,
    /// What `model_index.json` would say.
    pub index: Value,
    /// What the components' configuration files would say.
    pub configs: BTreeMap<&'static str, Value>,
    /// How the tensors of each component with weights are named.
    pub names: BTreeMap<&'static str, Arc<dyn Names>>,
    /// The tokenizers.
    pub tokenizers: BTreeMap<&'static str, TokenizerFiles>,
}

/// How the tensors of one component are named in a file.
pub trait Names: Send + Sync {
    /// What all names of the component begin with.
    fn prefix(&self) -> &str;

    /// The name in the file of what diffusers calls `key`, and which cut of it that is. `has` says what the file holds. A
    /// name that has no counterpart stays as it is, under the component's prefix.
    fn original(&self, key: &str, has: &dyn Fn(&str) -> bool) -> (String, Cut);
}

/// Which part of a tensor in the file is the tensor that diffusers names.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cut {
    /// All of it.
    Whole,
    /// One of three parts of equal rows: query, key, value.
    Third(usize),
    /// Rows and columns exchanged.
    Transposed,
    /// A convolution with a kernel of 1 as the matrix that it is.
    Matrix,
}

impl Cut {
    /// The shape that a tensor in the file must have for this cut of it to have `shape`.
    pub fn shape_in_file(self, shape: &[usize], found: Option<&[usize]>) -> Vec<usize> {
        let mut wanted = shape.to_vec();
        match self {
            Self::Whole => {}
            Self::Third(_) => wanted.iter_mut().take(1).for_each(|rows| *rows *= 3),
            Self::Transposed => wanted.reverse(),
            Self::Matrix => {
                let kernel = found.map_or(2, |found| found.len().saturating_sub(2)).min(2);
                wanted.extend(std::iter::repeat_n(1, kernel));
            }
        }
        wanted
    }

    /// The cut, of `shape`, of a tensor that has [`Cut::shape_in_file`].
    pub fn of(self, tensor: &Tensor, shape: &[usize]) -> Result<Tensor, DiffusionError> {
        Ok(match self {
            Self::Whole => tensor.clone(),
            Self::Third(third) => {
                let rows = shape.first().copied().unwrap_or(0);
                // A copy: a view would keep all three parts in memory.
                tensor.narrow(0, third * rows, rows)?.force_contiguous()?
            }
            Self::Transposed => tensor.t()?.contiguous()?,
            Self::Matrix => tensor.reshape(shape)?,
        })
    }
}

impl SingleFile {
    /// Maps a file that may be a checkpoint.
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
        ConfigFile::from_value(self.label("index"), self.index.clone())
    }

    /// The configuration of a component.
    pub(super) fn config(&self, component: &str) -> Result<ConfigFile, DiffusionError> {
        let config = self.configs.get(component).ok_or_else(|| self.no_component(component))?;
        ConfigFile::from_value(self.label(component), config.clone())
    }

    fn label(&self, component: &str) -> String {
        format!("{} (configuration of {component})", self.file.path().display())
    }

    /// Whether it has weights of that component.
    pub(super) fn has(&self, component: &str) -> bool {
        self.names.contains_key(component)
    }

    /// The weights of a component, to be kept as `dtype` on `device`.
    pub(super) fn weights(
        &self,
        component: &str,
        device: &Device,
        dtype: DType,
    ) -> Result<Weights, DiffusionError> {
        let names = self.names.get(component).ok_or_else(|| self.no_component(component))?;
        Ok(Weights::renamed(self.file.clone(), names.clone(), device, dtype))
    }

    /// The files of a tokenizer.
    pub(super) fn tokenizer(&self, component: &str) -> Result<TokenizerFiles, DiffusionError> {
        self.tokenizers.get(component).cloned().ok_or_else(|| self.no_component(component))
    }

    /// The error that it has no such component.
    fn no_component(&self, component: &str) -> DiffusionError {
        DiffusionError::Config {
            file: self.file.path().to_owned(),
            key: component.to_owned(),
            expected: "a component that this kind of file has".into(),
            found: "none".into(),
        }
    }
}
