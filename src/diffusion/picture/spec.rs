//! What to draw: one picture, ready for the model. Inputs are decoded pixels; every default has been filled in.

use std::sync::Arc;

use image::{GrayImage, RgbImage};

use super::{is_drawn_anew, masking::Overlay};
use crate::{
    contract::{GuidanceInterval, PromptSyntax, SchedulerOptions},
    diffusion::lora::{EmbeddingSpec, LoraSpec},
};

/// One picture to draw.
#[derive(Debug, Clone)]
pub struct ImageSpec {
    /// What to draw.
    pub prompt: String,
    /// What not to draw; the empty text when absent.
    pub negative_prompt: Option<String>,
    /// How both prompts are read.
    pub prompt_syntax: PromptSyntax,
    /// Layers of the text encoder to leave out, as diffusers counts them.
    pub clip_skip: u32,
    /// Denoising steps.
    pub steps: u32,
    /// Classifier-free guidance; at 1 or below no unconditional pass is run.
    pub guidance_scale: f64,
    /// The part of the schedule that is guided; none: all of it. The schedule counts as a whole, with the steps that a
    /// strength below 1 leaves out, and in the steps that were asked for: all evaluations of one are guided, or none.
    pub guidance_interval: Option<GuidanceInterval>,
    /// How far what guidance makes of the spread of an answer is taken back, 0 (not at all) to 1.
    pub guidance_rescale: f64,
    /// Seed of the noise; torch's generator uses its low 32 bits.
    pub seed: u64,
    /// The scheduler by its contract name; the checkpoint's own when absent.
    pub scheduler: Option<String>,
    /// What is set of it, in place of the checkpoint's configuration.
    pub scheduler_options: SchedulerOptions,
    /// Added to the model for this picture, in this order.
    pub loras: Vec<LoraSpec>,
    /// Textual inversions whose words a prompt in the `a1111` syntax has.
    pub embeddings: Vec<EmbeddingSpec>,
    /// What the picture starts from.
    pub source: Source,
}

impl ImageSpec {
    /// A picture with the defaults of a model that says nothing else, and the seed 0.
    pub fn new(prompt: impl Into<String>, source: Source) -> Self {
        let Defaults { steps, guidance_scale } = Defaults::default();
        Self {
            prompt: prompt.into(),
            negative_prompt: None,
            prompt_syntax: PromptSyntax::Plain,
            clip_skip: 0,
            steps,
            guidance_scale,
            guidance_interval: None,
            guidance_rescale: 0.0,
            seed: 0,
            scheduler: None,
            scheduler_options: SchedulerOptions::default(),
            loras: Vec::new(),
            embeddings: Vec::new(),
            source,
        }
    }
}

/// Steps and guidance of a job that names none.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Defaults {
    /// Denoising steps.
    pub steps: u32,
    /// Classifier-free guidance, or what a distilled network takes in its place.
    pub guidance_scale: f64,
}

impl Default for Defaults {
    fn default() -> Self {
        Self { steps: 20, guidance_scale: 7.5 }
    }
}

/// What a picture starts from.
#[derive(Debug, Clone)]
pub enum Source {
    /// Noise alone. Sides in pixels, multiples of 8.
    Text {
        /// Pixels.
        width: u32,
        /// Pixels.
        height: u32,
    },
    /// A picture of any size.
    Image {
        /// The picture.
        image: RgbImage,
        /// How far to go from it, above 0, at most 1.
        strength: f64,
    },
    /// A picture and a mask of the same size.
    Inpaint {
        /// The picture, or the part of one that is drawn.
        image: RgbImage,
        /// As large as the picture; 128 and above is drawn anew. Without an overlay the rest is kept pixel for pixel.
        mask: GrayImage,
        /// How far to go from it, above 0, at most 1.
        strength: f64,
        /// What the drawn picture is laid into; none: what the mask keeps is copied back.
        overlay: Option<Arc<Overlay>>,
    },
}

impl Source {
    /// Width and height of the picture that comes out, in pixels.
    pub fn size(&self) -> (u32, u32) {
        match self {
            Self::Inpaint { overlay: Some(overlay), .. } => overlay.size(),
            _ => self.drawn_size(),
        }
    }

    /// Width and height that are drawn, in pixels: those of the picture, or those that a part of it is drawn at.
    pub fn drawn_size(&self) -> (u32, u32) {
        match self {
            Self::Text { width, height } => (*width, *height),
            Self::Image { image, .. } | Self::Inpaint { image, .. } => image.dimensions(),
        }
    }

    /// Itself, where the finished picture is made of it, too.
    pub fn masked(&self) -> Option<Self> {
        matches!(self, Self::Inpaint { .. }).then(|| self.clone())
    }

    /// The finished picture: what a mask keeps is the input's, where it has a soft edge both are mixed, and a part is in
    /// its place.
    pub(crate) fn finished(&self, mut drawn: RgbImage) -> RgbImage {
        match self {
            Self::Text { .. } | Self::Image { .. } => drawn,
            Self::Inpaint { overlay: Some(overlay), .. } => overlay.apply(drawn),
            Self::Inpaint { image, mask, .. } => {
                for ((out, kept), mask) in drawn.pixels_mut().zip(image.pixels()).zip(mask.pixels()) {
                    if !is_drawn_anew(mask) {
                        *out = *kept;
                    }
                }
                drawn
            }
        }
    }

    /// How far to go from the input; `None` where there is none.
    pub fn strength(&self) -> Option<f64> {
        match self {
            Self::Text { .. } => None,
            Self::Image { strength, .. } | Self::Inpaint { strength, .. } => Some(*strength),
        }
    }
}
