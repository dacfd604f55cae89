//! Sinusoidal timestep embedding and the two linear layers after it.

use candle_core::{DType, Device, Result, Tensor};

use crate::diffusion::{
    DiffusionError,
    checkpoint::Scope,
    config::{Activation, UNetConfig},
    layers::Linear,
    ops,
};

/// Period of the slowest wave, as in "Attention is all you need".
const MAX_PERIOD: f32 = 10_000.0;

/// Timesteps to `[batch, time_embed_dim]`.
pub struct TimeEmbedding {
    linear_1: Linear,
    linear_2: Linear,
    activation: Activation,
    channels: usize,
    flip_sin_to_cos: bool,
    freq_shift: f64,
}

impl TimeEmbedding {
    /// Reads `time_embedding`.
    pub fn load(at: &Scope<'_>, config: &UNetConfig) -> std::result::Result<Self, DiffusionError> {
        let at = at.at("time_embedding");
        let channels = config.block_out_channels[0];
        Ok(Self {
            linear_1: Linear::load(&at.at("linear_1"), channels, config.time_embed_dim)?,
            linear_2: Linear::load(&at.at("linear_2"), config.time_embed_dim, config.time_embed_dim)?,
            activation: config.activation,
            channels,
            flip_sin_to_cos: config.flip_sin_to_cos,
            freq_shift: config.freq_shift,
        })
    }

    /// The embedding, activated: every residual block wants it so.
    pub fn forward(&self, timesteps: &[f32], device: &Device, dtype: DType) -> Result<Tensor> {
        let waves: Vec<f32> = timesteps
            .iter()
            .flat_map(|t| sinusoids(*t, self.channels, self.flip_sin_to_cos, self.freq_shift))
            .collect();
        let x = Tensor::from_vec(waves, (timesteps.len(), self.channels), device)?.to_dtype(dtype)?;
        let x = ops::activate(&self.linear_1.forward(&x)?, self.activation)?;
        ops::activate(&self.linear_2.forward(&x)?, self.activation)
    }
}

/// diffusers' `get_timestep_embedding`: `channels` numbers for one timestep.
fn sinusoids(timestep: f32, channels: usize, flip_sin_to_cos: bool, freq_shift: f64) -> Vec<f32> {
    let half = channels / 2;
    let scale = half as f32 - freq_shift as f32;
    let angles: Vec<f32> =
        (0..half).map(|i| timestep * (-MAX_PERIOD.ln() * i as f32 / scale).exp()).collect();
    let sines = angles.iter().map(|angle| angle.sin());
    let cosines = angles.iter().map(|angle| angle.cos());
    let mut waves: Vec<f32> =
        if flip_sin_to_cos { cosines.chain(sines).collect() } else { sines.chain(cosines).collect() };
    waves.resize(channels, 0.0);
    waves
}

#[cfg(test)]
mod tests {
    use super::sinusoids;

    #[test]
    fn timestep_zero_is_all_cosine() {
        assert_eq!(sinusoids(0.0, 6, true, 0.0), [1.0, 1.0, 1.0, 0.0, 0.0, 0.0]);
        assert_eq!(sinusoids(0.0, 4, false, 0.0), [0.0, 0.0, 1.0, 1.0]);
    }

    #[test]
    fn an_odd_width_ends_in_a_zero() {
        let waves = sinusoids(3.0, 5, true, 0.0);
        assert_eq!((waves.len(), waves[4]), (5, 0.0));
    }
}
