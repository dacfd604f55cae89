//! T5's encoder under transformers' names.

use std::sync::Arc;

use serde_json::json;

use super::{count, shape};
use crate::diffusion::{
    DiffusionError,
    checkpoint::{ComponentFile, ConfigFile, MappedFile, Under},
};

/// What its names begin with in a file.
const PREFIXES: [&str; 2] = ["text_encoders.t5xxl.transformer.", ""];

/// T5's encoder of a file, one of the second edition, whose feed-forward layers are gated.
///
/// # Errors
/// Tensors that have no shapes of one.
pub fn t5(
    file: &Arc<MappedFile>,
    given: Option<&ConfigFile>,
) -> Result<Option<ComponentFile>, DiffusionError> {
    let q = |prefix: &str| format!("{prefix}encoder.block.0.layer.0.SelfAttention.q.weight");
    let Some(prefix) = PREFIXES.into_iter().find(|prefix| file.has(&q(prefix))) else { return Ok(None) };
    let config = match given {
        Some(given) => given.json(),
        None => {
            let inner = format!("{prefix}encoder.block");
            let bias = format!("{inner}.0.layer.0.SelfAttention.relative_attention_bias.weight");
            let [buckets, heads] = shape(file, &bias, 2)?[..] else { return Ok(None) };
            let [rows, width] = shape(file, &q(prefix), 2)?[..] else { return Ok(None) };
            let tokens = match file.has(&format!("{prefix}shared.weight")) {
                true => format!("{prefix}shared.weight"),
                false => format!("{prefix}encoder.embed_tokens.weight"),
            };
            json!({
                "architectures": ["T5EncoderModel"],
                "feed_forward_proj": "gated-gelu",
                "vocab_size": shape(file, &tokens, 2)?[0],
                "d_model": width,
                "d_kv": rows / heads.max(1),
                "d_ff": shape(file, &format!("{inner}.0.layer.1.DenseReluDense.wi_0.weight"), 2)?[0],
                "num_layers": count(file, |i| format!("{inner}.{i}.layer.0.SelfAttention.q.weight")),
                "num_heads": heads,
                "relative_attention_num_buckets": buckets,
                "relative_attention_max_distance": 128,
                "layer_norm_epsilon": 1e-6,
            })
        }
    };
    Ok(Some(ComponentFile { file: file.clone(), names: Some(Arc::new(Under(prefix))), config }))
}
