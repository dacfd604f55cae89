//! Pseudo numerical methods (Liu et al. 2022; diffusers' PNDMScheduler): linear multistep over the last four outputs,
//! started by Runge-Kutta steps or, with `skip_prk_steps`, by steps of lower order.

use super::{
    Place, Scheduler, SchedulerConfig, SchedulerState, StateError, betas,
    config::{Prediction, Spacing},
    signal,
};
use crate::diffusion::{DiffusionError, noise::TorchRng};

/// Outputs that are kept.
const ORDER: usize = 4;
/// Evaluations of a step of Runge-Kutta's, and of those in the start, which are three.
const OF_RUNGE_KUTTA: usize = 4;
const RUNGE_KUTTA: usize = 3 * OF_RUNGE_KUTTA;

/// The schedule, and what the last evaluations left.
#[derive(Debug)]
pub struct Pndm {
    timesteps: Vec<usize>,
    shown: Vec<f32>,
    alphas: Vec<f32>,
    /// Cumulative alpha before the first timestep.
    final_alpha: f32,
    /// Timesteps between two steps.
    stride: usize,
    prediction: Prediction,
    runge_kutta: bool,
    /// Evaluations done.
    counter: usize,
    outputs: Vec<Vec<f32>>,
    /// Where the step began that more than one evaluation is for.
    origin: Option<Vec<f32>>,
    /// Weighted sum of the outputs of one Runge-Kutta step.
    sum: Option<Vec<f32>>,
}

impl Pndm {
    /// Reads what is PNDM's own from the configuration; `rescale_betas_zero_snr` is unknown to it.
    pub fn new(config: &SchedulerConfig, steps: usize) -> Result<Self, DiffusionError> {
        let file = config.file();
        if config.prediction == Prediction::Sample {
            return Err(file.unusable("prediction_type", "epsilon or v_prediction for pndm", "sample"));
        }
        let alphas = config.alphas_cumprod(betas::USUAL, false)?;
        let runge_kutta = !config.skip_prk_steps;
        let once = config.whole_timesteps(steps, Spacing::Leading)?;
        let stride = config.train_timesteps / steps;
        if runge_kutta && steps < ORDER {
            let reason = format!("{steps}; pndm takes {ORDER} and more with this model");
            return Err(DiffusionError::request("steps", reason));
        }
        let timesteps = if runge_kutta { with_runge_kutta(&once, stride) } else { with_second_twice(&once) };
        // The second evaluation of the lower-order start looks back by a stride.
        let beyond = timesteps.iter().skip(1).map(|timestep| timestep + stride).find(|t| *t >= alphas.len());
        if let Some(beyond) = beyond.filter(|_| !runge_kutta) {
            let reason = format!("{steps} steps lead to timestep {beyond} of {}", config.train_timesteps);
            return Err(DiffusionError::request("steps", reason));
        }
        let final_alpha = if file.flag_or("set_alpha_to_one", false)? { 1.0 } else { alphas[0] };
        Ok(Self {
            shown: timesteps.iter().map(|timestep| *timestep as f32).collect(),
            timesteps,
            final_alpha,
            alphas,
            stride,
            prediction: config.prediction,
            runge_kutta,
            counter: 0,
            outputs: Vec::new(),
            origin: None,
            sum: None,
        })
    }

    fn keep(&mut self, output: &[f32]) {
        if self.outputs.len() == ORDER {
            self.outputs.remove(0);
        }
        self.outputs.push(output.to_vec());
    }

    /// What so many evaluations leave: how many outputs, whether an origin, whether a sum.
    fn kept_after(&self, evaluations: usize) -> (usize, bool, bool) {
        match (self.runge_kutta, evaluations) {
            (_, 0) => (0, false, false),
            (true, 1..=RUNGE_KUTTA) => {
                (evaluations.div_ceil(OF_RUNGE_KUTTA), true, !evaluations.is_multiple_of(OF_RUNGE_KUTTA))
            }
            (true, _) => (ORDER, true, false),
            (false, 1) => (1, true, false),
            // The second is not kept.
            (false, _) => (ORDER.min(evaluations - 1), false, false),
        }
    }

    /// An evaluation of the Runge-Kutta start: the output to go by, and from which timestep to which.
    fn runge_kutta_step(&mut self, timestep: usize, output: &[f32], latents: &mut [f32]) -> Move {
        let back = if self.counter % 2 == 1 { 0 } else { self.stride / 2 };
        let previous = timestep.checked_sub(back);
        let from = self.timesteps[self.counter / OF_RUNGE_KUTTA * OF_RUNGE_KUTTA];
        let place = self.counter % OF_RUNGE_KUTTA;
        if place == 0 {
            self.keep(output);
            self.origin = Some(latents.to_vec());
        }
        let share = if place == 0 || place == 3 { 1.0 / 6.0 } else { 1.0 / 3.0 };
        let weighted = output.iter().map(|output| share * output);
        let sum: Vec<f32> = match self.sum.take() {
            Some(sum) => sum.iter().zip(weighted).map(|(sum, more)| sum + more).collect(),
            None => weighted.collect(),
        };
        if let Some(origin) = &self.origin {
            latents.copy_from_slice(origin);
        }
        match place {
            3 => Move { output: sum, from, to: previous },
            _ => {
                self.sum = Some(sum);
                Move { output: output.to_vec(), from, to: previous }
            }
        }
    }

