//! A checkpoint, loaded: begins pictures, advances them together, finishes them.

use std::{path::Path, sync::Arc};

use candle_core::{DType, Device, Tensor};
use image::RgbImage;

use super::{Denoising, Family, Networks, PromptEncoder};
use crate::diffusion::{
    DiffusionError,
    autoencoders::{Autoencoder, AutoencoderConfig},
    checkpoint::{Checkpoint, ConfigFile, TAESD},
    lora::Loras,
    networks::unet::{StepInput, UNet, UNetConfig},
    picture::{Fit, ImageSpec, LATENT_PIXELS_ON_CPU, Previews, in_passes, passes, pixels},
    precision::{Precision, computed_in},
    schedulers::{SchedulerConfig, SchedulerKind},
    text::ClipTokenizer,
};

/// Weights, configurations and tokenizers of one checkpoint; nothing of a picture.
pub struct StableDiffusion {
    pub(super) family: Family,
    pub(super) networks: Networks,
    pub(super) loras: Loras<Networks>,
    pub(super) vae: Autoencoder,
    /// A tiny autoencoder over the same latents, for previews, where the checkpoint has one.
    taesd: Option<Autoencoder>,
    pub(super) scheduler: SchedulerConfig,
    pub(super) device: Device,
    pub(super) dtype: DType,
    weight_bytes: u64,
    previews: Previews,
}

impl StableDiffusion {
    /// Reads a folder in the diffusers layout or a single file in the original layout. `precision` is the type that
    /// weights are kept in, whatever type the files have.
    ///
    /// # Errors
    /// The file and the key that are wrong, what was expected and what was found.
    pub fn load(
        path: &Path,
        device: &Device,
        precision: impl Into<Precision>,
    ) -> Result<Self, DiffusionError> {
        Self::open(&Checkpoint::open(path)?, device, precision)
    }

    /// As [`Self::load`], of a checkpoint that was opened.
    ///
    /// # Errors
    /// As [`Self::load`].
    pub fn open(
        checkpoint: &Checkpoint,
        device: &Device,
        precision: impl Into<Precision>,
    ) -> Result<Self, DiffusionError> {
        let precision = precision.into();
        let family = Family::of(checkpoint)?;
        let unet_file = checkpoint.config("unet")?;
        let unet_config = UNetConfig::read(&unet_file)?;
        let mut scheduler = SchedulerConfig::read(checkpoint.config("scheduler")?)?.for_latents();
        if matches!(family, Family::StableDiffusion { .. }) {
            scheduler = scheduler.with_offset();
        }
        let (prompts, text_bytes) = PromptEncoder::load(checkpoint, family, device, precision.text_encoder)?;
        check_widths(&unet_file, &unet_config, family, &prompts)?;
        let vae_file = checkpoint.config("vae")?;
        let latent_channels = AutoencoderConfig::read(&vae_file)?.latent_channels();
        if latent_channels != unet_config.out_channels {
            let expected = format!("{} as the UNet's out_channels", unet_config.out_channels);
            return Err(vae_file.unusable("latent_channels", &expected, latent_channels));
        }
        let (vae, vae_bytes) = Autoencoder::load(checkpoint, "vae", device, precision.vae)?;
        unet_config.check_sizes(&unet_file, vae.factor())?;
        let (taesd, taesd_bytes) = match checkpoint.has(TAESD) {
            true => {
                let file = checkpoint.config(TAESD)?;
                let channels = AutoencoderConfig::read(&file)?.latent_channels();
                if channels != latent_channels {
                    return Err(file.unusable(
                        "latent_channels",
                        &format!("{latent_channels} as the VAE's"),
                        channels,
                    ));
                }
                let (taesd, bytes) = Autoencoder::load(checkpoint, TAESD, device, precision.vae)?;
                (Some(taesd), bytes)
            }
            false => (None, 0),
        };
        let unet_weights = checkpoint.weights("unet", device, precision.denoiser)?;
        Ok(Self {
            family,
            networks: Networks { prompts, unet: UNet::load(unet_config, &unet_weights.root())? },
            loras: Loras::default(),
            vae,
            taesd,
            scheduler,
            device: device.clone(),
            dtype: computed_in(precision.denoiser, device),
            weight_bytes: unet_weights.bytes_taken() + text_bytes + vae_bytes + taesd_bytes,
            previews: Previews::default(),
        })
    }

    /// Width and height, in pixels, that the model was trained on.
    pub fn native_size(&self) -> (u32, u32) {
        let (height, width) = self.unet().config().sample_size;
        let factor = self.vae.factor();
        ((width * factor) as u32, (height * factor) as u32)
    }

