//! What the weights of a file in fp8 are multiplied by. Three forms circulate, and a scale that is left out gives a broken
//! picture without an error: whatever is not understood is refused.
//!
//! | form | of a layer |
//! |---|---|
//! | ComfyUI's older | a tensor `scaled_fp8` marks a network, each of its weights has a `scale_weight` |
//! | ComfyUI's newer | `weight_scale`, and `comfy_quant` or the header's `_quantization_metadata` names the format |
//! | diffusers' | `weight_scale` |
//!
//! Scales of a layer's input (`scale_input`, `input_scale`) are for products in fp8: what is computed wider needs none.

use std::{
    collections::{BTreeSet, HashMap, HashSet},
    ops::Range,
};

use safetensors::tensor::Metadata;
use serde_json::Value;

/// Marks a network whose weights have scales.
const MARK: &str = "scaled_fp8";
/// The names of a scale, the older first.
const SCALES: [&str; 2] = ["scale_weight", "weight_scale"];
/// What else a layer with a scale may have.
const OTHERS: [&str; 5] = ["weight", "bias", "scale_input", "input_scale", FORMAT];
/// Tables of embeddings: those who scale weights leave them as they are.
const TABLES: [&str; 5] =
    ["shared", "embed_tokens", "token_embedding", "position_embedding", "relative_attention_bias"];
/// A layer's format, as the bytes of a JSON object.
pub const FORMAT: &str = "comfy_quant";
/// The formats of all layers, in the header.
const FORMATS: &str = "_quantization_metadata";
/// What the names of a network in a file of several begin with: a scale of one says nothing of another.
const NETWORKS: [&str; 8] = [
    "model.diffusion_model.",
    "cond_stage_model.",
    "conditioner.embedders.0.",
    "conditioner.embedders.1.",
    "text_encoders.clip_l.",
    "text_encoders.t5xxl.",
    "vae.",
    "first_stage_model.",
];

/// What a weight is multiplied by.
#[derive(Debug, Clone, PartialEq)]
pub enum Scale {
    /// Nothing: a plain weight.
    One,
    /// One number.
    Whole(f32),
    /// A number for each row.
    Rows(Vec<f32>),
}

impl Scale {
    /// That of these rows of a weight.
    pub fn of_rows(self, rows: Range<usize>) -> Self {
        match self {
            Self::One | Self::Whole(_) => self,
            Self::Rows(factors) => Self::Rows(factors.get(rows).unwrap_or_default().to_vec()),
        }
    }
}

/// The scales that a file has.
#[derive(Debug, Default)]
pub struct Scales {
    /// Networks that have scales.
    networks: HashSet<&'static str>,
    /// The tensors of layers that have more than a weight and a bias, by the layer.
    layers: HashMap<String, BTreeSet<String>>,
    /// Formats that the header names, by the layer.
    formats: HashMap<String, String>,
}

/// What is known of a weight's scale.
#[derive(Debug, PartialEq, Eq)]
pub enum Found {
    /// It has none, and needs none.
    None,
    /// The tensor of that name.
    Scale(String),
    /// It cannot be used: the tensor, what is expected, and what is there.
    Unusable(String, String, String),
}

impl Scales {
    /// Of the tensors and the notes of a header.
    pub fn read(metadata: &Metadata) -> Self {
        let mut scales = Self::default();
        let names = metadata.offset_keys();
        for name in &names {
            let (layer, end) = name.rsplit_once('.').unwrap_or(("", name));
            let is_scale = SCALES.contains(&end);
            if is_scale || end == MARK {
                scales.networks.insert(network(name));
            }
            if is_scale || end == FORMAT {
                scales.layers.entry(layer.to_owned()).or_default();
            }
        }
        if !scales.layers.is_empty() {
            for name in &names {
                if let Some((layer, end)) = name.rsplit_once('.')
                    && let Some(ends) = scales.layers.get_mut(layer)
                {
                    ends.insert(end.to_owned());
                }
            }
        }
        let notes = metadata.metadata().as_ref().and_then(|notes| notes.get(FORMATS));
        let formats = notes.and_then(|notes| serde_json::from_str::<Value>(notes).ok());
        let layers = formats.as_ref().and_then(|formats| formats.get("layers")).and_then(Value::as_object);
        scales.formats = layers
            .into_iter()
            .flatten()
            .filter_map(|(layer, format)| Some((layer.clone(), format.get("format")?.as_str()?.to_owned())))
            .collect();
        scales
    }

    /// The format that the header gives a layer; its names are whole, or without the network's.
    pub fn format(&self, layer: &str) -> Option<&str> {
        let short = layer.strip_prefix(network(layer)).unwrap_or(layer);
        self.formats.get(layer).or_else(|| self.formats.get(short)).map(String::as_str)
    }

