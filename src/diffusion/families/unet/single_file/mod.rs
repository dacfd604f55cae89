//! Files in the original layout of CompVis and Stability: a checkpoint, whole or without some of its components, or one
//! component alone. Which it is, its configurations, and where each component's tensors are.

mod marks;
mod names;
mod presets;
mod shapes;

use std::{collections::BTreeMap, sync::Arc};

use serde_json::Value;

pub use names::original_unet_name;

use self::names::UNetNames;
use crate::diffusion::{
    DiffusionError,
    checkpoint::{
        Checkpoint, ComponentFile, ConfigFile, MappedFile, Place, SingleFile, TokenizerFiles, Under,
    },
    families::originals::{self, Clip, another},
};

/// What the UNet's names begin with, most often.
const UNET: &str = "model.diffusion_model.";
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

impl Kind {
    /// Numbers that the UNet is told of a picture's size.
    fn sizes(self) -> Option<usize> {
        match self {
            Self::V1 | Self::V2 => None,
            Self::XlBase => Some(6),
            Self::XlRefiner => Some(5),
        }
    }

    /// Its text encoders.
    fn text_encoders(self) -> &'static [(&'static str, Clip)] {
        match self {
            Self::V1 => &[("text_encoder", Clip::L)],
            Self::V2 => &[("text_encoder", Clip::H)],
            Self::XlBase => &[("text_encoder", Clip::L), ("text_encoder_2", Clip::G)],
            Self::XlRefiner => &[("text_encoder_2", Clip::G)],
        }
    }
}

/// A file of this kind as a checkpoint.
///
/// # Errors
/// A component whose tensors have no shapes of one, and a model that is not computed here.
pub fn open(file: &Arc<MappedFile>, kind: Kind) -> Result<SingleFile, DiffusionError> {
    let prefix = prefix(file).unwrap_or(UNET);
    marks::refuse_others(file)?;
    let mut components = BTreeMap::new();
    let mut tokenizers = BTreeMap::new();
    for (component, clip) in kind.text_encoders() {
        if let Some(found) = originals::clip(file, *clip, None)? {
            components.insert(*component, found);
        }
        let tokenizer = if *component == "text_encoder_2" { "tokenizer_2" } else { "tokenizer" };
        // No file of this kind brings another than CLIP's own. OpenCLIP's were trained with `!` as padding.
        tokenizers.insert(
            tokenizer,
            TokenizerFiles::ClipBuiltIn {
                label: format!("{} ({tokenizer}, CLIP's own)", file.path().display()).into(),
                padding: (*clip != Clip::L).then_some("!"),
            },
        );
    }
    let pooled = components.get("text_encoder_2").and_then(|text| width_of(&text.config, "projection_dim"));
    let inpainting = originals::shape(file, &format!("{prefix}input_blocks.0.0.weight"), 4)?[1] == 9;
    let prediction = prediction(file, kind, inpainting);
    let mut config = presets::unet(kind, inpainting, prediction);
    shapes::unet(file, prefix, kind, pooled, &mut config)?;
    let names = UNetNames { prefix, layers: shapes::unet_layers(file, prefix)? };
    components.insert("unet", ComponentFile { file: file.clone(), names: Some(Arc::new(names)), config });
    if let Some(vae) = originals::vae(file, None, presets::vae(kind))? {
        components.insert("vae", vae);
    }
    let scheduler = presets::scheduler(kind, inpainting, prediction, marks::is_zero_snr(file));
    let index = presets::index(kind, inpainting);
    Ok(SingleFile { file: file.clone(), index, scheduler, components, tokenizers })
}

/// A component of a checkpoint in a file of its own.
///
/// # Errors
/// A file that does not have it.
pub fn component(
    component: &str,
    file: &Arc<MappedFile>,
    checkpoint: &Checkpoint,
) -> Result<ComponentFile, DiffusionError> {
    let (kind, given) = match checkpoint.file() {
        Some(file) => (recognise(file).unwrap_or(Kind::V1), None),
        // The folder's own configuration says which.
        None => (Kind::V1, Some(checkpoint.config(component)?)),
    };
    let given = given.as_ref();
    let found = match component {
        "vae" => originals::vae(file, given, presets::vae(kind))?,
        "unet" => unet(file, given)?,
        "text_encoder" | "text_encoder_2" => {
            let clip = match given {
                Some(_) if component == "text_encoder_2" => Clip::G,
                Some(given) if given.text_or("hidden_act", "quick_gelu")? != "quick_gelu" => Clip::H,
                Some(_) => Clip::L,
                None => {
                    let own = kind.text_encoders().iter().find(|(name, _)| *name == component);
                    own.map_or(Clip::L, |(_, clip)| *clip)
                }
            };
            originals::clip(file, clip, given)?
        }
        _ => None,
    };
    match (found, component) {
        (Some(found), _) => Ok(found),
        (None, "vae") => another(file, component, "a VAE"),
        (None, "unet") => another(file, component, "a UNet of Stable Diffusion 1, 2 or XL"),
        (None, _) => another(file, component, "a text encoder of CLIP"),
    }
}

