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
        let class = opened.checkpoint().index().text("_class_name")?;
        let (checkpoint, variant) = match Sdxl.pipelines().contains(&class) {
            true => {
                let checkpoint = opened.checkpoint_of(&Sdxl)?;
                (checkpoint, sdxl::variant(checkpoint)?)
            }
            false => {
                let checkpoint = opened.checkpoint_of(&Sd)?;
                (checkpoint, sd::variant(checkpoint)?)
            }
        };
        unet::load(checkpoint, variant, device, precision.into())
    }
}
