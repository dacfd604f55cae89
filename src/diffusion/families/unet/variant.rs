//! What diffusers' pipelines of Stable Diffusion and SDXL do differently with the same networks.

/// What is different between models with a UNet that attends to CLIP's texts.
#[derive(Debug, Clone, Copy)]
pub struct Variant {
    /// The text encoders that a checkpoint may have, in the order in which their embeddings lie side by side.
    pub encoders: &'static [Encoder],
    /// Which hidden states are attended to.
    pub hidden: Hidden,
    /// A negative prompt that is not given is all zeros, not the empty text.
    pub zeros_for_no_negative: bool,
    /// What the UNet is told beside the texts.
    pub sizes: Option<Sizes>,
    /// diffusers' class of the checkpoint is a latent consistency model's: a picture made from another goes all steps
    /// with its own scheduler.
    pub is_consistency_model: bool,
    /// Its pipelines change the checkpoint's scheduler: steps begin one later, and PNDM inpaints without Runge-Kutta.
    pub changes_scheduler: bool,
}

/// A text encoder.
#[derive(Debug, Clone, Copy)]
pub struct Encoder {
    /// Its component.
    pub component: &'static str,
    /// The component of its tokenizer.
    pub tokenizer: &'static str,
    /// It has a projection, which makes the pooled embedding.
    pub projects: bool,
}

/// Which of a text encoder's hidden states are attended to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Hidden {
    /// The last, through the final norm.
    LastNormed,
    /// The last but one, as they are.
    LastButOne,
}

/// The numbers that SDXL is told of a picture.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Sizes {
    /// Original size, corner of the crop, target size.
    Target,
    /// The refiner's: a score in place of the target size. It refines pictures and draws none from noise.
    Score,
}

impl Sizes {
    /// How many numbers they are.
    pub fn count(self) -> usize {
        match self {
            Self::Target => 6,
            Self::Score => 5,
        }
    }
}

impl Hidden {
    /// Layers that are left out whatever a job says.
    pub fn left_out(self) -> usize {
        match self {
            Self::LastNormed => 0,
            Self::LastButOne => 1,
        }
    }
}
