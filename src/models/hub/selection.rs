//! Which files of a repository a checkpoint in the diffusers layout is read from: configurations, tokenizers, and one
//! set of safetensors weights for each component. Pickled weights and those of other frameworks stay where they are.

use candle_core::DType;
use serde_json::Value;

use crate::diffusion::Precision;

/// The pipeline's own file.
pub(super) const INDEX: &str = "model_index.json";
/// Components of a pipeline that no picture is computed with here.
const UNUSED: [&str; 3] = ["safety_checker", "feature_extractor", "image_encoder"];
/// The one variant of weights that is read; `model.non_ema.safetensors` is none.
const HALF: &str = "fp16";

/// A component whose files cannot be chosen: its folder, and what there is instead.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct NoWeights {
    pub component: String,
    pub found: String,
}

/// The components that `model_index.json` names and a checkpoint is loaded with.
///
/// None when the file is no JSON object.
pub(super) fn components(index: &[u8]) -> Option<Vec<String>> {
    let index: Value = serde_json::from_slice(index).ok()?;
    let is_used = |(name, class): &(&String, &Value)| {
        let plain = name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_') && !name.starts_with('_');
        plain && !UNUSED.contains(&name.as_str()) && class.get(1).is_some_and(Value::is_string)
    };
    Some(index.as_object()?.iter().filter(is_used).map(|(name, _)| name.clone()).collect())
}

/// Whether a component has weights; a tokenizer and a scheduler have files of text only.
fn has_weights(component: &str) -> bool {
    !component.starts_with("tokenizer") && component != "scheduler"
}

/// Out of the paths of a repository those that the components need.
///
/// # Errors
/// A component without safetensors weights.
pub(super) fn select(
    paths: &[String],
    components: &[String],
    precision: Precision,
) -> Result<Vec<String>, NoWeights> {
    let mut chosen = vec![INDEX.to_owned()];
    for component in components {
        let files: Vec<&str> = paths
            .iter()
            .filter_map(|path| path.strip_prefix(component.as_str())?.strip_prefix('/'))
            .filter(|name| !name.contains('/') && !name.is_empty())
            .collect();
        let mut wanted: Vec<&str> = files.iter().copied().filter(|name| is_text(name)).collect();
        if has_weights(component) {
            wanted.extend(weights(component, &files, precision)?);
        }
        chosen.extend(wanted.iter().map(|name| format!("{component}/{name}")));
    }
    Ok(chosen)
}

/// Configurations, vocabularies, merges; not the indexes of weights, which go with their weights.
fn is_text(name: &str) -> bool {
    (name.ends_with(".json") || name.ends_with(".txt")) && !name.contains(".index.")
}

/// The weights that fit the type they are kept in: half precision is taken where it is kept, or where there is nothing
/// else.
fn weights<'a>(component: &str, files: &[&'a str], precision: Precision) -> Result<Vec<&'a str>, NoWeights> {
    let of_variant = |variant: Option<&str>| -> Vec<&'a str> {
        let files = files.iter().copied().filter(|name| variant_of(name) == Some(variant));
        let all: Vec<&str> = files.collect();
        if all.iter().any(|name| name.ends_with(".safetensors")) { all } else { vec![] }
    };
    let (plain, half) = (of_variant(None), of_variant(Some(HALF)));
    let kept_half = matches!(kept_as(component, precision), DType::F16 | DType::BF16);
    let (first, second) = if kept_half { (half, plain) } else { (plain, half) };
    let set = if first.is_empty() { second } else { first };
    if !set.is_empty() {
        return Ok(set);
    }
    let other: Vec<&str> = files.iter().copied().filter(|name| !is_text(name)).collect();
    let found = if other.is_empty() { "none".to_owned() } else { other.join(", ") };
    Err(NoWeights { component: component.to_owned(), found })
}

fn kept_as(component: &str, precision: Precision) -> DType {
    match component {
        "vae" => precision.vae,
        "unet" | "transformer" => precision.denoiser,
        _ => precision.text_encoder,
    }
}

