//! Classifier-free guidance (Ho and Salimans 2022): away from what a negative prompt leads to.

use super::ImageSpec;
use crate::contract::GuidanceInterval;

/// How strongly a picture is guided, and when.
#[derive(Debug, Clone, Copy)]
pub struct Guidance {
    /// How far to go along the difference of both answers.
    pub scale: f32,
    /// Where to go from.
    pub form: Form,
    /// The part of the schedule that is guided; none: all of it.
    pub interval: Option<GuidanceInterval>,
    /// How far the spread of the guided answer is brought back to that of the answer to the prompt, 0 to 1 (Lin et al. 2024,
    /// "Common Diffusion Noise Schedules and Sample Steps Are Flawed", 3.4).
    pub rescale: f64,
}

/// The answer that guidance begins with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Form {
    /// That to the negative prompt: a scale of 1 is the answer to the prompt alone.
    FromNegative,
    /// That to the prompt: a scale of 0 is the answer to the prompt alone.
    FromPositive,
}

impl Guidance {
    /// As a request has it, in the form of most families.
    pub fn of(spec: &ImageSpec) -> Self {
        let (scale, interval) = (spec.guidance_scale as f32, spec.guidance_interval);
        Self { scale, form: Form::FromNegative, interval, rescale: spec.guidance_rescale }
    }

    /// Whether step `step` of `steps` is guided.
    pub fn guides(&self, (step, steps): (usize, usize)) -> bool {
        self.interval.is_none_or(|interval| interval.contains(step, steps))
    }

    /// One answer of two, the negative one first, each of `size` numbers; a single one as it is.
    pub fn apply(&self, outputs: &[f32], size: usize) -> Vec<f32> {
        if outputs.len() == size {
            return outputs.to_vec();
        }
        let (negative, positive) = outputs.split_at(size);
        let guide = |(n, p): (&f32, &f32)| match self.form {
            Form::FromNegative => n + self.scale * (p - n),
            Form::FromPositive => p + self.scale * (p - n),
        };
        let mut guided: Vec<f32> = negative.iter().zip(positive).map(guide).collect();
        if self.rescale > 0.0 {
            let factor = (spread(positive) / spread(&guided)) as f32;
            let (rescaled, kept) = (self.rescale as f32, (1.0 - self.rescale) as f32);
            guided.iter_mut().for_each(|x| *x = rescaled * (*x * factor) + kept * *x);
        }
        guided
    }
}

/// Standard deviation, unbiased as torch's.
fn spread(values: &[f32]) -> f64 {
    let count = values.len() as f64;
    let mean = values.iter().map(|x| f64::from(*x)).sum::<f64>() / count;
    let squares = values.iter().map(|x| (f64::from(*x) - mean).powi(2)).sum::<f64>();
    (squares / (count - 1.0)).sqrt()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_scale_is_told_from_either_answer() {
        let guided = |form, scale| {
            Guidance { scale, form, interval: None, rescale: 0.0 }.apply(&[1.0, 2.0, 3.0, 5.0], 2)
        };
        assert_eq!(guided(Form::FromNegative, 1.0), [3.0, 5.0]);
        assert_eq!(guided(Form::FromPositive, 0.0), [3.0, 5.0]);
        assert_eq!(guided(Form::FromNegative, 3.0), guided(Form::FromPositive, 2.0));
    }

    #[test]
    fn a_rescaled_answer_has_the_spread_of_the_answer_to_the_prompt() {
        let guided = |rescale| {
            let guidance = Guidance { scale: 3.0, form: Form::FromNegative, interval: None, rescale };
            guidance.apply(&[1.0, 2.0, 4.0, 3.0, 5.0, 6.0], 3)
        };
        assert!((spread(&guided(1.0)) - spread(&[3.0, 5.0, 6.0])).abs() < 1e-6);
        let (none, half, all) = (guided(0.0), guided(0.5), guided(1.0));
        assert_eq!(none, [7.0, 11.0, 10.0]);
        assert!((half[1] - (none[1] + all[1]) / 2.0).abs() < 1e-5);
    }
}