/// A UNet in place of the one that a folder has, by either names.
fn unet(file: &Arc<MappedFile>, given: Option<&ConfigFile>) -> Result<Option<ComponentFile>, DiffusionError> {
    let Some(config) = given.map(ConfigFile::json) else { return Ok(None) };
    marks::refuse_others(file)?;
    if let Some(prefix) = prefix(file) {
        let names = UNetNames { prefix, layers: shapes::unet_layers(file, prefix)? };
        return Ok(Some(ComponentFile { file: file.clone(), names: Some(Arc::new(names)), config }));
    }
    let is_diffusers = file.has("conv_in.weight") && file.has("time_embedding.linear_1.weight");
    let names = Under("");
    Ok(is_diffusers.then(|| ComponentFile { file: file.clone(), names: Some(Arc::new(names)), config }))
}

/// What the components of several files say together.
///
/// # Errors
/// A text encoder whose width is not the UNet's, and a configuration that cannot be read.
pub fn settle(checkpoint: &mut Checkpoint) -> Result<(), DiffusionError> {
    let Some(Place::File(unet)) = checkpoint.place("unet") else { return Ok(()) };
    let file = unet.file.clone();
    if checkpoint.file().is_none() {
        // The folder's scheduler is that of another UNet.
        for (key, value) in marks::of_scheduler(&file) {
            checkpoint.set("scheduler", key, value)?;
        }
        return Ok(());
    }
    let (Some(numbers), Some(prefix)) = (recognise(&file).and_then(Kind::sizes), prefix(&file)) else {
        return Ok(());
    };
    if checkpoint.has("text_encoder_2") {
        let pooled = checkpoint.config("text_encoder_2")?.integer("projection_dim")?;
        let added = shapes::added(&file, prefix, pooled, numbers)?;
        for (key, value) in added.as_object().into_iter().flatten() {
            checkpoint.set("unet", key, value.clone())?;
        }
    }
    Ok(())
}

/// What the UNet's names begin with; none where the file has none. Control networks have the same names, and no end.
fn prefix(file: &MappedFile) -> Option<&'static str> {
    match (file.has(SIGN), file.has("input_blocks.0.0.weight") && file.has("out.2.weight")) {
        (true, _) => Some(UNET),
        (false, true) => Some(""),
        (false, false) => None,
    }
}

/// Which of them a file is, by its text encoders, or by its UNet where it has none; none where it has no UNet of this family.
pub fn recognise(file: &MappedFile) -> Option<Kind> {
    const SIGNS: [(&str, Kind); 5] = [
        ("conditioner.embedders.1.model.positional_embedding", Kind::XlBase),
        ("conditioner.embedders.0.model.positional_embedding", Kind::XlRefiner),
        ("cond_stage_model.model.positional_embedding", Kind::V2),
        ("cond_stage_model.transformer.text_model.embeddings.position_embedding.weight", Kind::V1),
        ("cond_stage_model.transformer.embeddings.position_embedding.weight", Kind::V1),
    ];
    let prefix = prefix(file)?;
    let by_text = SIGNS.into_iter().find(|(key, _)| file.has(key)).map(|(_, kind)| kind);
    Some(by_text.unwrap_or_else(|| {
        let has = |key: &str| file.has(&format!("{prefix}{key}"));
        let projection =
            file.shape(&format!("{prefix}middle_block.1.proj_in.weight")).map_or(0, <[usize]>::len);
        // The refiner's innermost up block has no attention.
        match (has("label_emb.0.0.weight"), has("output_blocks.0.1.norm.weight"), projection) {
            (true, true, _) => Kind::XlBase,
            (true, false, _) => Kind::XlRefiner,
            (false, _, 2) => Kind::V2,
            (false, _, _) => Kind::V1,
        }
    }))
}

fn width_of(config: &Value, key: &str) -> Option<usize> {
    config.get(key)?.as_u64().and_then(|width| usize::try_from(width).ok())
}

/// What the file says itself (`modelspec.prediction_type`, or the mark `v_pred`), or else what its family usually
/// predicts: as in diffusers, 2.x is taken for the 768 pixel model, which predicts velocity.
fn prediction(file: &MappedFile, kind: Kind, inpainting: bool) -> Prediction {
    match marks::prediction(file) {
        Some(said) => said,
        None if kind == Kind::V2 && !inpainting => Prediction::Velocity,
        None => Prediction::Epsilon,
    }
}
