//! Networks with LoRAs in them. The base weights are shared, never written.

use std::collections::HashMap;

use candle_core::Tensor;

use super::{
    content::Content,
    delta::{Delta, LayerMut},
    file::{LoraFile, Matrices},
};
use crate::diffusion::DiffusionError;

/// The networks of a family that a LoRA changes. A copy shares all tensors with what it is a copy of.
pub trait Adaptable: Clone {
    /// Shows every layer that a LoRA can change, with the name of its component.
    fn visit(&mut self, visit: &mut dyn FnMut(&'static str, LayerMut<'_>));

    /// Every name that a file has for `layer` of `component`, up to the part that says which matrix it is.
    fn names_of(&self, component: &'static str, layer: &str) -> Vec<String>;

    /// Whether the component encodes text, so that embeddings depend on it.
    fn encodes_text(component: &'static str) -> bool;

    /// What a LoRA for these networks is called where a file is told by its names (`kinds.rs`).
    fn kind_of_lora(&self) -> Option<&'static str>;

    /// Says what tells the text encoders from those as they were loaded, so that embeddings are not mixed up.
    fn rename_text_encoders(&mut self, name: String);
}

/// What one file adds to the layers of one model, at strength 1.
pub struct Lora {
    deltas: HashMap<LayerName, Delta>,
    /// Whether a text encoder is among what it changes.
    pub changes_text: bool,
    /// Bytes of its matrices.
    pub bytes: usize,
}

/// The component, and the layer's name in it.
type LayerName = (&'static str, String);

/// What a file's names are looked up in.
#[derive(Clone)]
struct Layer {
    name: LayerName,
    weight: Tensor,
}

impl Lora {
    /// Adds what it changes to `networks`, `strength` times.
    pub fn add_to<N: Adaptable>(&self, networks: &mut N, strength: f64) {
        networks.visit(&mut |component, layer| {
            if let Some(delta) = self.deltas.get(&(component, layer.name.to_owned())) {
                layer.deltas.push(Delta { scale: delta.scale * strength, ..delta.clone() });
            }
        });
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
        let mut layers = HashMap::new();
        networks.clone().visit(&mut |component, layer| {
            let found = Layer { name: (component, layer.name.to_owned()), weight: layer.weight.clone() };
            let aliases = networks.names_of(component, layer.name).into_iter();
            layers.extend(aliases.map(|alias| (alias, found.clone())));
        });
        let mut lora = Self { deltas: HashMap::new(), changes_text: false, bytes: 0 };
        // All names first: a file for another family is told by a layer that there is not, rather than by a shape.
        let found = file.layers().map(|(stem, pair)| match layers.get(stem) {
            Some(layer) => Ok((stem, pair, layer)),
            None => {
                let found = with_other("none of that name");
                Err(file.wrong(file.a_key(stem, pair), "a layer of this model", &found))
            }
        });
        for (stem, pair, Layer { name, weight }) in found.collect::<Result<Vec<_>, _>>()? {
            let Matrices { down, up, scale } =
                file.matrices((stem, pair), name.0, weight).map_err(|error| match error {
                    DiffusionError::Lora { index, file, key, expected, found } => {
                        DiffusionError::Lora { index, file, key, expected, found: with_other(&found) }
                    }
                    error => error,
                })?;
            let delta = Delta { down, up, scale };
            lora.bytes += delta.bytes();
            lora.changes_text |= N::encodes_text(name.0);
            if lora.deltas.insert(name.clone(), delta).is_some() {
                return Err(file.wrong(file.a_key(stem, pair), "its layer once", "it by another name too"));
            }
        }
        Ok(lora)
    }
}
