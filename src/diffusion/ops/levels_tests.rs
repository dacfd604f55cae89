//! AVX2 and AVX-512 give the same bits: every operation, and a whole picture. That is what lets a picture go on from one
//! kind of processor on the other (`arithmetic`).

use std::{io::Write, path::Path};

use candle_core::Tensor;

use super::{
    bands::{Bands, View},
    cpu::lanes::{CpuLevel, Kind},
    *,
};
use crate::diffusion::{
    families::unet::StableDiffusion,
    picture::{ImageSpec, Source},
    precision::Precision,
};

/// Both levels with fused arithmetic; none, and a line that says so, where the processor has only one. Tests that pass
/// show nothing of what they print by macros: the line goes to standard error itself.
fn fused_levels(test: &str) -> Option<[CpuLevel; 2]> {
    let fused: Vec<CpuLevel> = CpuLevel::all().filter(|level| level.kind() != Kind::Portable).collect();
    let fused: Option<[CpuLevel; 2]> = fused.try_into().ok();
    if fused.is_none() {
        let reason = "this processor has not both AVX2 and AVX-512";
        writeln!(std::io::stderr(), "SKIPPED: {test}: {reason}; nothing was compared").unwrap();
    }
    fused
}

/// Numbers of many sizes, about -8 to 8.
fn numbers(seed: u64, dims: &[usize]) -> Tensor {
    let mut state = seed.wrapping_mul(2).wrapping_add(1);
    let values: Vec<f32> = (0..dims.iter().product())
        .map(|_| {
            // Vigna's splitmix64.
            state = state.wrapping_add(0x9E37_79B9_7F4A_7C15);
            let mut z = state;
            z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
            z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
            let z = z ^ (z >> 31);
            let unit = (z >> 40) as f32 / (1u32 << 23) as f32 - 1.0;
            unit * 2f32.powi((z & 7) as i32 - 4)
        })
        .collect();
    Tensor::from_vec(values, dims, &Device::Cpu).unwrap()
}

fn bits(x: &Tensor) -> Vec<u32> {
    let values: Vec<f32> = x.flatten_all().unwrap().to_vec1().unwrap();
    values.into_iter().map(f32::to_bits).collect()
}

/// Every operation that has kernels, over shapes that fit no vector, by name.
fn operations() -> Vec<(String, Tensor)> {
    let mut done = vec![];
    let mut note = |name: String, result: Result<Tensor>| done.push((name, result.unwrap()));
    let kept = [DType::F32, DType::F16, DType::BF16];

    // Samples, inputs, outputs, height, width, kernel, stride, padding: Winograd's way, and all that does not go it.
    for shape in [
        (2, 37, 53, 9, 14, 3, 1, 1),
        (1, 320, 65, 8, 8, 3, 1, 1),
        (1, 18, 33, 12, 70, 3, 1, 0),
        (2, 4, 37, 9, 11, 3, 1, 1),
        (1, 35, 40, 9, 13, 3, 2, 1),
        (1, 40, 19, 7, 9, 1, 1, 0),
        (1, 3, 70, 17, 19, 5, 3, 2),
        (1, 700, 9, 20, 20, 3, 2, 1),
    ] {
        let (samples, inputs, outputs, height, width, kernel, stride, padding) = shape;
        let x = numbers(1, &[samples, inputs, height, width]);
        let weight = numbers(2, &[outputs, inputs, kernel, kernel]);
        for dtype in kept {
            let weight = weight.to_dtype(dtype).unwrap();
            for bias in [None, Some(numbers(3, &[outputs])), Some(numbers(4, &[samples, outputs]))] {
                let plain = conv2d(&x, &weight, bias.as_ref(), stride, padding);
                let more = numbers(5, plain.as_ref().unwrap().dims());
                note(format!("conv2d {shape:?} {dtype:?}"), plain);
                let plus = conv2d_plus(&x, &weight, bias.as_ref(), &more, stride, padding);
                note(format!("conv2d_plus {shape:?} {dtype:?}"), plus);
            }
        }
    }
    for (rows, inputs, outputs) in
        [(1, 5, 3), (1, 77, 64), (2, 768, 100), (7, 33, 17), (77, 129, 70), (150, 5000, 38)]
    {
        let x = numbers(6, &[1, rows, inputs]);
        let (weight, more) = (numbers(7, &[outputs, inputs]), numbers(8, &[1, rows, outputs]));
        for dtype in kept {
            let weight = weight.to_dtype(dtype).unwrap();
            for bias in [None, Some(numbers(9, &[outputs]))] {
                let bias = bias.as_ref();
                let name = |of: &str| format!("{of} {rows} {inputs} {outputs} {dtype:?}");
                note(name("linear"), linear(&x, &weight, bias));
                note(name("linear_plus"), linear_plus(&x, &weight, bias, &more));
                if outputs % 2 == 0 {
                    note(name("linear_geglu"), linear_geglu(&x, &weight, bias));
                }
            }
        }
    }
    for (queries, keys, heads, head_width, causal) in [
        (5, 5, 2, 3, true),
        (77, 77, 3, 64, true),
        (130, 77, 2, 40, false),
        (100, 1100, 2, 17, false),
        (600, 600, 1, 8, true),
    ] {
        let of = |seed, count| numbers(seed, &[2, count, heads * head_width]);
        let options = AttentionOptions { heads, causal, upcast: false };
        let result = attention(&of(10, queries), &of(11, keys), &of(12, keys), options);
        note(format!("attention {queries} {keys} {heads} {head_width} {causal}"), result);
    }
    for (channels, groups, height, width) in [(8, 2, 3, 5), (64, 32, 17, 13), (32, 1, 40, 33)] {
        let x = numbers(13, &[2, channels, height, width]);
        let (weight, bias) = (numbers(14, &[channels]), numbers(15, &[channels]));
        note(format!("group_norm {channels}"), group_norm(&x, &weight, &bias, groups, 1e-5));
        note(format!("group_norm_silu {channels}"), group_norm_silu(&x, &weight, &bias, groups, 1e-6));
        let mut bands = Bands::of(x.narrow(2, 0, 1).unwrap()).unwrap();
        bands.push(x.narrow(2, 1, height - 1).unwrap()).unwrap();
        for activation in [None, Some(Activation::Silu)] {
            let norm = bands.group_norm(&weight, &bias, groups, 1e-6, activation).unwrap();
            let view = View { rows: -1..height as isize, times: 1, columns: (1, 1), norm: Some(&norm) };
            note(format!("bands {channels} {activation:?}"), bands.see(&view).map(|seen| seen.map));
        }
    }
    for width in [5, 64, 771] {
        let (x, more) = (numbers(16, &[2, 70, width]), numbers(17, &[2, 70, width]));
        let (weight, bias) = (numbers(18, &[width]), numbers(19, &[width]));
        note(format!("layer_norm {width}"), layer_norm(&x, &weight, &bias, 1e-5));
        for activation in [Activation::Silu, Activation::GeluErf, Activation::GeluTanh, Activation::QuickGelu]
        {
            note(format!("{activation:?} {width}"), activate(&(&x * 4.0).unwrap(), activation));
        }
        note(format!("add {width}"), add(&x, &more));
        note(format!("swap {width}"), swap_tokens_and_channels(&x));
        note(format!("geglu {width}"), geglu(&numbers(20, &[2, 70, 2 * width])));
        note(format!("upsample {width}"), upsample_nearest(&numbers(21, &[1, 3, 7, width]), 15, 2 * width));
    }
    done
}

