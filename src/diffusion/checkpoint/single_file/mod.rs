//! A checkpoint in one safetensors file, in the original layout of CompVis and Stability: which family it is, its
//! configurations, and where each component's tensors are.

mod foreign;
mod names;
mod presets;
mod shapes;

use std::{collections::BTreeMap, path::Path, sync::Arc};

use candle_core::{DType, Device};
use serde_json::Value;

pub use names::{Names, Part, original_unet_name};

use super::{ConfigFile, Weights, mapped::MappedFile};
use crate::diffusion::{
    DiffusionError,
    networks::clip::TextConfig,
    text::{ClipTokenizer, clip_vocabulary},
};

/// What the UNet's names begin with.
const UNET: &str = "model.diffusion_model.";
/// What the autoencoder's names begin with.
const VAE: [&str; 2] = ["first_stage_model.", "vae."];

/// The networks that come as single files.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Family {
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

/// The file, what it holds, and the configurations of its components.
pub struct SingleFile {
    file: Arc<MappedFile>,
    configs: BTreeMap<&'static str, Value>,
    names: BTreeMap<&'static str, Names>,
}

impl SingleFile {
    /// Maps the file and finds out what it is.
    ///
    /// # Errors
    /// When it is no safetensors file, or holds no whole Stable Diffusion in the original layout.
    pub fn open(path: &Path) -> Result<Self, DiffusionError> {
        let extension = path.extension().and_then(|extension| extension.to_str()).unwrap_or_default();
        if ["ckpt", "pt", "pth", "bin"].contains(&extension) {
            return Err(DiffusionError::NoWeights {
                folder: path.to_owned(),
                expected: "a .safetensors file".into(),
                found: format!(".{extension} (pickled weights can run code when read; convert them)"),
            });
        }
        let file = Arc::new(MappedFile::open(path)?);
        let conv_in = shapes::shape(&file, &format!("{UNET}input_blocks.0.0.weight"), 4)
            .map_err(|error| foreign::unknown_layout(&file, error))?;
        let family = family(&file)?;
        let inpainting = conv_in[1] == 9;
        let prediction = prediction(&file, family, inpainting);
        let mut unet = presets::unet(family, inpainting, prediction);
        shapes::unet(&file, family, &mut unet)?;
        foreign::has_vae(&file)?;
        let vae_prefix = VAE
            .into_iter()
            .find(|prefix| file.has(&format!("{prefix}decoder.conv_in.weight")))
            .unwrap_or(VAE[0]);
        let mut vae = presets::vae(family);
        shapes::vae(&file, vae_prefix, &mut vae)?;
        let snr = file.has("ztsnr");
        let mut configs = BTreeMap::from([
            ("index", presets::index(family, inpainting)),
            ("unet", unet),
            ("vae", vae),
            ("scheduler", presets::scheduler(family, inpainting, prediction, snr)),
        ]);
        let mut names = BTreeMap::from([
            ("unet", Names::UNet { layers: shapes::unet_layers(&file)? }),
            ("vae", Names::Vae { prefix: vae_prefix, blocks: shapes::vae_blocks(&file, vae_prefix) }),
        ]);
        for (component, found) in text_encoders(family) {
            let mut config =
                presets::text_encoder(matches!(found, Names::OpenClip { .. }), component == "text_encoder_2");
            match found {
                Names::OpenClip { prefix } => shapes::open_clip(&file, family, prefix, &mut config)?,
                Names::Clip { prefix } => shapes::clip(&file, prefix, &mut config)?,
                Names::UNet { .. } | Names::Vae { .. } => {}
            }
            configs.insert(component, config);
            names.insert(component, found);
        }
        Ok(Self { file, configs, names })
    }

    /// The file.
    pub fn file(&self) -> &MappedFile {
        &self.file
    }

    /// What `model_index.json` would say.
    pub fn index(&self) -> Result<ConfigFile, DiffusionError> {
        self.config("index")
    }

    /// The configuration of a component: the published one of its family, with the sizes that the tensors tell.
    pub fn config(&self, component: &str) -> Result<ConfigFile, DiffusionError> {
        let label = format!("{} (configuration of {component})", self.file.path().display());
        match self.configs.get(component) {
            Some(config) => ConfigFile::from_value(label, config.clone()),
            None => Err(self.no_component(component)),
        }
    }

