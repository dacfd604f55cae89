//! `scheduler/scheduler_config.json`: what a checkpoint was trained with.

use super::{SchedulerKind, betas};
use crate::{
    contract::{PredictionType, SchedulerOptions, TimestepSpacing},
    diffusion::{DiffusionError, checkpoint::ConfigFile},
};

/// What the network predicts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Prediction {
    /// The noise.
    Epsilon,
    /// Velocity (Salimans and Ho 2022).
    Velocity,
    /// The clean latents.
    Sample,
}

/// How timesteps are spread (Lin et al. 2023, table 2).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Spacing {
    /// From 0 in equal strides.
    Leading,
    /// Down from the last in equal strides.
    Trailing,
    /// Both ends, and equal parts between.
    Linspace,
}

/// The checkpoint's scheduler configuration, read for any scheduler.
#[derive(Debug, Clone)]
pub struct SchedulerConfig {
    file: ConfigFile,
    /// Timesteps in training.
    pub train_timesteps: usize,
    /// Betas are rescaled so that the last timestep is all noise.
    pub zero_terminal_snr: bool,
    /// What the network predicts.
    pub prediction: Prediction,
    /// None: the scheduler's own default.
    pub spacing: Option<Spacing>,
    /// Added to leading timesteps.
    pub steps_offset: usize,
    /// Predicted clean samples are clipped to -1..1 or another range. None: the scheduler's own default.
    pub clip_sample: Option<bool>,
    /// PNDM begins with steps of lower order, not with Runge-Kutta.
    pub skip_prk_steps: bool,
    /// What a request has set, where that is not what the file says.
    options: SchedulerOptions,
}

impl SchedulerConfig {
    /// Reads the file. A class that we lack is no error yet: a request may name another scheduler.
    pub fn read(file: ConfigFile) -> Result<Self, DiffusionError> {
        let prediction = match file.name_or("prediction_type", &["epsilon", "v_prediction", "sample"], 0)? {
            0 => Prediction::Epsilon,
            1 => Prediction::Velocity,
            _ => Prediction::Sample,
        };
        let spacing = match file.value("timestep_spacing") {
            None => None,
            Some(_) => match file.name_or("timestep_spacing", &["leading", "trailing", "linspace"], 0)? {
                0 => Some(Spacing::Leading),
                1 => Some(Spacing::Trailing),
                _ => Some(Spacing::Linspace),
            },
        };
        let clip_sample = match file.value("clip_sample") {
            None => None,
            Some(_) => Some(file.flag_or("clip_sample", true)?),
        };
        file.text("_class_name")?;
        Ok(Self {
            train_timesteps: betas::read(&file, betas::USUAL)?.len(),
            zero_terminal_snr: file.flag_or("rescale_betas_zero_snr", false)?,
            prediction,
            spacing,
            steps_offset: file.natural_or("steps_offset", 0)?,
            clip_sample,
            skip_prk_steps: file.flag_or("skip_prk_steps", false)?,
            options: SchedulerOptions::default(),
            file,
        })
    }

    /// Predicted latents are not clipped: that is for pixels. diffusers' pipelines of Stable Diffusion 1 and 2 see to it,
    /// those of SDXL clip with a scheduler whose own default it is.
    pub fn for_latents(self) -> Self {
        Self { clip_sample: Some(false), ..self }
    }

    /// What diffusers' pipelines of Stable Diffusion 1 and 2 set whatever the checkpoint says.
    pub fn with_offset(self) -> Self {
        Self { steps_offset: 1, ..self }
    }

    /// What diffusers' inpainting pipeline of Stable Diffusion 1 and 2 sets whatever the checkpoint says.
    pub fn for_inpainting(&self) -> Self {
        Self { skip_prk_steps: true, ..self.clone() }
    }

    /// With what a request sets of it: diffusers' `X.from_config(config, **options)`.
    pub fn with(&self, options: SchedulerOptions) -> Self {
        let spacing = options.timestep_spacing.map(|spacing| match spacing {
            TimestepSpacing::Leading => Spacing::Leading,
            TimestepSpacing::Trailing => Spacing::Trailing,
            TimestepSpacing::Linspace => Spacing::Linspace,
        });
        let prediction = options.prediction_type.map(|prediction| match prediction {
            PredictionType::Epsilon => Prediction::Epsilon,
            PredictionType::VPrediction => Prediction::Velocity,
            PredictionType::Sample => Prediction::Sample,
        });
        Self {
            spacing: spacing.or(self.spacing),
            prediction: prediction.unwrap_or(self.prediction),
            zero_terminal_snr: options.rescale_betas_zero_snr.unwrap_or(self.zero_terminal_snr),
            options,
            ..self.clone()
        }
    }

    /// The timesteps that a consistency model was distilled for.
    ///
    /// # Errors
    /// More than there are in training: of the request that asks for them, or else of the file.
    pub(super) fn original_steps(&self) -> Result<usize, DiffusionError> {
        const KEY: &str = "original_inference_steps";
        let asked = self.options.original_inference_steps.map(|steps| steps as usize);
        let steps = match asked {
            Some(steps) => steps,
            None => self.file.integer_or(KEY, 50)?,
        };
        let expected = format!("1 to {}, the timesteps in training", self.train_timesteps);
        match (1..=self.train_timesteps).contains(&steps) {
            true => Ok(steps),
            false if asked.is_some() => {
                let reason = format!("expected {expected}, found {steps}");
                Err(DiffusionError::request("scheduler_options.original_inference_steps", reason))
            }
            false => Err(self.file.unusable(KEY, &expected, steps)),
        }
    }

