//! Noise schedules in f32, with the sums and products in f64 where torch accumulates so.

use crate::diffusion::{DiffusionError, checkpoint::ConfigFile};

/// What a class of diffusers takes where the configuration is silent.
#[derive(Debug, Clone, Copy)]
pub struct Defaults {
    start: f64,
    end: f64,
    /// Position in `SCHEDULES`.
    schedule: usize,
}

/// Of most classes.
pub const USUAL: Defaults = Defaults { start: 0.0001, end: 0.02, schedule: 0 };
/// Of HeunDiscreteScheduler.
pub const HEUN: Defaults = Defaults { start: 0.00085, end: 0.012, schedule: 0 };
/// Of LCMScheduler.
pub const LCM: Defaults = Defaults { start: 0.00085, end: 0.012, schedule: 1 };

const SCHEDULES: [&str; 3] = ["linear", "scaled_linear", "squaredcos_cap_v2"];

/// The betas of a configuration, one per training timestep.
pub fn read(file: &ConfigFile, defaults: Defaults) -> Result<Vec<f32>, DiffusionError> {
    if let Some(trained) = file.value("trained_betas") {
        let betas: Option<Vec<f32>> = trained
            .as_array()
            .and_then(|list| list.iter().map(|beta| beta.as_f64().map(|beta| beta as f32)).collect());
        return betas
            .filter(|betas| !betas.is_empty())
            .ok_or_else(|| file.unusable("trained_betas", "a list of numbers", trained));
    }
    let count = file.integer_or("num_train_timesteps", 1000)?;
    let start = file.number_or("beta_start", defaults.start)?;
    let end = file.number_or("beta_end", defaults.end)?;
    Ok(match file.name_or("beta_schedule", &SCHEDULES, defaults.schedule)? {
        0 => linspace(start as f32, end as f32, count),
        1 => linspace(start.sqrt() as f32, end.sqrt() as f32, count).iter().map(|x| x * x).collect(),
        _ => squared_cosine(count),
    })
}

/// `torch.linspace`: from both ends to the middle, with fused multiply-adds as on processors with AVX2.
fn linspace(start: f32, end: f32, count: usize) -> Vec<f32> {
    if count == 1 {
        return vec![start];
    }
    let step = (end - start) / (count - 1) as f32;
    (0..count)
        .map(|i| match i < count / 2 {
            true => step.mul_add(i as f32, start),
            false => step.mul_add(-((count - 1 - i) as f32), end),
        })
        .collect()
}

/// Nichol and Dhariwal 2021, betas capped at 0.999.
fn squared_cosine(count: usize) -> Vec<f32> {
    let alpha_bar = |t: f64| ((t + 0.008) / 1.008 * std::f64::consts::FRAC_PI_2).cos().powi(2);
    (0..count)
        .map(|i| {
            let (t1, t2) = (i as f64 / count as f64, (i + 1) as f64 / count as f64);
            (1.0 - alpha_bar(t2) / alpha_bar(t1)).min(0.999) as f32
        })
        .collect()
}

/// Cumulative products of `1 - beta`.
pub fn alphas_cumprod(betas: &[f32]) -> Vec<f32> {
    betas
        .iter()
        .scan(1.0_f64, |product, beta| {
            *product *= f64::from(1.0 - beta);
            Some(*product as f32)
        })
        .collect()
}

/// Lin et al. 2023, algorithm 1: no signal is left at the last timestep.
pub fn rescale_zero_terminal_snr(betas: &[f32]) -> Vec<f32> {
    let roots: Vec<f32> = alphas_cumprod(betas).iter().map(|alpha| alpha.sqrt()).collect();
    let (first, last) = (roots[0], roots[roots.len() - 1]);
    let scale = first / (first - last);
    let products: Vec<f32> = roots.iter().map(|root| ((root - last) * scale).powi(2)).collect();
    (0..products.len())
        .map(|i| match i {
            0 => 1.0 - products[0],
            _ => 1.0 - products[i] / products[i - 1],
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_linear_space_has_its_two_ends() {
        let values = linspace(0.1, 0.7, 7);
        assert_eq!((values[0], values[6], values.len()), (0.1, 0.7, 7));
    }

    #[test]
    fn squared_cosine_betas_grow_to_the_cap() {
        let betas = squared_cosine(1000);
        assert!(betas.windows(2).all(|pair| pair[0] <= pair[1]));
        assert_eq!(betas[999], 0.999);
    }

    #[test]
    fn rescaled_betas_leave_no_signal_at_the_end() {
        let betas = rescale_zero_terminal_snr(&linspace(0.0001, 0.02, 1000));
        assert_eq!(alphas_cumprod(&betas)[999], 0.0);
    }
}
