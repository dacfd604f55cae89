//! A checkpoint that was found, with the family that it is of.

use std::path::{Path, PathBuf};

use candle_core::Device;

use super::{Described, FAMILIES, Family, by_pipeline};
use crate::diffusion::{
    DiffusionError,
    checkpoint::{
        Checkpoint, Component, ConfigFile, Part, Place, Role, SingleFile, TokenizerFiles, what_it_holds,
    },
    footprint::{Activations, Arithmetic},
    picture::{Defaults, Model},
    precision::Precision,
};

/// A checkpoint of a known family, nothing of it loaded yet.
pub struct Opened {
    checkpoint: Checkpoint,
    family: &'static dyn Family,
}

/// What a checkpoint's configuration files and the headers of its weights say.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Inspection {
    /// Width and height, in pixels, that the model was trained on.
    pub native_size: (u32, u32),
    /// What a job gets that names neither.
    pub defaults: Defaults,
    /// Bytes of the weights as they will be kept.
    pub weight_bytes: u64,
    /// Bytes that a picture takes beside them.
    pub activations: Activations,
}

/// A component that is named apart from its checkpoint: its name in the diffusers layout, and a file or a folder of it.
pub type Named = (String, PathBuf);

/// A folder in the diffusers layout, or a `.safetensors` file in its family's original layout.
///
/// # Errors
/// When there is no usable `model_index.json`, or the file is a whole checkpoint of no family.
pub fn open(path: &Path) -> Result<Opened, DiffusionError> {
    open_with(path, &[])
}

/// As [`open`], with components of other files: those that a file lacks, or others in place of what is there.
///
/// # Errors
/// As [`open`], and when a component is named twice, is none of the family, is not in the file that was named for it, or is
/// missing.
pub fn open_with(path: &Path, named: &[Named]) -> Result<Opened, DiffusionError> {
    let (mut checkpoint, family) = if path.is_file() { open_file(path)? } else { open_folder(path)? };
    for (i, (name, at)) in named.iter().enumerate() {
        let unusable = |expected: String, found: &str| DiffusionError::Config {
            file: at.clone(),
            key: name.clone(),
            expected,
            found: found.into(),
        };
        let component = family.components().iter().find(|component| component.name == *name);
        let Some(component) = component else {
            let all: Vec<&str> = family.components().iter().map(|component| component.name).collect();
            return Err(unusable(
                format!("one of {}, which this family has", all.join(", ")),
                "another component",
            ));
        };
        let is_first = component.role == Role::Denoiser && checkpoint.file().is_some();
        if is_first || named[..i].iter().any(|(earlier, _)| earlier == name) {
            let found = if is_first { "another beside that of the first file" } else { "a second one" };
            return Err(unusable("one file or folder for each component".into(), found));
        }
        let place = place(family, component, at, &checkpoint)?;
        checkpoint.put(component.name, place);
    }
    family.settle(&mut checkpoint)?;
    checkpoint.must_be_whole(family.components())?;
    Ok(Opened { checkpoint, family })
}

fn open_folder(path: &Path) -> Result<(Checkpoint, &'static dyn Family), DiffusionError> {
    let checkpoint = Checkpoint::in_folder(path)?;
    let class = checkpoint.index().text("_class_name")?;
    match by_pipeline(class) {
        Some(family) => Ok((checkpoint, family)),
        None => {
            let known: Vec<&str> = FAMILIES.iter().flat_map(|family| family.pipelines()).copied().collect();
            let expected = format!("one of {}", known.join(", "));
            Err(checkpoint.index().unusable("_class_name", &expected, class))
        }
    }
}

fn open_file(path: &Path) -> Result<(Checkpoint, &'static dyn Family), DiffusionError> {
    let file = SingleFile::map(path)?;
    for family in FAMILIES {
        if let Some(found) = family.single_file(&file)? {
            return Ok((Checkpoint::in_one_file(found)?, family));
        }
    }
    let mut signs: Vec<&str> = FAMILIES.iter().filter_map(|family| family.sign_of_single_file()).collect();
    signs.dedup();
    Err(DiffusionError::Config {
        file: path.to_owned(),
        key: signs.join("` or `"),
        expected: "the network of a family that is read from files, in its original layout: Stable Diffusion 1, 2 or XL, \
                   Flux.1, Z-Image"
            .into(),
        found: what_it_holds(&file),
    })
}

