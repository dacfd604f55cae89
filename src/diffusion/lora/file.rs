//! A LoRA file: its keys, sorted by the layer that they name.

use std::{borrow::Cow, collections::BTreeMap};

use candle_core::{DType, Device, Tensor};

use super::{
    alphas::Alphas,
    content::{Content, Values},
    kinds,
};
use crate::diffusion::DiffusionError;

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
/// What peft adds to the names of a network's layers as long as they are in its hands.
const WRAPPER: &str = "base_model.model.";
/// What trainers of many families call the network that denoises.
const NETWORK: &str = "transformer.";
/// Between the layer and the name of the adapter, which peft leaves in a state that is saved as it is:
/// `lora_A.default.weight`.
const MATRICES_OF_PEFT: [&str; 2] = [".lora_A.", ".lora_B."];

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
    file: Content,
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
    pub fn new(file: Content, name: &str, index: usize) -> Result<Self, DiffusionError> {
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

    /// What the file is, if its names tell: of no LoRA, or for a family.
    pub fn kind(&self) -> Option<&'static str> {
        let names = self.file.names();
        kinds::told_by(names.iter().map(String::as_str), |name| self.file.shape(name))
    }

    fn with_kind(&self, found: &str) -> String {
        match self.kind() {
            Some(kind) => format!("{found}: the file is {kind}"),
            None => found.to_owned(),
        }
    }

    fn sort_in(&mut self, key: String) -> Result<(), DiffusionError> {
        let known = without_adapter(&key);
        let stem = |ends: &[&str]| ends.iter().find_map(|end| known.strip_suffix(end));
        type Part = fn(&mut Pair) -> &mut Option<String>;
        let (stem, part): (&str, Part) = if let Some(stem) = stem(&DOWN) {
            (stem, |pair| &mut pair.down)
        } else if let Some(stem) = stem(&UP) {
            (stem, |pair| &mut pair.up)
        } else if let Some(stem) = stem(&[ALPHA]) {
            (stem, |pair| &mut pair.alpha)
        } else {
            let other = OTHERS.iter().find(|(part, _)| key.contains(part));
            let found = other.map_or_else(|| self.with_kind("another key"), |(_, method)| (*method).into());
            return Err(self.wrong(
                &key,
                "a key of a LoRA (lora_down, lora_up, lora_A, lora_B, alpha)",
                &found,
            ));
        };
        let stem = plain_stem(stem);
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

    /// The two matrices of a layer of a component, in the type and on the device of its `weight`. Kernels of one pixel may
    /// be missing or there, whatever the layer has.
    ///
    /// # Errors
    /// When one of the two is not there, or of a shape that does not fit the layer.
    pub fn matrices(
        &self,
        (stem, pair): (&str, &Pair),
        component: &str,
        weight: &Tensor,
    ) -> Result<Matrices, DiffusionError> {
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
            Ok(self.tensor(key, weight.device())?.to_dtype(weight.dtype())?.reshape(expected)?)
        };
        Ok(Matrices {
            down: take(down, [&[rank], &shape[1..]].concat())?,
            up: take(up, [&[shape[0], rank], &ones[..]].concat())?,
            scale: self.scale((stem, pair), component, rank)?,
        })
    }

    /// Alpha by rank; 1 where no alpha is said.
    fn scale(
        &self,
        (stem, pair): (&str, &Pair),
        component: &str,
        rank: usize,
    ) -> Result<f64, DiffusionError> {
        let Some(key) = &pair.alpha else {
            return Ok(self.alphas.scale(component, stem, rank));
        };
        let shape = self.file.shape(key).unwrap_or_default();
        if shape.iter().product::<usize>() != 1 {
            return Err(self.wrong(key, "one number", &format!("{shape:?}")));
        }
        let alpha = self.tensor(key, &Device::Cpu)?.to_dtype(DType::F64)?;
        Ok(alpha.flatten_all()?.to_vec1::<f64>()?[0] / rank as f64)
    }

    /// A tensor as it is in the file. It is there: its key is of this file.
    ///
    /// # Errors
    /// When it is of no floating point type that is read, or has a value that is not finite.
    fn tensor(&self, key: &str, device: &Device) -> Result<Tensor, DiffusionError> {
        let values: Values<'_> = self.file.values(key).ok_or_else(|| self.wrong(key, "a tensor", "none"))?;
        let dtype = values
            .dtype()
            .map_err(|found| self.wrong(key, "F16, BF16, F32 or F64", &format!("{found:?}")))?;
        match values.not_finite() {
            Some(value) => Err(self.wrong(key, "finite numbers", &format!("{value}"))),
            None => Ok(values.tensor(dtype, device)?),
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

/// peft's key without the name of the adapter.
fn without_adapter(key: &str) -> Cow<'_, str> {
    let bare = MATRICES_OF_PEFT.iter().find_map(|matrix| {
        let (layer, rest) = key.split_once(matrix)?;
        let adapter = rest.strip_suffix(".weight")?;
        (!adapter.contains('.')).then(|| format!("{layer}{matrix}weight"))
    });
    bare.map_or(Cow::Borrowed(key), Cow::Owned)
}

/// A layer's name without what trainers wrap it in.
fn plain_stem(stem: &str) -> String {
    let stem = stem.replace(".processor.", ".").replace(WRAPPER, "");
    stem.strip_prefix(NETWORK).map(str::to_owned).unwrap_or(stem)
}

/// Two dimensions, and more only if a kernel is larger than a pixel.
fn trimmed(shape: &[usize]) -> &[usize] {
    match shape {
        [_, _, 1, 1] => &shape[..2],
        _ => shape,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_of_peft_may_have_the_adapter_s_name_and_its_wrapper() {
        for key in [
            "unet.mid_block.attentions.0.proj_in.lora_A.default.weight",
            "unet.mid_block.attentions.0.proj_in.lora_A.my-style_2.weight",
            "unet.mid_block.attentions.0.proj_in.lora_A.weight",
        ] {
            let stem = "unet.mid_block.attentions.0.proj_in";
            assert_eq!(without_adapter(key), format!("{stem}.lora_A.weight"), "{key}");
        }
        assert_eq!(without_adapter("a.lora_A.b.c.weight"), "a.lora_A.b.c.weight");
        for stem in [
            "mid_block.attentions.0.proj_in",
            "base_model.model.mid_block.attentions.0.proj_in",
            "transformer.mid_block.attentions.0.proj_in",
            "transformer.base_model.model.mid_block.attentions.0.proj_in",
            "base_model.model.transformer.mid_block.attentions.0.proj_in",
        ] {
            assert_eq!(plain_stem(stem), "mid_block.attentions.0.proj_in", "{stem}");
        }
        assert_eq!(plain_stem("unet.base_model.model.conv_in"), "unet.conv_in");
    }
}
