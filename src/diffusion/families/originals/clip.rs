//! CLIP's text encoders: under transformers' names, or under OpenCLIP's.

use std::sync::Arc;

use serde_json::{Value, json};

use super::{count, heads, put, shape};
use crate::diffusion::{
    DiffusionError,
    checkpoint::{ComponentFile, ConfigFile, Cut, MappedFile, Names},
};

/// What both kinds' names begin with in a file that has more than it.
const TRANSFORMERS: [&str; 4] = [
    "cond_stage_model.transformer.",
    "conditioner.embedders.0.transformer.",
    "text_encoders.clip_l.transformer.",
    "",
];
const OPEN_CLIP: [&str; 5] = [
    "cond_stage_model.model.",
    "conditioner.embedders.1.model.",
    "conditioner.embedders.0.model.",
    "text_encoders.clip_g.transformer.",
    "",
];
/// OpenCLIP's layers in Stable Diffusion 2, of which the last is not used.
const V2_LAYERS: usize = 24;

/// Which of CLIP's text encoders a model has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Clip {
    /// OpenAI's ViT-L/14: Stable Diffusion 1, the first of SDXL, and Flux.
    L,
    /// OpenCLIP's ViT-H/14, whose last layer is left out: Stable Diffusion 2.
    H,
    /// OpenCLIP's ViT-bigG/14, with a projection: the second of SDXL.
    G,
}

/// The text encoder of a file.
///
/// # Errors
/// Tensors that have no shapes of one.
pub fn clip(
    file: &Arc<MappedFile>,
    kind: Clip,
    given: Option<&ConfigFile>,
) -> Result<Option<ComponentFile>, DiffusionError> {
    let prefixes: &[&'static str] = match kind {
        Clip::L => &TRANSFORMERS,
        Clip::H => &["cond_stage_model.transformer.", ""],
        Clip::G => &["conditioner.embedders.1.transformer.", "text_encoders.clip_g.transformer.", ""],
    };
    let by_transformers =
        prefixes.iter().copied().find(|prefix| signs(prefix).iter().any(|sign| file.has(sign)));
    let by_open_clip = || {
        let prefixes = OPEN_CLIP.into_iter().filter(|_| kind != Clip::L);
        prefixes.into_iter().find(|prefix| file.has(&format!("{prefix}positional_embedding")))
    };
    let (names, config): (Arc<dyn Names>, _) = match (by_transformers, given) {
        (Some(prefix), Some(given)) => (Arc::new(Transformers(prefix)), given.json()),
        (Some(prefix), None) => (Arc::new(Transformers(prefix)), of_transformers(file, kind, prefix)?),
        (None, given) => {
            let Some(prefix) = by_open_clip() else { return Ok(None) };
            let config = match given {
                Some(given) => given.json(),
                None => of_open_clip(file, kind, prefix)?,
            };
            (Arc::new(OpenClip(prefix)), config)
        }
    };
    Ok(Some(ComponentFile { file: file.clone(), names: Some(names), config }))
}

fn signs(prefix: &str) -> [String; 2] {
    ["text_model.", ""].map(|inner| format!("{prefix}{inner}embeddings.position_embedding.weight"))
}

