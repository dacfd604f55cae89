//! The network of a Z-Image model that LoRAs change, and what its layers are called in files.

use crate::diffusion::{
    lora::{Adaptable, LayerMut, LayerName, Rows, kinds},
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

    /// diffusers' and peft's, with what trainers put before it, and kohya's. The original code has `out` for `to_out.0`, and
    /// queries, keys and values as one layer.
    fn names_of(&self, _component: &'static str, layer: &str) -> Vec<LayerName> {
        let short = layer.strip_suffix(".to_out.0");
        let outs =
            short.into_iter().flat_map(|attention| ["to_out", "out"].map(|out| format!("{attention}.{out}")));
        let width = self.transformer.config().width;
        let fused = [".to_q", ".to_k", ".to_v"].iter().zip(0..).find_map(|(end, at)| {
            let rows = Some(Rows::range(at * width, width, 3 * width));
            Some(LayerName { name: format!("{}.qkv", layer.strip_suffix(end)?), rows })
        });
        let own = std::iter::once(layer.to_owned()).chain(outs).map(LayerName::from).chain(fused);
        let all = own.flat_map(|LayerName { name, rows }| {
            let flat = name.replace('.', "_");
            [
                format!("diffusion_model.{name}"),
                format!("default.{name}"),
                format!("lora_unet_{flat}"),
                format!("lycoris_{flat}"),
                name,
            ]
            .map(|name| LayerName { name, rows: rows.clone() })
        });
        all.collect()
    }

    fn encodes_text(_component: &'static str) -> bool {
        false
    }

    fn kind_of_lora(&self) -> Option<&'static str> {
        Some(kinds::Z_IMAGE)
    }

    fn rename_text_encoders(&mut self, _name: String) {}
}
