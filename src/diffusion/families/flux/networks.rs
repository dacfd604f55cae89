//! The networks of a Flux model that LoRAs change, and what their layers are called in files.
//!
//! Files name them as diffusers does, or as the original code: there queries, keys and values are one layer, and in a single
//! block the feed-forward layer behind them too. XLabs' files have the original names, and tell what is added to the
//! picture's layers (`_lora1`) from what is added to the text's (`_lora2`).

use super::PromptEncoder;
use crate::diffusion::{
    lora::{Adaptable, LayerMut, LayerName, Rows, kinds},
    networks::flux::FluxTransformer,
};

/// The components that LoRAs change: T5 is none.
const TRANSFORMER: &str = "transformer";
const CLIP: &str = "text_encoder";

/// Width inside a feed-forward layer, in widths of a token.
const FEED_FORWARD: usize = 4;

/// Tokenizers and text encoders, and the network that denoises.
#[derive(Clone)]
pub struct Networks {
    /// Tokenizers and text encoders.
    pub prompts: PromptEncoder,
    /// The network that denoises.
    pub transformer: FluxTransformer,
}

impl Adaptable for Networks {
    fn visit(&mut self, visit: &mut dyn FnMut(&'static str, LayerMut<'_>)) {
        self.transformer.visit(&mut |layer| visit(TRANSFORMER, layer));
        self.prompts.clip_mut().visit(&mut |layer| visit(CLIP, layer));
    }

    fn names_of(&self, component: &'static str, layer: &str) -> Vec<LayerName> {
        match component {
            TRANSFORMER => transformer_names(layer, self.transformer.config().width()),
            _ => clip_names(layer).map(LayerName::from).collect(),
        }
    }

    fn encodes_text(component: &'static str) -> bool {
        component != TRANSFORMER
    }

    fn kind_of_lora(&self) -> Option<&'static str> {
        Some(kinds::FLUX)
    }

    fn rename_text_encoders(&mut self, name: String) {
        self.prompts.rename(name);
    }
}

/// diffusers' name of a CLIP's layer, and kohya's.
fn clip_names(layer: &str) -> impl Iterator<Item = String> {
    let inner = layer.strip_prefix("text_model.").unwrap_or(layer).to_owned();
    let flat = format!("text_model_{}", inner.replace('.', "_"));
    [format!("text_encoder.{inner}"), format!("text_encoder.text_model.{inner}")]
        .into_iter()
        .chain(["lora_te_", "lora_te1_"].map(|prefix| format!("{prefix}{flat}")))
        .chain([format!("text_encoders.clip_l.transformer.text_model.{inner}")])
}

/// What a layer of the transformer goes by. `transformer.` in front of a name has been taken away.
fn transformer_names(layer: &str, width: usize) -> Vec<LayerName> {
    let own = layer.replace('.', "_");
    let mut names: Vec<LayerName> = [
        layer.to_owned(),
        format!("diffusion_model.{layer}"),
        format!("lora_transformer_{own}"),
        format!("lora_unet_{own}"),
        format!("lycoris_{own}"),
    ]
    .map(LayerName::from)
    .into();
    for LayerName { name, rows } in original_names(layer, width) {
        let flat = format!("lora_unet_{}", name.replace('.', "_"));
        for name in [format!("diffusion_model.{name}"), flat, name] {
            names.push(LayerName { name, rows: rows.clone() });
        }
    }
    names
}

/// The names of the original code, and XLabs'.
fn original_names(layer: &str, width: usize) -> Vec<LayerName> {
    if let Some((block, rest)) =
        layer.strip_prefix("transformer_blocks.").and_then(|rest| rest.split_once('.'))
    {
        return double_names(rest, width)
            .into_iter()
            .map(|(name, rows)| LayerName { name: format!("double_blocks.{block}.{name}"), rows })
            .collect();
    }
    if let Some((block, rest)) =
        layer.strip_prefix("single_transformer_blocks.").and_then(|rest| rest.split_once('.'))
    {
        return single_names(rest, width)
            .into_iter()
            .map(|(name, rows)| LayerName { name: format!("single_blocks.{block}.{name}"), rows })
            .collect();
    }
    let whole = |name: &str| vec![LayerName::from(name.to_owned())];
    match layer {
        "x_embedder" => whole("img_in"),
        "context_embedder" => whole("txt_in"),
        "proj_out" => whole("final_layer.linear"),
        // Scale and shift are the other way round there.
        "norm_out.linear" => vec![LayerName {
            name: "final_layer.adaLN_modulation.1".into(),
            rows: Some(Rows { ranges: vec![(width, width), (0, width)], of: 2 * width }),
        }],
        _ => {
            let parts = layer.strip_prefix("time_text_embed.").and_then(|rest| rest.split_once(".linear_"));
            let Some((embedder, number)) = parts else {
                return Vec::new();
            };
            let embedder = match embedder {
                "timestep_embedder" => "time_in",
                "guidance_embedder" => "guidance_in",
                _ => "vector_in",
            };
            whole(&format!("{embedder}.{}_layer", if number == "1" { "in" } else { "out" }))
        }
    }
}

