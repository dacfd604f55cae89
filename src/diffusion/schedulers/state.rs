//! What a scheduler carries from step to step, in a form that can be written down and read back bit for bit.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// Named vectors and counters. Numbers are written as their bits, so that NaN and the sign of zero survive any
/// format.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct SchedulerState {
    vectors: BTreeMap<String, Bits>,
    counters: BTreeMap<String, u64>,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
struct Bits(Vec<u32>);

/// A state that is not of this scheduler.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum StateError {
    /// What the scheduler needs is not there.
    #[error("the scheduler's state lacks `{0}`")]
    Missing(String),
    /// What the scheduler does not know is there.
    #[error("the scheduler's state holds `{0}`, which this scheduler does not keep")]
    Unknown(String),
    /// A vector is not of the picture's latents.
    #[error("the scheduler's state has {found} numbers in `{name}`; the picture's latents have {expected}")]
    Length {
        /// The vector.
        name: String,
        /// Numbers in the latents.
        expected: usize,
        /// Numbers in the vector.
        found: usize,
    },
    /// A counter is not what the steps done have counted.
    #[error("the scheduler's state counts {found} of `{name}`; after the steps done there are {expected}")]
    Counter {
        /// The counter.
        name: String,
        /// What the steps done lead to.
        expected: u64,
        /// What is there.
        found: u64,
    },
}

impl SchedulerState {
    /// Adds a vector.
    pub(super) fn with(mut self, name: &str, vector: &[f32]) -> Self {
        self.vectors.insert(name.to_owned(), Bits(vector.iter().map(|x| x.to_bits()).collect()));
        self
    }

    /// Adds a vector that may not be there.
    pub(super) fn with_some(self, name: &str, vector: Option<&Vec<f32>>) -> Self {
        match vector {
            Some(vector) => self.with(name, vector),
            None => self,
        }
    }

    /// Adds a list of vectors under numbered names.
    pub(super) fn with_list(self, name: &str, list: &[Vec<f32>]) -> Self {
        let state = list.iter().enumerate().fold(self, |state, (i, v)| state.with(&format!("{name}.{i}"), v));
        state.count(name, list.len() as u64)
    }

    /// Adds a counter.
    pub(super) fn count(mut self, name: &str, value: u64) -> Self {
        self.counters.insert(name.to_owned(), value);
        self
    }

    /// Takes a vector of `size` numbers out.
    pub(super) fn take(&mut self, name: &str, size: usize) -> Result<Vec<f32>, StateError> {
        let Bits(bits) = self.vectors.remove(name).ok_or_else(|| StateError::Missing(name.to_owned()))?;
        if bits.len() != size {
            return Err(StateError::Length { name: name.to_owned(), expected: size, found: bits.len() });
        }
        Ok(bits.into_iter().map(f32::from_bits).collect())
    }

    /// Takes a list of `count` vectors of `size` numbers out.
    pub(super) fn take_list(
        &mut self,
        name: &str,
        count: usize,
        size: usize,
    ) -> Result<Vec<Vec<f32>>, StateError> {
        self.take_count(name, count as u64)?;
        (0..count).map(|i| self.take(&format!("{name}.{i}"), size)).collect()
    }

    /// Takes a counter out, which must be as expected.
    pub(super) fn take_count(&mut self, name: &str, expected: u64) -> Result<(), StateError> {
        match self.counters.remove(name) {
            None => Err(StateError::Missing(name.to_owned())),
            Some(found) if found != expected => {
                Err(StateError::Counter { name: name.to_owned(), expected, found })
            }
            Some(_) => Ok(()),
        }
    }

    /// Everything has been taken.
    pub(super) fn finish(self) -> Result<(), StateError> {
        match self.vectors.into_keys().chain(self.counters.into_keys()).next() {
            Some(name) => Err(StateError::Unknown(name)),
            None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_as_json_is_read_back_bit_for_bit() {
        let vector = [f32::NAN, -0.0, f32::MIN_POSITIVE / 2.0, 0.1, f32::NEG_INFINITY];
        let state = SchedulerState::default().with("x", &vector).count("steps", 3);
        let text = serde_json::to_string(&state).unwrap();
        let mut read: SchedulerState = serde_json::from_str(&text).unwrap();
        let back = read.take("x", 5).unwrap();
        assert!(back.iter().zip(vector).all(|(a, b)| a.to_bits() == b.to_bits()));
        assert_eq!(read.take_count("steps", 3), Ok(()));
        assert_eq!(read.finish(), Ok(()));
    }

    #[test]
    fn a_memory_of_another_scheduler_is_refused() {
        let mut state = SchedulerState::default().with_list("outputs", &[vec![1.0], vec![2.0]]);
        assert_eq!(state.clone().finish(), Err(StateError::Unknown("outputs.0".into())));
        assert_eq!(state.take_count("counter", 1), Err(StateError::Missing("counter".into())));
        let more = StateError::Counter { name: "outputs".into(), expected: 1, found: 2 };
        assert_eq!(state.take_list("outputs", 1, 1), Err(more));
    }

    #[test]
    fn a_vector_of_another_length_is_refused_with_its_name_and_both_lengths() {
        let mut state = SchedulerState::default().with_list("outputs", &[vec![1.0], vec![2.0, 3.0]]);
        let error = state.take_list("outputs", 2, 1).unwrap_err();
        let text = "the scheduler's state has 2 numbers in `outputs.1`; the picture's latents have 1";
        assert_eq!(error.to_string(), text);
    }
}
