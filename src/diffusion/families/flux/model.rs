//! A Flux checkpoint, loaded: begins pictures, advances them together, finishes them.

use candle_core::{DType, Device, IndexOp, Tensor};
use image::RgbImage;

use super::{
    config,
    denoising::FluxDenoising,
    latents::{self, PATCH, Shape},
};
use crate::{
    contract::{PromptSyntax, limits::MAX_SIDE},
    diffusion::{
        DiffusionError,
        autoencoders::{Autoencoder, VaeConfig},
        checkpoint::{Checkpoint, ConfigFile, Weights},
        footprint::{Activations, Arithmetic},
        networks::{
            clip::{TextConfig, TextEncoder},
            flux::{FluxTransformer, TransformerConfig, TransformerInput},
            t5::{T5Config, T5Encoder},
        },
        picture::{Defaults, Fit, ImageSpec, Previews, in_passes, passes, pixels},
        precision::{Precision, computed_in},
        schedulers::FlowConfig,
        text::{ClipTokenizer, EmbeddingCache, EmbeddingKey, T5Tokenizer},
    },
};

/// Words that T5 encodes for a model with guidance (dev), and for one without (schnell was trained with 256).
const WORDS: (usize, usize) = (512, 256);
/// diffusers' native side of this family, in latents.
const NATIVE_LATENTS: usize = 128;
/// What a job gets that names neither: dev's, and schnell's, which knows no guidance.
const DEV: Defaults = Defaults { steps: 28, guidance_scale: 3.5 };
const SCHNELL: Defaults = Defaults { steps: 4, guidance_scale: 0.0 };

/// Weights, configurations and tokenizers of one checkpoint; nothing of a picture.
pub struct Flux {
    tokenizer: ClipTokenizer,
    text_encoder: TextEncoder,
    t5_tokenizer: T5Tokenizer,
    t5: T5Encoder,
    transformer: FluxTransformer,
    vae: Autoencoder,
    pub(super) schedule: FlowConfig,
    pub(super) device: Device,
    weight_bytes: u64,
    previews: Previews,
    /// Of the last prompts: T5 takes longer than a step of schnell, and the pictures of a job share their prompt.
    embeddings: EmbeddingCache,
}

/// A prompt, encoded.
#[derive(Debug, Clone)]
pub struct TextEmbeddings {
    /// `[1, words, width]` from T5.
    pub words: Tensor,
    /// `[1, width]` from CLIP: its last layer, normalised, at the end of the prompt.
    pub pooled: Tensor,
    /// That the prompt was cut, for the requester.
    pub warnings: Vec<String>,
}

