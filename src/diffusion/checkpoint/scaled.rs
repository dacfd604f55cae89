//! The scale of a weight in a file, and the format that the file gives its layer.

use candle_core::{DType, Device};
use safetensors::Dtype;

use super::{
    convert,
    fp8::Fp8,
    mapped::{MappedFile, Stored, fp8_of},
    scales::{self, Found, Scale},
};
use crate::diffusion::DiffusionError;

impl MappedFile {
    /// What a weight is multiplied by.
    pub(super) fn scale(&self, key: &str, shape: &[usize], is_fp8: bool) -> Result<Scale, DiffusionError> {
        let scale = match self.scales.of(key, shape.len(), is_fp8) {
            Found::None => return Ok(Scale::One),
            Found::Scale(scale) => scale,
            Found::Unusable(key, expected, found) => return Err(self.unusable(&key, expected, found)),
        };
        let rows = shape.first().copied().unwrap_or(1);
        let (info, stored, place) = self.find(&scale, &[])?;
        let count = info.shape.iter().product::<usize>();
        let fits = count == 1 || (count == rows && info.shape.first() == Some(&rows));
        let (Stored::Float(dtype), true) = (stored, fits) else {
            let expected = format!("one number for the weight, or one for each of its {rows} rows");
            return Err(self.unusable(&scale, expected, format!("{} of shape {:?}", info.dtype, info.shape)));
        };
        let numbers = convert::tensor(self.bytes(place), dtype, DType::F32, &[count], &Device::Cpu)?;
        let numbers = numbers.to_vec1::<f32>()?;
        match numbers.iter().find(|number| !number.is_finite()) {
            Some(number) => Err(self.unusable(&scale, "a finite number".into(), number.to_string())),
            None if count == 1 => Ok(Scale::Whole(numbers[0])),
            None => Ok(Scale::Rows(numbers)),
        }
    }

    /// Refuses a layer whose format is another than the type of its weight shows.
    pub(super) fn check_format(&self, layer: &str, dtype: Dtype) -> Result<(), DiffusionError> {
        let key = format!("{layer}.{}", scales::FORMAT);
        let format = match self.bytes_of(&key) {
            Some(bytes) => {
                let said = serde_json::from_slice::<serde_json::Value>(bytes).ok();
                let format = said.as_ref().and_then(|said| said.get("format")?.as_str());
                format.unwrap_or("no JSON object with a `format`").to_owned()
            }
            None => match self.scales.format(layer) {
                Some(format) => format.to_owned(),
                None => return Ok(()),
            },
        };
        let is_understood = matches!(fp8_of(dtype), Some(fp8) if fp8.format() == format);
        match is_understood {
            true => Ok(()),
            false => {
                let formats = [Fp8::E4M3, Fp8::E5M2].map(Fp8::format).join(" or ");
                let expected = format!("{formats}, as its weight is stored in {dtype}");
                Err(self.unusable(&key, expected, format))
            }
        }
    }

    /// The error of what is in the file and cannot be used.
    fn unusable(&self, key: &str, expected: String, found: String) -> DiffusionError {
        DiffusionError::Config { file: self.path().to_owned(), key: key.to_owned(), expected, found }
    }
}