/// The variant in the name of a file of safetensors weights, or of their index; none when it is no such file.
/// `model.safetensors`, `model.fp16.safetensors`, `model-00001-of-00002.safetensors`,
/// `model.fp16-00001-of-00002.safetensors`, `model.safetensors.index.fp16.json`.
fn variant_of(name: &str) -> Option<Option<&str>> {
    let stem = ["diffusion_pytorch_model", "model"].into_iter().find_map(|stem| name.strip_prefix(stem))?;
    if let Some(index) = stem.strip_prefix(".safetensors.index") {
        return match index.strip_suffix("json")?.trim_matches('.') {
            "" => Some(None),
            variant => Some(Some(variant)),
        };
    }
    let rest = stem.strip_suffix(".safetensors")?;
    let (before, after) = match rest.find("-of-") {
        // `-00001-of-00002`, before or after the variant.
        Some(at) => {
            let start = at.checked_sub(6)?;
            let end = at + 9;
            let digits = |part: Option<&str>| part.is_some_and(|p| p.bytes().all(|b| b.is_ascii_digit()));
            if !digits(rest.get(start + 1..at)) || !digits(rest.get(at + 4..end)) {
                return None;
            }
            (rest.get(..start)?, rest.get(end..)?)
        }
        None => (rest, ""),
    };
    match (before.strip_prefix('.'), after.strip_prefix('.')) {
        (None, None) if before.is_empty() && after.is_empty() => Some(None),
        (Some(variant), None) if after.is_empty() => Some(Some(variant)),
        (None, Some(variant)) if before.is_empty() => Some(Some(variant)),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn selected(paths: &[&str], precision: Precision) -> Result<Vec<String>, NoWeights> {
        let paths: Vec<String> = paths.iter().map(|path| (*path).to_owned()).collect();
        let mut chosen = select(&paths, &["tokenizer".into(), "unet".into(), "vae".into()], precision)?;
        chosen.sort();
        Ok(chosen)
    }

    const REPOSITORY: [&str; 16] = [
        "README.md",
        "model_index.json",
        "sd.safetensors",
        "safety_checker/model.safetensors",
        "tokenizer/merges.txt",
        "tokenizer/vocab.json",
        "unet/config.json",
        "unet/diffusion_pytorch_model.bin",
        "unet/diffusion_pytorch_model.fp16.safetensors",
        "unet/diffusion_pytorch_model.non_ema.safetensors",
        "unet/diffusion_pytorch_model.safetensors",
        "unet/model.onnx",
        "unet/flax_model.msgpack",
        "vae/config.json",
        "vae/diffusion_pytorch_model.safetensors",
        "vae/deep/er/diffusion_pytorch_model.safetensors",
    ];

    #[test]
    fn what_a_checkpoint_is_not_read_from_is_not_fetched() {
        let chosen = selected(&REPOSITORY, Precision::all(DType::F32)).unwrap();
        assert_eq!(
            chosen,
            [
                "model_index.json",
                "tokenizer/merges.txt",
                "tokenizer/vocab.json",
                "unet/config.json",
                "unet/diffusion_pytorch_model.safetensors",
                "vae/config.json",
                "vae/diffusion_pytorch_model.safetensors",
            ]
        );
    }

    #[test]
    fn half_precision_is_taken_where_it_is_kept_and_there_is_some() {
        let chosen = selected(&REPOSITORY, Precision::all(DType::F16)).unwrap();
        assert!(chosen.contains(&"unet/diffusion_pytorch_model.fp16.safetensors".into()), "{chosen:?}");
        assert!(!chosen.contains(&"unet/diffusion_pytorch_model.safetensors".into()), "{chosen:?}");
        assert!(chosen.contains(&"vae/diffusion_pytorch_model.safetensors".into()), "{chosen:?}");
        let mixed = Precision { denoiser: DType::F32, ..Precision::all(DType::F16) };
        assert!(
            selected(&REPOSITORY, mixed)
                .unwrap()
                .contains(&"unet/diffusion_pytorch_model.safetensors".into())
        );
    }

    #[test]
    fn weights_in_several_files_come_with_their_index() {
        let chosen = selected(
            &[
                "unet/diffusion_pytorch_model-00001-of-00002.safetensors",
                "unet/diffusion_pytorch_model-00002-of-00002.safetensors",
                "unet/diffusion_pytorch_model.safetensors.index.json",
                "unet/diffusion_pytorch_model.bin.index.json",
                "vae/diffusion_pytorch_model.fp16-00001-of-00002.safetensors",
                "vae/diffusion_pytorch_model.safetensors.index.fp16.json",
            ],
            Precision::all(DType::F32),
        )
        .unwrap();
        assert_eq!(chosen.len(), 6, "{chosen:?}");
        assert!(!chosen.iter().any(|path| path.contains(".bin")), "{chosen:?}");
    }

    #[test]
    fn a_component_with_pickled_weights_only_is_named() {
        let error = selected(&["unet/diffusion_pytorch_model.bin"], Precision::all(DType::F32)).unwrap_err();
        assert_eq!((error.component.as_str(), error.found.as_str()), ("unet", "diffusion_pytorch_model.bin"));
    }

    #[test]
    fn components_are_those_a_picture_is_computed_with() {
        let index = br#"{"_class_name": "P", "unet": ["diffusers", "U"], "safety_checker": ["x", "Y"],
            "image_encoder": [null, null], "../vae": ["diffusers", "V"], "force_zeros": true}"#;
        assert_eq!(components(index), Some(vec!["unet".to_owned()]));
        assert_eq!(components(b"[]"), None);
    }
}
