//! Euler's method on a rectified flow (Liu et al. 2022; Esser et al. 2024), as diffusers'
//! FlowMatchEulerDiscreteScheduler does it.

use super::Scheduler;
use crate::diffusion::{DiffusionError, checkpoint::ConfigFile, noise::TorchRng};

/// `scheduler/scheduler_config.json`: how sigmas are shifted.
#[derive(Debug, Clone)]
pub struct FlowConfig {
    train_timesteps: usize,
    shift: Shift,
    terminal: Option<f64>,
}

/// What moves sigmas towards noise.
#[derive(Debug, Clone)]
enum Shift {
    /// The same for all sizes.
    Fixed(f64),
    /// More for more picture tokens, on a line between two sizes.
    BySize { exponential: bool, tokens: (f64, f64), shift: (f64, f64) },
}

impl FlowConfig {
    /// Reads the file; variants that no family here uses are refused by name.
    pub fn read(file: &ConfigFile) -> Result<Self, DiffusionError> {
        for switch in [
            "invert_sigmas",
            "stochastic_sampling",
            "use_karras_sigmas",
            "use_exponential_sigmas",
            "use_beta_sigmas",
        ] {
            file.only(switch, &[false.into()])?;
        }
        let tokens = (
            file.integer_or("base_image_seq_len", 256)? as f64,
            file.integer_or("max_image_seq_len", 4096)? as f64,
        );
        if tokens.0 >= tokens.1 {
            let expected = format!("more than base_image_seq_len {}", tokens.0);
            return Err(file.unusable("max_image_seq_len", &expected, tokens.1));
        }
        let fixed = file.number_or("shift", 1.0)?;
        if fixed <= 0.0 {
            return Err(file.unusable("shift", "a positive number", fixed));
        }
        let shift = (file.number_or("base_shift", 0.5)?, file.number_or("max_shift", 1.15)?);
        let exponential = file.name_or("time_shift_type", &["exponential", "linear"], 0)? == 0;
        let terminal = match file.number_or("shift_terminal", 0.0)? {
            0.0 => None,
            value if value > 0.0 && value < 1.0 => Some(value),
            value => return Err(file.unusable("shift_terminal", "a number from 0 to below 1", value)),
        };
        Ok(Self {
            train_timesteps: file.integer_or("num_train_timesteps", 1000)?,
            shift: match file.flag_or("use_dynamic_shifting", false)? {
                true => Shift::BySize { exponential, tokens, shift },
                false => Shift::Fixed(fixed),
            },
            terminal,
        })
    }
}

impl FlowConfig {
    /// What moves sigmas towards noise, if that is the same for all sizes.
    pub fn fixed_shift(&self) -> Option<f64> {
        match self.shift {
            Shift::Fixed(shift) => Some(shift),
            Shift::BySize { .. } => None,
        }
    }
}

/// Euler's method over the sigmas of one picture: how much of it is noise before each step, and after the last.
#[derive(Debug, Clone, PartialEq)]
pub struct FlowEuler {
    /// How much of a picture is noise before each step, and 0 after the last.
    pub(super) sigmas: Vec<f32>,
    timesteps: Vec<f32>,
}

impl FlowEuler {
    /// `tokens`: the picture's, which the shift may follow.
    pub fn new(config: &FlowConfig, steps: u32, tokens: usize) -> Result<Self, DiffusionError> {
        let steps = steps as usize;
        if steps == 0 || steps > config.train_timesteps {
            let reason = format!("{steps}; this model takes 1 to {}", config.train_timesteps);
            return Err(DiffusionError::request("steps", reason));
        }
        let mut sigmas: Vec<f32> = even(steps).iter().map(|t| shifted(&config.shift, *t, tokens)).collect();
        if let (Some(terminal), Some(&last)) = (config.terminal, sigmas.last()) {
            // A single step ends at 0 anyway: there is nothing to stretch.
            let scale = (1.0 - last) / (1.0 - terminal) as f32;
            if scale > 0.0 {
                sigmas.iter_mut().for_each(|sigma| *sigma = 1.0 - (1.0 - *sigma) / scale);
            }
        }
        let timesteps = sigmas.iter().map(|sigma| sigma * config.train_timesteps as f32).collect();
        sigmas.push(0.0);
        Ok(Self { sigmas, timesteps })
    }
}

impl Scheduler for FlowEuler {
    fn timesteps(&self) -> &[f32] {
        &self.timesteps
    }

