//! What the steps of a picture have changed, in a form that can be written down. With the request that the picture was
//! begun from it is all of the picture: another process, with the same weights, goes on from it.
//!
//! Numbers are written as their bits, so that a picture goes on bit for bit.

use serde::{Deserialize, Serialize};

use crate::diffusion::{
    noise::TorchRng,
    schedulers::{SchedulerState, StateError},
};

/// The progress of a picture.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Progress {
    pub(super) trajectory: Trajectory,
    /// The contract's name of the scheduler.
    pub(super) scheduler: String,
    pub(super) state: SchedulerState,
    pub(super) rng: TorchRng,
}

/// Steps and latents.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Trajectory {
    /// Steps done.
    done: usize,
    /// Steps in all.
    total: usize,
    latents: Vec<u32>,
    /// The clean latents that the last step implied.
    clean: Vec<u32>,
}

/// A trajectory that fits its picture.
pub(super) struct Checked {
    pub done: usize,
    pub latents: Vec<f32>,
    pub clean: Vec<f32>,
}

/// Progress that is not of this picture.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ProgressError {
    /// Other latents.
    #[error("the progress has {found} numbers in `{name}`; the picture has {expected}")]
    Latents {
        /// Which latents.
        name: &'static str,
        /// Numbers in the progress.
        found: usize,
        /// Numbers in the picture's latents.
        expected: usize,
    },
    /// Another number of steps.
    #[error("the progress is at step {done} of {total}; the picture has {expected} steps")]
    Steps {
        /// Steps done in the progress.
        done: usize,
        /// Steps in all, in the progress.
        total: usize,
        /// Steps of the picture.
        expected: u32,
    },
    /// Latents that no picture is drawn from.
    #[error("the progress has NaN or infinity in its latents")]
    NonFinite,
    /// Another scheduler.
    #[error("the progress is of scheduler `{found}`; the picture's is `{expected}`")]
    Scheduler {
        /// The scheduler of the progress.
        found: String,
        /// That of the picture.
        expected: &'static str,
    },
    /// What the scheduler carries from step to step is not what it would be.
    #[error(transparent)]
    State(#[from] StateError),
}

impl Trajectory {
    /// `steps`: done, and in all.
    pub(super) fn new(steps: (usize, u32), latents: &[f32], clean: &[f32]) -> Self {
        let bits = |values: &[f32]| values.iter().map(|x| x.to_bits()).collect();
        Self { done: steps.0, total: steps.1 as usize, latents: bits(latents), clean: bits(clean) }
    }

    /// Takes it apart, if it can be of a picture with so many steps and so many numbers in its latents.
    pub(super) fn check(self, steps: u32, size: usize) -> Result<Checked, ProgressError> {
        let Self { done, total, latents, clean } = self;
        if total != steps as usize || done > total {
            return Err(ProgressError::Steps { done, total, expected: steps });
        }
        for (name, found) in [("latents", latents.len()), ("clean", clean.len())] {
            if found != size {
                return Err(ProgressError::Latents { name, found, expected: size });
            }
        }
        let numbers = |bits: Vec<u32>| -> Vec<f32> { bits.into_iter().map(f32::from_bits).collect() };
        let latents = numbers(latents);
        if !latents.iter().all(|x| x.is_finite()) {
            return Err(ProgressError::NonFinite);
        }
        Ok(Checked { done, latents, clean: numbers(clean) })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn error(trajectory: Trajectory, steps: u32, size: usize) -> String {
        match trajectory.check(steps, size) {
            Ok(_) => panic!("it fits"),
            Err(error) => error.to_string(),
        }
    }

    #[test]
    fn a_trajectory_is_read_back_bit_for_bit() {
        let (latents, clean) = ([0.1, -0.0, 1e-42], [f32::NAN, f32::INFINITY, -1.0]);
        let at = Trajectory::new((2, 5), &latents, &clean).check(5, 3).ok().unwrap();
        let same = |a: &[f32], b: &[f32]| a.iter().zip(b).all(|(a, b)| a.to_bits() == b.to_bits());
        assert!(at.done == 2 && same(&at.latents, &latents) && same(&at.clean, &clean));
    }

    #[test]
    fn a_trajectory_of_another_picture_is_refused_and_says_why() {
        let of = |steps| Trajectory::new(steps, &[0.0; 4], &[0.0; 3]);
        assert!(error(of((1, 5)), 6, 4).contains("step 1 of 5; the picture has 6 steps"));
        assert!(error(of((6, 5)), 5, 4).contains("step 6 of 5"));
        assert!(error(of((1, 5)), 5, 8).contains("4 numbers in `latents`; the picture has 8"));
        assert!(error(of((1, 5)), 5, 4).contains("3 numbers in `clean`; the picture has 4"));
        for bad in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
            assert!(error(Trajectory::new((1, 2), &[bad], &[0.0]), 2, 1).contains("NaN or infinity"));
        }
    }
}
