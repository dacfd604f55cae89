//! A Flux checkpoint, loaded: begins pictures, advances them together, finishes them.

use std::sync::{Mutex, OnceLock, PoisonError};

use candle_core::{DType, Device, IndexOp, Tensor};
use image::RgbImage;

use super::{
    config::{self, T5Config, TransformerConfig},
    denoising::FluxDenoising,
    latents::{self, PATCH},
    schedule::FlowConfig,
    t5::T5Encoder,
    t5_tokenizer::T5Tokenizer,
    transformer::{FluxTransformer, TransformerInput},
};
use crate::diffusion::{
    Checkpoint, ClipTokenizer, DiffusionError, ImageSpec, Precision, TextEncoder, Vae,
    checkpoint::Weights,
    config::{TextConfig, VaeConfig},
    picture,
    precision::computed_in,
    preview::PreviewMap,
};

/// Words that T5 encodes for a model with guidance (dev), and for one without (schnell was trained with 256).
const WORDS: (usize, usize) = (512, 256);
/// diffusers' native side of this family, in latents.
const NATIVE_LATENTS: usize = 128;
/// Steps of a job that names none: dev, schnell.
const STEPS: (u32, u32) = (28, 4);
/// Guidance of a job that names none: dev, schnell (which has none).
const GUIDANCE: (f64, f64) = (3.5, 0.0);
/// What CLIPTextModel takes for the end of a prompt when the configuration does not say.
const CLIP_END: usize = 49407;
/// Older CLIP configurations say this, wrongly; the end token is then the largest id of a prompt.
const CLIP_WRONG_END: usize = 2;

