//! A Z-Image checkpoint: what its configurations say, and loaded.

use candle_core::{DType, Device};

use super::{
    ZImageDenoiser, ZImageFamily,
    prompts::{PromptEncoder, WORDS},
};
use crate::{
    contract::limits::MAX_SIDE,
    diffusion::{
        DiffusionError,
        autoencoders::{Autoencoder, VaeConfig},
        checkpoint::{Checkpoint, ConfigFile},
        families::{Described, Opened},
        footprint::{Activations, Arithmetic},
        networks::{
            qwen3::Qwen3Config,
            z_image::{PATCH, TransformerConfig, ZImageTransformer},
        },
        picture::{Decoders, Defaults, Model},
        precision::{Precision, computed_in},
        schedulers::FlowConfig,
    },
};

/// Z-Image.
pub type ZImage = Model<ZImageDenoiser>;

/// diffusers' native side of this family, in latents.
const NATIVE_LATENTS: usize = 128;
/// Maps that a block makes of what goes into it.
const MAPS: u64 = 32;
/// The shift of sigmas that the distilled model was published with: no file says that it is distilled.
const TURBO_SHIFT: f64 = 3.0;
/// What a job gets that names neither: that model's, and the other's.
const TURBO: Defaults = Defaults { steps: 8, guidance_scale: 0.0 };
const BASE: Defaults = Defaults { steps: 50, guidance_scale: 5.0 };

/// See [`Family::describe`](crate::diffusion::families::Family::describe).
///
/// # Errors
/// The file and the key that are wrong.
pub fn describe(checkpoint: &Checkpoint, with: Arithmetic) -> Result<Described, DiffusionError> {
    let transformer = TransformerConfig::read(&checkpoint.config("transformer")?)?;
    let vae_file = checkpoint.config("vae")?;
    let vae = VaeConfig::read(&vae_file)?;
    check_size(&vae_file, vae.factor())?;
    let side = (NATIVE_LATENTS * vae.factor()) as u32;
    let schedule = FlowConfig::read(&checkpoint.config("scheduler")?)?;
    let pixels = PATCH * vae.factor();
    Ok(Described {
        native_size: (side, side),
        defaults: if schedule.fixed_shift() == Some(TURBO_SHIFT) { TURBO } else { BASE },
        activations: Activations::of_transformer(transformer.width, WORDS, pixels, MAPS, &vae, with),
    })
}

/// A picture of the native size can be asked for.
fn check_size(vae: &ConfigFile, factor: usize) -> Result<(), DiffusionError> {
    let most = MAX_SIDE as usize / NATIVE_LATENTS;
    match factor > most {
        true => {
            Err(vae.unusable("block_out_channels", &format!("at most {most} pixels for each latent"), factor))
        }
        false => Ok(()),
    }
}

/// Loads a checkpoint; `precision` is the types that weights are kept in, whatever type the files have. Activations of the
/// transformer go beyond what f16 holds: of weights that are kept so it is computed in f32.
///
/// # Errors
/// File, key, expected and found.
pub fn load(
    checkpoint: &Checkpoint,
    device: &Device,
    precision: Precision,
) -> Result<ZImage, DiffusionError> {
    let file = checkpoint.config("transformer")?;
    let config = TransformerConfig::read(&file)?;
    let (vae, vae_bytes) = Autoencoder::load(checkpoint, "vae", device, precision.vae)?;
    check_size(&checkpoint.config("vae")?, vae.factor())?;
    let text = Qwen3Config::read(&checkpoint.config("text_encoder")?)?;
    for (key, found, expected, of) in [
        ("in_channels", config.channels, vae.latent_channels(), "the VAE's latents"),
        ("cap_feat_dim", config.caption_width, text.width, "text_encoder's hidden_size"),
    ] {
        if found != expected {
            return Err(file.unusable(key, &format!("{expected} by {of}"), found));
        }
    }
    let schedule = FlowConfig::read(&checkpoint.config("scheduler")?)?;
    let (prompts, text_bytes) = PromptEncoder::load(checkpoint, text, device, precision)?;
    let weights = checkpoint.weights("transformer", device, precision.denoiser)?;
    let dtype = match computed_in(precision.denoiser, device) {
        DType::F16 => DType::F32,
        other => other,
    };
    let transformer = ZImageTransformer::load(config, &weights.root(), device, dtype)?;
    let weight_bytes = weights.bytes_taken() + text_bytes + vae_bytes;
    let denoiser = ZImageDenoiser { prompts, transformer, schedule, device: device.clone() };
    Ok(Model::new(denoiser, Decoders::new(vae, None, device), weight_bytes))
}

impl ZImage {
    /// Loads a checkpoint of this family by its own type, for tools and tests that look at its networks.
    ///
    /// # Errors
    /// File, key, expected and found; so is a checkpoint of another family.
    pub fn load(
        opened: &Opened,
        device: &Device,
        precision: impl Into<Precision>,
    ) -> Result<Self, DiffusionError> {
        load(opened.checkpoint_of(&ZImageFamily)?, device, precision.into())
    }

    /// The text encoder with its tokenizer, for tools and tests; so is the next.
    pub fn prompts(&self) -> &PromptEncoder {
        &self.denoiser().prompts
    }

    /// The network that denoises.
    pub fn transformer(&self) -> &ZImageTransformer {
        &self.denoiser().transformer
    }
}
