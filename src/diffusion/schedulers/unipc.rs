//! UniPC: a multistep predictor whose last step is corrected by the network's next output (Zhao et al. 2023;
//! diffusers' UniPCMultistepScheduler, predicting clean samples).

use super::{
    Place, Scheduler, SchedulerConfig, SchedulerState, SigmaSpread, StateError, betas,
    config::Prediction,
    multistep::{self, History, Level, Schedule, Whole},
    sigmas::TrainSigmas,
};
use crate::diffusion::{DiffusionError, noise::TorchRng};

/// The schedule, the switches, the last clean samples and the last step.
#[derive(Debug)]
pub struct UniPc {
    schedule: Schedule,
    prediction: Prediction,
    /// B(h) is `h` in the paper's first variant and `exp(h) - 1` in its second.
    first_variant: bool,
    lower_order_final: bool,
    history: History,
    last: Option<Last>,
}

/// The step that the next output corrects.
#[derive(Debug)]
struct Last {
    /// Latents before it.
    latents: Vec<f32>,
    order: usize,
}

/// What a step of `h` in lambda multiplies with, from the level that the history's latest sample is of.
struct Span {
    /// Of the latents.
    latents: f32,
    /// Of the latest clean sample.
    clean: f32,
    /// `alpha * B(h)`, of the differences.
    differences: f32,
    /// Lambda of earlier samples from the latest, in parts of `h`, and 1 for what the step leads to.
    places: Vec<f32>,
    /// Right sides of the order conditions.
    conditions: Vec<f32>,
}

impl UniPc {
    /// Reads what is UniPC's own from the configuration.
    pub fn new(config: &SchedulerConfig, steps: usize, spread: SigmaSpread) -> Result<Self, DiffusionError> {
        let file = config.file();
        file.only("predict_x0", &[true.into()])?;
        file.only("disable_corrector", &[serde_json::json!([])])?;
        file.only("solver_p", &[])?;
        // Names of other solvers mean bh2, as in diffusers.
        let first_variant =
            file.name_or("solver_type", &["bh2", "midpoint", "heun", "logrho", "bh1"], 0)? == 4;
        let lower_order_final = file.flag_or("lower_order_final", true)?;
        let order = multistep::order(file)?;
        let train = TrainSigmas::new(config, betas::USUAL, true)?;
        let whole = match spread {
            SigmaSpread::Exponential => Whole::Cut,
            SigmaSpread::Plain | SigmaSpread::Karras => Whole::Rounded,
        };
        let schedule = Schedule::new(config, &train, (steps, config.train_timesteps), (spread, whole), true)?;
        if schedule.ends_clean() && (first_variant || (!lower_order_final && order > 1 && steps > 1)) {
            // The last step is endless in lambda: diffusers gives NaN.
            let expected = "sigma_min, for unipc with solver_type bh1 or without lower_order_final";
            return Err(file.unusable("final_sigmas_type", expected, "zero"));
        }
        Ok(Self {
            schedule,
            prediction: config.prediction,
            first_variant,
            lower_order_final,
            history: History::new(order),
            last: None,
        })
    }

    /// The order of a step with so many samples in the history.
    fn order(&self, step: usize, samples: usize) -> usize {
        match self.lower_order_final {
            true => samples.min(self.schedule.timesteps.len() - step),
            false => samples,
        }
    }

    /// The step that leads from `step` to the next one, by an order up to that of the history.
    fn span(&self, step: usize, order: usize) -> Span {
        let levels = &self.schedule.levels;
        let (from, to): (Level, Level) = (levels[step], levels[step + 1]);
        let h = to.lambda - from.lambda;
        let places =
            (1..order).map(|back| (levels[step - back].lambda - from.lambda) / h).chain([1.0]).collect();
        let growth = (-h).exp_m1();
        let b = if self.first_variant { -h } else { growth };
        let mut phi = growth / -h - 1.0;
        let mut factorial = 1.0;
        let mut conditions = Vec::with_capacity(order);
        for i in 1..=order {
            conditions.push(phi * factorial / b);
            factorial *= (i + 1) as f32;
            phi = phi / -h - 1.0 / factorial;
        }
        Span {
            latents: to.sigma / from.sigma,
            clean: to.alpha * growth,
            differences: to.alpha * b,
            places,
            conditions,
        }
    }

    /// The last step again, now that the clean sample at its end is known.
    fn correct(&self, last: &Last, step: usize, latents: &mut [f32], clean: &[f32]) {
        let span = self.span(step - 1, last.order);
        let shares = match last.order {
            1 => vec![0.5],
            _ => solve(&span.places, &span.conditions),
        };
        let newest = shares[shares.len() - 1];
        for (i, x) in latents.iter_mut().enumerate() {
            let latest = self.history.back(0)[i];
            let differences = self.differences(&span, &shares[..shares.len() - 1], i);
            *x = span.latents * last.latents[i]
                - span.clean * latest
                - span.differences * (differences + newest * (clean[i] - latest));
        }
    }

