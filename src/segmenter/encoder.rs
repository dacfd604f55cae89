//! The picture's embedding: the original's vision transformer, or MobileSAM's small one.

use candle_core::{Module, Result, Tensor};
use candle_nn::VarBuilder;
use candle_transformers::models::segment_anything::{
    image_encoder::ImageEncoderViT,
    tiny_vit::{TinyViT, tiny_vit_5m},
};

use super::{EMBEDDING, PATCHES, fit::SIDE};

/// Pixels of a patch's side.
const PATCH: usize = SIDE as usize / PATCHES;
/// Patches of the side of a window, inside of which most blocks attend.
const WINDOW: usize = 14;
/// Bytes that are taken beside attention to the whole picture: measured of TinyViT (490 MB), which has none, and rounded up.
const BESIDE: u64 = 512 << 20;

/// Which encoder it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Kind {
    /// The original's.
    Vit(Vit),
    /// MobileSAM's TinyViT of 5 million parameters.
    Tiny,
}

/// A vision transformer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Vit {
    /// Numbers of a patch.
    pub width: usize,
    /// Blocks.
    pub depth: usize,
    /// Heads of attention.
    pub heads: usize,
    /// The blocks that attend to the whole picture.
    pub global: Vec<usize>,
}

impl Vit {
    /// Relative positions of a block that attends to the whole picture.
    pub const GLOBAL_POSITIONS: usize = 2 * PATCHES - 1;
    /// Relative positions of a block that attends inside of windows.
    pub const WINDOW_POSITIONS: usize = 2 * WINDOW - 1;
}

impl Kind {
    /// Bytes that a mask takes while it is made, beside the weights.
    pub fn bytes_of_a_mask(&self) -> u64 {
        match self {
            // Attention to the whole picture, before its softmax and after it, in f32.
            Self::Vit(vit) => BESIDE + 2 * vit.heads as u64 * (PATCHES * PATCHES).pow(2) as u64 * 4,
            Self::Tiny => BESIDE,
        }
    }
}

/// The encoder.
pub enum Encoder {
    Vit(Box<ImageEncoderViT>),
    Tiny(Box<TinyViT>),
}

impl Encoder {
    /// With the tensors below `vb`.
    pub fn new(kind: &Kind, vb: VarBuilder) -> Result<Self> {
        let Vit { width, depth, heads, global } = match kind {
            Kind::Tiny => return Ok(Self::Tiny(Box::new(tiny_vit_5m(vb)?))),
            Kind::Vit(vit) => vit,
        };
        // Biases of queries, keys and values, relative positions, absolute positions: all of the published ones have them.
        let (bias, relative, absolute) = (true, true, true);
        let vit = ImageEncoderViT::new(
            SIDE as usize,
            PATCH,
            3,
            *width,
            *depth,
            *heads,
            EMBEDDING,
            bias,
            relative,
            absolute,
            WINDOW,
            global,
            vb,
        )?;
        Ok(Self::Vit(Box::new(vit)))
    }

    /// From pixels `[1, 3, 1024, 1024]` to the embedding `[1, 256, 64, 64]`.
    pub fn forward(&self, pixels: &Tensor) -> Result<Tensor> {
        match self {
            Self::Vit(vit) => vit.forward(pixels),
            Self::Tiny(tiny) => tiny.forward(pixels),
        }
    }
}