    /// The checkpoint's own scheduler, with the sigmas that its configuration switches on; one that we lack is
    /// refused by name.
    pub fn kind(&self) -> Result<SchedulerKind, DiffusionError> {
        let class = self.file.text("_class_name")?;
        match SchedulerKind::of_class(class, &self.file)? {
            Some(kind) => Ok(kind),
            None => {
                let known = SchedulerKind::NAMES.join(", ");
                let reason =
                    format!("the model's own scheduler, {class}, is none of ours; name one of: {known}");
                Err(DiffusionError::request("scheduler", reason))
            }
        }
    }

    /// The file, for what one scheduler alone reads.
    pub(super) fn file(&self) -> &ConfigFile {
        &self.file
    }

    /// Cumulative products of `1 - beta`, one per training timestep. `rescales`: the class knows
    /// `rescale_betas_zero_snr`.
    pub(super) fn alphas_cumprod(
        &self,
        defaults: betas::Defaults,
        rescales: bool,
    ) -> Result<Vec<f32>, DiffusionError> {
        let betas = betas::read(&self.file, defaults)?;
        Ok(betas::alphas_cumprod(&match rescales && self.zero_terminal_snr {
            true => betas::rescale_zero_terminal_snr(&betas),
            false => betas,
        }))
    }

    /// The range that predicted clean samples are clipped to.
    pub(super) fn clip(&self, default: bool) -> Result<Option<f32>, DiffusionError> {
        Ok(match self.clip_sample.unwrap_or(default) {
            true => Some(self.file.number_or("clip_sample_range", 1.0)? as f32),
            false => None,
        })
    }

    /// The timesteps of `steps` steps, falling, before the class's own rounding.
    pub(super) fn timesteps(&self, steps: usize, default: Spacing) -> Vec<f64> {
        let train = self.train_timesteps;
        match self.spacing.unwrap_or(default) {
            Spacing::Leading => {
                let stride = train / steps;
                (0..steps).rev().map(|i| (i * stride + self.steps_offset) as f64).collect()
            }
            Spacing::Trailing => trailing(train, train, steps),
            Spacing::Linspace => linspace(0.0, (train - 1) as f64, steps).into_iter().rev().collect(),
        }
    }

    /// The timesteps of the multistep solvers: their strides count one step more, and a lower end is left out.
    /// `last` is one beyond the first timestep.
    pub(super) fn multistep_timesteps(&self, steps: usize, last: usize) -> Vec<f64> {
        match self.spacing.unwrap_or(Spacing::Linspace) {
            Spacing::Leading => {
                let stride = last / (steps + 1);
                (1..=steps).rev().map(|i| (i * stride + self.steps_offset) as f64).collect()
            }
            Spacing::Trailing => trailing(self.train_timesteps, last, steps),
            Spacing::Linspace => {
                let all = linspace(0.0, (last - 1) as f64, steps + 1);
                all[1..].iter().rev().map(|timestep| timestep.round_ties_even()).collect()
            }
        }
    }

    /// Timesteps as positions in the training schedule; one beyond it is refused.
    pub(super) fn whole_timesteps(
        &self,
        steps: usize,
        default: Spacing,
    ) -> Result<Vec<usize>, DiffusionError> {
        let rounded: Vec<usize> = self
            .timesteps(steps, default)
            .iter()
            .map(|timestep| timestep.round_ties_even() as usize)
            .collect();
        match rounded.iter().find(|timestep| **timestep >= self.train_timesteps) {
            None => Ok(rounded),
            Some(beyond) => {
                let reason = format!("{steps} steps lead to timestep {beyond} of {}", self.train_timesteps);
                Err(DiffusionError::request("steps", reason))
            }
        }
    }

    /// Refuses to find noise where there is nothing else: at a timestep without signal the clean sample cannot be
    /// told from a prediction of the noise (diffusers divides by zero).
    pub(super) fn finds_signal(&self, alphas: &[f32]) -> Result<(), DiffusionError> {
        if self.prediction == Prediction::Epsilon && alphas.contains(&0.0) {
            let expected = "v_prediction or sample, as `rescale_betas_zero_snr` is set";
            if !self.options.is_empty() {
                let reason = format!("expected {expected}, found epsilon");
                return Err(DiffusionError::request("scheduler_options.prediction_type", reason));
            }
            return Err(self.file.unusable("prediction_type", expected, "epsilon"));
        }
        Ok(())
    }
}

/// `numpy.linspace`: the end is exact.
pub(super) fn linspace(start: f64, end: f64, count: usize) -> Vec<f64> {
    let stride = (end - start) / (count.max(2) - 1) as f64;
    let mut values: Vec<f64> = (0..count).map(|i| i as f64 * stride + start).collect();
    if let (true, Some(last)) = (count > 1, values.last_mut()) {
        *last = end;
    }
    values
}

/// `numpy.arange(last, 0, -train / steps)`, rounded, less 1. numpy adds the rounded difference of the first two
/// again and again, which decides where a half is rounded to. For some counts (61, 103, ...) it gives one timestep
/// too many, -1, that no network was trained for: it is left out.
fn trailing(train: usize, last: usize, steps: usize) -> Vec<f64> {
    let stride = train as f64 / steps as f64;
    let start = last as f64;
    let difference = (start - stride) - start;
    let count = ((start / stride).ceil() as usize).min(steps);
    (0..count).map(|i| (start + i as f64 * difference).round_ties_even() - 1.0).collect()
}
