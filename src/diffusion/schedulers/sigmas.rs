//! Sigmas, the noise relative to the signal: those of training, and how a schedule is spread over them.

use super::{
    SigmaSpread, betas,
    config::{SchedulerConfig, linspace},
};
use crate::diffusion::DiffusionError;

/// Where betas leave no signal at the end, this much is left, so that the first sigma is finite (as in diffusers).
const LEAST_ALPHA: f32 = 1.0 / (1 << 24) as f32;

/// Curvature of Karras' spread (Karras et al. 2022, table 1).
const RHO: f64 = 7.0;

/// The sigma of each training timestep, rising, and its logarithm.
#[derive(Debug)]
pub struct TrainSigmas {
    alphas: Vec<f32>,
    sigmas: Vec<f32>,
    logs: Vec<f32>,
}

impl TrainSigmas {
    /// Reads the betas. `rescales`: the class knows `rescale_betas_zero_snr`.
    pub fn new(
        config: &SchedulerConfig,
        defaults: betas::Defaults,
        rescales: bool,
    ) -> Result<Self, DiffusionError> {
        let mut alphas = config.alphas_cumprod(defaults, rescales)?;
        if let (true, Some(last)) = (rescales && config.zero_terminal_snr, alphas.last_mut()) {
            *last = LEAST_ALPHA;
        }
        let sigmas: Vec<f32> = alphas.iter().map(|alpha| ((1.0 - alpha) / alpha).sqrt()).collect();
        let logs = sigmas.iter().map(|sigma| log(*sigma)).collect();
        Ok(Self { alphas, sigmas, logs })
    }

    /// The smallest.
    pub fn least(&self) -> f32 {
        self.sigmas[0]
    }

    /// The largest.
    pub fn largest(&self) -> f32 {
        self.sigmas[self.sigmas.len() - 1]
    }

    /// How many training timesteps have a half-logarithm of signal to noise (lambda) of at least `least`.
    pub fn with_lambda_from(&self, least: f32) -> usize {
        let lambda = |alpha: &f32| alpha.sqrt().ln() - (1.0 - alpha).sqrt().ln();
        self.alphas.iter().filter(|alpha| lambda(alpha) >= least).count()
    }

    /// The sigma between two training timesteps; beyond the ends, that of the end (`numpy.interp`).
    pub fn interpolate(&self, at: f64) -> f64 {
        interpolate(&self.sigmas, at)
    }

    /// The timestep of a sigma, by its logarithm: diffusers' `_sigma_to_t`.
    pub fn timestep(&self, sigma: f64) -> f64 {
        let log = sigma.max(1e-10).ln();
        let below = self.logs.iter().rposition(|known| log - f64::from(*known) >= 0.0).unwrap_or(0);
        let low = below.min(self.logs.len().saturating_sub(2));
        let high = (low + 1).min(self.logs.len() - 1);
        let weight = (f64::from(self.logs[low]) - log) / f64::from(self.logs[low] - self.logs[high]);
        let weight = weight.clamp(0.0, 1.0);
        (1.0 - weight) * low as f64 + weight * high as f64
    }
}

/// `count` sigmas from `largest` down to `least`, which a configuration may name itself; none for a plain spread.
pub fn spread(
    config: &SchedulerConfig,
    spread: SigmaSpread,
    (largest, least): (f64, f64),
    count: usize,
) -> Result<Option<Vec<f64>>, DiffusionError> {
    let file = config.file();
    for switch in ["use_beta_sigmas", "use_flow_sigmas", "use_lu_lambdas"] {
        file.only(switch, &[false.into()])?;
    }
    if spread == SigmaSpread::Plain {
        return Ok(None);
    }
    let (largest, least) = (file.number_or("sigma_max", largest)?, file.number_or("sigma_min", least)?);
    if !(least > 0.0 && largest >= least) {
        let expected = format!("a number above 0 and up to {largest}, the largest sigma");
        return Err(file.unusable("sigma_min", &expected, least));
    }
    Ok(Some(match spread {
        SigmaSpread::Exponential => {
            linspace(largest.ln(), least.ln(), count).into_iter().map(f64::exp).collect()
        }
        SigmaSpread::Plain | SigmaSpread::Karras => {
            let (high, low) = (largest.powf(1.0 / RHO), least.powf(1.0 / RHO));
            linspace(0.0, 1.0, count).into_iter().map(|ramp| (high + ramp * (low - high)).powf(RHO)).collect()
        }
    }))
}

/// What the last step leads to: nothing, or with `final_sigmas_type: sigma_min` this sigma.
pub fn last(config: &SchedulerConfig, least: f32) -> Result<f32, DiffusionError> {
    Ok(match config.file().name_or("final_sigmas_type", &["zero", "sigma_min"], 0)? {
        0 => 0.0,
        _ => least,
    })
}

fn interpolate(values: &[f32], at: f64) -> f64 {
    let at = at.clamp(0.0, (values.len() - 1) as f64);
    let low = (at as usize).min(values.len() - 1);
    let high = (low + 1).min(values.len() - 1);
    let (below, above) = (f64::from(values[low]), f64::from(values[high]));
    below + (above - below) * (at - low as f64)
}

/// numpy's f32 logarithm on processors with AVX2 or AVX-512 (a rational minimax polynomial), bit for bit: multistep
/// solvers cut timesteps to integers, where the last bit decides between 998 and 999.
fn log(x: f32) -> f32 {
    const NUMERATOR: [f32; 6] = [0.025_899_792, 0.380_883_77, 1.480_000_6, 2.112_677_6, 1.0, 0.0];
    const DENOMINATOR: [f32; 6] = [0.005_875_095_4, 0.154_647_64, 0.986_494_3, 2.453_006, 2.612_677_6, 1.0];
    if !(x.is_normal() && x > 0.0) {
        return x.ln();
    }
    let mut exponent = ((x.to_bits() >> 23) as i32 - 127) as f32;
    let mut mantissa = f32::from_bits(x.to_bits() & 0x007f_ffff | 0x3f80_0000);
    if mantissa > std::f32::consts::SQRT_2 {
        mantissa *= 0.5;
        exponent += 1.0;
    }
    let y = mantissa - 1.0;
    let polynomial =
        |terms: [f32; 6]| terms.into_iter().reduce(|sum, term| sum.mul_add(y, term)).unwrap_or(0.0);
    exponent.mul_add(std::f32::consts::LN_2, polynomial(NUMERATOR) / polynomial(DENOMINATOR))
}

#[cfg(test)]
mod tests {
    use super::{interpolate, log};

    #[test]
    fn between_two_timesteps_the_value_is_between_theirs() {
        let values = [1.0, 3.0, 7.0];
        assert_eq!(interpolate(&values, 1.5), 5.0);
        assert_eq!(interpolate(&values, -1.0), 1.0);
        assert_eq!(interpolate(&values, 9.0), 7.0);
    }

    #[test]
    fn the_logarithm_is_within_two_units_in_the_last_place() {
        for i in 1..10_000 {
            let x = i as f32 * 0.017;
            let exact = f64::from(x).ln();
            let error = (f64::from(log(x)) - exact).abs();
            assert!(error <= 2.5e-7 * exact.abs().max(0.1), "{x}: {error:e}");
        }
    }
}
