//! What steers the network besides latents and timesteps: computed once per picture, the same at every step.

use candle_core::{DType, Result, Tensor};

/// For the samples that one picture puts through the network: one, or two with guidance, the negative first.
#[derive(Debug, Clone)]
pub struct Conditioning {
    /// Text embeddings `[samples, tokens, width]`.
    pub text: Tensor,
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
        Self { text, added: None, guidance: None }
    }

    /// Samples that one step puts through the network.
    pub fn samples(&self) -> usize {
        self.text.dims()[0]
    }

    /// Tokens that are attended to; pictures of different counts cannot share a pass.
    pub fn tokens(&self) -> usize {
        self.text.dims()[1]
    }

    /// Several pictures' samples, one after the other. All are of one model and of one count of tokens.
    pub fn join(parts: &[&Self]) -> Result<Self> {
        let cat = |of: fn(&Self) -> Option<&Tensor>| -> Result<Option<Tensor>> {
            let tensors: Option<Vec<&Tensor>> = parts.iter().map(|part| of(part)).collect();
            tensors.map(|tensors| Tensor::cat(&tensors, 0)).transpose()
        };
        let texts: Vec<&Tensor> = parts.iter().map(|part| &part.text).collect();
        let pooled = cat(|part| Some(&part.added.as_ref()?.pooled))?;
        let time_ids = cat(|part| Some(&part.added.as_ref()?.time_ids))?;
        Ok(Self {
            text: Tensor::cat(&texts, 0)?,
            added: pooled.zip(time_ids).map(|(pooled, time_ids)| Added { pooled, time_ids }),
            guidance: cat(|part| part.guidance.as_ref())?,
        })
    }

    /// In the network's type.
    pub fn to_dtype(&self, dtype: DType) -> Result<Self> {
        Ok(Self {
            text: self.text.to_dtype(dtype)?,
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
