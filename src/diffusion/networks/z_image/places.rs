//! Where the tokens of a picture and of its caption are, and the turns that tell it.

use candle_core::{Device, Result};

use super::TransformerConfig;
use crate::diffusion::layers::Rotation;

/// Tokens of a picture and of a caption are filled up to a multiple of this.
const MULTIPLE: usize = 32;

/// How many tokens there are of `count` when they are filled up.
pub fn filled(count: usize) -> usize {
    count.next_multiple_of(MULTIPLE)
}

/// A caption of `words` tokens, filled up: one behind the other on the first axis, from 1 on.
pub fn of_caption(config: &TransformerConfig, words: usize, device: &Device) -> Result<Rotation> {
    rotation(config, (0..filled(words)).map(|word| [1 + word, 0, 0]), device)
}

/// A picture of rows and columns after a caption of `words` tokens, filled up: behind it on the first axis, and what fills
/// it up at no place.
pub fn of_picture(
    config: &TransformerConfig,
    words: usize,
    (rows, columns): (usize, usize),
    device: &Device,
) -> Result<Rotation> {
    let first = filled(words) + 1;
    let places = (0..rows * columns).map(|i| [first, i / columns, i % columns]);
    let fill = filled(rows * columns) - rows * columns;
    rotation(config, places.chain((0..fill).map(|_| [0, 0, 0])), device)
}

/// Angles are products in f64, rounded to f32, as diffusers computes them.
fn rotation(
    config: &TransformerConfig,
    places: impl Iterator<Item = [usize; 3]>,
    device: &Device,
) -> Result<Rotation> {
    let angles: Vec<f64> = places
        .flat_map(|place| {
            config.axes.iter().zip(place).flat_map(|(&axis, position)| {
                let frequency = move |i: usize| 1.0 / config.theta.powf(i as f64 / axis as f64);
                (0..axis).step_by(2).map(move |i| f64::from((position as f64 * frequency(i)) as f32))
            })
        })
        .collect();
    Rotation::new(&angles, config.head_width() / 2, device)
}
