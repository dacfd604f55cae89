//! Qwen3 under transformers' names.

use std::sync::Arc;

use serde_json::json;

use super::{count, shape};
use crate::diffusion::{
    DiffusionError,
    checkpoint::{ComponentFile, ConfigFile, MappedFile, Under},
};

/// What its names begin with in a file, before those of its layers.
const PREFIXES: [&str; 2] = ["text_encoders.qwen3_4b.transformer.", ""];
/// What a model that writes text has before the names of its encoder, and an encoder alone has not.
const INNER: [&str; 2] = ["model.", ""];

/// Qwen3 of a file.
///
/// # Errors
/// Tensors that have no shapes of one.
pub fn qwen3(
    file: &Arc<MappedFile>,
    given: Option<&ConfigFile>,
) -> Result<Option<ComponentFile>, DiffusionError> {
    let places =
        PREFIXES.into_iter().flat_map(|prefix| INNER.map(|inner| (prefix, format!("{prefix}{inner}"))));
    // Norms of queries and keys tell Qwen3 from other models of these names.
    let norm = |inner: &str| format!("{inner}layers.0.self_attn.q_norm.weight");
    let Some((prefix, inner)) = places.into_iter().find(|(_, inner)| file.has(&norm(inner))) else {
        return Ok(None);
    };
    let config = match given {
        Some(given) => given.json(),
        None => {
            let of_layer = |name: &str| format!("{inner}layers.0.{name}.weight");
            let head = shape(file, &norm(&inner), 1)?[0].max(1);
            let tokens = shape(file, &format!("{inner}embed_tokens.weight"), 2)?;
            json!({
                "architectures": ["Qwen3Model"],
                "vocab_size": tokens[0],
                "hidden_size": tokens[1],
                "head_dim": head,
                "num_attention_heads": shape(file, &of_layer("self_attn.q_proj"), 2)?[0] / head,
                "num_key_value_heads": shape(file, &of_layer("self_attn.k_proj"), 2)?[0] / head,
                "intermediate_size": shape(file, &of_layer("mlp.gate_proj"), 2)?[0],
                "num_hidden_layers": count(file, |i| format!("{inner}layers.{i}.input_layernorm.weight")),
                "rms_norm_eps": 1e-6,
                "rope_theta": 1e6,
            })
        }
    };
    Ok(Some(ComponentFile { file: file.clone(), names: Some(Arc::new(Under(prefix))), config }))
}
