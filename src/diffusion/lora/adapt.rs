//! Networks with LoRAs in them. The base weights are shared, never written.

use std::collections::HashMap;

use candle_core::Tensor;

use super::{
    changes::LayerMut,
    content::Content,
    delta::Delta,
    file::{Change, LoraFile},
    magnitude::Magnitude,
    names::{LayerName, Rows},
    spec::EmbeddingSpec,
    word::{AddedWord, TakesWords},
};
use crate::diffusion::DiffusionError;

/// The networks of a family that a LoRA changes. A copy shares all tensors with what it is a copy of.
pub trait Adaptable: Clone {
    /// Shows every layer that a LoRA can change, with the name of its component.
    fn visit(&mut self, visit: &mut dyn FnMut(&'static str, LayerMut<'_>));

    /// Every name that a file has for `layer` of `component`, up to the part that says which matrix it is.
    fn names_of(&self, component: &'static str, layer: &str) -> Vec<LayerName>;

    /// Whether the component encodes text, so that embeddings depend on it.
    fn encodes_text(component: &'static str) -> bool;

    /// What a LoRA for these networks is called where a file is told by its names (`kinds.rs`).
    fn kind_of_lora(&self) -> Option<&'static str>;

    /// The text encoders that textual inversions add words to; none: none are added.
    fn takes_words(&self) -> Vec<TakesWords> {
        Vec::new()
    }

    /// Adds a word to those text encoders.
    ///
    /// # Errors
    /// What candle says.
    fn add_word(&mut self, _word: &AddedWord) -> candle_core::Result<()> {
        Ok(())
    }

    /// Says what tells the text encoders from those as they were loaded, so that embeddings are not mixed up.
    fn rename_text_encoders(&mut self, name: String);
}

/// What one file adds to the layers of one model, at strength 1.
pub struct Lora {
    changes: HashMap<Place, Change>,
    words: Vec<AddedWord>,
    /// Whether a text encoder is among what it changes.
    pub changes_text: bool,
    /// Bytes of its matrices.
    pub bytes: usize,
}

/// The component, and the layer's name in it.
type Place = (&'static str, String);

/// What a file's names are looked up in.
#[derive(Clone)]
struct Layer {
    place: Place,
    weight: Tensor,
    rows: Option<Rows>,
}

impl Lora {
    /// Adds what it changes to `networks`, `strength` times.
    ///
    /// # Errors
    /// What candle says.
    pub fn add_to<N: Adaptable>(&self, networks: &mut N, strength: f64) -> candle_core::Result<()> {
        let mut done = Ok(());
        networks.visit(&mut |component, layer| {
            if let Some(change) = self.changes.get(&(component, layer.name.to_owned()))
                && let Err(error) = change.add_to(layer, strength)
            {
                done = Err(error);
            }
        });
        done?;
        self.words.iter().try_for_each(|word| networks.add_word(word))
    }

    /// Takes the word that a file of a textual inversion adds to these networks. `spec` is the request's.
    ///
    /// # Errors
    /// A file that is none, or is for other text encoders.
    pub fn of_word<N: Adaptable>(
        networks: &N,
        file: &Content,
        spec: &EmbeddingSpec,
    ) -> Result<Self, DiffusionError> {
        let mut names = file.names();
        names.sort();
        let keys: Vec<(&str, &str)> = names.iter().map(|name| (name.as_str(), name.as_str())).collect();
        let wrong = |key: &str, expected: &str, found: &str| DiffusionError::Embedding {
            field: spec.field,
            name: spec.name.clone(),
            key: key.to_owned(),
            expected: expected.to_owned(),
            found: found.to_owned(),
        };
        let word = AddedWord::read(&spec.name, file, &keys, &networks.takes_words(), &wrong)?;
        Ok(Self { changes: HashMap::new(), bytes: word.bytes(), words: vec![word], changes_text: true })
    }

    /// Takes what a file has for these networks. `name` and `index` are the request's, for errors.
    ///
    /// # Errors
    /// A key that is of no LoRA or names no layer of these networks, and matrices that do not fit their layer.
    pub fn read<N: Adaptable>(
        networks: &N,
        file: Content,
        name: &str,
        index: usize,
    ) -> Result<Self, DiffusionError> {
        let file = LoraFile::new(file, name, index)?;
        // For the error of a layer or a shape that is another family's.
        let other = file.kind().filter(|kind| Some(*kind) != networks.kind_of_lora());
        let with_other = |found: &str| match other {
            Some(kind) => format!("{found}: the file is {kind}"),
            None => found.to_owned(),
        };
        let layers = layers_by_name(networks);
        let words = file.words(&networks.takes_words())?;
        let mut lora = Self {
            changes: HashMap::new(),
            changes_text: !words.is_empty(),
            bytes: words.iter().map(AddedWord::bytes).sum(),
            words,
        };
        // All names first: a file for another family is told by a layer that there is not, rather than by a shape.
        let found = file.layers().map(|(stem, parts)| match layers.get(stem) {
            Some(layers) => Ok((stem, parts, layers)),
            None => {
                let found = with_other("none of that name");
                Err(file.wrong(parts.a_key(), "a layer of this model", &found))
            }
        });
        for (stem, parts, layers) in found.collect::<Result<Vec<_>, _>>()? {
            for Layer { place, weight, rows } in layers {
                let change = file.change((stem, parts), place.0, weight, rows.as_ref());
                let change = change.map_err(|error| match error {
                    DiffusionError::Lora { index, file, key, expected, found } => {
                        DiffusionError::Lora { index, file, key, expected, found: with_other(&found) }
                    }
                    error => error,
                })?;
                lora.bytes += change.bytes();
                lora.changes_text |= N::encodes_text(place.0);
                if lora.changes.insert(place.clone(), change).is_some() {
                    return Err(file.wrong(parts.a_key(), "its layer once", "it by another name too"));
                }
            }
        }
        Ok(lora)
    }
}

/// Every name that a file can have, with the layers that it means: one, or the several that it has as one.
fn layers_by_name<N: Adaptable>(networks: &N) -> HashMap<String, Vec<Layer>> {
    let mut layers: HashMap<String, Vec<Layer>> = HashMap::new();
    networks.clone().visit(&mut |component, layer| {
        for LayerName { name, rows } in networks.names_of(component, layer.name) {
            let place = (component, layer.name.to_owned());
            let layer = Layer { place, weight: layer.weight.clone(), rows };
            let known = layers.entry(name).or_default();
            // A name of a whole layer means the last that has it.
            if layer.rows.is_none() {
                known.clear();
            }
            known.push(layer);
        }
    });
    layers
}

impl Change {
    fn add_to(&self, layer: LayerMut<'_>, strength: f64) -> candle_core::Result<()> {
        let scale = self.scale * strength;
        let factors = match &self.magnitude {
            Some(magnitude) => {
                let gain = magnitude.gain(scale)?;
                layer.changes.add_gain(&gain)?;
                self.factors.times(&gain)?
            }
            None => self.factors.clone(),
        };
        layer.changes.add(Delta { factors, scale })
    }

    fn bytes(&self) -> usize {
        self.factors.bytes() + self.magnitude.as_ref().map_or(0, Magnitude::bytes)
    }
}
