//! What residual blocks are told of: the timestep, and with it guidance scale, pooled text and sizes where a model
//! takes them.

use candle_core::{DType, Result, Tensor};

use super::{Added, Conditioning, UNetConfig};
use crate::diffusion::{
    DiffusionError,
    checkpoint::Scope,
    layers::Linear,
    lora::Visit,
    ops::{self, Activation},
};

/// Period of the slowest wave, as in "Attention is all you need".
const MAX_PERIOD: f32 = 10_000.0;
/// Guidance scales are multiplied by this before they are embedded.
const GUIDANCE_FACTOR: f32 = 1000.0;

/// Timesteps and conditioning to `[batch, time_embed_dim]`.
#[derive(Clone)]
pub struct TimeEmbedding {
    mlp: Mlp,
    guidance: Option<Linear>,
    addition: Option<Addition>,
    activation: Activation,
    waves: Waves,
}

/// Pooled text and sizes, for SDXL.
#[derive(Clone)]
struct Addition {
    mlp: Mlp,
    waves: Waves,
}

/// Linear, activation, linear.
#[derive(Clone)]
struct Mlp {
    linear_1: Linear,
    linear_2: Linear,
    activation: Activation,
}

/// How numbers become sinusoids.
#[derive(Debug, Clone, Copy)]
struct Waves {
    channels: usize,
    flip_sin_to_cos: bool,
    freq_shift: f64,
}

impl TimeEmbedding {
    /// Reads `time_embedding` and, where the configuration has it, `add_embedding`.
    pub fn load(at: &Scope<'_>, config: &UNetConfig) -> std::result::Result<Self, DiffusionError> {
        let time = at.at("time_embedding");
        let UNetConfig { flip_sin_to_cos, freq_shift, time_embed_dim, activation, .. } = *config;
        let channels = config.block_out_channels[0];
        Ok(Self {
            mlp: Mlp::load(&time, channels, time_embed_dim, activation)?,
            guidance: match config.time_cond_proj_dim {
                Some(inputs) => Some(Linear::load_no_bias(&time.at("cond_proj"), inputs, channels)?),
                None => None,
            },
            addition: match config.addition {
                Some(addition) => Some(Addition {
                    // diffusers leaves this activation at its default.
                    mlp: Mlp::load(
                        &at.at("add_embedding"),
                        addition.inputs,
                        time_embed_dim,
                        Activation::Silu,
                    )?,
                    waves: Waves { channels: addition.time_embed_dim, flip_sin_to_cos, freq_shift },
                }),
                None => None,
            },
            activation,
            waves: Waves { channels, flip_sin_to_cos, freq_shift },
        })
    }

    /// The embedding, activated: every residual block wants it so.
    pub fn forward(&self, timesteps: &[f32], conditioning: &Conditioning, dtype: DType) -> Result<Tensor> {
        self.embed(self.waves_of(timesteps, conditioning, dtype)?, conditioning)
    }

    /// The embeddings of a picture's whole schedule: `[steps, samples, time_embed_dim]`, activated. A step's bits do not
    /// depend on the others.
    pub fn table(&self, timesteps: &[f32], conditioning: &Conditioning, dtype: DType) -> Result<Tensor> {
        let waves = self.waves_of(timesteps, conditioning, dtype)?.unsqueeze(1)?;
        let embedding = self.embed(waves, conditioning)?;
        let (steps, _, width) = embedding.dims3()?;
        embedding.broadcast_as((steps, conditioning.samples(), width))?.contiguous()
    }

    fn waves_of(&self, timesteps: &[f32], conditioning: &Conditioning, dtype: DType) -> Result<Tensor> {
        let (waves, device) = (self.waves.of(timesteps), conditioning.text.device());
        Tensor::from_vec(waves, (timesteps.len(), self.waves.channels), device)?.to_dtype(dtype)
    }

