//! The weights of an `a1111` prompt on its embeddings.

use candle_core::{DType, Result, Tensor};

/// Each token's embedding times its weight, then the whole scaled so that its mean is what it was: the web UI's emphasis
/// mode "Original". `embeddings` is one chunk, `[1, tokens, width]`, with a weight for each token. Where all weights are
/// 1 nothing changes, bit for bit.
///
/// A mean of exactly zero after weighing gives infinities, which end the job as `non_finite`.
///
/// # Errors
/// When there are not as many weights as tokens, and when the device has no memory.
pub fn emphasise(embeddings: &Tensor, weights: &[f32]) -> Result<Tensor> {
    if weights.iter().all(|weight| *weight == 1.0) {
        return Ok(embeddings.clone());
    }
    let weights = Tensor::new(weights, embeddings.device())?.reshape((1, weights.len(), 1))?;
    let before = embeddings.to_dtype(DType::F32)?;
    let after = before.broadcast_mul(&weights)?;
    let scale = mean(&before)? / mean(&after)?;
    after.affine(scale, 0.0)?.to_dtype(embeddings.dtype())
}

/// In f64 on the host: the mean is small against the values, and its ratio scales everything.
fn mean(x: &Tensor) -> Result<f64> {
    let values = x.flatten_all()?.to_vec1::<f32>()?;
    Ok(values.iter().map(|value| f64::from(*value)).sum::<f64>() / values.len() as f64)
}

#[cfg(test)]
mod tests {
    use candle_core::Device;

    use super::*;

    #[test]
    fn weights_multiply_tokens_and_the_mean_stays() {
        let x = Tensor::new(&[[[1f32, 3.0], [2.0, 6.0], [0.0, 4.0]]], &Device::Cpu).unwrap();
        let y = emphasise(&x, &[1.0, 2.0, 0.5]).unwrap();
        // Sums: 16 before, 4 + 16 + 2 = 22 after.
        let s = 16.0 / 22.0;
        let expected = [s, 3.0 * s, 4.0 * s, 12.0 * s, 0.0, 2.0 * s];
        for (ours, expected) in y.flatten_all().unwrap().to_vec1::<f32>().unwrap().iter().zip(expected) {
            assert!((ours - expected).abs() < 1e-6, "{ours} {expected}");
        }
    }

    #[test]
    fn as_many_weights_as_tokens_are_wanted() {
        let x = Tensor::ones((1, 3, 2), DType::F32, &Device::Cpu).unwrap();
        assert!(emphasise(&x, &[2.0, 1.0]).is_err());
    }
}
