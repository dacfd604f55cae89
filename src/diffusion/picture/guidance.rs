//! Classifier-free guidance (Ho and Salimans 2022): away from what a negative prompt leads to.

use crate::contract::GuidanceInterval;

/// How strongly a picture is guided, and when.
#[derive(Debug, Clone, Copy)]
pub struct Guidance {
    /// 1 is the answer to the prompt alone.
    pub scale: f32,
    /// The part of the schedule that is guided; none: all of it.
    pub interval: Option<GuidanceInterval>,
}

impl Guidance {
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
        negative.iter().zip(positive).map(|(n, p)| n + self.scale * (p - n)).collect()
    }
}
