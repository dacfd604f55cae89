//! The networks of a Stable Diffusion model that LoRAs change.

use super::{PromptEncoder, lora_names::names_of};
use crate::diffusion::{
    lora::{Adaptable, AddedWord, LayerMut, LayerName, TakesWords, kinds},
    networks::unet::UNet,
};

/// The component that the UNet is.
const UNET: &str = "unet";

/// Text encoders with their tokenizers, and the network that denoises.
#[derive(Clone)]
pub struct Networks {
    /// Tokenizers and text encoders.
    pub prompts: PromptEncoder,
    /// The network that denoises.
    pub unet: UNet,
}

impl Adaptable for Networks {
    fn visit(&mut self, visit: &mut dyn FnMut(&'static str, LayerMut<'_>)) {
        self.unet.visit(&mut |layer| visit(UNET, layer));
        for (component, encoder) in self.prompts.components_mut() {
            encoder.visit(&mut |layer| visit(component, layer));
        }
    }

    fn names_of(&self, component: &'static str, layer: &str) -> Vec<LayerName> {
        let counts = &self.unet.config().layers_per_block;
        let layers_per_block = counts.iter().all(|count| *count == counts[0]).then_some(counts[0]);
        let names = names_of(component, layer, layers_per_block, self.prompts.encoders().count() == 1);
        names.into_iter().map(LayerName::from).collect()
    }

    fn encodes_text(component: &'static str) -> bool {
        component != UNET
    }

    fn kind_of_lora(&self) -> Option<&'static str> {
        let config = self.unet.config();
        match config.addition {
            Some(_) => Some(kinds::XL),
            None => config.cross_attention_dim.first().and_then(|width| kinds::by_width(*width)),
        }
    }

    fn takes_words(&self) -> Vec<TakesWords> {
        self.prompts.takes_words()
    }

    fn add_word(&mut self, word: &AddedWord) -> candle_core::Result<()> {
        self.prompts.add_word(word)
    }

    fn rename_text_encoders(&mut self, name: String) {
        self.prompts.rename(name);
    }
}
