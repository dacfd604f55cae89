//! What a job may ask for at most. Every number here is a flag of the worker.

use std::time::Duration;

use super::WorkerLimits;

/// The smallest side of a picture, in pixels.
pub const MIN_SIDE: u32 = 64;
/// The largest side of a picture, in pixels.
pub const MAX_SIDE: u32 = 2048;
/// Sides are multiples of this many pixels (the VAE's factor).
pub const SIDE_MULTIPLE: u32 = 8;
/// The longest prompt, in characters.
pub const MAX_PROMPT_CHARS: usize = 4096;
/// The most steps the contract allows.
pub const MAX_STEPS: u32 = 150;
/// The highest guidance scale.
pub const MAX_GUIDANCE: f64 = 30.0;
/// The most pictures of one job.
pub const MAX_IMAGES: u32 = 8;
/// The most layers that `clip_skip` skips.
pub const MAX_CLIP_SKIP: u32 = 11;
/// The most LoRAs of one job.
pub const MAX_LORAS: usize = 16;
/// The strongest blur of a mask: its standard deviation in pixels.
pub const MAX_MASK_BLUR: u32 = 64;
/// The most pixels of a picture that are drawn around a mask; nothing is further away.
pub const MAX_MASK_PADDING: u32 = MAX_SIDE;
/// The most points that say what a mask is made of.
pub const MAX_MASK_POINTS: usize = 64;
/// Random seeds are below this: JavaScript clients read them exactly.
pub const RANDOM_SEED_BELOW: u64 = 1 << 53;

/// Limits of one worker (or of queen), within those of the contract.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Limits {
    /// Pixels of one picture, width times height (default 2048 x 2048).
    pub max_pixels: u64,
    /// Denoising steps (default 150).
    pub max_steps: u32,
    /// Pictures of one job (default 8).
    pub max_images: u32,
    /// Encoded bytes of one input image (default 16 MiB).
    pub max_input: u64,
    /// The longest a job may take from acceptance (default 60 minutes).
    pub deadline: Duration,
}

impl Limits {
    /// What the contract allows: no worker takes more.
    pub const WIDEST: Self = Self {
        max_pixels: MAX_SIDE as u64 * MAX_SIDE as u64,
        max_steps: MAX_STEPS,
        max_images: MAX_IMAGES,
        max_input: u64::MAX,
        deadline: Duration::MAX,
    };

    /// What a heartbeat says of them.
    pub fn of_a_worker(&self) -> WorkerLimits {
        let Self { max_pixels, max_steps, max_images, max_input, .. } = *self;
        WorkerLimits { max_pixels, max_steps, max_images, max_input }
    }
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            max_pixels: u64::from(MAX_SIDE) * u64::from(MAX_SIDE),
            max_steps: MAX_STEPS,
            max_images: MAX_IMAGES,
            max_input: 16 << 20,
            deadline: Duration::from_secs(3600),
        }
    }
}
