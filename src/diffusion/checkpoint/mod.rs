//! Where the parts of a checkpoint are read from: configuration files, weights, tokenizers. What is read from them is
//! for the networks to say, and which parts there are for the families.

mod component;
mod config_file;
pub(super) mod convert;
mod files;
mod foreign;
mod fp8;
mod identity;
mod licence;
pub mod limits;
mod mapped;
mod names;
mod place;
mod scaled;
mod scales;
mod single_file;
mod size;
mod weights;

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    sync::Arc,
};

use candle_core::{DType, Device};
use serde_json::Value;

pub use component::{Component, Role};
pub use config_file::{ConfigFile, read_limited};
pub use foreign::what_it_holds;
pub use identity::{Part, sha256};
pub use mapped::MappedFile;
pub use names::{Cut, Names, Under};
pub use place::{ComponentFile, Place};
pub use single_file::SingleFile;
pub use weights::{Scope, Weights};

use self::files::ComponentFiles;
use crate::diffusion::DiffusionError;

/// A checkpoint that was found, nothing of it loaded yet.
pub struct Checkpoint {
    index: ConfigFile,
    base: Base,
    /// Components that are elsewhere than the base has them.
    places: BTreeMap<String, Place>,
}

/// Where a checkpoint begins.
enum Base {
    /// diffusers' folder of a folder per component.
    Folder(PathBuf),
    /// A file; all that is in it has its place.
    File(Arc<MappedFile>),
}

impl Checkpoint {
    /// One in a file that its family has recognised.
    ///
    /// # Errors
    /// When the index that the family gives is none.
    pub fn in_one_file(file: SingleFile) -> Result<Self, DiffusionError> {
        let (index, scheduler) = (file.index()?, file.scheduler()?);
        let components = file.components.into_iter().map(|(name, file)| (name, Place::File(file)));
        let tokenizers = file.tokenizers.into_iter().map(|(name, files)| (name, Place::Tokenizer(files)));
        let places = components
            .chain(tokenizers)
            .chain([("scheduler", Place::Config(scheduler))])
            .map(|(name, place)| (name.to_owned(), place));
        Ok(Self { index, places: places.collect(), base: Base::File(file.file) })
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
        Ok(Self { base: Base::Folder(path.to_owned()), index, places: BTreeMap::new() })
    }

    /// Has a component somewhere else.
    pub fn put(&mut self, component: &str, place: Place) {
        self.places.insert(component.to_owned(), place);
    }

    /// Where a component is that is elsewhere.
    pub fn place(&self, component: &str) -> Option<&Place> {
        self.places.get(component)
    }

    /// Sets a key in the configuration of a component in a file, or of one without weights.
    ///
    /// # Errors
    /// When its configuration cannot be read.
    pub fn set(&mut self, component: &str, key: &str, value: Value) -> Result<(), DiffusionError> {
        if let Some(Place::File(file)) = self.places.get_mut(component) {
            file.config[key] = value;
            return Ok(());
        }
        let mut config = self.config(component)?;
        config.set(key, value);
        self.put(component, Place::Config(config));
        Ok(())
    }

    /// `model_index.json`: the pipeline's class, and the class of each component.
    pub fn index(&self) -> &ConfigFile {
        &self.index
    }

    /// The file that it begins with; none where that is a folder.
    pub fn file(&self) -> Option<&Arc<MappedFile>> {
        match &self.base {
            Base::Folder(_) => None,
            Base::File(file) => Some(file),
        }
    }

    /// The class of a component, for example `CLIPTextModel` of `text_encoder`; none when the checkpoint has no such
    /// component.
    pub fn class_of(&self, component: &str) -> Option<&str> {
        self.index.value(component)?.get(1)?.as_str()
    }

    /// Whether there is a component of that name, whatever the index says.
    pub fn has(&self, component: &str) -> bool {
        match (self.places.get(component), &self.base) {
            (Some(_), _) => true,
            (None, Base::Folder(folder)) => folder.join(component).join("config.json").is_file(),
            (None, Base::File(_)) => false,
        }
    }

    /// The configuration file of a component.
    ///
    /// # Errors
    /// When it has none, or it cannot be read.
    pub fn config(&self, component: &str) -> Result<ConfigFile, DiffusionError> {
        let name = if component == "scheduler" { "scheduler_config.json" } else { "config.json" };
        match (self.places.get(component), &self.base) {
            (Some(Place::File(file)), _) => file.config(component),
            (Some(Place::Folder(folder)), _) => ConfigFile::read(&folder.join(name)),
            (Some(Place::Config(config)), _) => Ok(config.clone()),
            (None, Base::Folder(folder)) => ConfigFile::read(&folder.join(component).join(name)),
            (Some(Place::Tokenizer(_)), _) | (None, Base::File(_)) => Err(self.no_component(component)),
        }
    }

    /// The weights of a component, to be kept as `dtype` on `device`. Of several precisions in a folder, the one that
    /// is kept is read.
    ///
    /// # Errors
    /// When it has none, or a file that is no safetensors file.
    pub fn weights(&self, component: &str, device: &Device, dtype: DType) -> Result<Weights, DiffusionError> {
        let in_folder =
            |folder: &Path| Ok(Weights::new(files_of(folder, component, dtype)?, None, device, dtype));
        match (self.places.get(component), &self.base) {
            (Some(Place::File(file)), _) => Ok(file.weights(device, dtype)),
            (Some(Place::Folder(folder)), _) => in_folder(folder),
            (None, Base::Folder(folder)) => in_folder(&folder.join(component)),
            (Some(Place::Tokenizer(_) | Place::Config(_)), _) | (None, Base::File(_)) => {
                Err(self.no_component(component))
            }
        }
    }

    /// What the tokenizer of that name is read from.
    ///
    /// # Errors
    /// When a single file has none.
    pub fn tokenizer(&self, component: &str) -> Result<TokenizerFiles, DiffusionError> {
        match (self.places.get(component), &self.base) {
            (Some(Place::Tokenizer(files)), _) => Ok(files.clone()),
            (None, Base::Folder(folder)) => Ok(TokenizerFiles::Folder(folder.join(component))),
            _ => Err(self.no_component(component)),
        }
    }

    /// The error that it has no such component: of a folder the index would have said so.
    fn no_component(&self, component: &str) -> DiffusionError {
        let file = match &self.base {
            Base::Folder(path) => path.clone(),
            Base::File(file) => file.path().to_owned(),
        };
        DiffusionError::Config {
            file,
            key: component.to_owned(),
            expected: format!(
                "this component: in the file, or in another that is named with `{component}=PATH`"
            ),
            found: "none".into(),
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