#[test]
fn every_operation_has_the_same_bits_with_avx2_and_with_avx512() {
    let Some(levels) = fused_levels("every_operation_has_the_same_bits_with_avx2_and_with_avx512") else {
        return;
    };
    let [one, other] = levels.map(|level| level.instead(operations));
    assert_eq!(one.len(), other.len());
    for ((name, one), (_, other)) in one.iter().zip(&other) {
        assert_eq!(one.dims(), other.dims(), "{name}");
        assert!(bits(one) == bits(other), "{name}: {levels:?} differ");
    }
}

/// Which is why fused and portable arithmetic have two names; and it shows that a level that was chosen is used.
#[test]
fn portable_arithmetic_has_other_bits_than_a_fused_one() {
    let Some([fused, _]) = fused_levels("portable_arithmetic_has_other_bits_than_a_fused_one") else {
        return;
    };
    let portable = CpuLevel::all().last().expect("there is always the portable one");
    let (fused, portable) = (fused.instead(operations), portable.instead(operations));
    let differ = |of: &str| {
        let named = fused.iter().zip(&portable).filter(|((name, _), _)| name.starts_with(of));
        named.filter(|((_, one), (_, other))| bits(one) != bits(other)).count()
    };
    for of in ["conv2d", "linear", "attention", "group_norm", "bands", "layer_norm", "Silu", "geglu"] {
        assert!(differ(of) > 0, "{of}");
    }
    assert_eq!(["add", "swap", "upsample"].map(differ), [0; 3]);
}

#[test]
fn a_picture_has_the_same_bits_with_avx2_and_with_avx512() {
    let Some(levels) = fused_levels("a_picture_has_the_same_bits_with_avx2_and_with_avx512") else { return };
    let draw = || {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("models/tiny-shapes");
        let model = StableDiffusion::load(&folder, &Device::Cpu, Precision::all(DType::F32)).unwrap();
        let source = Source::Text { width: 64, height: 64 };
        let spec = ImageSpec { steps: 2, seed: 7, ..ImageSpec::new("a large red circle", source) };
        let mut picture = model.begin(&spec).unwrap();
        while !picture.is_done() {
            model.advance(&mut [&mut picture]).unwrap();
        }
        (format!("{:?}", picture.progress()), model.finish(&picture).unwrap())
    };
    let [one, other] = levels.map(|level| level.instead(draw));
    assert!(one == other, "{levels:?} differ");
    let portable = CpuLevel::all().last().expect("there is always the portable one").instead(draw);
    assert!(portable.0 != one.0, "the level that was chosen is not used");
}
