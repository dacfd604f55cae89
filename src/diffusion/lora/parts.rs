//! Which part of a layer's change a key of a file is.

use std::{borrow::Cow, collections::BTreeMap};

/// What a tensor of a file is to its layer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Part {
    /// From what goes in to the rank.
    Down,
    /// From the rank to what comes out.
    Up,
    /// Between both, of the rank on both sides.
    Mid,
    /// Of LoHa's first weight: up, and down.
    HadaW1A,
    /// Down.
    HadaW1B,
    /// Of its second weight: up.
    HadaW2A,
    /// Down.
    HadaW2B,
    /// Between both of the first.
    HadaT1,
    /// Between both of the second.
    HadaT2,
    /// LoKr's first factor.
    LokrW1,
    /// The two that it is a product of.
    LokrW1A,
    /// The other.
    LokrW1B,
    /// LoKr's second factor.
    LokrW2,
    /// The two that it is a product of.
    LokrW2A,
    /// The other.
    LokrW2B,
    /// Between both.
    LokrT2,
    /// Divided by the rank it is what all is multiplied by.
    Alpha,
    /// Lengths of the weight's rows, or of its columns, by its shape.
    DoraScale,
    /// Lengths of the weight's rows, in peft's files.
    Magnitude,
}

/// How a change is made of its parts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Method {
    /// Two matrices, or three.
    LowRank,
    /// Two products of two matrices, multiplied value by value.
    Hadamard,
    /// A Kronecker product.
    Kronecker,
}

/// The ends of keys by which the formats tell the parts apart. Of the two matrices: kohya's, peft's, diffusers' before peft
/// (twice), and diffusers' for text encoders; last XLabs', whose layers' names end in `_lora1`. The first that fits counts.
const ENDS: [(&str, Part); 30] = [
    (".lora_down.weight", Part::Down),
    (".lora_A.weight", Part::Down),
    (".lora.down.weight", Part::Down),
    ("_lora.down.weight", Part::Down),
    (".lora_linear_layer.down.weight", Part::Down),
    (".lora_up.weight", Part::Up),
    (".lora_B.weight", Part::Up),
    (".lora.up.weight", Part::Up),
    ("_lora.up.weight", Part::Up),
    (".lora_linear_layer.up.weight", Part::Up),
    (".lora_mid.weight", Part::Mid),
    (".alpha", Part::Alpha),
    (".dora_scale", Part::DoraScale),
    (".lora_magnitude_vector", Part::Magnitude),
    (".lora_magnitude_vector.weight", Part::Magnitude),
    (".hada_w1_a", Part::HadaW1A),
    (".hada_w1_b", Part::HadaW1B),
    (".hada_w2_a", Part::HadaW2A),
    (".hada_w2_b", Part::HadaW2B),
    (".hada_t1", Part::HadaT1),
    (".hada_t2", Part::HadaT2),
    (".lokr_w1", Part::LokrW1),
    (".lokr_w1_a", Part::LokrW1A),
    (".lokr_w1_b", Part::LokrW1B),
    (".lokr_w2", Part::LokrW2),
    (".lokr_w2_a", Part::LokrW2A),
    (".lokr_w2_b", Part::LokrW2B),
    (".lokr_t2", Part::LokrT2),
    (".down.weight", Part::Down),
    (".up.weight", Part::Up),
];

/// Between the layer and the name of the adapter, which peft leaves in a state that is saved as it is:
/// `lora_A.default.weight`.
const OF_PEFT: [&str; 3] = [".lora_A.", ".lora_B.", ".lora_magnitude_vector."];
/// What peft adds to the names of a network's layers as long as they are in its hands.
const WRAPPER: &str = "base_model.model.";
/// What trainers of many families call the network that denoises.
const NETWORK: &str = "transformer.";

/// The keys of one layer by their parts.
#[derive(Debug, Clone, Default)]
pub struct Parts(BTreeMap<Part, String>);

impl Parts {
    /// The layer's name in a key, and which part of its change the key is.
    pub fn of(key: &str) -> Option<(String, Part)> {
        let known = without_adapter(key);
        ENDS.iter().find_map(|(end, part)| Some((plain_stem(known.strip_suffix(end)?), *part)))
    }

    /// Takes a key. One that was there as the same part is returned.
    pub fn insert(&mut self, part: Part, key: String) -> Option<String> {
        self.0.insert(part, key)
    }

    /// The key of a part.
    pub fn get(&self, part: Part) -> Option<&str> {
        self.0.get(&part).map(String::as_str)
    }

    /// The first key, to name it in an error.
    pub fn a_key(&self) -> &str {
        self.0.values().next().map_or("", String::as_str)
    }

    /// The method, and a key of another one if there is such a key.
    pub fn method(&self) -> (Method, Option<&str>) {
        let mut methods = self.0.iter().filter_map(|(part, key)| Some((part.method()?, key.as_str())));
        let Some((method, _)) = methods.next() else {
            return (Method::LowRank, None);
        };
        (method, methods.find(|(other, _)| *other != method).map(|(_, key)| key))
    }
}

impl Part {
    fn method(self) -> Option<Method> {
        match self {
            Self::Down | Self::Up | Self::Mid => Some(Method::LowRank),
            Self::HadaW1A | Self::HadaW1B | Self::HadaW2A | Self::HadaW2B | Self::HadaT1 | Self::HadaT2 => {
                Some(Method::Hadamard)
            }
            Self::LokrW1
            | Self::LokrW1A
            | Self::LokrW1B
            | Self::LokrW2
            | Self::LokrW2A
            | Self::LokrW2B
            | Self::LokrT2 => Some(Method::Kronecker),
            Self::Alpha | Self::DoraScale | Self::Magnitude => None,
        }
    }
}

/// peft's key without the name of the adapter.
fn without_adapter(key: &str) -> Cow<'_, str> {
    let bare = OF_PEFT.iter().find_map(|matrix| {
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

    #[test]
    fn every_key_is_told_by_its_end() {
        for (key, part) in [
            ("a.lora_mid.weight", Part::Mid),
            ("a.dora_scale", Part::DoraScale),
            ("a.lora_magnitude_vector", Part::Magnitude),
            ("a.lora_magnitude_vector.default.weight", Part::Magnitude),
            ("a.hada_w1_b", Part::HadaW1B),
            ("a.lokr_w1", Part::LokrW1),
            ("a.lokr_w2_a", Part::LokrW2A),
            ("transformer.a.alpha", Part::Alpha),
        ] {
            assert_eq!(Parts::of(key), Some(("a".to_owned(), part)), "{key}");
        }
        for key in ["a.diff", "a.diff_b", "a.lora_up.bias", "lora_down.weight"] {
            assert_eq!(Parts::of(key), None, "{key}");
        }
    }
}