/// A name, and the rows that the layer has of it.
type Named = (&'static str, Option<Rows>);

/// Of the layers of a double block.
fn double_names(layer: &str, width: usize) -> Vec<Named> {
    let third = |name, xlabs, at: usize| {
        let rows = Some(Rows::range(at * width, width, 3 * width));
        vec![(name, rows.clone()), (xlabs, rows)]
    };
    let (picture, text) = (("img_attn.qkv", "qkv_lora1"), ("txt_attn.qkv", "qkv_lora2"));
    match layer {
        "attn.to_q" => third(picture.0, picture.1, 0),
        "attn.to_k" => third(picture.0, picture.1, 1),
        "attn.to_v" => third(picture.0, picture.1, 2),
        "attn.add_q_proj" => third(text.0, text.1, 0),
        "attn.add_k_proj" => third(text.0, text.1, 1),
        "attn.add_v_proj" => third(text.0, text.1, 2),
        "attn.to_out.0" => vec![("img_attn.proj", None), ("proj_lora1", None)],
        "attn.to_add_out" => vec![("txt_attn.proj", None), ("proj_lora2", None)],
        "norm1.linear" => vec![("img_mod.lin", None)],
        "norm1_context.linear" => vec![("txt_mod.lin", None)],
        "ff.net.0.proj" => vec![("img_mlp.0", None)],
        "ff.net.2" => vec![("img_mlp.2", None)],
        "ff_context.net.0.proj" => vec![("txt_mlp.0", None)],
        "ff_context.net.2" => vec![("txt_mlp.2", None)],
        _ => Vec::new(),
    }
}

/// Of the layers of a single block.
fn single_names(layer: &str, width: usize) -> Vec<Named> {
    let part =
        |at: usize, length: usize| Some(Rows::range(at * width, length * width, (3 + FEED_FORWARD) * width));
    let third =
        |at: usize| vec![("linear1", part(at, 1)), ("qkv", Some(Rows::range(at * width, width, 3 * width)))];
    match layer {
        "attn.to_q" => third(0),
        "attn.to_k" => third(1),
        "attn.to_v" => third(2),
        "proj_mlp" => vec![("linear1", part(3, FEED_FORWARD))],
        "proj_out" => vec![("linear2", None), ("proj", None)],
        "norm.linear" => vec![("modulation.lin", None)],
        _ => Vec::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rows_of(layer: &str, name: &str) -> Option<Rows> {
        let names = transformer_names(layer, 8);
        let found = names.iter().find(|known| known.name == name);
        found.unwrap_or_else(|| panic!("{name} is not in {names:?}")).rows.clone()
    }

    #[test]
    fn a_layer_goes_by_diffusers_kohya_s_the_original_and_xlabs_name() {
        let query = "transformer_blocks.3.attn.to_q";
        for name in [query, "lora_transformer_transformer_blocks_3_attn_to_q"] {
            assert_eq!(rows_of(query, name), None, "{name}");
        }
        for name in [
            "double_blocks.3.img_attn.qkv",
            "diffusion_model.double_blocks.3.img_attn.qkv",
            "lora_unet_double_blocks_3_img_attn_qkv",
            "double_blocks.3.qkv_lora1",
        ] {
            assert_eq!(rows_of(query, name), Some(Rows::range(0, 8, 24)), "{name}");
        }
        let value = "transformer_blocks.3.attn.add_v_proj";
        assert_eq!(rows_of(value, "double_blocks.3.qkv_lora2"), Some(Rows::range(16, 8, 24)));
        assert_eq!(rows_of("transformer_blocks.0.ff.net.2", "lora_unet_double_blocks_0_img_mlp_2"), None);
    }

    #[test]
    fn the_first_layer_of_a_single_block_is_four_here() {
        let name = "lora_unet_single_blocks_1_linear1";
        let block = "single_transformer_blocks.1";
        for (layer, start, length) in
            [("attn.to_q", 0, 8), ("attn.to_k", 8, 8), ("attn.to_v", 16, 8), ("proj_mlp", 24, 32)]
        {
            assert_eq!(rows_of(&format!("{block}.{layer}"), name), Some(Rows::range(start, length, 56)));
        }
        assert_eq!(rows_of(&format!("{block}.proj_out"), "single_blocks.1.proj"), None);
    }

    #[test]
    fn scale_and_shift_of_the_last_layer_change_places() {
        let swapped = rows_of("norm_out.linear", "lora_unet_final_layer_adaLN_modulation_1").unwrap();
        assert_eq!((swapped.ranges, swapped.of), (vec![(8, 8), (0, 8)], 16));
        let guidance = "time_text_embed.guidance_embedder.linear_2";
        assert_eq!(rows_of(guidance, "lora_unet_guidance_in_out_layer"), None);
    }
}
