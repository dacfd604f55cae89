//! What a safetensors file holds that no family recognises as a checkpoint of its own, for the error that refuses it.

use super::MappedFile;

/// Parts of tensors' names that tell a kind of file. The first that is found counts.
const SIGNS: [(&str, &str); 23] = [
    ("lora_down", LORA),
    ("lora_A.", LORA),
    ("lora.down", LORA),
    ("lora_linear_layer", LORA),
    (
        "single_transformer_blocks.0.",
        "a Flux transformer in the diffusers layout; name its pipeline's folder",
    ),
    ("double_blocks.0.", "a transformer of Flux or of a relative"),
    ("cap_pad_token", "a transformer of Z-Image"),
    ("layers.0.self_attn.q_norm.", "a text encoder alone"),
    ("joint_blocks.0.", "Stable Diffusion 3"),
    ("control_model.", "a ControlNet"),
    ("controlnet_cond_embedding.", "a ControlNet"),
    ("input_hint_block.", "a ControlNet"),
    ("input_blocks.0.0.weight", "a UNet of Stable Diffusion"),
    ("ip_adapter.", "an IP-Adapter"),
    ("emb_params", "a textual inversion"),
    ("encoder.conv_in.weight", "an autoencoder alone"),
    ("decoder.conv_in.weight", "an autoencoder alone"),
    ("conv_in.weight", "one component in the diffusers layout; name its pipeline's folder"),
    ("encoder.block.0.layer.0.SelfAttention", "a T5 text encoder alone"),
    ("text_model.encoder.layers.0.", "a text encoder alone"),
    ("embeddings.position_embedding.weight", "a text encoder alone"),
    ("body.0.rdb1.", "an upscaler"),
    ("model.1.sub.0.RDB1.", "an upscaler"),
];
const LORA: &str =
    "a LoRA, which is no model: put it into the folder of --lora-dir and name it in a job's `loras`";

/// What a file holds that no family has recognised.
pub fn what_it_holds(file: &MappedFile) -> String {
    let mut names = file.names();
    names.sort();
    let sign = SIGNS.iter().find(|(part, _)| names.iter().any(|name| name.contains(part)));
    match (sign, names.first()) {
        (Some((_, kind)), _) => (*kind).to_owned(),
        (None, Some(first)) => format!("{} tensors, the first `{first}`", names.len()),
        (None, None) => "no tensors".to_owned(),
    }
}
