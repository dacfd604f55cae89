//! A checkpoint that was found, with the family that it is of.

use std::path::Path;

use candle_core::Device;

use super::{Described, FAMILIES, Family, by_pipeline};
use crate::diffusion::{
    DiffusionError,
    checkpoint::{Checkpoint, Part, SingleFile, what_it_holds},
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

/// A folder in the diffusers layout, or a `.safetensors` file in its family's original layout.
///
/// # Errors
/// When there is no usable `model_index.json`, or the file is a whole checkpoint of no family.
pub fn open(path: &Path) -> Result<Opened, DiffusionError> {
    if path.is_file() {
        return open_file(path);
    }
    let checkpoint = Checkpoint::in_folder(path)?;
    let class = checkpoint.index().text("_class_name")?;
    match by_pipeline(class) {
        Some(family) => Ok(Opened { checkpoint, family }),
        None => {
            let known: Vec<&str> = FAMILIES.iter().flat_map(|family| family.pipelines()).copied().collect();
            let expected = format!("one of {}", known.join(", "));
            Err(checkpoint.index().unusable("_class_name", &expected, class))
        }
    }
}

fn open_file(path: &Path) -> Result<Opened, DiffusionError> {
    let file = SingleFile::map(path)?;
    for family in FAMILIES {
        if let Some(found) = family.single_file(&file)? {
            return Ok(Opened { checkpoint: Checkpoint::in_one_file(found)?, family });
        }
    }
    let mut signs: Vec<&str> = FAMILIES.iter().filter_map(|family| family.sign_of_single_file()).collect();
    signs.dedup();
    Err(DiffusionError::Config {
        file: path.to_owned(),
        key: signs.join("` or `"),
        expected:
            "the network of a family that is read from one file, in its original layout: Stable Diffusion 1, \
                   2 or XL"
                .into(),
        found: what_it_holds(&file),
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
