//! A checkpoint in one safetensors file, in the original layout of CompVis and Stability: which it is, its configurations,
//! and where each component's tensors are.

mod incomplete;
mod names;
mod presets;
mod shapes;

use std::{collections::BTreeMap, sync::Arc};

use serde_json::Value;

pub use names::original_unet_name;

use self::names::OriginalNames;
use crate::diffusion::{
    DiffusionError,
    checkpoint::{MappedFile, Names, SingleFile, TokenizerFiles},
};

/// What the UNet's names begin with.
const UNET: &str = "model.diffusion_model.";
/// What the autoencoder's names begin with.
const VAE: [&str; 2] = ["first_stage_model.", "vae."];
/// The tensor that a file of this kind has.
pub const SIGN: &str = "model.diffusion_model.input_blocks.0.0.weight";

/// What comes as a single file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    V1,
    V2,
    XlBase,
    XlRefiner,
}

/// What the UNet predicts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Prediction {
    Epsilon,
    Velocity,
}

/// A file of this kind as a checkpoint.
///
/// # Errors
/// A component that is missing, or whose tensors have no shapes of one.
pub fn open(file: &Arc<MappedFile>, kind: Kind) -> Result<SingleFile, DiffusionError> {
    let conv_in = shapes::shape(file, SIGN, 4)?;
    let inpainting = conv_in[1] == 9;
    let prediction = prediction(file, kind, inpainting);
    let mut unet = presets::unet(kind, inpainting, prediction);
    shapes::unet(file, kind, &mut unet)?;
    incomplete::has_vae(file)?;
    let vae_prefix =
        VAE.into_iter().find(|prefix| file.has(&format!("{prefix}decoder.conv_in.weight"))).unwrap_or(VAE[0]);
    let mut vae = presets::vae(kind);
    shapes::vae(file, vae_prefix, &mut vae)?;
    let snr = file.has("ztsnr");
    let mut configs: BTreeMap<&'static str, Value> = BTreeMap::from([
        ("unet", unet),
        ("vae", vae),
        ("scheduler", presets::scheduler(kind, inpainting, prediction, snr)),
    ]);
    let vae_blocks = shapes::vae_blocks(file, vae_prefix);
    let mut names: BTreeMap<&'static str, Arc<dyn Names>> = BTreeMap::from([
        ("unet", Arc::new(OriginalNames::UNet { layers: shapes::unet_layers(file)? }) as Arc<dyn Names>),
        ("vae", Arc::new(OriginalNames::Vae { prefix: vae_prefix, blocks: vae_blocks })),
    ]);
    let mut tokenizers = BTreeMap::new();
    for (component, found) in text_encoders(kind) {
        let is_open_clip = matches!(found, OriginalNames::OpenClip { .. });
        let mut config = presets::text_encoder(is_open_clip, component == "text_encoder_2");
        match found {
            OriginalNames::OpenClip { prefix } => shapes::open_clip(file, kind, prefix, &mut config)?,
            OriginalNames::Clip { prefix } => shapes::clip(file, prefix, &mut config)?,
            OriginalNames::UNet { .. } | OriginalNames::Vae { .. } => {}
        }
        configs.insert(component, config);
        names.insert(component, Arc::new(found));
        let tokenizer = if component == "text_encoder_2" { "tokenizer_2" } else { "tokenizer" };
        // No file of this kind brings another than CLIP's own. OpenCLIP's were trained with `!` as padding.
        tokenizers.insert(
            tokenizer,
            TokenizerFiles::ClipBuiltIn {
                label: format!("{} ({tokenizer}, CLIP's own)", file.path().display()).into(),
                padding: is_open_clip.then_some("!"),
            },
        );
    }
    let index = presets::index(kind, inpainting);
    Ok(SingleFile { file: file.clone(), index, configs, names, tokenizers })
}

/// Which of them a file is, by its text encoders; none where it has no UNet of this family.
///
/// # Errors
/// A file with the UNet and without a text encoder.
pub fn recognise(file: &MappedFile) -> Result<Option<Kind>, DiffusionError> {
    if !file.has(SIGN) {
        return Ok(None);
    }
    const SIGNS: [(&str, Kind); 5] = [
        ("conditioner.embedders.1.model.positional_embedding", Kind::XlBase),
        ("conditioner.embedders.0.model.positional_embedding", Kind::XlRefiner),
        ("cond_stage_model.model.positional_embedding", Kind::V2),
        ("cond_stage_model.transformer.text_model.embeddings.position_embedding.weight", Kind::V1),
        ("cond_stage_model.transformer.embeddings.position_embedding.weight", Kind::V1),
    ];
    let found = SIGNS.into_iter().find(|(key, _)| file.has(key)).map(|(_, kind)| kind);
    found.map(Some).ok_or_else(|| incomplete::no_text_encoder(file, &SIGNS.map(|(key, _)| key)))
}

fn text_encoders(kind: Kind) -> Vec<(&'static str, OriginalNames)> {
    match kind {
        Kind::V1 => vec![("text_encoder", OriginalNames::Clip { prefix: "cond_stage_model.transformer." })],
        Kind::V2 => vec![("text_encoder", OriginalNames::OpenClip { prefix: "cond_stage_model.model." })],
        Kind::XlBase => vec![
            ("text_encoder", OriginalNames::Clip { prefix: "conditioner.embedders.0.transformer." }),
            ("text_encoder_2", OriginalNames::OpenClip { prefix: "conditioner.embedders.1.model." }),
        ],
        Kind::XlRefiner => {
            vec![("text_encoder_2", OriginalNames::OpenClip { prefix: "conditioner.embedders.0.model." })]
        }
    }
}

/// What the file says itself (`modelspec.prediction_type`, or the mark `v_pred`), or else what its family usually
/// predicts: as in diffusers, 2.x is taken for the 768 pixel model, which predicts velocity.
fn prediction(file: &MappedFile, kind: Kind, inpainting: bool) -> Prediction {
    match file.note("modelspec.prediction_type") {
        Some("epsilon") => return Prediction::Epsilon,
        Some("v" | "v_prediction") => return Prediction::Velocity,
        _ => {}
    }
    if file.has("v_pred") || (kind == Kind::V2 && !inpainting) {
        Prediction::Velocity
    } else {
        Prediction::Epsilon
    }
}