    fn initial_scale(&self) -> f32 {
        1.0
    }

    /// As diffusers' `get_timesteps` for flow models: the steps left out are rounded down, so that one is always run.
    fn first_step(&self, steps: usize, strength: f64) -> Result<usize, DiffusionError> {
        let run = (steps as f64 * strength).min(steps as f64);
        Ok(((steps as f64 - run) as usize).min(steps - 1))
    }

    fn forgets_at_full_strength(&self) -> bool {
        false
    }

    fn scale_input(&self, _step: usize, latents: &[f32]) -> Vec<f32> {
        latents.to_vec()
    }

    /// `output` is the flow's velocity, noise minus picture.
    fn step(&mut self, step: usize, output: &[f32], latents: &mut [f32], _rng: &mut TorchRng) -> Vec<f32> {
        let (from, to) = (self.sigmas[step], self.sigmas[step + 1]);
        let move_one = |(x, velocity): (&mut f32, &f32)| {
            let clean = *x - from * velocity;
            *x += (to - from) * velocity;
            clean
        };
        latents.iter_mut().zip(output).map(move_one).collect()
    }

    fn add_noise(&self, step: usize, clean: &[f32], noise: &[f32]) -> Vec<f32> {
        let sigma = self.sigmas[step];
        clean.iter().zip(noise).map(|(clean, noise)| sigma * noise + (1.0 - sigma) * clean).collect()
    }
}

/// From 1 to `1 / steps` in equal strides.
fn even(steps: usize) -> Vec<f32> {
    let last = 1.0 / steps as f64;
    let stride = (last - 1.0) / (steps.max(2) - 1) as f64;
    let mut values: Vec<f32> = (0..steps).map(|i| (i as f64 * stride + 1.0) as f32).collect();
    if let (true, Some(end)) = (steps > 1, values.last_mut()) {
        *end = last as f32;
    }
    values
}

/// Parameters are computed in f64 and applied in f32, as numpy does.
fn shifted(shift: &Shift, t: f32, picture_tokens: usize) -> f32 {
    match shift {
        Shift::Fixed(shift) => *shift as f32 * t / (1.0 + (shift - 1.0) as f32 * t),
        Shift::BySize { exponential, tokens, shift } => {
            let slope = (shift.1 - shift.0) / (tokens.1 - tokens.0);
            let mu = picture_tokens as f64 * slope + (shift.0 - slope * tokens.0);
            let mu = if *exponential { mu.exp() } else { mu } as f32;
            mu / (mu + (1.0 / t - 1.0))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn schedule() -> FlowEuler {
        FlowEuler { sigmas: vec![1.0, 0.6, 0.25, 0.0], timesteps: vec![1000.0, 600.0, 250.0] }
    }

    #[test]
    fn the_true_velocity_leads_from_any_noised_latents_to_the_clean_ones() {
        let (mut schedule, clean, noise) = (schedule(), [0.5, -2.0, 3.0], [1.0, 0.25, -0.75]);
        let mut rng = TorchRng::new(0);
        let velocity: Vec<f32> = noise.iter().zip(&clean).map(|(noise, clean)| noise - clean).collect();
        for first in 0..schedule.timesteps().len() {
            let mut latents = schedule.add_noise(first, &clean, &noise);
            for step in first..schedule.timesteps().len() {
                let implied = schedule.step(step, &velocity, &mut latents, &mut rng);
                assert!(implied.iter().zip(&clean).all(|(a, b)| (a - b).abs() < 1e-6), "{implied:?}");
            }
            assert!(latents.iter().zip(&clean).all(|(a, b)| (a - b).abs() < 1e-6), "{latents:?}");
        }
    }

    #[test]
    fn a_strength_leaves_out_whole_steps_only_and_at_least_one_is_run() {
        let first = |steps, strength| schedule().first_step(steps, strength).unwrap();
        assert_eq!([first(4, 1.0), first(4, 0.6), first(4, 0.5), first(28, 0.7)], [0, 1, 2, 8]);
        assert_eq!([first(4, 0.01), first(1, 0.3)], [3, 0]);
    }

    #[test]
    fn a_single_step_goes_from_noise_alone_to_the_picture() {
        assert_eq!(even(1), [1.0]);
        assert_eq!(even(4), [1.0, 0.75, 0.5, 0.25]);
    }
}
