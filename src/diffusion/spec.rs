//! What one picture is to be.

use image::{GrayImage, RgbImage};

use crate::contract::PromptSyntax;

/// A request for one picture.
#[derive(Clone)]
pub struct ImageSpec {
    /// What to draw.
    pub prompt: String,
    /// What not to draw; none is the empty text.
    pub negative_prompt: Option<String>,
    /// How the prompt is read; only [`PromptSyntax::Plain`] is here.
    pub prompt_syntax: PromptSyntax,
    /// Last layers of the text encoder that are left out for the prompt, as diffusers counts them.
    pub clip_skip: u32,
    /// Denoising steps of the whole schedule.
    pub steps: u32,
    /// Weight of the prompt against the negative prompt; at 1 and below the negative prompt is not computed.
    pub guidance_scale: f64,
    /// Seed of the noise; torch's generator uses its low 32 bits.
    pub seed: u64,
    /// A contract name; none is the checkpoint's own scheduler.
    pub scheduler: Option<String>,
    /// What to start from.
    pub source: Source,
}

/// What a picture starts from.
#[derive(Clone)]
pub enum Source {
    /// Noise alone.
    Text {
        /// Pixels, a multiple of the autoencoder's factor (8).
        width: u32,
        /// Pixels, a multiple of the autoencoder's factor (8).
        height: u32,
    },
    /// A picture, which gives the size too.
    Image {
        /// Any size.
        image: RgbImage,
        /// How much of the schedule is run, above 0 and up to 1.
        strength: f64,
    },
    /// A picture of which a part is drawn anew.
    Inpaint {
        /// Any size.
        image: RgbImage,
        /// As large as the picture; 128 and above is drawn anew, the rest is kept pixel for pixel.
        mask: GrayImage,
        /// How much of the schedule is run, above 0 and up to 1.
        strength: f64,
    },
}
