//! Rotary position embedding (Su et al. 2021): pairs of a head's numbers are turned by angles that grow with a token's place.

use candle_core::{DType, Device, Result, Tensor};

/// The turns of some tokens, `[tokens, head_width / 2]`, f32.
#[derive(Debug, Clone)]
pub struct Rotation {
    /// Cosines of the angles.
    pub cos: Tensor,
    /// Sines of the angles.
    pub sin: Tensor,
}

impl Rotation {
    /// By `angles`, `[tokens, half]` of them, in radians.
    pub fn new(angles: &[f64], half: usize, device: &Device) -> Result<Self> {
        let shape = (angles.len() / half, half);
        let tensor = |function: fn(f64) -> f64| {
            Tensor::from_vec(angles.iter().map(|x| function(*x) as f32).collect(), shape, device)
        };
        Ok(Self { cos: tensor(f64::cos)?, sin: tensor(f64::sin)? })
    }

    /// Turns neighbours, numbers 2i and 2i + 1: `[batch, tokens, heads, head_width]` in f32 to `[batch, tokens, width]` in
    /// `dtype`.
    pub fn turn(&self, x: &Tensor, dtype: DType) -> Result<Tensor> {
        self.turned(x, dtype, candle_nn::rotary_emb::rope_i)
    }

    /// The same for numbers i and i + head_width / 2.
    pub fn turn_halves(&self, x: &Tensor, dtype: DType) -> Result<Tensor> {
        self.turned(x, dtype, candle_nn::rotary_emb::rope)
    }

    fn turned(
        &self,
        x: &Tensor,
        dtype: DType,
        turn: fn(&Tensor, &Tensor, &Tensor) -> Result<Tensor>,
    ) -> Result<Tensor> {
        let (batch, tokens, heads, width) = x.dims4()?;
        let x = x.transpose(1, 2)?.contiguous()?;
        turn(&x, &self.cos, &self.sin)?.to_dtype(dtype)?.transpose(1, 2)?.reshape((
            batch,
            tokens,
            heads * width,
        ))
    }
}
