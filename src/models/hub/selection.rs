//! Which files of a repository a checkpoint in the diffusers layout is read from: configurations, tokenizers, and one
//! set of safetensors weights for each component. Pickled weights and those of other frameworks stay where they are.

use candle_core::DType;
use serde_json::Value;

use crate::diffusion::{Component, FAMILIES, Precision, by_pipeline};

/// The pipeline's own file.
pub(super) const INDEX: &str = "model_index.json";
/// The one variant of weights that is read; `model.non_ema.safetensors` is none.
const HALF: &str = "fp16";

/// A component whose files cannot be chosen: its folder, and what there is instead.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct NoWeights {
    pub component: String,
    pub found: String,
}

/// An index from which no components follow: what was expected, and what there is.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct NoFamily {
    pub expected: String,
    pub found: String,
}

/// The components that a checkpoint with this `model_index.json` is loaded with: those of its family that it names.
///
/// # Errors
/// When the file is no JSON object, or of a pipeline that is not computed here.
pub(super) fn components(index: &[u8]) -> Result<Vec<Component>, NoFamily> {
    let unusable = |expected: String, found: &str| NoFamily { expected, found: found.to_owned() };
    let index: Value = serde_json::from_slice(index).unwrap_or_default();
    let Value::Object(index) = index else {
        return Err(unusable(format!("a JSON object in {INDEX}"), "something else"));
    };
    let class = index.get("_class_name").and_then(Value::as_str).unwrap_or("none");
    let Some(family) = by_pipeline(class) else {
        let known: Vec<&str> = FAMILIES.iter().flat_map(|family| family.pipelines()).copied().collect();
        return Err(unusable(format!("`_class_name` in {INDEX}: one of {}", known.join(", ")), class));
    };
    let is_named = |component: &&Component| {
        index.get(component.name).and_then(|class| class.get(1)).is_some_and(Value::is_string)
    };
    Ok(family.components().iter().filter(is_named).copied().collect())
}

/// Out of the paths of a repository those that the components need.
///
/// # Errors
/// A component without safetensors weights.
pub(super) fn select(
    paths: &[String],
    components: &[Component],
    precision: Precision,
) -> Result<Vec<String>, NoWeights> {
    let mut chosen = vec![INDEX.to_owned()];
    for component in components {
        let files: Vec<&str> = paths
            .iter()
            .filter_map(|path| path.strip_prefix(component.name)?.strip_prefix('/'))
            .filter(|name| !name.contains('/') && !name.is_empty())
            .collect();
        let mut wanted: Vec<&str> = files.iter().copied().filter(|name| is_text(name)).collect();
        if let Some(kept) = component.role.kept_as(precision) {
            wanted.extend(weights(component.name, &files, kept)?);
        }
        chosen.extend(wanted.iter().map(|name| format!("{}/{name}", component.name)));
    }
    Ok(chosen)
}

/// Configurations, vocabularies, merges; not the indexes of weights, which go with their weights.
fn is_text(name: &str) -> bool {
    (name.ends_with(".json") || name.ends_with(".txt")) && !name.contains(".index.")
}

/// The weights that fit the type they are kept in: half precision is taken where it is kept, or where there is nothing
/// else.
fn weights<'a>(component: &str, files: &[&'a str], kept: DType) -> Result<Vec<&'a str>, NoWeights> {
    let of_variant = |variant: Option<&str>| -> Vec<&'a str> {
        let files = files.iter().copied().filter(|name| variant_of(name) == Some(variant));
        let all: Vec<&str> = files.collect();
        if all.iter().any(|name| name.ends_with(".safetensors")) { all } else { vec![] }
    };
    let (plain, half) = (of_variant(None), of_variant(Some(HALF)));
    let kept_half = matches!(kept, DType::F16 | DType::BF16);
    let (first, second) = if kept_half { (half, plain) } else { (plain, half) };
    let set = if first.is_empty() { second } else { first };
    if !set.is_empty() {
        return Ok(set);
    }
    let other: Vec<&str> = files.iter().copied().filter(|name| !is_text(name)).collect();
    let found = if other.is_empty() { "none".to_owned() } else { other.join(", ") };
    Err(NoWeights { component: component.to_owned(), found })
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
        let components: Vec<Component> = components(INDEX_OF_SOME).unwrap();
        let mut chosen = select(&paths, &components, precision)?;
        chosen.sort();
        Ok(chosen)
    }

    /// No text encoder, as far as the index says.
    const INDEX_OF_SOME: &[u8] = br#"{"_class_name": "StableDiffusionPipeline", "tokenizer": ["t", "T"],
        "unet": ["diffusers", "U"], "vae": ["diffusers", "V"]}"#;

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
        let names = |index: &[u8]| {
            components(index).map(|all| all.iter().map(|component| component.name).collect::<Vec<_>>())
        };
        let index = br#"{"_class_name": "StableDiffusionPipeline", "unet": ["diffusers", "U"],
            "safety_checker": ["x", "Y"], "vae": [null, null], "../vae": ["diffusers", "V"],
            "force_zeros": true}"#;
        assert_eq!(names(index), Ok(vec!["unet"]));
        let refiner = br#"{"_class_name": "StableDiffusionXLImg2ImgPipeline", "text_encoder": [null, null],
            "text_encoder_2": ["transformers", "C"], "tokenizer_2": ["transformers", "T"]}"#;
        assert_eq!(names(refiner), Ok(vec!["tokenizer_2", "text_encoder_2"]));
        assert_eq!(names(b"[]").unwrap_err().expected, "a JSON object in model_index.json");
        let other = names(br#"{"_class_name": "CogVideoXPipeline"}"#).unwrap_err();
        assert!(other.expected.contains("FluxPipeline") && other.found == "CogVideoXPipeline", "{other:?}");
    }
}
