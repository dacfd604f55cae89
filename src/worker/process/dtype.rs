//! `--dtype f16` or `--dtype f16,vae=f32`: the types that weights are kept in.

use std::str::FromStr;

use candle_core::{DType, Device};

use crate::diffusion::Precision;

/// What the flag says; what it leaves open follows from the device.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct DtypeOption {
    all: Option<DType>,
    text_encoder: Option<DType>,
    denoiser: Option<DType>,
    vae: Option<DType>,
}

impl DtypeOption {
    /// The types on a device: f32 on a CPU and f16 on a GPU where nothing else was said.
    pub fn on(self, device: &Device) -> Precision {
        let all = self.all.unwrap_or(if device.is_cpu() { DType::F32 } else { DType::F16 });
        Precision {
            text_encoder: self.text_encoder.unwrap_or(all),
            denoiser: self.denoiser.unwrap_or(all),
            vae: self.vae.unwrap_or(all),
        }
    }
}

impl FromStr for DtypeOption {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let mut option = Self::default();
        for part in text.split(',').map(str::trim) {
            let (component, dtype) = match part.split_once('=') {
                Some((component, dtype)) => (Some(component.trim()), dtype.trim()),
                None => (None, part),
            };
            let field = match component {
                None => &mut option.all,
                Some("text") => &mut option.text_encoder,
                Some("unet") => &mut option.denoiser,
                Some("vae") => &mut option.vae,
                Some(other) => {
                    return Err(format!("`{other}` is no component; there are text, unet and vae"));
                }
            };
            let dtype = match dtype {
                "f32" => DType::F32,
                "f16" => DType::F16,
                "bf16" => DType::BF16,
                other => return Err(format!("`{other}` is no type; there are f32, f16 and bf16")),
            };
            if field.replace(dtype).is_some() {
                return Err(format!("`{part}`: this is said twice"));
            }
        }
        Ok(option)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn on_cpu(text: &str) -> Precision {
        text.parse::<DtypeOption>().unwrap().on(&Device::Cpu)
    }

    #[test]
    fn a_component_has_its_own_type_or_that_of_all() {
        assert_eq!(on_cpu("f16"), Precision::all(DType::F16));
        let mixed = Precision { text_encoder: DType::F32, denoiser: DType::BF16, vae: DType::F32 };
        assert_eq!(on_cpu("f16,vae=f32,text=f32,unet=bf16"), mixed);
        let vae = Precision { vae: DType::F16, ..Precision::all(DType::F32) };
        assert_eq!(on_cpu("vae=f16"), vae);
        assert_eq!(DtypeOption::default().on(&Device::Cpu), Precision::all(DType::F32));
    }

    #[test]
    fn the_types_are_written_as_the_flag_takes_them() {
        let mixed = on_cpu("f16,vae=f32,unet=bf16");
        assert_eq!(mixed.to_string(), "text=f16,unet=bf16,vae=f32");
        assert_eq!(on_cpu(&mixed.to_string()), mixed);
    }

    #[test]
    fn what_is_no_type_or_said_twice_is_refused() {
        for bad in ["", "f64", "f16,f32", "clip=f16", "vae=", "vae=f16,vae=f32"] {
            assert!(bad.parse::<DtypeOption>().is_err(), "{bad}");
        }
    }
}