    /// One step on.
    fn predict(&self, step: usize, order: usize, latents: &mut [f32]) {
        let span = self.span(step, order);
        let shares = match order {
            1 => Vec::new(),
            2 => vec![0.5],
            _ => solve(&span.places[..order - 1], &span.conditions[..order - 1]),
        };
        for (i, x) in latents.iter_mut().enumerate() {
            let differences = self.differences(&span, &shares, i);
            *x = span.latents * *x - span.clean * self.history.back(0)[i] - span.differences * differences;
        }
    }

    /// The weighted slopes between earlier samples and the latest.
    fn differences(&self, span: &Span, shares: &[f32], i: usize) -> f32 {
        let latest = self.history.back(0)[i];
        let slope = |back: usize| (self.history.back(back)[i] - latest) / span.places[back - 1];
        shares.iter().enumerate().map(|(k, share)| share * slope(k + 1)).sum()
    }
}

impl Scheduler for UniPc {
    fn timesteps(&self) -> &[f32] {
        &self.schedule.timesteps
    }

    fn initial_scale(&self) -> f32 {
        1.0
    }

    fn scale_input(&self, _step: usize, latents: &[f32]) -> Vec<f32> {
        latents.to_vec()
    }

    fn step(&mut self, step: usize, output: &[f32], latents: &mut [f32], _rng: &mut TorchRng) -> Vec<f32> {
        let level = self.schedule.levels[step];
        let clean: Vec<f32> =
            latents.iter().zip(output).map(|(x, output)| level.clean(self.prediction, *x, *output)).collect();
        if let Some(last) = self.last.take() {
            self.correct(&last, step, latents, &clean);
        }
        self.history.push(clean.clone());
        let order = self.order(step, self.history.len());
        self.last = Some(Last { latents: latents.to_vec(), order });
        self.predict(step, order, latents);
        clean
    }

    fn add_noise(&self, step: usize, clean: &[f32], noise: &[f32]) -> Vec<f32> {
        self.schedule.levels[step].add_noise(clean, noise)
    }

    fn state(&self) -> SchedulerState {
        let state = SchedulerState::default().with_list("clean", self.history.samples());
        match &self.last {
            None => state,
            Some(last) => state.with("latents", &last.latents).count("order", last.order as u64),
        }
    }

    fn restore(&mut self, mut state: SchedulerState, place: Place) -> Result<(), StateError> {
        let samples = state.take_list("clean", self.history.len_after(place.done), place.size)?;
        let last = match place.done {
            0 => None,
            done => {
                let order = self.order(place.first + done - 1, samples.len());
                state.take_count("order", order as u64)?;
                Some(Last { latents: state.take("latents", place.size)?, order })
            }
        };
        state.finish()?;
        self.history.replace(samples);
        self.last = last;
        Ok(())
    }
}

/// Solves the Vandermonde system whose row i holds the places to the power of i, by elimination with the largest
/// pivot.
fn solve(places: &[f32], right: &[f32]) -> Vec<f32> {
    let size = places.len();
    let row = |i: usize| places.iter().map(|place| place.powi(i as i32)).chain([right[i]]).collect();
    let mut rows: Vec<Vec<f32>> = (0..size).map(row).collect();
    for column in 0..size {
        let pivot = (column..size).max_by(|a, b| rows[*a][column].abs().total_cmp(&rows[*b][column].abs()));
        rows.swap(column, pivot.unwrap_or(column));
        let (done, rest) = rows.split_at_mut(column + 1);
        let pivot = &done[column];
        for row in rest {
            let factor = row[column] / pivot[column];
            for (x, p) in row.iter_mut().zip(pivot).skip(column) {
                *x -= factor * p;
            }
        }
    }
    let mut solution = vec![0.0; size];
    for i in (0..size).rev() {
        let known: f32 = (i + 1..size).map(|k| rows[i][k] * solution[k]).sum();
        solution[i] = (rows[i][size] - known) / rows[i][i];
    }
    solution
}

#[cfg(test)]
mod tests {
    use super::solve;

    #[test]
    fn three_places_are_weighted_to_meet_three_conditions() {
        let (places, shares) = ([-2.0_f32, -0.5, 1.0], [0.25_f32, -1.5, 2.0]);
        let condition = |i| places.iter().zip(shares).map(|(place, share)| place.powi(i) * share).sum();
        let right: Vec<f32> = (0..3).map(condition).collect();
        let found = solve(&places, &right);
        assert!(found.iter().zip(shares).all(|(a, b)| (a - b).abs() < 1e-5), "{found:?}");
    }
}
