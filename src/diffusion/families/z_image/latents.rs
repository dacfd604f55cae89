//! Latents on their way to and from the transformer, which takes 2 x 2 of them as one token.

use crate::diffusion::{autoencoders::LatentShape, networks::z_image::PATCH};

/// `[channels, height, width]` to `[height / 2 * width / 2, 4 * channels]`: rows, columns, then channels of a token.
pub fn pack(latents: &[f32], shape: LatentShape) -> Vec<f32> {
    order(shape).map(|i| latents[i]).collect()
}

/// The way back from [`pack`].
pub fn unpack(tokens: &[f32], shape: LatentShape) -> Vec<f32> {
    let mut latents = vec![0.0; tokens.len()];
    order(shape).zip(tokens).for_each(|(i, value)| latents[i] = *value);
    latents
}

/// Where each packed number is in `[channels, height, width]`.
fn order((channels, height, width): LatentShape) -> impl Iterator<Item = usize> {
    let tokens = (0..height / PATCH).flat_map(move |row| (0..width / PATCH).map(move |column| (row, column)));
    tokens.flat_map(move |(row, column)| {
        (0..PATCH * PATCH * channels).map(move |i| {
            let (y, x, channel) = (i / (PATCH * channels), i / channels % PATCH, i % channels);
            (channel * height + row * PATCH + y) * width + column * PATCH + x
        })
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_is_a_square_of_four_latents_with_their_channels_together() {
        let latents: Vec<f32> = (0..2 * 2 * 4).map(|i| i as f32).collect();
        let tokens = pack(&latents, (2, 2, 4));
        assert_eq!(tokens[..8], [0.0, 8.0, 1.0, 9.0, 4.0, 12.0, 5.0, 13.0]);
        assert_eq!(tokens[8..], [2.0, 10.0, 3.0, 11.0, 6.0, 14.0, 7.0, 15.0]);
        assert_eq!(unpack(&tokens, (2, 2, 4)), latents);
    }
}