/// transformers' CLIPTextModel under a prefix, with or without `text_model.` after it.
struct Transformers(&'static str);

impl Names for Transformers {
    fn has(&self, name: &str) -> bool {
        name.starts_with(self.0)
    }

    fn original(&self, key: &str, has: &dyn Fn(&str) -> bool) -> (String, Cut) {
        (transformers(key, self.0, has), Cut::Whole)
    }
}

/// OpenCLIP's text tower under a prefix.
struct OpenClip(&'static str);

impl Names for OpenClip {
    fn has(&self, name: &str) -> bool {
        name.starts_with(self.0)
    }

    fn original(&self, key: &str, _: &dyn Fn(&str) -> bool) -> (String, Cut) {
        open_clip(key, self.0)
    }
}

fn of_transformers(file: &MappedFile, kind: Clip, prefix: &str) -> Result<Value, DiffusionError> {
    let short = file.has(&format!("{prefix}embeddings.position_embedding.weight"));
    let inner = if short { prefix.to_owned() } else { format!("{prefix}text_model.") };
    let layer = |i: usize| format!("{inner}encoder.layers.{i}.mlp.fc1.weight");
    let tensors = (
        format!("{inner}embeddings.token_embedding.weight"),
        format!("{inner}embeddings.position_embedding.weight"),
        shape(file, &layer(0), 2)?[0],
        count(file, layer),
    );
    let projection = match kind {
        Clip::G => Some(shape(file, &format!("{prefix}text_projection.weight"), 2)?[0]),
        Clip::L | Clip::H => None,
    };
    configuration(file, kind, tensors, projection)
}

fn of_open_clip(file: &MappedFile, kind: Clip, prefix: &str) -> Result<Value, DiffusionError> {
    let layer = |i: usize| format!("{prefix}transformer.resblocks.{i}.mlp.c_fc.weight");
    let layers = match count(file, layer) {
        V2_LAYERS if kind == Clip::H => V2_LAYERS - 1,
        layers => layers,
    };
    let tensors = (
        format!("{prefix}token_embedding.weight"),
        format!("{prefix}positional_embedding"),
        shape(file, &layer(0), 2)?[0],
        layers,
    );
    let projection = match kind {
        Clip::G => Some(shape(file, &format!("{prefix}text_projection"), 2)?[1]),
        Clip::L | Clip::H => None,
    };
    configuration(file, kind, tensors, projection)
}

/// What the tensors tell, over what they do not.
fn configuration(
    file: &MappedFile,
    kind: Clip,
    (tokens, positions, intermediate, layers): (String, String, usize, usize),
    projection: Option<usize>,
) -> Result<Value, DiffusionError> {
    let (tokens, positions) = (shape(file, &tokens, 2)?, shape(file, &positions, 2)?);
    let width = tokens[1];
    let mut config = json!({
        "architectures": [if kind == Clip::G { "CLIPTextModelWithProjection" } else { "CLIPTextModel" }],
        "hidden_act": if kind == Clip::L { "quick_gelu" } else { "gelu" },
        "layer_norm_eps": 1e-5,
        "bos_token_id": 0,
        "eos_token_id": 2,
        "pad_token_id": 1,
        "model_type": "clip_text_model",
        "vocab_size": tokens[0],
        "hidden_size": width,
        "intermediate_size": intermediate,
        "num_attention_heads": heads(width),
        "num_hidden_layers": layers,
        "max_position_embeddings": positions[0],
    });
    if let Some(projection) = projection {
        put(&mut config, json!({ "projection_dim": projection }));
    }
    Ok(config)
}

fn transformers(key: &str, prefix: &str, has: &dyn Fn(&str) -> bool) -> String {
    let inner = key.strip_prefix("text_model.").unwrap_or(key);
    let short = format!("{prefix}{inner}");
    if inner.starts_with("text_projection") || has(&short) {
        return short;
    }
    format!("{prefix}text_model.{inner}")
}

fn open_clip(key: &str, prefix: &str) -> (String, Cut) {
    let inner = key.strip_prefix("text_model.").unwrap_or(key);
    let (place, cut) = match inner {
        "embeddings.token_embedding.weight" => ("token_embedding.weight".to_owned(), Cut::Whole),
        "embeddings.position_embedding.weight" => ("positional_embedding".to_owned(), Cut::Whole),
        "text_projection.weight" => ("text_projection".to_owned(), Cut::Transposed),
        _ => match inner.strip_prefix("encoder.layers.").and_then(|rest| rest.split_once('.')) {
            Some((layer, rest)) => {
                let (rest, part) = open_clip_layer(rest);
                (format!("transformer.resblocks.{layer}.{rest}"), part)
            }
            None => (inner.replace("final_layer_norm.", "ln_final."), Cut::Whole),
        },
    };
    (format!("{prefix}{place}"), cut)
}

fn open_clip_layer(rest: &str) -> (String, Cut) {
    if let Some((layer, end)) = rest.strip_prefix("self_attn.").and_then(|rest| rest.split_once('.')) {
        return match layer {
            "q_proj" => (format!("attn.in_proj_{end}"), Cut::third(0)),
            "k_proj" => (format!("attn.in_proj_{end}"), Cut::third(1)),
            "v_proj" => (format!("attn.in_proj_{end}"), Cut::third(2)),
            _ => (format!("attn.{layer}.{end}"), Cut::Whole),
        };
    }
    let names = [
        ("layer_norm1.", "ln_1."),
        ("layer_norm2.", "ln_2."),
        ("mlp.fc1.", "mlp.c_fc."),
        ("mlp.fc2.", "mlp.c_proj."),
    ];
    let rest = names
        .iter()
        .find_map(|(new, old)| Some(format!("{old}{}", rest.strip_prefix(new)?)))
        .unwrap_or_else(|| rest.to_owned());
    (rest, Cut::Whole)
}
