//! The generator's state in a form that can be written down and read back bit for bit.

use serde::{Deserialize, Serialize};

use super::{TorchRng, mt19937::Mt19937};

/// Words, place, and the second number of a pair as its bits.
#[derive(Serialize, Deserialize)]
pub struct RngState {
    words: Vec<u32>,
    next: usize,
    cached: Option<u64>,
}

/// A state that no generator can have.
#[derive(Debug, thiserror::Error)]
#[error(
    "a generator's state: expected 624 words and a place up to 624, found {words} words and place {next}"
)]
pub struct RngStateError {
    words: usize,
    next: usize,
}

impl From<TorchRng> for RngState {
    fn from(rng: TorchRng) -> Self {
        let (words, next) = rng.engine.state();
        Self { words: words.to_vec(), next, cached: rng.cached.map(f64::to_bits) }
    }
}

impl TryFrom<RngState> for TorchRng {
    type Error = RngStateError;

    fn try_from(state: RngState) -> Result<Self, RngStateError> {
        let (count, next) = (state.words.len(), state.next);
        let engine = Mt19937::from_state(state.words, next).ok_or(RngStateError { words: count, next })?;
        Ok(Self { engine, cached: state.cached.map(f64::from_bits) })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_generator_read_back_from_json_goes_on_from_the_same_place() {
        for drawn in [0, 5, 16, 700] {
            let mut rng = TorchRng::new(7);
            rng.normal(drawn);
            let text = serde_json::to_string(&rng).unwrap();
            let mut back: TorchRng = serde_json::from_str(&text).unwrap();
            assert_eq!(back.normal(3), rng.normal(3));
            assert_eq!(back.normal(2000), rng.normal(2000));
        }
    }

    #[test]
    fn a_state_of_another_length_is_refused_with_both_lengths() {
        let short = serde_json::json!({"words": [1, 2], "next": 0, "cached": null});
        let text = serde_json::from_value::<TorchRng>(short).unwrap_err().to_string();
        assert!(text.contains("expected 624 words") && text.contains("found 2 words"), "{text}");
        let beyond = serde_json::json!({"words": vec![0; 624], "next": 625, "cached": null});
        assert!(serde_json::from_value::<TorchRng>(beyond).is_err());
    }
}