    /// A step by the last four outputs, or as many as there are.
    fn multistep(&mut self, timestep: usize, output: &[f32], latents: &mut [f32]) -> Move {
        let second = self.counter == 1;
        if !second {
            self.keep(output);
        }
        let kept = |back: usize| &self.outputs[self.outputs.len() - 1 - back];
        let mix = |weights: &[f32], over: f32| -> Vec<f32> {
            let sum = |i: usize| {
                weights.iter().enumerate().fold(0.0, |sum: f32, (back, weight)| sum + weight * kept(back)[i])
            };
            (0..output.len()).map(|i| sum(i) / over).collect()
        };
        let mixed = match self.outputs.len() {
            1 if second => output.iter().zip(kept(0)).map(|(a, b)| (a + b) / 2.0).collect(),
            1 => output.to_vec(),
            2 => mix(&[3.0, -1.0], 2.0),
            3 => mix(&[23.0, -16.0, 5.0], 12.0),
            _ => mix(&[55.0, -59.0, 37.0, -9.0], 24.0),
        };
        if second {
            if let Some(origin) = self.origin.take() {
                latents.copy_from_slice(&origin);
            }
            return Move { output: mixed, from: timestep + self.stride, to: Some(timestep) };
        }
        if self.counter == 0 {
            self.origin = Some(latents.to_vec());
        }
        Move { output: mixed, from: timestep, to: timestep.checked_sub(self.stride) }
    }

    /// Formula (9) of the paper.
    fn go(&self, step: &Move, latents: &mut [f32]) {
        let alpha = self.alphas[step.from];
        let previous = step.to.map_or(self.final_alpha, |timestep| self.alphas[timestep]);
        let (noise, previous_noise) = (1.0 - alpha, 1.0 - previous);
        let of_latents = (previous / alpha).sqrt();
        let under = alpha * previous_noise.sqrt() + (alpha * noise * previous).sqrt();
        for (x, &output) in latents.iter_mut().zip(&step.output) {
            let epsilon = match self.prediction {
                Prediction::Velocity => alpha.sqrt() * output + noise.sqrt() * *x,
                Prediction::Epsilon | Prediction::Sample => output,
            };
            *x = of_latents * *x - (previous - alpha) * epsilon / under;
        }
    }
}

/// A change of timestep by an output; no timestep is before the first.
struct Move {
    output: Vec<f32>,
    from: usize,
    to: Option<usize>,
}

/// The second timestep is evaluated twice.
fn with_second_twice(once: &[usize]) -> Vec<usize> {
    once.iter().take(2).chain(once.iter().skip(1)).copied().collect()
}

/// Three steps of four evaluations: at the timestep, twice half a stride on, and at the next timestep.
fn with_runge_kutta(once: &[usize], stride: usize) -> Vec<usize> {
    let start = once.windows(2).take(RUNGE_KUTTA / OF_RUNGE_KUTTA).flat_map(|pair| {
        let half = pair[1] + stride / 2;
        [pair[0], half, half, pair[1]]
    });
    start.chain(once.iter().skip(RUNGE_KUTTA / OF_RUNGE_KUTTA).copied()).collect()
}

impl Scheduler for Pndm {
    fn timesteps(&self) -> &[f32] {
        &self.shown
    }

    fn initial_scale(&self) -> f32 {
        1.0
    }

    /// The first step is done twice, or the first three are Runge-Kutta's: counted from where the picture begins.
    fn asked_step(&self, first: usize, done: usize) -> (usize, usize) {
        let beyond_one_each = RUNGE_KUTTA - RUNGE_KUTTA / OF_RUNGE_KUTTA;
        let (since, more) = match self.runge_kutta {
            true if done < RUNGE_KUTTA => (done / OF_RUNGE_KUTTA, beyond_one_each),
            true => (done - beyond_one_each, beyond_one_each),
            // A single step is done once.
            false => (done.saturating_sub(1), usize::from(self.timesteps.len() > 1)),
        };
        let steps = self.timesteps.len() - more;
        // A picture that begins near the end has fewer steps than the start counts.
        ((first + since).min(steps - 1), steps)
    }

    fn scale_input(&self, _step: usize, latents: &[f32]) -> Vec<f32> {
        latents.to_vec()
    }

    fn step(&mut self, step: usize, output: &[f32], latents: &mut [f32], _rng: &mut TorchRng) -> Vec<f32> {
        let timestep = self.timesteps[step];
        let alpha = self.alphas[timestep];
        let implied = |(x, output): (&f32, &f32)| signal::clean(self.prediction, alpha, *x, *output);
        let clean = latents.iter().zip(output).map(implied).collect();
        let next = match self.runge_kutta && self.counter < RUNGE_KUTTA {
            true => self.runge_kutta_step(timestep, output, latents),
            false => self.multistep(timestep, output, latents),
        };
        self.go(&next, latents);
        self.counter += 1;
        clean
    }

    fn add_noise(&self, step: usize, clean: &[f32], noise: &[f32]) -> Vec<f32> {
        signal::add_noise(self.alphas[self.timesteps[step]], clean, noise)
    }

    fn state(&self) -> SchedulerState {
        SchedulerState::default()
            .count("counter", self.counter as u64)
            .with_list("outputs", &self.outputs)
            .with_some("origin", self.origin.as_ref())
            .with_some("sum", self.sum.as_ref())
    }

    fn restore(&mut self, mut state: SchedulerState, place: Place) -> Result<(), StateError> {
        let Place { done, size, .. } = place;
        let (outputs, origin, sum) = self.kept_after(done);
        state.take_count("counter", done as u64)?;
        let outputs = state.take_list("outputs", outputs, size)?;
        let origin = origin.then(|| state.take("origin", size)).transpose()?;
        let sum = sum.then(|| state.take("sum", size)).transpose()?;
        state.finish()?;
        (self.counter, self.outputs, self.origin, self.sum) = (done, outputs, origin, sum);
        Ok(())
    }
}