/// Weights, configurations and tokenizers of one checkpoint; nothing of a picture.
pub struct Flux {
    tokenizer: ClipTokenizer,
    text_encoder: TextEncoder,
    clip_end: usize,
    t5_tokenizer: T5Tokenizer,
    t5: T5Encoder,
    transformer: FluxTransformer,
    vae: Vae,
    pub(super) schedule: FlowConfig,
    pub(super) device: Device,
    weight_bytes: u64,
    preview: OnceLock<PreviewMap>,
    /// The last prompt: T5 takes longer than a step of schnell, and the pictures of a job share their prompt.
    last_text: Mutex<Option<(String, TextEmbeddings)>>,
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
        let vae = VaeConfig::read(&checkpoint.config("vae")?)?;
        let text_file = checkpoint.config("text_encoder")?;
        let text = TextConfig::read(&text_file)?;
        let clip_end = text_file.natural_or("eos_token_id", CLIP_END)?;
        let t5 = T5Config::read(&checkpoint.config("text_encoder_2")?)?;
        for (key, found, expected, of) in [
            (
                "in_channels",
                transformer.in_channels,
                vae.latent_channels * PATCH * PATCH,
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
        let t5_tokenizer = T5Tokenizer::load(&checkpoint.folder("tokenizer_2"), words, t5.vocab_size)?;
        let open = |component, dtype| checkpoint.weights(component, device, dtype);
        let text_weights = open("text_encoder", precision.text_encoder)?;
        let t5_weights = open("text_encoder_2", precision.text_encoder)?;
        let transformer_weights = open("transformer", precision.denoiser)?;
        let vae_weights = open("vae", precision.vae)?;
        let compute = computed_in(precision.denoiser, device);
        Ok(Self {
            tokenizer,
            text_encoder: TextEncoder::load(text, &text_weights.root())?,
            clip_end,
            t5_tokenizer,
            t5: T5Encoder::load(t5, &t5_weights.root(), device, precision.text_encoder)?,
            transformer: FluxTransformer::load(transformer, &transformer_weights.root(), device, compute)?,
            vae: Vae::load(vae, &vae_weights.root(), computed_in(precision.vae, device))?,
            schedule,
            device: device.clone(),
            weight_bytes: [text_weights, t5_weights, transformer_weights, vae_weights]
                .iter()
                .map(Weights::bytes_taken)
                .sum(),
            preview: OnceLock::new(),
            last_text: Mutex::new(None),
        })
    }

    /// Width and height, in pixels, of a picture that names none.
    pub fn native_size(&self) -> (u32, u32) {
        let side = (NATIVE_LATENTS * self.vae.config().factor()) as u32;
        (side, side)
    }

    /// Steps of a job that names none.
    pub fn default_steps(&self) -> u32 {
        if self.takes_guidance() { STEPS.0 } else { STEPS.1 }
    }

    /// Guidance scale of a job that names none.
    pub fn default_guidance(&self) -> f64 {
        if self.takes_guidance() { GUIDANCE.0 } else { GUIDANCE.1 }
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
    pub fn vae(&self) -> &Vae {
        &self.vae
    }

    /// Both text encoders' view of a prompt.
    pub fn encode_prompt(&self, prompt: &str) -> Result<TextEmbeddings, DiffusionError> {
        // A panic elsewhere leaves the last prompt whole: it is replaced in one assignment.
        let mut last = self.last_text.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((_, text)) = last.as_ref().filter(|(known, _)| known == prompt) {
            return Ok(text.clone());
        }
        let (clip, t5) = (self.tokenizer.encode(prompt)?, self.t5_tokenizer.encode(prompt)?);
        let cut = |reader: &str, length: usize, cut: Option<String>| {
            cut.map(|cut| format!("`prompt` was cut at {length} tokens for {reader}; left out: {cut}"))
        };
        let hidden = self.text_encoder.forward(std::slice::from_ref(&clip.ids), 0)?;
        let text = TextEmbeddings {
            words: self.t5.forward(&t5.ids)?,
            pooled: hidden.i((.., prompt_end(&clip.ids, self.clip_end)))?,
            // CLIP reads 77 tokens and sets the tone only; what T5 reads in full is in the picture.
            warnings: cut("T5", self.t5_tokenizer.length(), t5.cut).into_iter().collect(),
        };
        *last = Some((prompt.to_owned(), text.clone()));
        Ok(text)
    }

    /// Tokenises, encodes text and input picture, and draws the first noise. Sides that are no multiples of a token
    /// (16 pixels) are drawn larger, and cut at the right and below.
    pub fn begin(&self, spec: &ImageSpec) -> Result<FluxDenoising, DiffusionError> {
        super::begin::begin(self, spec)
    }

    /// One step of each picture that is not done. On the CPU each is computed alone, so that its bits do not depend
    /// on its company; on other devices pictures of the same size share a pass.
    ///
    /// A picture whose latents are no longer finite is done, and `finish` reports it: it does not fail the others.
    pub fn advance(&self, jobs: &mut [&mut FluxDenoising]) -> Result<(), DiffusionError> {
        let mut waiting: Vec<&mut FluxDenoising> =
            jobs.iter_mut().map(|job| &mut **job).filter(|job| !job.is_done()).collect();
        while let Some(first) = waiting.first() {
            let shape = first.shape;
            let alone = self.device.is_cpu();
            let mut taken = 0;
            let (mut together, rest): (Vec<_>, Vec<_>) = waiting.into_iter().partition(|job| {
                let fits = job.shape == shape && !(alone && taken > 0);
                taken += usize::from(fits);
                fits
            });
            self.advance_together(&mut together)?;
            waiting = rest;
        }
        Ok(())
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
        let planes = latents::decode(&self.vae, &self.device, &job.latents, job.shape)?;
        if !planes.iter().all(|value| value.is_finite()) {
            return Err(job.not_finite("pixels"));
        }
        let factor = self.vae.config().factor();
        let padded = ((job.shape.2 * factor) as u32, (job.shape.1 * factor) as u32);
        let mut picture = picture::from_planes(&planes, padded, job.size.0, job.size.1);
        if let Some(restore) = &job.restore {
            restore.apply(&mut picture);
        }
        Ok(picture)
    }

    /// A cheap look at where the picture is going: at most 256 pixels a side.
    pub fn preview(&self, job: &FluxDenoising) -> Result<RgbImage, DiffusionError> {
        if !job.finite {
            return Err(job.not_finite("latents"));
        }
        let map = match self.preview.get() {
            Some(map) => map,
            None => {
                let map = PreviewMap::fit(&self.vae, &self.device)?;
                self.preview.get_or_init(|| map)
            }
        };
        Ok(map.draw(&job.clean, job.shape.2 as u32, job.shape.1 as u32))
    }
}

/// Where CLIPTextModel looks for the whole prompt: at its first end token.
fn prompt_end(ids: &[u32], end: usize) -> usize {
    let end = match end {
        CLIP_WRONG_END => ids.iter().copied().max().map_or(end, |id| id as usize),
        _ => end,
    };
    ids.iter().position(|id| *id as usize == end).unwrap_or(0)
}
