//! A Stable Diffusion checkpoint, loaded.

use candle_core::Device;

use super::{Networks, PromptEncoder, UNetDenoiser, Variant};
use crate::diffusion::{
    DiffusionError,
    autoencoders::{Autoencoder, AutoencoderConfig},
    checkpoint::{Checkpoint, ConfigFile},
    lora::Loras,
    networks::unet::{UNet, UNetConfig},
    picture::{Decoders, Model},
    precision::{Precision, computed_in},
    schedulers::{SchedulerConfig, SchedulerKind},
    text::ClipTokenizer,
};

/// The component that previews are decoded with, if it is there.
const PREVIEWS: &str = "taesd";

/// Stable Diffusion 1, 2 or XL.
pub type StableDiffusion = Model<UNetDenoiser>;

/// Loads a checkpoint with such a UNet; `precision` is the types that weights are kept in.
///
/// # Errors
/// The file and the key that are wrong, what was expected and what was found.
pub fn load(
    checkpoint: &Checkpoint,
    variant: Variant,
    device: &Device,
    precision: Precision,
) -> Result<StableDiffusion, DiffusionError> {
    let unet_file = checkpoint.config("unet")?;
    let unet_config = UNetConfig::read(&unet_file)?;
    let mut scheduler = SchedulerConfig::read(checkpoint.config("scheduler")?)?.for_latents();
    if variant.changes_scheduler {
        scheduler = scheduler.with_offset();
    }
    let (prompts, text_bytes) = PromptEncoder::load(checkpoint, variant, device, precision.text_encoder)?;
    check_widths(&unet_file, &unet_config, variant, &prompts)?;
    let vae_file = checkpoint.config("vae")?;
    let latent_channels = AutoencoderConfig::read(&vae_file)?.latent_channels();
    if latent_channels != unet_config.out_channels {
        let expected = format!("{} as the UNet's out_channels", unet_config.out_channels);
        return Err(vae_file.unusable("latent_channels", &expected, latent_channels));
    }
    let (vae, vae_bytes) = Autoencoder::load(checkpoint, "vae", device, precision.vae)?;
    let factor = vae.factor();
    unet_config.check_sizes(&unet_file, factor)?;
    let (taesd, taesd_bytes) = match checkpoint.has(PREVIEWS) {
        true => {
            let file = checkpoint.config(PREVIEWS)?;
            let channels = AutoencoderConfig::read(&file)?.latent_channels();
            if channels != latent_channels {
                return Err(file.unusable(
                    "latent_channels",
                    &format!("{latent_channels} as the VAE's"),
                    channels,
                ));
            }
            let (taesd, bytes) = Autoencoder::load(checkpoint, PREVIEWS, device, precision.vae)?;
            (Some(taesd), bytes)
        }
        false => (None, 0),
    };
    let unet_weights = checkpoint.weights("unet", device, precision.denoiser)?;
    let denoiser = UNetDenoiser {
        variant,
        networks: Networks { prompts, unet: UNet::load(unet_config, &unet_weights.root())? },
        loras: Loras::default(),
        scheduler,
        factor,
        device: device.clone(),
        dtype: computed_in(precision.denoiser, device),
    };
    let weight_bytes = unet_weights.bytes_taken() + text_bytes + vae_bytes + taesd_bytes;
    Ok(Model::new(denoiser, Decoders::new(vae, taesd, device), weight_bytes))
}

impl StableDiffusion {
    /// Width and height, in pixels, that the model was trained on.
    pub fn native_size(&self) -> (u32, u32) {
        let (height, width) = self.unet().config().sample_size;
        let factor = self.vae().factor();
        ((width * factor) as u32, (height * factor) as u32)
    }

    /// The contract's names of the schedulers there are.
    pub fn schedulers() -> &'static [&'static str] {
        SchedulerKind::NAMES
    }

    /// The checkpoint's own scheduler; one that we lack is an error that names it.
    pub fn default_scheduler(&self) -> Result<SchedulerKind, DiffusionError> {
        self.denoiser().scheduler.kind()
    }

    /// The tokenizer, for tools and tests; so are the next three.
    pub fn tokenizer(&self) -> &ClipTokenizer {
        self.prompts().tokenizer()
    }

    /// Tokenizers and text encoders.
    pub fn prompts(&self) -> &PromptEncoder {
        &self.denoiser().networks().prompts
    }

    /// The network that denoises.
    pub fn unet(&self) -> &UNet {
        &self.denoiser().networks().unet
    }

    /// The LoRAs that jobs have named.
    pub fn loras(&self) -> &Loras<Networks> {
        &self.denoiser().loras
    }
}

/// The text encoders and the UNet fit each other.
fn check_widths(
    file: &ConfigFile,
    unet: &UNetConfig,
    variant: Variant,
    prompts: &PromptEncoder,
) -> Result<(), DiffusionError> {
    let text = prompts.width();
    if let Some(width) = unet.cross_attention_dim.iter().find(|width| **width != text) {
        let expected = format!("{text} as the text encoders' hidden_size");
        return Err(file.unusable("cross_attention_dim", &expected, width));
    }
    match (variant.sizes, unet.addition) {
        (None, None) => Ok(()),
        (None, Some(_)) => Err(file.unusable("addition_embed_type", "none for this pipeline", "text_time")),
        (Some(_), None) => Err(file.unusable("addition_embed_type", "text_time", "none")),
        (Some(sizes), Some(addition)) => {
            let sizes: usize = sizes.count();
            let inputs = prompts.pooled_width() + sizes * addition.time_embed_dim;
            if inputs == addition.inputs {
                return Ok(());
            }
            let expected = format!("{inputs} for {sizes} embedded sizes and the pooled text");
            Err(file.unusable("projection_class_embeddings_input_dim", &expected, addition.inputs))
        }
    }
}
