//! Numbers of 8 bits (Micikevicius et al. 2022, "FP8 Formats for Deep Learning") to those that are kept: each, times the
//! scale of its weight, rounded once.

use candle_core::{DType, Device, Result, Tensor, WithDType};
use half::{bf16, f16};
use rayon::prelude::*;

use super::scales::Scale;

/// Values that a thread widens in a row.
const CHUNK: usize = 1 << 16;

/// Which of both formats.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fp8 {
    /// 4 bits of exponent, 3 of mantissa, no infinities.
    E4M3,
    /// 5 bits of exponent, 2 of mantissa: the upper half of an f16.
    E5M2,
}

impl Fp8 {
    /// What quantised files call it.
    pub fn format(self) -> &'static str {
        match self {
            Self::E4M3 => "float8_e4m3fn",
            Self::E5M2 => "float8_e5m2",
        }
    }

    /// The number that a byte is.
    fn value(self, byte: u8) -> f32 {
        match self {
            Self::E5M2 => f16::from_bits(u16::from(byte) << 8).to_f32(),
            Self::E4M3 => {
                let (exponent, mantissa) = (i32::from(byte >> 3 & 0xf), f32::from(byte & 7));
                let size = match (exponent, byte & 7) {
                    (0xf, 7) => f32::NAN,
                    (0, _) => mantissa * 2f32.powi(-9),
                    _ => (8.0 + mantissa) * 2f32.powi(exponent - 10),
                };
                if byte & 0x80 == 0 { size } else { -size }
            }
        }
    }

    /// `bytes` as a tensor of type `to`.
    pub fn tensor(
        self,
        bytes: &[u8],
        scale: &Scale,
        to: DType,
        shape: &[usize],
        device: &Device,
    ) -> Result<Tensor> {
        let values: Vec<f32> = (0..=u8::MAX).map(|byte| self.value(byte)).collect();
        let tensor = match to {
            DType::F32 => widen(bytes, &values, scale, shape, |x| x)?,
            DType::F16 => widen(bytes, &values, scale, shape, f16::from_f32)?,
            DType::BF16 => widen(bytes, &values, scale, shape, bf16::from_f32)?,
            _ => widen(bytes, &values, scale, shape, |x| x)?.to_dtype(to)?,
        };
        tensor.to_device(device)
    }
}

fn widen<T: WithDType>(
    bytes: &[u8],
    values: &[f32],
    scale: &Scale,
    shape: &[usize],
    narrow: impl Fn(f32) -> T + Sync,
) -> Result<Tensor> {
    let mut out = vec![T::zero(); bytes.len()];
    let row = bytes.len() / shape.first().copied().unwrap_or(1).max(1);
    let each = |out: &mut [T], bytes: &[u8], factor: f32| {
        let values: Vec<T> = values.iter().map(|value| narrow(value * factor)).collect();
        out.iter_mut().zip(bytes).for_each(|(out, byte)| *out = values[usize::from(*byte)]);
    };
    match scale {
        Scale::One => chunks(&mut out, bytes, CHUNK).for_each(|(_, out, bytes)| each(out, bytes, 1.0)),
        Scale::Whole(factor) => {
            chunks(&mut out, bytes, CHUNK).for_each(|(_, out, bytes)| each(out, bytes, *factor))
        }
        Scale::Rows(factors) => chunks(&mut out, bytes, row).for_each(|(i, out, bytes)| {
            let factor = factors.get(i).copied().unwrap_or(1.0);
            out.iter_mut()
                .zip(bytes)
                .for_each(|(out, byte)| *out = narrow(values[usize::from(*byte)] * factor));
        }),
    }
    Tensor::from_vec(out, shape, &Device::Cpu)
}

