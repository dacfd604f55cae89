//! The network of a Z-Image model that LoRAs change, and what its layers are called in files.

use crate::diffusion::{
    lora::{Adaptable, LayerMut, kinds},
    networks::z_image::ZImageTransformer,
};

/// The component that the transformer is.
const TRANSFORMER: &str = "transformer";

/// The network that denoises: LoRAs of this family change no text encoder.
#[derive(Clone)]
pub struct Networks {
    /// It.
    pub transformer: ZImageTransformer,
}

impl Adaptable for Networks {
    fn visit(&mut self, visit: &mut dyn FnMut(&'static str, LayerMut<'_>)) {
        self.transformer.visit(&mut |layer| visit(TRANSFORMER, layer));
    }

    /// diffusers' and peft's, with what trainers put before it, and kohya's. The original code has `out` for `to_out.0`.
    fn names_of(&self, _component: &'static str, layer: &str) -> Vec<String> {
        let short = layer.strip_suffix(".to_out.0");
        let outs =
            short.into_iter().flat_map(|attention| ["to_out", "out"].map(|out| format!("{attention}.{out}")));
        let own: Vec<String> = std::iter::once(layer.to_owned()).chain(outs).collect();
        let prefixed = |prefix: &'static str| own.iter().map(move |name| format!("{prefix}{name}"));
        let flat = own.iter().map(|name| format!("lora_unet_{}", name.replace('.', "_")));
        prefixed("").chain(prefixed("diffusion_model.")).chain(prefixed("default.")).chain(flat).collect()
    }

    fn encodes_text(_component: &'static str) -> bool {
        false
    }

    fn kind_of_lora(&self) -> Option<&'static str> {
        Some(kinds::Z_IMAGE)
    }

    fn rename_text_encoders(&mut self, _name: String) {}
}
