//! Latents on their way to and from the transformer, which takes 2 x 2 of them as one token, and the autoencoder.

use candle_core::{DType, Device, Tensor};

use crate::diffusion::{DiffusionError, noise::TorchRng, vae::Vae};

/// Latents of a token along a side.
pub const PATCH: usize = 2;

/// Channels, height and width.
pub type Shape = (usize, usize, usize);

/// `[channels, height, width]` to `[height / 2 * width / 2, channels * 4]`, as FluxPipeline packs them.
pub fn pack(latents: &[f32], shape: Shape) -> Vec<f32> {
    order(shape).map(|i| latents[i]).collect()
}

/// The way back from [`pack`].
pub fn unpack(tokens: &[f32], shape: Shape) -> Vec<f32> {
    let mut latents = vec![0.0; tokens.len()];
    order(shape).zip(tokens).for_each(|(i, value)| latents[i] = *value);
    latents
}

/// Where each packed number is in `[channels, height, width]`.
fn order((channels, height, width): Shape) -> impl Iterator<Item = usize> {
    let patches =
        (0..height / PATCH).flat_map(move |row| (0..width / PATCH).map(move |column| (row, column)));
    patches.flat_map(move |(row, column)| {
        (0..channels * PATCH * PATCH).map(move |i| {
            let (channel, y, x) = (i / (PATCH * PATCH), i / PATCH % PATCH, i % PATCH);
            (channel * height + row * PATCH + y) * width + column * PATCH + x
        })
    })
}

/// A sample of a picture's latents, shifted and scaled: `[channels, height, width]`. `planes` are `[3, ..]` in -1..1.
pub fn encode(
    vae: &Vae,
    device: &Device,
    planes: &[f32],
    (width, height): (u32, u32),
    rng: &mut TorchRng,
) -> Result<Vec<f32>, DiffusionError> {
    let shape = (1, 3, height as usize, width as usize);
    let moments = vae.encode(&Tensor::from_slice(planes, shape, device)?.to_dtype(vae.dtype())?)?;
    let flat = |x: Tensor| x.to_dtype(DType::F32)?.flatten_all()?.to_vec1::<f32>();
    let (mean, std) = (flat(moments.mean)?, flat(moments.std)?);
    let noise = rng.normal(mean.len());
    let (scale, shift) = (vae.config().scaling_factor as f32, vae.config().shift_factor as f32);
    let sample = mean.iter().zip(&std).zip(&noise).map(|((mean, std), noise)| mean + std * noise);
    Ok(sample.map(|x| (x - shift) * scale).collect())
}

/// Latents to `[3, height * factor, width * factor]` in about -1..1.
pub fn decode(
    vae: &Vae,
    device: &Device,
    latents: &[f32],
    (channels, height, width): Shape,
) -> Result<Vec<f32>, DiffusionError> {
    let (scale, shift) = (vae.config().scaling_factor as f32, vae.config().shift_factor as f32);
    let unscaled: Vec<f32> = latents.iter().map(|x| x / scale + shift).collect();
    let latents = Tensor::from_vec(unscaled, (1, channels, height, width), device)?.to_dtype(vae.dtype())?;
    Ok(vae.decode(&latents)?.to_dtype(DType::F32)?.flatten_all()?.to_vec1()?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_is_a_square_of_four_latents_channel_by_channel() {
        let latents: Vec<f32> = (0..2 * 2 * 4).map(|i| i as f32).collect();
        let tokens = pack(&latents, (2, 2, 4));
        assert_eq!(tokens[..8], [0.0, 1.0, 4.0, 5.0, 8.0, 9.0, 12.0, 13.0]);
        assert_eq!(tokens[8..], [2.0, 3.0, 6.0, 7.0, 10.0, 11.0, 14.0, 15.0]);
        assert_eq!(unpack(&tokens, (2, 2, 4)), latents);
    }
}
