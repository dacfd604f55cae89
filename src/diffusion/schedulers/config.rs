//! `scheduler/scheduler_config.json`: what a checkpoint was trained with.

use super::{SchedulerKind, betas};
use crate::diffusion::{DiffusionError, config::ConfigFile};

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
#[derive(Debug)]
pub struct SchedulerConfig {
    file: ConfigFile,
    /// Timesteps in training.
    pub train_timesteps: usize,
    /// Cumulative products of `1 - beta`, one per training timestep.
    pub alphas_cumprod: Vec<f32>,
    /// Betas are rescaled so that the last timestep is all noise.
    pub zero_terminal_snr: bool,
    /// What the network predicts.
    pub prediction: Prediction,
    /// None: the scheduler's own default.
    pub spacing: Option<Spacing>,
    /// Added to leading timesteps.
    pub steps_offset: usize,
    /// Predicted clean samples are clipped to -1..1 or another range (DDIM only, and on by default).
    pub clip_sample: bool,
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
        let zero_terminal_snr = file.flag_or("rescale_betas_zero_snr", false)?;
        let mut betas = betas::read(&file)?;
        if zero_terminal_snr {
            betas = betas::rescale_zero_terminal_snr(&betas);
        }
        file.text("_class_name")?;
        Ok(Self {
            train_timesteps: betas.len(),
            alphas_cumprod: betas::alphas_cumprod(&betas),
            zero_terminal_snr,
            prediction,
            spacing,
            steps_offset: file.natural_or("steps_offset", 0)?,
            clip_sample: file.flag_or("clip_sample", true)?,
            file,
        })
    }

    /// What diffusers' Stable Diffusion pipelines set whatever the checkpoint says: an offset of 1, and no clipping,
    /// which is for pixels and not for latents.
    pub fn for_latents(self) -> Self {
        Self { steps_offset: 1, clip_sample: false, ..self }
    }

    /// The checkpoint's own scheduler; one that we lack is refused by name.
    pub fn kind(&self) -> Result<SchedulerKind, DiffusionError> {
        let class = self.file.text("_class_name")?;
        SchedulerKind::from_class(class).ok_or_else(|| {
            let known = SchedulerKind::NAMES.join(", ");
            let reason = format!("the model's own scheduler, {class}, is none of ours; name one of: {known}");
            DiffusionError::request("scheduler", reason)
        })
    }

    /// The file, for what one scheduler alone reads.
    pub(super) fn file(&self) -> &ConfigFile {
        &self.file
    }

    /// The timesteps of `steps` steps, falling, before the class's own rounding.
    pub(super) fn timesteps(&self, steps: usize, default: Spacing) -> Vec<f64> {
        let train = self.train_timesteps;
        match self.spacing.unwrap_or(default) {
            Spacing::Leading => {
                let stride = train / steps;
                (0..steps).rev().map(|i| (i * stride + self.steps_offset) as f64).collect()
            }
            Spacing::Trailing => {
                let stride = train as f64 / steps as f64;
                (0..steps).map(|i| (train as f64 - i as f64 * stride).round_ties_even() - 1.0).collect()
            }
            Spacing::Linspace => {
                let last = (train - 1) as f64;
                let stride = last / (steps.max(2) - 1) as f64;
                let mut timesteps: Vec<f64> = (0..steps).map(|i| i as f64 * stride).collect();
                if let (true, Some(end)) = (steps > 1, timesteps.last_mut()) {
                    *end = last;
                }
                timesteps.reverse();
                timesteps
            }
        }
    }
}
