//! Numbers and the pooled text to what every block is modulated by.

use candle_core::{Device, Result, Tensor};

use crate::diffusion::{DiffusionError, checkpoint::Scope, layers::Linear};

/// Waves per number, half of them cosines.
const WAVES: usize = 256;
/// Period of the slowest wave, as in "Attention is all you need".
const MAX_PERIOD: f32 = 10_000.0;
/// The network was trained on numbers times this.
const SCALE: f32 = 1000.0;

/// Two linear layers with a SiLU between.
pub struct Embedding {
    linear_1: Linear,
    linear_2: Linear,
}

impl Embedding {
    /// Of `inputs` numbers.
    pub fn load(at: &Scope<'_>, inputs: usize, width: usize) -> std::result::Result<Self, DiffusionError> {
        Ok(Self {
            linear_1: Linear::load(&at.at("linear_1"), inputs, width)?,
            linear_2: Linear::load(&at.at("linear_2"), width, width)?,
        })
    }

    /// Of a number's [`waves`].
    pub fn load_waves(at: &Scope<'_>, width: usize) -> std::result::Result<Self, DiffusionError> {
        Self::load(at, WAVES, width)
    }

    /// `[batch, inputs]` to `[batch, width]`.
    pub fn forward(&self, x: &Tensor) -> Result<Tensor> {
        self.linear_2.forward(&self.linear_1.forward(x)?.silu()?)
    }
}

/// `[values, 256]`: cosines, then sines, of each value times 1000, in f32 as diffusers computes them.
pub fn waves(values: &[f32], device: &Device) -> Result<Tensor> {
    let half = WAVES / 2;
    let mut waves = Vec::with_capacity(values.len() * WAVES);
    for value in values {
        let angle = |i: usize| value * SCALE * (-MAX_PERIOD.ln() * i as f32 / half as f32).exp();
        waves.extend((0..half).map(|i| angle(i).cos()));
        waves.extend((0..half).map(|i| angle(i).sin()));
    }
    Tensor::from_vec(waves, (values.len(), WAVES), device)
}