    /// Whether it has that component.
    pub fn has(&self, component: &str) -> bool {
        self.names.contains_key(component)
    }

    /// The weights of a component, to be kept as `dtype` on `device`.
    pub fn weights(&self, component: &str, device: &Device, dtype: DType) -> Result<Weights, DiffusionError> {
        match self.names.get(component) {
            Some(names) => Ok(Weights::renamed(self.file.clone(), names.clone(), device, dtype)),
            None => Err(self.no_component(component)),
        }
    }

    /// CLIP's own tokenizer: no file of this kind brings another. OpenCLIP's text encoders were trained with `!` as
    /// padding.
    pub fn tokenizer(&self, component: &str, encoder: &TextConfig) -> Result<ClipTokenizer, DiffusionError> {
        let of = if component == "tokenizer_2" { "text_encoder_2" } else { "text_encoder" };
        let padding = match self.names.get(of) {
            Some(Names::OpenClip { .. }) => Some("!"),
            Some(_) => None,
            None => return Err(self.no_component(component)),
        };
        let label = format!("{} ({component}, CLIP's own)", self.file.path().display());
        let words = clip_vocabulary(Path::new(&label))?;
        let (length, known) = (encoder.max_position_embeddings, encoder.vocab_size);
        ClipTokenizer::from_words(label.into(), words, padding, length, known)
    }

    /// The error that it has no such component.
    pub fn no_component(&self, component: &str) -> DiffusionError {
        DiffusionError::Config {
            file: self.file.path().to_owned(),
            key: component.to_owned(),
            expected: "a component that this kind of file has".into(),
            found: "none".into(),
        }
    }

    /// A value of the header's `__metadata__`.
    pub fn note(&self, key: &str) -> Option<&str> {
        self.file.note(key)
    }
}

/// Told by the text encoders: each family has its own.
fn family(file: &MappedFile) -> Result<Family, DiffusionError> {
    const SIGNS: [(&str, Family); 5] = [
        ("conditioner.embedders.1.model.positional_embedding", Family::XlBase),
        ("conditioner.embedders.0.model.positional_embedding", Family::XlRefiner),
        ("cond_stage_model.model.positional_embedding", Family::V2),
        ("cond_stage_model.transformer.text_model.embeddings.position_embedding.weight", Family::V1),
        ("cond_stage_model.transformer.embeddings.position_embedding.weight", Family::V1),
    ];
    let found = SIGNS.into_iter().find(|(key, _)| file.has(key)).map(|(_, family)| family);
    found.ok_or_else(|| foreign::no_text_encoder(file, &SIGNS.map(|(key, _)| key)))
}

fn text_encoders(family: Family) -> Vec<(&'static str, Names)> {
    match family {
        Family::V1 => vec![("text_encoder", Names::Clip { prefix: "cond_stage_model.transformer." })],
        Family::V2 => vec![("text_encoder", Names::OpenClip { prefix: "cond_stage_model.model." })],
        Family::XlBase => vec![
            ("text_encoder", Names::Clip { prefix: "conditioner.embedders.0.transformer." }),
            ("text_encoder_2", Names::OpenClip { prefix: "conditioner.embedders.1.model." }),
        ],
        Family::XlRefiner => {
            vec![("text_encoder_2", Names::OpenClip { prefix: "conditioner.embedders.0.model." })]
        }
    }
}

/// What the file says itself (`modelspec.prediction_type`, or the mark `v_pred`), or else what its family usually
/// predicts: as in diffusers, 2.x is taken for the 768 pixel model, which predicts velocity.
fn prediction(file: &MappedFile, family: Family, inpainting: bool) -> Prediction {
    match file.note("modelspec.prediction_type") {
        Some("epsilon") => return Prediction::Epsilon,
        Some("v" | "v_prediction") => return Prediction::Velocity,
        _ => {}
    }
    if file.has("v_pred") || (family == Family::V2 && !inpainting) {
        Prediction::Velocity
    } else {
        Prediction::Epsilon
    }
}
