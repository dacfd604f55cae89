//! A model's networks with LoRAs in them. The base weights are shared, never written.

use std::collections::HashMap;

use candle_core::Tensor;

use super::{
    content::Content,
    delta::{Delta, LayerMut},
    family,
    file::{LoraFile, Matrices},
    names::names_of,
};
use crate::diffusion::{DiffusionError, prompt::PromptEncoder, unet::UNet};

/// The networks that a LoRA changes. A copy shares all tensors with what it is a copy of.
#[derive(Clone)]
pub struct Networks {
    /// Tokenizers and text encoders.
    pub prompts: PromptEncoder,
    /// The network that denoises.
    pub unet: UNet,
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

impl Networks {
    /// Shows every layer that a LoRA can change.
    fn visit(&mut self, visit: &mut dyn FnMut(&'static str, LayerMut<'_>)) {
        self.unet.visit(&mut |layer| visit("unet", layer));
        for (component, encoder) in self.prompts.components_mut() {
            encoder.visit(&mut |layer| visit(component, layer));
        }
    }

    /// Adds what a LoRA changes, `strength` times.
    pub fn add(&mut self, lora: &Lora, strength: f64) {
        self.visit(&mut |component, layer| {
            if let Some(delta) = lora.deltas.get(&(component, layer.name.to_owned())) {
                layer.deltas.push(Delta { scale: delta.scale * strength, ..delta.clone() });
            }
        });
    }

    /// What a LoRA for these networks is called where a file is told by its names.
    fn kind_of_lora(&self) -> Option<&'static str> {
        let config = self.unet.config();
        match config.addition {
            Some(_) => Some(family::XL),
            None => config.cross_attention_dim.first().and_then(|width| family::by_width(*width)),
        }
    }

    /// Takes what a file has for these networks. `name` and `index` are the request's, for errors.
    ///
    /// # Errors
    /// A key that is of no LoRA or names no layer of these networks, and matrices that do not fit their layer.
    pub fn read_lora(&self, file: Content, name: &str, index: usize) -> Result<Lora, DiffusionError> {
        let file = LoraFile::new(file, name, index)?;
        let counts = &self.unet.config().layers_per_block;
        let layers_per_block = counts.iter().all(|count| *count == counts[0]).then_some(counts[0]);
        // For the error of a layer or a shape that is another family's.
        let other = file.kind().filter(|kind| Some(*kind) != self.kind_of_lora());
        let with_other = |found: &str| match other {
            Some(kind) => format!("{found}: the file is {kind}"),
            None => found.to_owned(),
        };
        let only_encoder = self.prompts.encoders().count() == 1;
        let mut layers = HashMap::new();
        self.clone().visit(&mut |component, layer| {
            let found = Layer { name: (component, layer.name.to_owned()), weight: layer.weight.clone() };
            let aliases = names_of(component, layer.name, layers_per_block, only_encoder).into_iter();
            layers.extend(aliases.map(|alias| (alias, found.clone())));
        });
        let mut lora = Lora { deltas: HashMap::new(), changes_text: false, bytes: 0 };
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
            lora.changes_text |= name.0 != "unet";
            if lora.deltas.insert(name.clone(), delta).is_some() {
                return Err(file.wrong(file.a_key(stem, pair), "its layer once", "it by another name too"));
            }
        }
        Ok(lora)
    }
}