/// Both in pieces of so many values, with the number of each.
fn chunks<'a, T: Send + Sync>(
    out: &'a mut [T],
    bytes: &'a [u8],
    size: usize,
) -> impl ParallelIterator<Item = (usize, &'a mut [T], &'a [u8])> {
    let size = size.max(1);
    out.par_chunks_mut(size).zip(bytes.par_chunks(size)).enumerate().map(|(i, (out, bytes))| (i, out, bytes))
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::diffusion::checkpoint::MappedFile;

    fn values(fp8: Fp8, scale: &Scale, shape: &[usize], bytes: &[u8]) -> Vec<f32> {
        let tensor = fp8.tensor(bytes, scale, DType::F32, shape, &Device::Cpu).unwrap();
        tensor.flatten_all().unwrap().to_vec1().unwrap()
    }

    #[test]
    fn bytes_are_the_numbers_of_the_formats() {
        let all: Vec<u8> = (0..=255).collect();
        let of = |fp8| values(fp8, &Scale::One, &[256], &all);
        let e4m3 = of(Fp8::E4M3);
        for (byte, value) in [
            (0x00, 0.0),
            (0x01, 2f32.powi(-9)),
            (0x08, 2f32.powi(-6)),
            (0x38, 1.0),
            (0x3c, 1.5),
            (0x7e, 448.0),
            (0xfe, -448.0),
        ] {
            assert_eq!(e4m3[byte], value, "{byte:#x}");
        }
        assert!(e4m3[0x7f].is_nan() && e4m3[0xff].is_nan());
        assert_eq!(e4m3.iter().filter(|value| !value.is_finite()).count(), 2);
        let e5m2 = of(Fp8::E5M2);
        for (byte, value) in [(0x00, 0.0), (0x01, 2f32.powi(-16)), (0x3c, 1.0), (0x7b, 57344.0), (0xbc, -1.0)]
        {
            assert_eq!(e5m2[byte], value, "{byte:#x}");
        }
        assert!(e5m2[0x7c].is_infinite() && e5m2[0x7d].is_nan());
        // Candle's own conversion agrees.
        let theirs = Tensor::from_raw_buffer(&all, DType::F8E4M3, &[256], &Device::Cpu).unwrap();
        let theirs = theirs.to_dtype(DType::F32).unwrap().to_vec1::<f32>().unwrap();
        assert!(e4m3.iter().zip(&theirs).all(|(a, b)| a == b || (a.is_nan() && b.is_nan())));
    }

    #[test]
    fn a_scale_is_of_the_whole_weight_or_of_each_row() {
        let bytes = [0x38, 0x40, 0x38, 0xb8];
        assert_eq!(values(Fp8::E4M3, &Scale::Whole(0.5), &[2, 2], &bytes), [0.5, 1.0, 0.5, -0.5]);
        assert_eq!(values(Fp8::E4M3, &Scale::Rows(vec![2.0, 3.0]), &[2, 2], &bytes), [2.0, 4.0, 3.0, -3.0]);
        assert!(values(Fp8::E4M3, &Scale::Rows(vec![]), &[0, 2], &[]).is_empty());
    }

    #[test]
    fn every_form_is_widened_as_torch_widens_it() {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/parity/fp8.safetensors");
        let file = MappedFile::open(&path).unwrap();
        let read = |name: &str, rows, dtype| {
            let tensor = file.weight(name, &[16, 16], rows, dtype, &Device::Cpu).unwrap();
            assert_eq!(tensor.dtype(), dtype, "{name}");
            tensor.to_dtype(DType::F32).unwrap().to_vec2::<f32>().unwrap()
        };
        for (dtype, beginning) in [(DType::F32, "expected."), (DType::F16, "expected16.")] {
            let names = file.names();
            let names: Vec<&str> = names.iter().filter_map(|name| name.strip_prefix(beginning)).collect();
            assert_eq!(names.len(), 11);
            for name in names {
                let (ours, theirs) = (format!("{name}.weight"), format!("{beginning}{name}"));
                for rows in [None, Some(3..7)] {
                    assert_eq!(read(&ours, rows.clone(), dtype), read(&theirs, rows, dtype), "{name}");
                }
            }
        }
    }
}
