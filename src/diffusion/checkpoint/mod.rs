//! Where the parts of a checkpoint are read from: configuration files, weights, tokenizers. What is read from them is
//! for the networks to say, and which parts there are for the families.

mod component;
mod config_file;
pub(super) mod convert;
mod files;
mod foreign;
mod identity;
mod licence;
pub mod limits;
mod mapped;
mod single_file;
mod size;
mod weights;

use std::path::{Path, PathBuf};

use candle_core::{DType, Device};

pub use component::{Component, Role};
pub use config_file::{ConfigFile, read_limited};
pub use foreign::what_it_holds;
pub use identity::{Part, sha256};
pub use mapped::MappedFile;
pub use single_file::{Cut, Names, SingleFile};
pub use weights::{Scope, Weights};

use self::files::ComponentFiles;
use crate::diffusion::DiffusionError;

/// A checkpoint that was found, nothing of it loaded yet.
pub struct Checkpoint {
    layout: Layout,
    index: ConfigFile,
}

enum Layout {
    /// diffusers' folder of a folder per component.
    Folder(PathBuf),
    /// One file in the original layout.
    SingleFile(Box<SingleFile>),
}

impl Checkpoint {
    /// One in a file that its family has recognised.
    ///
    /// # Errors
    /// When the index that the family gives is none.
    pub fn in_one_file(file: SingleFile) -> Result<Self, DiffusionError> {
        Ok(Self { index: file.index()?, layout: Layout::SingleFile(Box::new(file)) })
    }

    /// A folder in the diffusers layout.
    ///
    /// # Errors
    /// When there is no usable `model_index.json`.
    pub fn in_folder(path: &Path) -> Result<Self, DiffusionError> {
        let index = path.join("model_index.json");
        if !index.exists() {
            return Err(no_index(path));
        }
        let index = ConfigFile::read(&index)?;
        Ok(Self { layout: Layout::Folder(path.to_owned()), index })
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

    /// Whether there is a component of that name, whatever the index says.
    pub fn has(&self, component: &str) -> bool {
        match &self.layout {
            Layout::Folder(folder) => folder.join(component).join("config.json").is_file(),
            Layout::SingleFile(file) => file.has(component),
        }
    }

    /// The configuration file of a component.
    pub fn config(&self, component: &str) -> Result<ConfigFile, DiffusionError> {
        let name = if component == "scheduler" { "scheduler_config.json" } else { "config.json" };
        match &self.layout {
            Layout::Folder(folder) => ConfigFile::read(&folder.join(component).join(name)),
            Layout::SingleFile(file) => file.config(component),
        }
    }

    /// The weights of a component, to be kept as `dtype` on `device`. Of several precisions in a folder, the one that
    /// is kept is read.
    pub fn weights(&self, component: &str, device: &Device, dtype: DType) -> Result<Weights, DiffusionError> {
        match &self.layout {
            Layout::Folder(folder) => {
                Ok(Weights::new(files_of(&folder.join(component), component, dtype)?, device, dtype))
            }
            Layout::SingleFile(file) => file.weights(component, device, dtype),
        }
    }

    /// What the tokenizer of that name is read from.
    ///
    /// # Errors
    /// When a single file has none.
    pub fn tokenizer(&self, component: &str) -> Result<TokenizerFiles, DiffusionError> {
        match &self.layout {
            Layout::Folder(folder) => Ok(TokenizerFiles::Folder(folder.join(component))),
            Layout::SingleFile(file) => file.tokenizer(component),
        }
    }
}

/// What a tokenizer is read from.
#[derive(Debug, Clone)]
pub enum TokenizerFiles {
    /// A folder of its files.
    Folder(PathBuf),
    /// CLIP's vocabulary, which the program has.
    ClipBuiltIn {
        /// Its name in errors.
        label: PathBuf,
        /// What fills a prompt up; none: the end of the text.
        padding: Option<&'static str>,
    },
}

/// The error of a folder that is no pipeline's, with what to name in its place.
fn no_index(folder: &Path) -> DiffusionError {
    let found = files::what_else_is_there(folder);
    let advice = if folder.join("config.json").exists() {
        ": one component; name the folder of its pipeline"
    } else if found.contains(".safetensors") {
        ": a checkpoint in one file is named by its file"
    } else {
        ""
    };
    DiffusionError::NoIndex { folder: folder.to_owned(), found: format!("{found}{advice}") }
}

/// The weights of a component in its folder, of several precisions the one that `kept` chooses.
fn files_of(folder: &Path, component: &str, kept: DType) -> Result<ComponentFiles, DiffusionError> {
    let stem = if component.starts_with("text_encoder") { "model" } else { "diffusion_pytorch_model" };
    ComponentFiles::find(folder, stem, kept)
}
