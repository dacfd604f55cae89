//! A tensor's bytes in a file to a tensor in the type that is kept, by all threads.

use candle_core::{DType, Device, Result, Tensor, WithDType};
use half::{bf16, f16, slice::HalfFloatSliceExt};
use rayon::prelude::*;

/// Values that a thread converts in a row, and of them those that it has side by side as the file's type.
const CHUNK: usize = 1 << 16;
const AT_ONCE: usize = 1 << 10;

/// `bytes` are values of type `from`, little endian, at any address.
pub fn tensor(bytes: &[u8], from: DType, to: DType, shape: &[usize], device: &Device) -> Result<Tensor> {
    match (from, to) {
        _ if !device.is_cpu() => Tensor::from_raw_buffer(bytes, from, shape, device)?.to_dtype(to),
        (DType::F32, DType::F32) => {
            collect(bytes, shape, |bytes, out: &mut [f32]| each(bytes, out, f32::from_le_bytes))
        }
        (DType::F16, DType::F16) => {
            collect(bytes, shape, |bytes, out: &mut [f16]| each(bytes, out, f16::from_le_bytes))
        }
        (DType::BF16, DType::BF16) => {
            collect(bytes, shape, |bytes, out: &mut [bf16]| each(bytes, out, bf16::from_le_bytes))
        }
        (DType::F16, DType::F32) => {
            collect(bytes, shape, |bytes, out: &mut [f32]| widen(bytes, out, f16::from_le_bytes))
        }
        (DType::BF16, DType::F32) => {
            collect(bytes, shape, |bytes, out: &mut [f32]| widen(bytes, out, bf16::from_le_bytes))
        }
        (DType::F32, DType::F16) => collect(bytes, shape, narrow::<f16>),
        (DType::F32, DType::BF16) => collect(bytes, shape, narrow::<bf16>),
        _ => Tensor::from_raw_buffer(bytes, from, shape, device)?.to_dtype(to),
    }
}

fn collect<T: WithDType>(
    bytes: &[u8],
    shape: &[usize],
    convert: impl Fn(&[u8], &mut [T]) + Sync,
) -> Result<Tensor> {
    let count = shape.iter().product::<usize>();
    let mut out = vec![T::zero(); count];
    let size = bytes.len() / count.max(1);
    out.par_chunks_mut(CHUNK)
        .zip(bytes.par_chunks((CHUNK * size).max(1)))
        .for_each(|(out, bytes)| convert(bytes, out));
    Tensor::from_vec(out, shape, &Device::Cpu)
}

fn each<T, const N: usize>(bytes: &[u8], out: &mut [T], value: impl Fn([u8; N]) -> T) {
    let (values, _) = bytes.as_chunks::<N>();
    out.iter_mut().zip(values).for_each(|(out, bytes)| *out = value(*bytes));
}

/// `half` widens whole slices by the processor's own instructions.
fn widen<H: Default + Copy>(bytes: &[u8], out: &mut [f32], value: impl Fn([u8; 2]) -> H)
where
    [H]: HalfFloatSliceExt,
{
    let mut halves = [H::default(); AT_ONCE];
    for (bytes, out) in bytes.chunks(2 * AT_ONCE).zip(out.chunks_mut(AT_ONCE)) {
        let halves = &mut halves[..out.len()];
        each(bytes, halves, &value);
        halves.convert_to_f32_slice(out);
    }
}

fn narrow<H>(bytes: &[u8], out: &mut [H])
where
    [H]: HalfFloatSliceExt,
{
    let mut floats = [0.0; AT_ONCE];
    for (bytes, out) in bytes.chunks(4 * AT_ONCE).zip(out.chunks_mut(AT_ONCE)) {
        let floats = &mut floats[..out.len()];
        each(bytes, floats, f32::from_le_bytes);
        out.convert_from_f32_slice(floats);
    }
}

#[cfg(test)]
mod tests {
    use candle_core::CpuStorage;

    use super::*;

    /// More than a chunk, with values that each type rounds.
    fn values() -> Tensor {
        let count = CHUNK + AT_ONCE + 3;
        let values: Vec<f32> =
            (0..count).map(|i| (i as f32 * 0.37).sin() * 10f32.powi(i as i32 % 9 - 4)).collect();
        Tensor::from_vec(values, count, &Device::Cpu).unwrap()
    }

    fn bytes_of(tensor: &Tensor) -> Vec<u8> {
        let (storage, _) = tensor.storage_and_layout();
        let candle_core::Storage::Cpu(storage) = &*storage else { panic!("on the CPU") };
        match storage {
            CpuStorage::F16(values) => values.iter().flat_map(|value| value.to_le_bytes()).collect(),
            CpuStorage::BF16(values) => values.iter().flat_map(|value| value.to_le_bytes()).collect(),
            CpuStorage::F32(values) => values.iter().flat_map(|value| value.to_le_bytes()).collect(),
            CpuStorage::F64(values) => values.iter().flat_map(|value| value.to_le_bytes()).collect(),
            _ => panic!("a floating point type"),
        }
    }

    #[test]
    fn every_conversion_is_candle_s_own_to_the_bit_at_any_address() {
        let all = [DType::F16, DType::BF16, DType::F32, DType::F64];
        for from in all {
            let file = values().to_dtype(from).unwrap();
            let mut bytes = vec![0; 1];
            bytes.extend(bytes_of(&file));
            for to in all {
                let found = tensor(&bytes[1..], from, to, file.dims(), &Device::Cpu).unwrap();
                assert_eq!(found.dtype(), to);
                assert_eq!(bytes_of(&found), bytes_of(&file.to_dtype(to).unwrap()), "{from:?} to {to:?}");
            }
        }
    }

    #[test]
    fn a_tensor_without_values_has_its_shape() {
        let found = tensor(&[], DType::F16, DType::F32, &[0, 4], &Device::Cpu).unwrap();
        assert_eq!(found.dims(), [0, 4]);
    }
}
