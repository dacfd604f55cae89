//! What steers a network besides latents and timesteps: the same at every step of a picture.

use candle_core::{DType, Result, Tensor, TensorId};

/// What text embeddings are of: those of each sample; none for one of zeros.
pub type Texts = Vec<Option<TensorId>>;

/// For the samples that one picture puts through the network: one, or two with guidance, the negative first.
#[derive(Debug, Clone)]
pub struct Conditioning {
    /// Text embeddings `[samples, tokens, width]`.
    pub text: Tensor,
    /// What the embeddings are of: pictures of the same share what is computed of it.
    pub texts: Texts,
    /// SDXL's pooled text and sizes.
    pub added: Option<Added>,
    /// The embedded guidance scale `[samples, time_cond_proj_dim]` of a model that was distilled with it.
    pub guidance: Option<Tensor>,
}

/// SDXL's micro-conditioning.
#[derive(Debug, Clone)]
pub struct Added {
    /// `[samples, width]`.
    pub pooled: Tensor,
    /// Sizes in pixels, and a score for the refiner: `[samples, 6]` or `[samples, 5]`.
    pub time_ids: Tensor,
}

impl Conditioning {
    /// Text alone, as Stable Diffusion 1 and 2 have it.
    pub fn of_text(text: Tensor) -> Self {
        Self { texts: vec![Some(text.id())], text, added: None, guidance: None }
    }

    /// Samples of a guided step.
    pub fn samples(&self) -> usize {
        self.text.dims()[0]
    }

    /// Tokens that are attended to.
    pub fn tokens(&self) -> usize {
        self.text.dims()[1]
    }

    /// In the network's type.
    pub fn to_dtype(&self, dtype: DType) -> Result<Self> {
        Ok(Self {
            text: self.text.to_dtype(dtype)?,
            texts: self.texts.clone(),
            added: match &self.added {
                Some(Added { pooled, time_ids }) => {
                    Some(Added { pooled: pooled.to_dtype(dtype)?, time_ids: time_ids.clone() })
                }
                None => None,
            },
            guidance: self.guidance.as_ref().map(|guidance| guidance.to_dtype(dtype)).transpose()?,
        })
    }
}
