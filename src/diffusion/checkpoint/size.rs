//! How much memory a checkpoint's weights take, told from the files' headers before any of them is loaded.

use candle_core::{DType, Device};

use super::{Checkpoint, TAESD};
use crate::diffusion::{DiffusionError, precision::Precision};

/// The components that have weights. A checkpoint has some of them.
const TEXT_ENCODERS: [&str; 3] = ["text_encoder", "text_encoder_2", "text_encoder_3"];
const DENOISERS: [&str; 2] = ["unet", "transformer"];

impl Checkpoint {
    /// Bytes of all weights in the types that `precision` keeps them in.
    ///
    /// # Errors
    /// The component whose weights are missing or damaged: every file of weights is opened and its header read.
    pub fn weight_bytes(&self, precision: Precision) -> Result<u64, DiffusionError> {
        let mut bytes = 0;
        for (component, dtype) in self.networks(precision) {
            bytes += self.component_bytes(component, dtype)?;
        }
        // It stands beside the pipeline's components, and no index names it.
        if self.has(TAESD) {
            bytes += self.component_bytes(TAESD, precision.vae)?;
        }
        Ok(bytes)
    }

    /// The components with weights that it has, and the type that each is kept in.
    pub(super) fn networks(&self, precision: Precision) -> impl Iterator<Item = (&'static str, DType)> {
        let text = TEXT_ENCODERS.into_iter().map(move |component| (component, precision.text_encoder));
        let denoisers = DENOISERS.into_iter().map(move |component| (component, precision.denoiser));
        let all = text.chain(denoisers).chain([("vae", precision.vae)]);
        all.filter(|(component, _)| self.class_of(component).is_some())
    }

    fn component_bytes(&self, component: &str, dtype: DType) -> Result<u64, DiffusionError> {
        Ok(self.weights(component, &Device::Cpu, dtype)?.elements() * dtype.size_in_bytes() as u64)
    }
}
