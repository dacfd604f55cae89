//! A LoRA file: its keys, sorted by the layer that they name.

use std::collections::BTreeMap;

use candle_core::{DType, Device, Tensor};

use super::alphas::Alphas;
use crate::diffusion::{DiffusionError, checkpoint::MappedFile};

/// The ends of keys by which the formats tell the two matrices apart: kohya's, peft's, diffusers' before peft (twice),
/// and diffusers' for text encoders.
const DOWN: [&str; 5] = [
    ".lora_down.weight",
    ".lora_A.weight",
    ".lora.down.weight",
    "_lora.down.weight",
    ".lora_linear_layer.down.weight",
];
const UP: [&str; 5] = [
    ".lora_up.weight",
    ".lora_B.weight",
    ".lora.up.weight",
    "_lora.up.weight",
    ".lora_linear_layer.up.weight",
];
const ALPHA: &str = ".alpha";

/// Parts of keys of other methods, which are not done here.
const OTHERS: [(&str, &str); 9] = [
    ("hada_", "LoHa"),
    ("lokr_", "LoKr"),
    ("dora_scale", "DoRA"),
    ("lora_magnitude_vector", "DoRA"),
    ("lora_mid", "a LoRA of three matrices (LoCon with CP decomposition)"),
    ("oft_", "OFT"),
    ("boft_", "BOFT"),
    ("glora_", "GLoRA"),
    ("ia3", "IA3"),
];

/// A file whose every key is of a LoRA.
pub struct LoraFile {
    file: MappedFile,
    name: String,
    /// Which of the job's LoRAs it is, for errors.
    index: usize,
    pairs: BTreeMap<String, Pair>,
    alphas: Alphas,
}

/// The keys of one layer.
#[derive(Debug, Clone, Default)]
pub struct Pair {
    down: Option<String>,
    up: Option<String>,
    alpha: Option<String>,
}

/// The two matrices of one layer.
pub struct Matrices {
    /// `[rank, in, ..]`
    pub down: Tensor,
    /// `[out, rank, ..]`
    pub up: Tensor,
    /// Alpha by rank.
    pub scale: f64,
}

impl LoraFile {
    /// Sorts the keys of a file.
    ///
    /// # Errors
    /// A key that is of no LoRA, or of another method; a file without any.
    pub fn new(file: MappedFile, name: &str, index: usize) -> Result<Self, DiffusionError> {
        let alphas = Alphas::read(file.note(Alphas::NOTE));
        let mut lora = Self { file, name: name.to_owned(), index, pairs: BTreeMap::new(), alphas };
        let mut keys = lora.file.names();
        keys.sort();
        for key in keys {
            lora.sort_in(key)?;
        }
        match lora.pairs.is_empty() {
            true => Err(lora.wrong("*.lora_down.weight", "at least one layer", "none")),
            false => Ok(lora),
        }
    }

    fn sort_in(&mut self, key: String) -> Result<(), DiffusionError> {
        let stem = |ends: &[&str]| ends.iter().find_map(|end| key.strip_suffix(end));
        type Part = fn(&mut Pair) -> &mut Option<String>;
        let (stem, part): (&str, Part) = if let Some(stem) = stem(&DOWN) {
            (stem, |pair| &mut pair.down)
        } else if let Some(stem) = stem(&UP) {
            (stem, |pair| &mut pair.up)
        } else if let Some(stem) = stem(&[ALPHA]) {
            (stem, |pair| &mut pair.alpha)
        } else {
            let other = OTHERS.iter().find(|(part, _)| key.contains(part));
            let found = other.map_or("another key", |(_, method)| method);
            return Err(self.wrong(
                &key,
                "a key of a LoRA (lora_down, lora_up, lora_A, lora_B, alpha)",
                found,
            ));
        };
        let stem = stem.replace(".processor.", ".");
        let pair = self.pairs.entry(stem).or_default();
        if let Some(first) = part(pair).replace(key.clone()) {
            return Err(self.wrong(&key, "one matrix of its kind for its layer", &format!("`{first}` too")));
        }
        Ok(())
    }

    /// The layers by their names in the file, with a key of each.
    pub fn layers(&self) -> impl Iterator<Item = (&str, &Pair)> {
        self.pairs.iter().map(|(stem, pair)| (stem.as_str(), pair))
    }

    /// The two matrices of a layer, in the type and on the device of its `weight`. Kernels of one pixel may be missing
    /// or there, whatever the layer has.
    ///
    /// # Errors
    /// When one of the two is not there, or of a shape that does not fit the layer.
    pub fn matrices(&self, stem: &str, pair: &Pair, weight: &Tensor) -> Result<Matrices, DiffusionError> {
        let missing = |what: &str| self.wrong(self.a_key(stem, pair), what, "none");
        let down = pair.down.as_ref().ok_or_else(|| missing("a matrix down to the rank"))?;
        let up = pair.up.as_ref().ok_or_else(|| missing("a matrix up from the rank"))?;
        let rank = self.file.shape(down).and_then(|shape| shape.first()).copied().unwrap_or(0);
        if rank == 0 {
            return Err(self.wrong(down, "a rank of at least 1", "0"));
        }
        let shape = weight.dims();
        let ones = vec![1; shape.len().saturating_sub(2)];
        let take = |key: &str, expected: Vec<usize>| -> Result<Tensor, DiffusionError> {
            let found = self.file.shape(key).unwrap_or_default();
            if trimmed(found) != trimmed(&expected) {
                return Err(self.wrong(key, &format!("shape {expected:?}"), &format!("{found:?}")));
            }
            Ok(self
                .file
                .tensor(key, &expected, weight.device())?
                .to_dtype(weight.dtype())?
                .reshape(expected)?)
        };
        Ok(Matrices {
            down: take(down, [&[rank], &shape[1..]].concat())?,
            up: take(up, [&[shape[0], rank], &ones[..]].concat())?,
            scale: self.scale(stem, pair, rank)?,
        })
    }

    /// Alpha by rank; 1 where no alpha is said.
    fn scale(&self, stem: &str, pair: &Pair, rank: usize) -> Result<f64, DiffusionError> {
        let Some(key) = &pair.alpha else {
            return Ok(self.alphas.scale(stem, rank));
        };
        let shape = self.file.shape(key).unwrap_or_default();
        if shape.iter().product::<usize>() != 1 {
            return Err(self.wrong(key, "one number", &format!("{shape:?}")));
        }
        let alpha = self.file.tensor(key, shape, &Device::Cpu)?.to_dtype(DType::F64)?;
        let alpha = alpha.flatten_all()?.to_vec1::<f64>()?[0];
        match alpha.is_finite() {
            true => Ok(alpha / rank as f64),
            false => Err(self.wrong(key, "a finite number", &alpha.to_string())),
        }
    }

    /// The first key of a layer, to name it in an error.
    pub fn a_key<'a>(&self, stem: &'a str, pair: &'a Pair) -> &'a str {
        pair.down.as_deref().or(pair.up.as_deref()).or(pair.alpha.as_deref()).unwrap_or(stem)
    }

    /// The error of a key.
    pub fn wrong(&self, key: &str, expected: &str, found: &str) -> DiffusionError {
        DiffusionError::Lora {
            index: self.index,
            file: self.name.clone(),
            key: key.to_owned(),
            expected: expected.to_owned(),
            found: found.to_owned(),
        }
    }
}

/// Two dimensions, and more only if a kernel is larger than a pixel.
fn trimmed(shape: &[usize]) -> &[usize] {
    match shape {
        [_, _, 1, 1] => &shape[..2],
        _ => shape,
    }
}