/// Width and height, in pixels, of a picture that names none, the other defaults, and what a picture takes of memory.
///
/// # Errors
/// The file and the key that are wrong.
pub fn inspect(
    checkpoint: &Checkpoint,
    with: Arithmetic,
) -> Result<((u32, u32), Defaults, Activations), DiffusionError> {
    config::check_pipeline(checkpoint)?;
    let transformer = TransformerConfig::read(&checkpoint.config("transformer")?)?;
    let vae_file = checkpoint.config("vae")?;
    let vae = VaeConfig::read(&vae_file)?;
    check_size(&vae_file, vae.factor())?;
    let side = (NATIVE_LATENTS * vae.factor()) as u32;
    let (defaults, words) = if transformer.guidance { (DEV, WORDS.0) } else { (SCHNELL, WORDS.1) };
    let activations =
        Activations::of_transformer(transformer.width(), words, PATCH * vae.factor(), &vae, with);
    Ok(((side, side), defaults, activations))
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

impl Flux {
    /// Whether a checkpoint is of this family.
    pub fn is(checkpoint: &Checkpoint) -> bool {
        config::is_flux(checkpoint)
    }

    /// Reads a checkpoint in the diffusers layout. `precision` is the type that weights are kept in, whatever type
    /// the files have.
    ///
    /// # Errors
    /// File, key, expected and found.
    pub fn load(
        checkpoint: &Checkpoint,
        device: &Device,
        precision: impl Into<Precision>,
    ) -> Result<Self, DiffusionError> {
        let precision = precision.into();
        config::check_pipeline(checkpoint)?;
        let transformer_file = checkpoint.config("transformer")?;
        let transformer = TransformerConfig::read(&transformer_file)?;
        let (vae, vae_bytes) = Autoencoder::load(checkpoint, "vae", device, precision.vae)?;
        check_size(&checkpoint.config("vae")?, vae.factor())?;
        let text_file = checkpoint.config("text_encoder")?;
        let text = TextConfig::read(&text_file, false)?;
        let t5 = T5Config::read(&checkpoint.config("text_encoder_2")?)?;
        for (key, found, expected, of) in [
            (
                "in_channels",
                transformer.in_channels,
                vae.latent_channels() * PATCH * PATCH,
                "the VAE's latents",
            ),
            ("joint_attention_dim", transformer.text_width, t5.width, "text_encoder_2's d_model"),
            (
                "pooled_projection_dim",
                transformer.pooled_width,
                text.hidden_size,
                "text_encoder's hidden_size",
            ),
        ] {
            if found != expected {
                return Err(transformer_file.unusable(key, &format!("{expected} by {of}"), found));
            }
        }
        let schedule = FlowConfig::read(&checkpoint.config("scheduler")?)?;
        let tokenizer = checkpoint.tokenizer("tokenizer", &text)?;
        let words = if transformer.guidance { WORDS.0 } else { WORDS.1 };
        let t5_tokenizer = T5Tokenizer::load(&checkpoint.folder("tokenizer_2")?, words, t5.vocab_size)?;
        let open = |component, dtype| checkpoint.weights(component, device, dtype);
        let text_weights = open("text_encoder", precision.text_encoder)?;
        let t5_weights = open("text_encoder_2", precision.text_encoder)?;
        let transformer_weights = open("transformer", precision.denoiser)?;
        let compute = computed_in(precision.denoiser, device);
        Ok(Self {
            tokenizer,
            text_encoder: TextEncoder::load(text, &text_weights.root())?,
            t5_tokenizer,
            t5: T5Encoder::load(t5, &t5_weights.root(), device, precision.text_encoder)?,
            transformer: FluxTransformer::load(transformer, &transformer_weights.root(), device, compute)?,
            vae,
            schedule,
            device: device.clone(),
            weight_bytes: [text_weights, t5_weights, transformer_weights]
                .iter()
                .map(Weights::bytes_taken)
                .sum::<u64>()
                + vae_bytes,
            previews: Previews::default(),
            embeddings: EmbeddingCache::default(),
        })
    }

    /// Whether the guidance scale is an input of the network.
    pub fn takes_guidance(&self) -> bool {
        self.transformer.config().guidance
    }

    /// Bytes of the weights in the types that they are kept in.
    pub fn weight_bytes(&self) -> u64 {
        self.weight_bytes
    }

    /// T5's tokenizer, for tools and tests; so are the next two.
    pub fn t5_tokenizer(&self) -> &T5Tokenizer {
        &self.t5_tokenizer
    }

    /// The network that denoises.
    pub fn transformer(&self) -> &FluxTransformer {
        &self.transformer
    }

    /// The autoencoder.
    pub fn vae(&self) -> &Autoencoder {
        &self.vae
    }

    /// Embeddings of the last prompts.
    pub fn embeddings(&self) -> &EmbeddingCache {
        &self.embeddings
    }

    /// Both text encoders' view of a prompt.
    pub fn encode_prompt(&self, prompt: &str) -> Result<TextEmbeddings, DiffusionError> {
        let (clip, t5) = (self.tokenizer.encode(prompt)?, self.t5_tokenizer.encode(prompt)?);
        let cut = |reader: &str, length: usize, cut: Option<String>| {
            cut.map(|cut| format!("`prompt` was cut at {length} tokens for {reader}; left out: {cut}"))
        };
        let encode = || {
            let hidden = self.text_encoder.forward(std::slice::from_ref(&clip.ids), 0)?;
            let pooled = hidden.i((.., self.text_encoder.end_of(&clip.ids)))?.copy()?;
            Ok::<_, DiffusionError>(vec![self.t5.forward(&t5.ids)?, pooled])
        };
        let key = EmbeddingKey::new(prompt, PromptSyntax::Plain, 0, "");
        let mut tensors = self.embeddings.get_or_encode(key, encode)?.into_iter();
        let mut next = || tensors.next().expect("both encoders' embeddings are kept together");
        Ok(TextEmbeddings {
            words: next(),
            pooled: next(),
            // CLIP reads 77 tokens and sets the tone only; what T5 reads in full is in the picture.
            warnings: cut("T5", self.t5_tokenizer.length(), t5.cut).into_iter().collect(),
        })
    }

    /// Tokenises, encodes text and input picture, and draws the first noise. Sides that are no multiples of a token
    /// (16 pixels) are drawn larger, and cut at the right and below.
    pub fn begin(&self, spec: &ImageSpec) -> Result<FluxDenoising, DiffusionError> {
        super::begin::begin(self, spec)
    }

    /// One step of each picture that is not done, in the passes that [`Self::passes`] says.
    ///
    /// A picture whose latents are no longer finite is done, and `finish` reports it: it does not fail the others.
    ///
    /// # Errors
    /// When a pass fails. Its pictures are as they were before; those of passes before it have gone their step.
    pub fn advance(&self, jobs: &mut [&mut FluxDenoising]) -> Result<(), DiffusionError> {
        let waiting = jobs.iter_mut().map(|job| &mut **job).filter(|job| !job.is_done()).collect();
        in_passes(waiting, self.largest_pass(), fit, |together| self.advance_together(together))
    }

    /// Which of these pictures, by index, go their next step in one pass: those of the same size. On the CPU each is
    /// alone, so that its bits do not depend on its company.
    pub fn passes(&self, jobs: &[&FluxDenoising]) -> Vec<Vec<usize>> {
        passes(jobs.iter().map(|job| fit(job)), self.largest_pass())
    }

    /// Pictures of one job that are drawn together: on the CPU one, as each has a pass of its own there.
    pub fn pictures_together(&self) -> usize {
        if self.device.is_cpu() { 1 } else { usize::MAX }
    }

    fn largest_pass(&self) -> usize {
        if self.device.is_cpu() { 0 } else { usize::MAX }
    }

    fn advance_together(&self, jobs: &mut [&mut FluxDenoising]) -> Result<(), DiffusionError> {
        let Some(shape) = jobs.first().map(|job| job.shape) else {
            return Ok(());
        };
        let grid = (shape.1 / PATCH, shape.2 / PATCH);
        let tokens: Vec<f32> = jobs.iter().flat_map(|job| latents::pack(&job.latents, shape)).collect();
        let size = (jobs.len(), grid.0 * grid.1, shape.0 * PATCH * PATCH);
        let each = |tensor: fn(&FluxDenoising) -> &Tensor| {
            Tensor::cat(&jobs.iter().map(|job| tensor(job)).collect::<Vec<_>>(), 0)
        };
        let velocity = self.transformer.forward(&TransformerInput {
            latents: &Tensor::from_vec(tokens, size, &self.device)?,
            text: &each(|job| &job.text)?,
            pooled: &each(|job| &job.pooled)?,
            sigmas: &jobs.iter().map(|job| job.sigma()).collect::<Vec<_>>(),
            guidance: &jobs.iter().map(|job| job.guidance_scale).collect::<Vec<_>>(),
            grid,
        })?;
        let velocity = velocity.to_dtype(DType::F32)?.flatten_from(1)?.to_vec2::<f32>()?;
        for (job, velocity) in jobs.iter_mut().zip(velocity) {
            job.take_velocity(&latents::unpack(&velocity, shape));
        }
        Ok(())
    }

    /// Decodes the latents; what an inpainting mask keeps is the input, pixel for pixel.
    pub fn finish(&self, job: &FluxDenoising) -> Result<RgbImage, DiffusionError> {
        if !job.finite {
            return Err(job.not_finite("latents"));
        }
        let (planes, widened) = self.vae.draw(&job.latents, job.shape, &self.device)?;
        if widened {
            job.warnings.decoded_in_f32();
        }
        if !planes.iter().all(|value| value.is_finite()) {
            return Err(job.not_finite("pixels"));
        }
        let factor = self.vae.factor();
        let padded = ((job.shape.2 * factor) as u32, (job.shape.1 * factor) as u32);
        let drawn = pixels::from_planes(&planes, padded, job.size.0, job.size.1);
        Ok(match &job.masked {
            Some(source) => source.finished(drawn),
            None => drawn,
        })
    }

    /// A cheap look at where the picture is going: at most 256 pixels a side.
    pub fn preview(&self, job: &FluxDenoising) -> Result<RgbImage, DiffusionError> {
        if !job.finite {
            return Err(job.not_finite("latents"));
        }
        self.previews.draw(&self.vae, &job.clean, job.shape, &self.device)
    }
}

fn fit(job: &FluxDenoising) -> Fit<Shape> {
    Fit { key: job.shape, size: job.shape.1 * job.shape.2 }
}