    /// The scale of the weight `key`, of so many `dimensions`; `is_fp8`: it is stored so.
    pub fn of(&self, key: &str, dimensions: usize, is_fp8: bool) -> Found {
        let Some(layer) = key.strip_suffix(".weight") else { return Found::None };
        let none = BTreeSet::new();
        let ends = self.layers.get(layer).unwrap_or(&none);
        let own: Vec<&str> = SCALES.into_iter().filter(|scale| ends.contains(*scale)).collect();
        if let Some(other) =
            ends.iter().find(|end| !OTHERS.contains(&end.as_str()) && !own.contains(&end.as_str()))
        {
            let expected = format!("a layer with a weight, a bias and a {}", SCALES.join(" or "));
            return Found::Unusable(
                format!("{layer}.{other}"),
                expected,
                "a tensor that is not understood".into(),
            );
        }
        let is_table = TABLES.contains(&layer.rsplit('.').next().unwrap_or_default());
        match (own.as_slice(), is_fp8) {
            ([], true) if dimensions > 1 && !is_table && self.networks.contains(network(key)) => {
                Found::Unusable(
                    format!("{layer}.{}", SCALES[0]),
                    "the scale of this weight, as others of the network have one".into(),
                    "none".into(),
                )
            }
            ([], _) => Found::None,
            ([scale], true) => Found::Scale(format!("{layer}.{scale}")),
            ([scale, ..], false) => Found::Unusable(
                format!("{layer}.{scale}"),
                "the scale of a weight in F8_E4M3 or F8_E5M2".into(),
                "that of a weight in another type".into(),
            ),
            ([_, second, ..], true) => Found::Unusable(
                format!("{layer}.{second}"),
                format!("one scale, {} or {}", SCALES[0], SCALES[1]),
                "both".into(),
            ),
        }
    }
}

/// The network that a tensor is of; empty where the file has one alone.
fn network(name: &str) -> &'static str {
    NETWORKS.into_iter().find(|network| name.starts_with(network)).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;
    use safetensors::tensor::{Dtype, TensorInfo};

    fn scales(names: &[&str], note: Option<&str>) -> Scales {
        let info = |i: usize| TensorInfo { dtype: Dtype::U8, shape: vec![1], data_offsets: (i, i + 1) };
        let tensors = names.iter().enumerate().map(|(i, name)| ((*name).to_owned(), info(i))).collect();
        let notes = note.map(|note| HashMap::from([(FORMATS.to_owned(), note.to_owned())]));
        Scales::read(&Metadata::new(notes, tensors).unwrap())
    }

    fn refused(found: Found) -> String {
        match found {
            Found::Unusable(key, expected, found) => format!("{key}: {expected}: {found}"),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn a_weight_has_its_scale_by_either_name() {
        let old = scales(&["a.weight", "a.bias", "a.scale_weight", "a.scale_input", "scaled_fp8"], None);
        assert_eq!(old.of("a.weight", 2, true), Found::Scale("a.scale_weight".into()));
        let new = scales(&["a.weight", "a.weight_scale", "a.input_scale", "a.comfy_quant"], None);
        assert_eq!(new.of("a.weight", 2, true), Found::Scale("a.weight_scale".into()));
        assert_eq!(scales(&["a.weight"], None).of("a.weight", 2, true), Found::None);
    }

    #[test]
    fn a_weight_without_the_scale_that_its_network_has_is_refused() {
        for names in [&["scaled_fp8", "a.weight"][..], &["a.weight", "b.weight", "b.weight_scale"]] {
            let text = refused(scales(names, None).of("a.weight", 2, true));
            assert!(text.starts_with("a.scale_weight: the scale of this weight"), "{text}");
            // Norms and biases have none, nor have weights that are not in fp8.
            assert_eq!(scales(names, None).of("a.weight", 1, true), Found::None);
            assert_eq!(scales(names, None).of("a.weight", 2, false), Found::None);
            assert_eq!(scales(names, None).of("shared.weight", 2, true), Found::None);
        }
        let other = scales(&["model.diffusion_model.scaled_fp8", "text_encoders.t5xxl.a.weight"], None);
        assert_eq!(other.of("text_encoders.t5xxl.a.weight", 2, true), Found::None);
    }

    #[test]
    fn what_is_not_understood_is_refused_by_name() {
        let two = scales(&["a.weight", "a.weight_scale", "a.weight_scale_2"], None);
        assert!(refused(two.of("a.weight", 2, true)).starts_with("a.weight_scale_2: "));
        let both = scales(&["a.weight", "a.weight_scale", "a.scale_weight"], None);
        assert!(refused(both.of("a.weight", 2, true)).contains("both"));
        let wide = scales(&["a.weight", "a.weight_scale"], None);
        assert!(refused(wide.of("a.weight", 2, false)).contains("another type"));
    }

    #[test]
    fn the_header_names_formats_of_layers_with_or_without_the_network() {
        let note = r#"{"format_version": "1.0", "layers": {"a": {"format": "nvfp4"}, "b": 1}}"#;
        let scales = scales(&[], Some(note));
        assert_eq!(scales.format("model.diffusion_model.a"), Some("nvfp4"));
        assert_eq!((scales.format("a"), scales.format("b")), (Some("nvfp4"), None));
    }
}