/// Where a component is that was named as a file or a folder.
fn place(
    family: &dyn Family,
    component: &Component,
    path: &Path,
    checkpoint: &Checkpoint,
) -> Result<Place, DiffusionError> {
    let is_folder = path.is_dir();
    Ok(match (component.role, is_folder) {
        (Role::Tokenizer, true) => Place::Tokenizer(TokenizerFiles::Folder(path.to_owned())),
        (Role::Tokenizer, false) => match path.parent() {
            Some(folder) if path.file_name().is_some_and(|name| name == "tokenizer.json") => {
                Place::Tokenizer(TokenizerFiles::Folder(folder.to_owned()))
            }
            _ => {
                return Err(DiffusionError::Config {
                    file: path.to_owned(),
                    key: component.name.to_owned(),
                    expected: "the folder of a tokenizer, or its tokenizer.json".into(),
                    found: "another file".into(),
                });
            }
        },
        (Role::Scheduler, true) => Place::Config(ConfigFile::read(&path.join("scheduler_config.json"))?),
        (Role::Scheduler, false) => Place::Config(ConfigFile::read(path)?),
        (_, true) => {
            // The folder of the component, or of a pipeline that has it.
            let below = path.join(component.name);
            let is_below = !path.join("config.json").is_file() && below.join("config.json").is_file();
            Place::Folder(if is_below { below } else { path.to_owned() })
        }
        (_, false) => {
            Place::File(family.component_file(component.name, &SingleFile::map(path)?, checkpoint)?)
        }
    })
}

/// Reads the configurations and the headers of the weights of a checkpoint that is to be computed on `device`.
///
/// # Errors
/// What loading would refuse, as far as it can be seen so: the file and the key that are wrong.
pub fn inspect(path: &Path, device: &Device, precision: Precision) -> Result<Inspection, DiffusionError> {
    open(path)?.inspect(device, precision)
}

impl Opened {
    /// Its files.
    pub fn checkpoint(&self) -> &Checkpoint {
        &self.checkpoint
    }

    /// Its files, if it is of this family and has all its components.
    ///
    /// # Errors
    /// The index with the class that it names, or the component.
    pub fn checkpoint_of(&self, family: &dyn Family) -> Result<&Checkpoint, DiffusionError> {
        let index = self.checkpoint.index();
        let class = index.text("_class_name")?;
        if !family.pipelines().contains(&class) {
            let expected = format!("one of {}", family.pipelines().join(", "));
            return Err(index.unusable("_class_name", &expected, class));
        }
        self.checkpoint.must_have(family.components())?;
        Ok(&self.checkpoint)
    }

    /// Its family.
    pub fn family(&self) -> &'static dyn Family {
        self.family
    }

    /// See [`inspect`].
    ///
    /// # Errors
    /// As [`inspect`].
    pub fn inspect(&self, device: &Device, precision: Precision) -> Result<Inspection, DiffusionError> {
        self.checkpoint.must_have(self.family.components())?;
        let weight_bytes = self.checkpoint.weight_bytes(self.family.components(), precision)?;
        let Described { native_size, defaults, activations } =
            self.family.describe(&self.checkpoint, Arithmetic::of(device, precision))?;
        Ok(Inspection { native_size, defaults, weight_bytes, activations })
    }

    /// Every part that decides a picture, with the weights that `precision` chooses.
    ///
    /// # Errors
    /// A file that cannot be read, or is missing.
    pub fn identity(&self, precision: Precision) -> Result<Vec<Part>, DiffusionError> {
        self.checkpoint.identity(self.family.components(), precision)
    }

    /// Loads it; `precision` is the types that its weights are kept in.
    ///
    /// # Errors
    /// The file and the key that are wrong, what was expected and what was found.
    pub fn load(&self, device: &Device, precision: Precision) -> Result<Box<Model>, DiffusionError> {
        self.checkpoint.must_have(self.family.components())?;
        self.family.load(&self.checkpoint, device, precision)
    }
}
