//! What a file is that is no LoRA of a model, told by the names of its tensors: for the error that refuses it.

/// Parts of names that one kind of file has and LoRAs have not, or have for one family only. The first that is found
/// counts.
const SIGNS: [(&str, &str); 22] = [
    ("model.diffusion_model.", "a whole checkpoint, which is given by --model"),
    ("control_model.", "a ControlNet"),
    ("controlnet_cond_embedding.", "a ControlNet"),
    ("input_hint_block.", "a ControlNet"),
    ("ip_adapter.", "an IP-Adapter"),
    ("emb_params", "a textual inversion"),
    ("string_to_param", "a textual inversion"),
    ("first_stage_model.", "an autoencoder"),
    ("decoder.conv_in.weight", "an autoencoder"),
    ("double_blocks", FLUX),
    ("single_blocks", FLUX),
    ("single_transformer_blocks", FLUX),
    ("joint_blocks", "a LoRA for Stable Diffusion 3"),
    ("joint_transformer_blocks", "a LoRA for Stable Diffusion 3"),
    ("diffusion_model.layers.", Z_IMAGE),
    ("lora_unet_layers_", Z_IMAGE),
    ("diffusion_model.blocks.", "a LoRA for a transformer of another family (Wan, Cosmos)"),
    ("transformer.transformer_blocks.", "a LoRA for a transformer (Flux, Stable Diffusion 3, Qwen-Image)"),
    ("lora_transformer_", FLUX),
    ("lora_te2_", XL),
    ("lora_te1_", XL),
    ("text_encoder_2.", XL),
];
/// Flux'.
pub const FLUX: &str = "a LoRA for Flux";
/// Z-Image's, and those of a family with the same names.
pub const Z_IMAGE: &str = "a LoRA for a transformer (Z-Image, Lumina)";
/// SDXL's.
pub const XL: &str = "a LoRA for SDXL";
/// Cross attention's keys in every naming.
const KEYS: [&str; 2] = ["attn2_to_k", "attn2.to_k"];

/// The kind that a file with these tensors is, `shape` being that of each; none where nothing tells it.
pub fn told_by<'a>(
    names: impl Iterator<Item = &'a str> + Clone,
    shape: impl Fn(&str) -> Option<&'a [usize]>,
) -> Option<&'static str> {
    let sign = SIGNS.iter().find(|(part, _)| names.clone().any(|name| name.contains(part)));
    if let Some((_, kind)) = sign {
        return Some(kind);
    }
    let mut keys = names.filter(|name| KEYS.iter().any(|key| name.contains(key)));
    keys.find_map(|name| by_width(*shape(name)?.get(1)?))
}

/// The family that attends to texts of this width.
pub fn by_width(width: usize) -> Option<&'static str> {
    match width {
        768 => Some("a LoRA for Stable Diffusion 1"),
        1024 => Some("a LoRA for Stable Diffusion 2"),
        2048 => Some(XL),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_is_told_by_a_name_or_by_the_width_of_its_text() {
        let of = |name: &'static str, width: usize| {
            let shape = [4, width];
            told_by(std::iter::once(name), |_| Some(Box::leak(Box::new(shape)) as &[usize]))
        };
        assert_eq!(of("lora_unet_double_blocks_0_img_mod_lin.lora_down.weight", 1), Some(FLUX));
        assert_eq!(of("lora_te2_text_model_encoder_layers_0_mlp_fc1.alpha", 1), Some(XL));
        assert_eq!(of("model.diffusion_model.out.2.bias", 1), Some(SIGNS[0].1));
        let key = "lora_unet_mid_block_attentions_0_transformer_blocks_0_attn2_to_k.lora_down.weight";
        assert_eq!(of(key, 768), Some("a LoRA for Stable Diffusion 1"));
        assert_eq!(of(key, 2048), Some(XL));
        assert_eq!(of(key, 32), None);
    }
}
