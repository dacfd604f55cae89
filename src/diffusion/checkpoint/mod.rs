//! Where the parts of a checkpoint are read from: configuration files, weights, tokenizers. What is read from them is
//! for the networks to say.

mod config_file;
pub(super) mod convert;
mod files;
mod identity;
mod kind;
mod licence;
pub mod limits;
mod mapped;
mod single_file;
mod size;
mod weights;

use std::path::{Path, PathBuf};

use candle_core::{DType, Device};

pub use config_file::{ConfigFile, read_limited};
pub use identity::{Part, sha256};
pub use kind::{BEGINNING, FileKind, what_is, why_no_safetensors};
pub use mapped::MappedFile;
pub use single_file::original_unet_name;
pub use weights::{Scope, Weights};

use self::{files::ComponentFiles, single_file::SingleFile};
use crate::diffusion::{DiffusionError, networks::clip::TextConfig, text::ClipTokenizer};

/// The component of a checkpoint that previews are decoded with, if it is there.
pub const TAESD: &str = "taesd";

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
    /// A folder in the diffusers layout, or a `.safetensors` file in the original layout.
    ///
    /// # Errors
    /// When there is no usable `model_index.json`, or the file holds no Stable Diffusion.
    pub fn open(path: &Path) -> Result<Self, DiffusionError> {
        if path.is_file() {
            let file = SingleFile::open(path)?;
            return Ok(Self { index: file.index()?, layout: Layout::SingleFile(Box::new(file)) });
        }
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

    /// The folder of a component; a single file has none.
    pub fn folder(&self, component: &str) -> Result<PathBuf, DiffusionError> {
        match &self.layout {
            Layout::Folder(folder) => Ok(folder.join(component)),
            Layout::SingleFile(file) => Err(file.no_component(component)),
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

    /// The tokenizer `tokenizer` or `tokenizer_2` for a CLIP text encoder.
    pub fn tokenizer(&self, component: &str, encoder: &TextConfig) -> Result<ClipTokenizer, DiffusionError> {
        match &self.layout {
            Layout::Folder(folder) => {
                let folder = folder.join(component);
                ClipTokenizer::load(&folder, encoder.max_position_embeddings, encoder.vocab_size)
            }
            Layout::SingleFile(file) => file.tokenizer(component, encoder),
        }
    }
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
