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
        Self { scale, form: Form::FromNegative, interval }
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
        negative.iter().zip(positive).map(guide).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_scale_is_told_from_either_answer() {
        let guided = |form, scale| Guidance { scale, form, interval: None }.apply(&[1.0, 2.0, 3.0, 5.0], 2);
        assert_eq!(guided(Form::FromNegative, 1.0), [3.0, 5.0]);
        assert_eq!(guided(Form::FromPositive, 0.0), [3.0, 5.0]);
        assert_eq!(guided(Form::FromNegative, 3.0), guided(Form::FromPositive, 2.0));
    }
}
