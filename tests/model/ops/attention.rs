//! Attention: heads of every width, one and several blocks of keys, masks.

use candle_core::Tensor;
use proptest::prelude::*;
use sd_worker_rbee::diffusion::ops::{self, AttentionOptions, plain};

use super::{close, config, numbers, sample, samples_have_their_own_bits, scattered, threads_change_no_bit};

/// Weights of a softmax add up to 1, so what comes out is no larger than what goes in; scores of 160 products in
/// -1..1, scaled, are off by a few 1e-6.
const TOLERANCE: f32 = 1e-5;

fn inputs(seed: u64, batch: usize, n: usize, m: usize, width: usize) -> [Tensor; 3] {
    [
        numbers(seed, &[batch, n, width]),
        numbers(seed + 1, &[batch, m, width]),
        numbers(seed + 2, &[batch, m, width]),
    ]
}

fn both(q: &Tensor, k: &Tensor, v: &Tensor, options: AttentionOptions) {
    close(
        &ops::attention(q, k, v, options).unwrap(),
        &plain::attention(q, k, v, options).unwrap(),
        TOLERANCE,
    );
}

proptest! {
    #![proptest_config(config())]

    #[test]
    fn attention_is_that_of_candle(
        seed in 0u64..1 << 40, batch in 1usize..4, heads in 1usize..4,
        head_width in prop::sample::select(vec![1, 7, 16, 40, 64, 80, 160]),
        n in 1usize..200, m in 1usize..200,
    ) {
        let [q, k, v] = inputs(seed, batch, n, m, heads * head_width);
        both(&q, &k, &v, AttentionOptions { heads, causal: false, upcast: false });
    }

    #[test]
    fn causal_attention_is_that_of_candle(
        seed in 0u64..1 << 40, batch in 1usize..3, heads in 1usize..3, n in 1usize..300,
    ) {
        let [q, k, v] = inputs(seed, batch, n, n, heads * 16);
        both(&q, &k, &v, AttentionOptions { heads, causal: true, upcast: true });
    }

    #[test]
    fn attention_reads_values_wherever_they_lie(seed in 0u64..1 << 40, n in 1usize..90, m in 1usize..90) {
        let [q, k, v] = inputs(seed, 2, n, m, 80);
        let options = AttentionOptions { heads: 2, causal: false, upcast: false };
        close(
            &ops::attention(&scattered(&q), &scattered(&k), &scattered(&v), options).unwrap(),
            &ops::attention(&q, &k, &v, options).unwrap(),
            TOLERANCE,
        );
    }
}

#[test]
fn several_blocks_of_keys_make_one_softmax() {
    for (n, m, causal) in [(130, 1009, false), (70, 2500, false), (1300, 1300, true), (4, 4096, false)] {
        let [q, k, v] = inputs(5, 1, n, m, 80);
        both(&q, &k, &v, AttentionOptions { heads: 2, causal, upcast: false });
        // The largest scores are in the last block: what was summed before counts for little.
        let rising =
            Tensor::arange(0f32, m as f32, q.device()).unwrap().affine(20.0 / m as f64, 0.0).unwrap();
        let k = k.broadcast_mul(&rising.reshape((1, m, 1)).unwrap()).unwrap();
        both(&q, &k, &v, AttentionOptions { heads: 2, causal, upcast: false });
    }
}

#[test]
fn the_text_of_a_prompt_is_attended_to() {
    for width in [320, 640, 1280] {
        let [q, k, v] = inputs(9, 2, 256, 77, width);
        both(&q, &k, &v, AttentionOptions { heads: 8, causal: false, upcast: false });
    }
}

#[test]
fn scores_beyond_what_an_exponential_holds_are_compared_not_computed() {
    let [q, k, v] = inputs(3, 1, 40, 50, 16);
    let q = (q * 1000.0).unwrap();
    let options = AttentionOptions { heads: 1, causal: false, upcast: false };
    let (kernels, candle) =
        (ops::attention(&q, &k, &v, options).unwrap(), plain::attention(&q, &k, &v, options).unwrap());
    // Scores are in the hundreds and off by some 1e-4, and so are the weights.
    close(&kernels, &candle, 1e-3);
}

#[test]
fn no_number_stays_no_number() {
    let [q, k, v] = inputs(4, 1, 3, 5, 16);
    let q = (q * f64::NAN).unwrap();
    let options = AttentionOptions { heads: 1, causal: false, upcast: false };
    assert!(super::values(&ops::attention(&q, &k, &v, options).unwrap()).iter().all(|x| x.is_nan()));
}

#[test]
fn a_sample_attends_as_it_does_alone() {
    for (n, m, causal) in [(150, 150, true), (150, 77, false), (300, 1200, false)] {
        let [q, k, v] = inputs(6, 3, n, m, 80);
        let options = AttentionOptions { heads: 2, causal, upcast: false };
        samples_have_their_own_bits(&ops::attention(&q, &k, &v, options).unwrap(), |i| {
            ops::attention(&sample(&q, i), &sample(&k, i), &sample(&v, i), options).unwrap()
        });
        threads_change_no_bit(|| ops::attention(&q, &k, &v, options).unwrap());
    }
}
