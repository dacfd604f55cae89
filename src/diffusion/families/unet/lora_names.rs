//! The names that a layer goes by in LoRA files: kohya's, peft's and those of diffusers before peft.

use super::single_file::original_unet_name;

/// What the names of layers in a component begin with in kohya's files, and in those of LyCORIS without kohya's scripts.
fn kohya_prefixes(component: &str) -> &'static [&'static str] {
    match component {
        "unet" => &["lora_unet_", "lycoris_"],
        "text_encoder" => &["lora_te_", "lora_te1_"],
        _ => &["lora_te2_"],
    }
}

/// Projections of a text encoder, and what diffusers called them before peft.
const OLD_PROJECTIONS: [(&str, &str); 4] =
    [("q_proj", "to_q"), ("k_proj", "to_k"), ("v_proj", "to_v"), ("out_proj", "to_out")];

/// Every name in a file, up to the part that says which matrix it is, for `layer` of `component`. `layers`: residual
/// layers of a UNet's down blocks, which the names of SDXL's own code count through; none where blocks differ, for which
/// there are no such names. `only_encoder`: the model has one text encoder, which files then need not name.
pub fn names_of(component: &str, layer: &str, layers: Option<usize>, only_encoder: bool) -> Vec<String> {
    let own = match component {
        "unet" => unet_names(layer),
        _ => text_names(layer),
    };
    let original: Vec<String> = match layers.filter(|_| component == "unet") {
        Some(layers) => {
            [true, false].iter().filter_map(|last| original_unet_name(layer, layers, *last)).collect()
        }
        None => Vec::new(),
    };
    let mut names: Vec<String> = own.iter().map(|name| format!("{component}.{name}")).collect();
    // Files of one component alone leave it out.
    if component == "unet" || only_encoder {
        names.extend(own.iter().cloned());
    }
    // As the original code and interfaces built on it have it in their hands.
    names.extend(original.iter().map(|name| format!("diffusion_model.{name}")));
    for prefix in kohya_prefixes(component) {
        let flat = |name: &String| format!("{prefix}{}", name.replace('.', "_"));
        names.extend(own.iter().chain(&original).map(flat));
    }
    names.sort();
    names.dedup();
    names
}

fn unet_names(layer: &str) -> Vec<String> {
    let short = layer.strip_suffix(".to_out.0").map(|attention| format!("{attention}.to_out"));
    std::iter::once(layer.to_owned()).chain(short).collect()
}

/// transformers dropped the leading `text_model` in its version 5; files have either.
fn text_names(layer: &str) -> Vec<String> {
    let inner = layer.strip_prefix("text_model.").unwrap_or(layer);
    let old = OLD_PROJECTIONS
        .iter()
        .find_map(|(name, old)| Some(format!("{}.{old}", inner.strip_suffix(&format!(".{name}"))?)));
    let names = std::iter::once(inner.to_owned()).chain(old);
    names.flat_map(|name| [format!("text_model.{name}"), name]).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn has(component: &str, layer: &str, name: &str) {
        let names = names_of(component, layer, Some(2), true);
        assert!(names.iter().any(|known| known == name), "{name} is not in {names:?}");
    }

    #[test]
    fn a_layer_of_the_unet_goes_by_every_format_s_name() {
        let query = "down_blocks.1.attentions.0.transformer_blocks.0.attn1.to_q";
        has("unet", query, "lora_unet_down_blocks_1_attentions_0_transformer_blocks_0_attn1_to_q");
        has("unet", query, "lora_unet_input_blocks_4_1_transformer_blocks_0_attn1_to_q");
        has("unet", query, "diffusion_model.input_blocks.4.1.transformer_blocks.0.attn1.to_q");
        has("unet", query, &format!("unet.{query}"));
        has("unet", query, query);
        let out = "mid_block.attentions.0.transformer_blocks.0.attn2.to_out.0";
        has("unet", out, "unet.mid_block.attentions.0.transformer_blocks.0.attn2.to_out");
        has("unet", out, "lora_unet_middle_block_1_transformer_blocks_0_attn2_to_out_0");
        has("unet", "up_blocks.0.upsamplers.0.conv", "lora_unet_output_blocks_2_2_conv");
        has("unet", "down_blocks.0.resnets.1.time_emb_proj", "lora_unet_input_blocks_2_0_emb_layers_1");
    }

    #[test]
    fn a_layer_of_a_text_encoder_goes_by_every_format_s_name() {
        for layer in ["encoder.layers.3.self_attn.q_proj", "text_model.encoder.layers.3.self_attn.q_proj"] {
            has("text_encoder", layer, "lora_te_text_model_encoder_layers_3_self_attn_q_proj");
            has("text_encoder", layer, "lora_te1_text_model_encoder_layers_3_self_attn_q_proj");
            has("text_encoder_2", layer, "lora_te2_text_model_encoder_layers_3_self_attn_q_proj");
            has("text_encoder_2", layer, "text_encoder_2.encoder.layers.3.self_attn.q_proj");
            has("text_encoder", layer, "text_encoder.text_model.encoder.layers.3.self_attn.to_q");
            has("text_encoder", layer, "text_model.encoder.layers.3.self_attn.q_proj");
            let of_two = names_of("text_encoder", layer, Some(2), false);
            assert!(!of_two.contains(&"text_model.encoder.layers.3.self_attn.q_proj".to_owned()));
        }
    }
}
