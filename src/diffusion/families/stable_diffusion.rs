//! Stable Diffusion of any kind by its own type, for tools and tests that look at its networks.

use std::path::Path;

use candle_core::Device;

use super::{
    Family, Opened, open,
    sd::{self, Sd},
    sdxl::{self, Sdxl},
    unet::{self, StableDiffusion},
};
use crate::diffusion::{DiffusionError, precision::Precision};

impl StableDiffusion {
    /// Reads a folder in the diffusers layout or a single file in the original layout. `precision` is the type that
    /// weights are kept in, whatever type the files have.
    ///
    /// # Errors
    /// The file and the key that are wrong, what was expected and what was found; so is a checkpoint of another family.
    pub fn load(
        path: &Path,
        device: &Device,
        precision: impl Into<Precision>,
    ) -> Result<Self, DiffusionError> {
        Self::open(&open(path)?, device, precision)
    }

    /// As [`Self::load`], of a checkpoint that was opened.
    ///
    /// # Errors
    /// As [`Self::load`].
    pub fn open(
        opened: &Opened,
        device: &Device,
        precision: impl Into<Precision>,
    ) -> Result<Self, DiffusionError> {
        let checkpoint = opened.checkpoint();
        let index = checkpoint.index();
        let class = index.text("_class_name")?;
        let (components, variant) = if Sd.pipelines().contains(&class) {
            (Sd.components(), sd::variant(checkpoint)?)
        } else if Sdxl.pipelines().contains(&class) {
            (Sdxl.components(), sdxl::variant(checkpoint)?)
        } else {
            let known = [Sd.pipelines(), Sdxl.pipelines()].concat().join(", ");
            return Err(index.unusable("_class_name", &format!("one of {known}"), class));
        };
        checkpoint.must_have(components)?;
        unet::load(checkpoint, variant, device, precision.into())
    }
}
