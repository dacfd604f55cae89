//! Masks of what is pointed at, by Segment Anything (Kirillov et al. 2023), as candle-transformers computes it.
//!
//! | file | what lives there |
//! |---|---|
//! | `weights` | a folder's file: found, recognised by its tensors, read |
//! | `encoder` | the picture's embedding: ViT as in the paper, or TinyViT (MobileSAM) |
//! | `fit` | a picture in the size and the numbers that the encoder takes |
//! | `prompts` | the embeddings of points and of a box |
//! | `upscale` | the decoder's small mask in the size of the picture |
//!
//! It is computed in f32 on the CPU, beside the device that draws: a mask takes seconds, and the device waits for nobody. It
//! knows nothing of jobs and the store.

mod encoder;
mod error;
mod fit;
mod prompts;
#[cfg(test)]
#[allow(dead_code)]
#[path = "../../tests/support/segmenter.rs"]
mod told_by_rule;
mod upscale;
mod weights;

use std::{fmt, path::Path, sync::Arc};

use candle_core::IndexOp;
use candle_nn::VarBuilder;
use candle_transformers::models::segment_anything::mask_decoder::MaskDecoder;
use image::{GrayImage, Luma, RgbImage};

use crate::contract::Pointing;
use encoder::Encoder;
use fit::Fitted;
use prompts::Prompts;
use weights::Weights;

pub use error::SegmenterError;

/// Width of all embeddings.
const EMBEDDING: usize = 256;
/// A side of the picture's embedding, in patches.
const PATCHES: usize = 64;
/// A side of the decoder's masks, in pixels.
const LOW: usize = 256;
/// Masks of a whole, a part and a part of that, which the decoder gives beside the one that needs no choice.
const CHOICES: usize = 3;

/// Makes masks. Cheap to clone; clones share the weights.
#[derive(Clone)]
pub struct Segmenter {
    inner: Arc<Inner>,
}

struct Inner {
    encoder: Encoder,
    prompts: Prompts,
    decoder: MaskDecoder,
    bytes: u64,
}

impl fmt::Debug for Segmenter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Segmenter").field("bytes", &self.inner.bytes).finish_non_exhaustive()
    }
}

impl Segmenter {
    /// Reads the one `.safetensors` file of a folder, in the original's names or MobileSAM's.
    ///
    /// # Errors
    /// What the folder lacks, or why its file is not used.
    pub fn open(folder: &Path) -> Result<Self, SegmenterError> {
        let weights = Weights::read(folder)?;
        let kind = weights.kind()?;
        let bytes = weights.bytes() + kind.bytes_of_a_mask();
        let networks = |vb: VarBuilder| {
            Ok(Inner {
                encoder: Encoder::new(&kind, vb.pp("image_encoder"))?,
                prompts: Prompts::new(vb.pp("prompt_encoder"))?,
                decoder: MaskDecoder::new(EMBEDDING, CHOICES, 3, EMBEDDING, vb.pp("mask_decoder"))?,
                bytes,
            })
        };
        let inner = weights.build(networks)?;
        Ok(Self { inner: Arc::new(inner) })
    }

    /// Bytes of memory that its weights take, and that making one mask takes beside them.
    pub fn bytes(&self) -> u64 {
        self.inner.bytes
    }

    /// The mask of what is pointed at, in the picture's size: 255 on it, 0 beside it. Takes seconds, and memory as
    /// [`Self::bytes`] says: for a blocking thread, one at a time.
    ///
    /// # Errors
    /// [`SegmenterError::NonFinite`], or what candle says.
    pub fn mask(&self, image: &RgbImage, pointing: &Pointing) -> Result<GrayImage, SegmenterError> {
        Ok(self.logits(image, pointing)?.mask())
    }

    /// The mask before it is enlarged and cut.
    ///
    /// # Errors
    /// As [`Self::mask`].
    pub fn logits(&self, image: &RgbImage, pointing: &Pointing) -> Result<Logits, SegmenterError> {
        let Inner { encoder, prompts, decoder, .. } = &*self.inner;
        let fitted = Fitted::of(image)?;
        let embedding = encoder.forward(&fitted.pixels)?;
        let sparse = prompts.sparse(pointing, fitted.scale())?;
        // One point alone may mean a whole, a part or a part of that: the best of the three by the decoder's own score. Whoever says
        // more means one thing. So the reference advises (`SamPredictor.predict`, `multimask_output`).
        let is_ambiguous = pointing.points().len() == 1 && pointing.around().is_none();
        let (masks, scores) = decoder.forward(
            &embedding,
            prompts.of_places(),
            &sparse,
            prompts.without_mask(),
            is_ambiguous,
        )?;
        let scores: Vec<f32> = scores.i(0)?.to_vec1()?;
        let best = (0..scores.len()).max_by(|a, b| scores[*a].total_cmp(&scores[*b])).unwrap_or(0);
        let low: Vec<f32> = masks.i((0, best))?.flatten_all()?.to_vec1()?;
        if low.iter().chain(&scores).any(|value| !value.is_finite()) {
            return Err(SegmenterError::NonFinite);
        }
        Ok(Logits { low, fitted: (fitted.width, fitted.height), size: image.dimensions() })
    }
}

/// A mask as the decoder gives it: small, of the square that the picture was fitted into, and above 0 on what is pointed at.
#[derive(Debug, Clone)]
pub struct Logits {
    low: Vec<f32>,
    fitted: (u32, u32),
    size: (u32, u32),
}

impl Logits {
    /// `[256, 256]`, row by row.
    pub fn low(&self) -> &[f32] {
        &self.low
    }

    /// In the picture's size: 255 where it is above 0.
    pub fn mask(&self) -> GrayImage {
        let (width, height) = self.size;
        let logits = upscale::to_picture(&self.low, LOW, self.fitted, self.size);
        let value = |x: u32, y: u32| logits[y as usize * width as usize + x as usize];
        GrayImage::from_fn(width, height, |x, y| Luma([if value(x, y) > 0.0 { u8::MAX } else { 0 }]))
    }
}