    /// `waves` `[samples, channels]`, each sample at a timestep of its own; or `[steps, 1, channels]`, all at each.
    fn embed(&self, mut waves: Tensor, conditioning: &Conditioning) -> Result<Tensor> {
        if let (Some(projection), Some(guidance)) = (&self.guidance, &conditioning.guidance) {
            waves = waves.broadcast_add(&projection.forward(guidance)?)?;
        }
        let mut embedding = self.mlp.forward(&waves)?;
        if let (Some(addition), Some(added)) = (&self.addition, &conditioning.added) {
            embedding = embedding.broadcast_add(&addition.forward(added, waves.dtype())?)?;
        }
        ops::activate(&embedding, self.activation)
    }

    /// Shows every layer with a weight that a LoRA can change to `visit`.
    pub fn visit(&mut self, visit: &mut Visit<'_>) {
        self.mlp.visit(visit);
        self.guidance.iter_mut().for_each(|guidance| guidance.visit(visit));
        self.addition.iter_mut().for_each(|addition| addition.mlp.visit(visit));
    }
}

impl Addition {
    fn forward(&self, added: &Added, dtype: DType) -> Result<Tensor> {
        let ids = added.time_ids.to_dtype(DType::F32)?.flatten_all()?.to_vec1::<f32>()?;
        let samples = added.pooled.dim(0)?;
        let waves = Tensor::from_vec(
            self.waves.of(&ids),
            (samples, ids.len() / samples * self.waves.channels),
            added.pooled.device(),
        )?;
        self.mlp.forward(&Tensor::cat(&[&added.pooled, &waves.to_dtype(dtype)?], 1)?)
    }
}

impl Mlp {
    fn load(
        at: &Scope<'_>,
        inputs: usize,
        outputs: usize,
        activation: Activation,
    ) -> std::result::Result<Self, DiffusionError> {
        Ok(Self {
            linear_1: Linear::load(&at.at("linear_1"), inputs, outputs)?,
            linear_2: Linear::load(&at.at("linear_2"), outputs, outputs)?,
            activation,
        })
    }

    fn forward(&self, x: &Tensor) -> Result<Tensor> {
        self.linear_2.forward(&ops::activate(&self.linear_1.forward(x)?, self.activation)?)
    }

    fn visit(&mut self, visit: &mut Visit<'_>) {
        self.linear_1.visit(visit);
        self.linear_2.visit(visit);
    }
}

impl Waves {
    /// diffusers' `get_timestep_embedding`: `channels` numbers for each.
    fn of(self, numbers: &[f32]) -> Vec<f32> {
        numbers.iter().flat_map(|number| self.of_one(*number)).collect()
    }

    fn of_one(self, number: f32) -> Vec<f32> {
        let half = self.channels / 2;
        let scale = half as f32 - self.freq_shift as f32;
        let angles: Vec<f32> =
            (0..half).map(|i| number * (-MAX_PERIOD.ln() * i as f32 / scale).exp()).collect();
        let sines = angles.iter().map(|angle| angle.sin());
        let cosines = angles.iter().map(|angle| angle.cos());
        let mut waves: Vec<f32> = match self.flip_sin_to_cos {
            true => cosines.chain(sines).collect(),
            false => sines.chain(cosines).collect(),
        };
        waves.resize(self.channels, 0.0);
        waves
    }
}

/// The embedding of a guidance scale, `channels` numbers (diffusers' `get_guidance_scale_embedding` of `scale - 1`).
pub fn guidance_embedding(scale: f64, channels: usize) -> Vec<f32> {
    let waves = Waves { channels, flip_sin_to_cos: false, freq_shift: 1.0 };
    waves.of_one((scale - 1.0) as f32 * GUIDANCE_FACTOR)
}

#[cfg(test)]
mod tests {
    use super::Waves;

    fn waves(number: f32, channels: usize, flip_sin_to_cos: bool) -> Vec<f32> {
        Waves { channels, flip_sin_to_cos, freq_shift: 0.0 }.of(&[number])
    }

    #[test]
    fn timestep_zero_is_all_cosine() {
        assert_eq!(waves(0.0, 6, true), [1.0, 1.0, 1.0, 0.0, 0.0, 0.0]);
        assert_eq!(waves(0.0, 4, false), [0.0, 0.0, 1.0, 1.0]);
    }

    #[test]
    fn an_odd_width_ends_in_a_zero() {
        let waves = waves(3.0, 5, true);
        assert_eq!((waves.len(), waves[4]), (5, 0.0));
    }
}
