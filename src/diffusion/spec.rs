//! What to draw: one picture, ready for the model. Inputs are decoded pixels; every default has been filled in.

use std::path::PathBuf;

use image::{GrayImage, RgbImage};

use super::Defaults;
use crate::contract::{GuidanceInterval, PromptSyntax};

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
    /// Seed of the noise; torch's generator uses its low 32 bits.
    pub seed: u64,
    /// The scheduler by its contract name; the checkpoint's own when absent.
    pub scheduler: Option<String>,
    /// Added to the model for this picture, in this order.
    pub loras: Vec<LoraSpec>,
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
            seed: 0,
            scheduler: None,
            loras: Vec::new(),
            source,
        }
    }
}

/// A LoRA and how strongly it is added.
#[derive(Debug, Clone, PartialEq)]
pub struct LoraSpec {
    /// The name that the request has for it.
    pub name: String,
    /// A safetensors file.
    pub file: PathBuf,
    /// Times what the file adds, in the UNet and in the text encoders; below 0 it is taken away.
    pub strength: f64,
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
        /// The picture.
        image: RgbImage,
        /// As large as the picture; 128 and above is drawn anew, the rest is kept pixel for pixel.
        mask: GrayImage,
        /// How far to go from it, above 0, at most 1.
        strength: f64,
    },
}

impl Source {
    /// Width and height of the picture that comes out, in pixels.
    pub fn size(&self) -> (u32, u32) {
        match self {
            Self::Text { width, height } => (*width, *height),
            Self::Image { image, .. } | Self::Inpaint { image, .. } => image.dimensions(),
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
