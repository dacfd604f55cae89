//! A Flux checkpoint: what its configurations say, and loaded.

use candle_core::Device;

use super::{FluxDenoiser, FluxFamily, Networks, PromptEncoder, TextEmbeddings, latents::PATCH};
use crate::{
    contract::limits::MAX_SIDE,
    diffusion::{
        DiffusionError,
        autoencoders::{Autoencoder, VaeConfig},
        checkpoint::{Checkpoint, ConfigFile},
        families::{Described, Opened},
        footprint::{Activations, Arithmetic},
        lora::Loras,
        networks::{
            clip::TextConfig,
            flux::{FluxTransformer, TransformerConfig},
            t5::T5Config,
        },
        picture::{Decoders, Defaults, Model},
        precision::{Precision, computed_in},
        schedulers::FlowConfig,
        text::{EmbeddingCache, T5Tokenizer},
    },
};

/// Flux.1.
pub type Flux = Model<FluxDenoiser>;

/// Words that T5 encodes for a model with guidance (dev), and for one without (schnell was trained with 256).
const WORDS: (usize, usize) = (512, 256);
/// diffusers' native side of this family, in latents.
const NATIVE_LATENTS: usize = 128;
/// Maps that a block makes of what goes into it: the projections of a single block are one.
const MAPS: u64 = 32;
/// What a job gets that names neither: dev's, and schnell's, which knows no guidance.
const DEV: Defaults = Defaults { steps: 28, guidance_scale: 3.5 };
const SCHNELL: Defaults = Defaults { steps: 4, guidance_scale: 0.0 };

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
    let (defaults, words) = if transformer.guidance { (DEV, WORDS.0) } else { (SCHNELL, WORDS.1) };
    let activations =
        Activations::of_transformer(transformer.width(), words, PATCH * vae.factor(), MAPS, &vae, with);
    Ok(Described { native_size: (side, side), defaults, activations })
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

/// Loads a checkpoint; `precision` is the types that weights are kept in, whatever type the files have.
///
/// # Errors
/// File, key, expected and found.
pub fn load(checkpoint: &Checkpoint, device: &Device, precision: Precision) -> Result<Flux, DiffusionError> {
    let transformer_file = checkpoint.config("transformer")?;
    let transformer = TransformerConfig::read(&transformer_file)?;
    let (vae, vae_bytes) = Autoencoder::load(checkpoint, "vae", device, precision.vae)?;
    check_size(&checkpoint.config("vae")?, vae.factor())?;
    let clip = TextConfig::read(&checkpoint.config("text_encoder")?, false)?;
    let t5 = T5Config::read(&checkpoint.config("text_encoder_2")?)?;
    for (key, found, expected, of) in [
        ("in_channels", transformer.in_channels, vae.latent_channels() * PATCH * PATCH, "the VAE's latents"),
        ("joint_attention_dim", transformer.text_width, t5.width, "text_encoder_2's d_model"),
        ("pooled_projection_dim", transformer.pooled_width, clip.hidden_size, "text_encoder's hidden_size"),
    ] {
        if found != expected {
            return Err(transformer_file.unusable(key, &format!("{expected} by {of}"), found));
        }
    }
    let schedule = FlowConfig::read(&checkpoint.config("scheduler")?)?;
    let words = if transformer.guidance { WORDS.0 } else { WORDS.1 };
    let (prompts, text_bytes) = PromptEncoder::load(checkpoint, (clip, t5), words, device, precision)?;
    let weights = checkpoint.weights("transformer", device, precision.denoiser)?;
    let compute = computed_in(precision.denoiser, device);
    let transformer = FluxTransformer::load(transformer, &weights.root(), device, compute)?;
    let weight_bytes = weights.bytes_taken() + text_bytes + vae_bytes;
    let networks = Networks { prompts, transformer };
    let denoiser = FluxDenoiser { networks, loras: Loras::default(), schedule, device: device.clone() };
    Ok(Model::new(denoiser, Decoders::new(vae, None, device), weight_bytes))
}

impl Flux {
    /// Loads a checkpoint of this family by its own type, for tools and tests that look at its networks.
    ///
    /// # Errors
    /// File, key, expected and found; so is a checkpoint of another family.
    pub fn load(
        opened: &Opened,
        device: &Device,
        precision: impl Into<Precision>,
    ) -> Result<Self, DiffusionError> {
        load(opened.checkpoint_of(&FluxFamily)?, device, precision.into())
    }

    /// T5's tokenizer, for tools and tests; so are the next three.
    pub fn t5_tokenizer(&self) -> &T5Tokenizer {
        self.denoiser().networks.prompts.t5_tokenizer()
    }

    /// The network that denoises.
    pub fn transformer(&self) -> &FluxTransformer {
        &self.denoiser().networks.transformer
    }

    /// Embeddings of the last prompts.
    pub fn embeddings(&self) -> &EmbeddingCache {
        self.denoiser().networks.prompts.embeddings()
    }

    /// Both text encoders' view of a prompt.
    ///
    /// # Errors
    /// What tokenizers and computing say.
    pub fn encode_prompt(&self, prompt: &str) -> Result<TextEmbeddings, DiffusionError> {
        self.denoiser().networks.prompts.encode(prompt)
    }
}