    /// The contract's names of the schedulers there are.
    pub fn schedulers() -> &'static [&'static str] {
        SchedulerKind::NAMES
    }

    /// The checkpoint's own scheduler; one that we lack is an error that names it.
    pub fn default_scheduler(&self) -> Result<SchedulerKind, DiffusionError> {
        self.scheduler.kind()
    }

    /// Bytes of the weights in the types that they are kept in.
    pub fn weight_bytes(&self) -> u64 {
        self.weight_bytes
    }

    /// The tokenizer, for tools and tests; so are the next three.
    pub fn tokenizer(&self) -> &ClipTokenizer {
        self.networks.prompts.tokenizer()
    }

    /// Tokenizers and text encoders.
    pub fn prompts(&self) -> &PromptEncoder {
        &self.networks.prompts
    }

    /// The network that denoises.
    pub fn unet(&self) -> &UNet {
        &self.networks.unet
    }

    /// The LoRAs that jobs have named.
    pub fn loras(&self) -> &Loras<Networks> {
        &self.loras
    }

    /// The autoencoder.
    pub fn vae(&self) -> &Autoencoder {
        &self.vae
    }

    /// The tiny autoencoder that previews are decoded with, if the checkpoint has one.
    pub fn preview_autoencoder(&self) -> Option<&Autoencoder> {
        self.taesd.as_ref()
    }

    /// Tokenises, encodes text and input picture, and draws the first noise.
    pub fn begin(&self, spec: &ImageSpec) -> Result<Denoising, DiffusionError> {
        super::begin::begin(self, spec)
    }

    /// One step of each picture that is not done, in the passes that [`Self::passes`] says.
    ///
    /// A picture whose latents are no longer finite is done, and `finish` reports it: it does not fail the others.
    ///
    /// # Errors
    /// When a pass fails. Its pictures are as they were before; those of passes before it have gone their step.
    pub fn advance(&self, jobs: &mut [&mut Denoising]) -> Result<(), DiffusionError> {
        let waiting = jobs.iter_mut().map(|job| &mut **job).filter(|job| !job.is_done()).collect();
        in_passes(waiting, self.largest_pass(), fit, |together| self.advance_together(together))
    }

    /// Which of these pictures, by index, go their next step in one pass through the network: those of the same latent
    /// size, count of tokens and LoRAs, each at its own timestep. On a CPU a pass is limited to
    /// `LATENT_PIXELS_ON_CPU`, and in f32 a picture's bits do not depend on its company.
    pub fn passes(&self, jobs: &[&Denoising]) -> Vec<Vec<usize>> {
        passes(jobs.iter().map(|job| fit(job)), self.largest_pass())
    }

    /// Pictures of one job that are drawn together. On a CPU one: sharing gains nothing at the sizes that people ask for,
    /// and the first is finished sooner.
    pub fn pictures_together(&self) -> usize {
        if self.device.is_cpu() { 1 } else { usize::MAX }
    }

    fn largest_pass(&self) -> usize {
        if self.device.is_cpu() { LATENT_PIXELS_ON_CPU } else { usize::MAX }
    }

    fn advance_together(&self, jobs: &mut [&mut Denoising]) -> Result<(), DiffusionError> {
        let Some(first) = jobs.first() else {
            return Ok(());
        };
        let (_, height, width) = first.shape;
        let adapted = first.adapted.clone();
        let unet = adapted.as_ref().map_or(self.unet(), |networks| &networks.unet);
        let mut input = Vec::new();
        for job in jobs.iter() {
            let sample = job.network_input();
            (0..job.samples()).for_each(|_| input.extend_from_slice(&sample));
        }
        let samples = jobs.iter().map(|job| job.samples()).sum::<usize>();
        let input =
            Tensor::from_vec(input, (samples, unet.config().in_channels, height, width), &self.device)?;
        let steps = jobs.iter().map(|job| job.step_input()).collect::<Result<_, _>>()?;
        let output = unet.predict(&input.to_dtype(self.dtype)?, &StepInput::join(steps)?)?;
        let output = output.to_dtype(DType::F32)?.flatten_all()?.to_vec1::<f32>()?;
        let mut rest = output.as_slice();
        for job in jobs.iter_mut() {
            let (own, after) = rest.split_at(job.samples() * job.latents.len());
            job.take_output(own);
            rest = after;
        }
        Ok(())
    }

    /// Decodes the latents; what an inpainting mask keeps is the input, pixel for pixel.
    pub fn finish(&self, job: &Denoising) -> Result<RgbImage, DiffusionError> {
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
        Ok(job.restored(pixels::from_planes(&planes, padded, job.size.0, job.size.1)))
    }

    /// A cheap look at where the picture is going: at most 256 pixels a side.
    pub fn preview(&self, job: &Denoising) -> Result<RgbImage, DiffusionError> {
        if !job.finite {
            return Err(job.not_finite("latents"));
        }
        let vae = self.taesd.as_ref().unwrap_or(&self.vae);
        self.previews.draw(vae, &job.clean, job.shape, &self.device)
    }
}

/// What of a picture decides its pass. LoRAs are told apart by the networks that they were added to, which pictures with
/// the same LoRAs share.
fn fit(job: &Denoising) -> Fit<impl PartialEq + use<>> {
    let (_, height, width) = job.shape;
    Fit {
        key: (job.shape, job.prepared.tokens(), job.adapted.as_ref().map(Arc::as_ptr)),
        size: job.samples() * height * width,
    }
}

/// The text encoders and the UNet fit each other.
fn check_widths(
    file: &ConfigFile,
    unet: &UNetConfig,
    family: Family,
    prompts: &PromptEncoder,
) -> Result<(), DiffusionError> {
    let text = prompts.width();
    if let Some(width) = unet.cross_attention_dim.iter().find(|width| **width != text) {
        let expected = format!("{text} as the text encoders' hidden_size");
        return Err(file.unusable("cross_attention_dim", &expected, width));
    }
    match (family, unet.addition) {
        (Family::StableDiffusion { .. }, None) => Ok(()),
        (Family::StableDiffusion { .. }, Some(_)) => {
            Err(file.unusable("addition_embed_type", "none for this pipeline", "text_time"))
        }
        (Family::Xl { .. }, None) => Err(file.unusable("addition_embed_type", "text_time", "none")),
        (Family::Xl { aesthetics_score, .. }, Some(addition)) => {
            let sizes = if aesthetics_score { 5 } else { 6 };
            let inputs = prompts.pooled_width() + sizes * addition.time_embed_dim;
            if inputs == addition.inputs {
                return Ok(());
            }
            let expected = format!("{inputs} for {sizes} embedded sizes and the pooled text");
            Err(file.unusable("projection_class_embeddings_input_dim", &expected, addition.inputs))
        }
    }
}
