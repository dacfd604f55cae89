//! Euler's method over sigmas, plain or ancestral (diffusers' EulerDiscreteScheduler and
//! EulerAncestralDiscreteScheduler).

use super::{
    Scheduler, SchedulerConfig,
    config::{Prediction, Spacing},
};
use crate::diffusion::{DiffusionError, noise::TorchRng};

/// Where betas leave no signal at the end, this much is left, so that the first sigma is finite (as in diffusers).
const LEAST_ALPHA: f32 = 1.0 / (1 << 24) as f32;

/// Sigmas, one more than there are steps.
#[derive(Debug)]
pub struct Euler {
    timesteps: Vec<f32>,
    sigmas: Vec<f32>,
    initial_scale: f32,
    prediction: Prediction,
    ancestral: bool,
}

impl Euler {
    /// Reads what is Euler's own from the configuration.
    pub fn new(config: &SchedulerConfig, steps: usize, ancestral: bool) -> Result<Self, DiffusionError> {
        let file = config.file();
        let mut alphas = config.alphas_cumprod.clone();
        if let (true, Some(last)) = (config.zero_terminal_snr, alphas.last_mut()) {
            *last = LEAST_ALPHA;
        }
        let train: Vec<f64> = alphas.iter().map(|alpha| f64::from(((1.0 - alpha) / alpha).sqrt())).collect();
        let mut last = 0.0;
        if ancestral {
            if config.prediction == Prediction::Sample {
                return Err(file.unusable(
                    "prediction_type",
                    "epsilon or v_prediction for euler_a",
                    "sample",
                ));
            }
        } else {
            for switch in ["use_karras_sigmas", "use_exponential_sigmas", "use_beta_sigmas"] {
                file.only(switch, &[false.into()])?;
            }
            file.only("interpolation_type", &["linear".into()])?;
            file.only("timestep_type", &["discrete".into()])?;
            if file.name_or("final_sigmas_type", &["zero", "sigma_min"], 0)? == 1 {
                last = train[0];
            }
        }
        let timesteps: Vec<f32> =
            config.timesteps(steps, Spacing::Linspace).iter().map(|timestep| *timestep as f32).collect();
        let mut sigmas: Vec<f32> =
            timesteps.iter().map(|timestep| interpolate(&train, f64::from(*timestep)) as f32).collect();
        sigmas.push(last as f32);
        let largest = sigmas.iter().copied().fold(0.0, f32::max);
        let initial_scale = match config.spacing.unwrap_or(Spacing::Linspace) {
            Spacing::Leading => (largest * largest + 1.0).sqrt(),
            Spacing::Trailing | Spacing::Linspace => largest,
        };
        Ok(Self { timesteps, sigmas, initial_scale, prediction: config.prediction, ancestral })
    }
}

/// The value between two training timesteps; beyond the ends, that of the end.
fn interpolate(values: &[f64], at: f64) -> f64 {
    let at = at.clamp(0.0, (values.len() - 1) as f64);
    let low = (at as usize).min(values.len() - 1);
    let high = (low + 1).min(values.len() - 1);
    values[low] + (values[high] - values[low]) * (at - low as f64)
}

impl Scheduler for Euler {
    fn timesteps(&self) -> &[f32] {
        &self.timesteps
    }

    fn initial_scale(&self) -> f32 {
        self.initial_scale
    }

    fn scale_input(&self, step: usize, latents: &[f32]) -> Vec<f32> {
        let scale = (self.sigmas[step] * self.sigmas[step] + 1.0).sqrt();
        latents.iter().map(|x| x / scale).collect()
    }

    fn step(&mut self, step: usize, output: &[f32], latents: &mut [f32], rng: &mut TorchRng) -> Vec<f32> {
        let (from, to) = (self.sigmas[step], self.sigmas[step + 1]);
        let (down, up) = match self.ancestral {
            true => {
                let up = (to * to * (from * from - to * to) / (from * from)).sqrt();
                ((to * to - up * up).sqrt(), up)
            }
            false => (to, 0.0),
        };
        let noise = if self.ancestral { rng.normal(latents.len()) } else { Vec::new() };
        let mut clean = Vec::with_capacity(latents.len());
        for (i, (x, &output)) in latents.iter_mut().zip(output).enumerate() {
            let x0 = match self.prediction {
                Prediction::Epsilon => *x - from * output,
                Prediction::Velocity => {
                    output * (-from / (from * from + 1.0).sqrt()) + *x / (from * from + 1.0)
                }
                Prediction::Sample => output,
            };
            *x += (*x - x0) / from * (down - from);
            if self.ancestral {
                *x += noise[i] * up;
            }
            clean.push(x0);
        }
        clean
    }

    fn add_noise(&self, step: usize, clean: &[f32], noise: &[f32]) -> Vec<f32> {
        let sigma = self.sigmas[step];
        clean.iter().zip(noise).map(|(clean, noise)| clean + noise * sigma).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::interpolate;

    #[test]
    fn between_two_timesteps_the_value_is_between_theirs() {
        let values = [1.0, 3.0, 7.0];
        assert_eq!(interpolate(&values, 1.5), 5.0);
        assert_eq!(interpolate(&values, -1.0), 1.0);
        assert_eq!(interpolate(&values, 9.0), 7.0);
    }
}
