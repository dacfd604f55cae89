//! The name of the arithmetic that pictures are computed with: two of one name give the same bits.
//!
//! On a CPU a product and a sum are fused or they are not; how many values a vector holds changes no bit of what the
//! kernels of this folder compute (`levels_tests` holds them to it). Candle's matrix products are not ours to say that
//! of: where they are used (T5, of Flux) the vectors are part of the name. Functions such as `sin` are those of the
//! architecture's C library.

use candle_core::Device;

use super::cpu::lanes::{CpuLevel, Kind};

/// The name of the arithmetic on a device; `has_candle_products` for a model that also uses candle's matrix products.
pub fn arithmetic(device: &Device, has_candle_products: bool) -> String {
    match device {
        Device::Cpu => cpu(CpuLevel::best(), has_candle_products),
        #[cfg(feature = "cuda")]
        Device::Cuda(device) => super::cuda::card(device),
        #[cfg(not(feature = "cuda"))]
        Device::Cuda(_) => "cuda".into(),
        Device::Metal(_) => "metal".into(),
    }
}

fn cpu(level: CpuLevel, has_candle_products: bool) -> String {
    let arch = std::env::consts::ARCH;
    let (kernels, vectors) = match level.kind() {
        Kind::Portable => ("portable", "portable"),
        #[cfg(target_arch = "x86_64")]
        Kind::Avx2 => ("fma", "avx2"),
        #[cfg(target_arch = "x86_64")]
        Kind::Avx512 => ("fma", "avx512"),
    };
    match has_candle_products {
        true => format!("cpu {arch} {kernels}, {vectors} products"),
        false => format!("cpu {arch} {kernels}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fused_arithmetic_has_another_name_than_portable_and_vectors_count_for_candle_alone() {
        let names = |has_candle_products| -> Vec<String> {
            CpuLevel::all().map(|level| cpu(level, has_candle_products)).collect()
        };
        for name in [names(false), names(true)].concat() {
            assert!(name.starts_with("cpu ") && name.contains(std::env::consts::ARCH), "{name}");
        }
        let (ours, candles) = (names(false), names(true));
        assert!(ours.last().is_some_and(|name| name.ends_with("portable")), "{ours:?}");
        for (level, name) in CpuLevel::all().zip(&ours) {
            assert_eq!(name.ends_with("fma"), level.kind() != Kind::Portable, "{ours:?}");
        }
        assert!((1..candles.len()).all(|i| candles[i] != candles[i - 1]), "{candles:?}");
        assert_eq!(arithmetic(&Device::Cpu, false), ours[0]);
    }
}
