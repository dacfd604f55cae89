//! What checkpoints of a family are made of: the one table that loading, size, identity and the hub's files are read from.

use candle_core::DType;

use super::Checkpoint;
use crate::diffusion::{DiffusionError, precision::Precision};

/// A component of a checkpoint.
#[derive(Debug, Clone, Copy)]
pub struct Component {
    /// Its name in `model_index.json`, and its folder's.
    pub name: &'static str,
    /// What it is for.
    pub role: Role,
    /// Its classes that are computed here; empty where its own configuration says more.
    pub classes: &'static [&'static str],
    /// Which checkpoints have it.
    pub presence: Presence,
}

/// What a component is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// How the way from noise to the picture is divided.
    Scheduler,
    /// Text to token ids.
    Tokenizer,
    /// Token ids to embeddings.
    TextEncoder,
    /// The network that denoises.
    Denoiser,
    /// Latents to pictures and back.
    Autoencoder,
    /// Latents to previews: no picture is made with it.
    PreviewDecoder,
}

/// Which checkpoints of the family have a component.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Presence {
    /// Every one.
    Always,
    /// Those whose index names a class for it.
    Named,
    /// Those that have its folder, whatever the index says.
    Beside,
}

impl Component {
    /// One that every checkpoint of the family has.
    pub const fn new(name: &'static str, role: Role, classes: &'static [&'static str]) -> Self {
        Self { name, role, classes, presence: Presence::Always }
    }

    /// One that those have whose index names it.
    pub const fn named(name: &'static str, role: Role, classes: &'static [&'static str]) -> Self {
        Self { presence: Presence::Named, ..Self::new(name, role, classes) }
    }

    /// One that no index names.
    pub const fn beside(name: &'static str, role: Role) -> Self {
        Self { presence: Presence::Beside, ..Self::new(name, role, &[]) }
    }
}

impl Role {
    /// The type that its weights are kept in; none where it has no weights.
    pub fn kept_as(self, precision: Precision) -> Option<DType> {
        match self {
            Self::Scheduler | Self::Tokenizer => None,
            Self::TextEncoder => Some(precision.text_encoder),
            Self::Denoiser => Some(precision.denoiser),
            Self::Autoencoder | Self::PreviewDecoder => Some(precision.vae),
        }
    }

    /// The file of its configuration; a tokenizer has several.
    pub fn config_file(self) -> Option<&'static str> {
        match self {
            Self::Scheduler => Some("scheduler_config.json"),
            Self::Tokenizer => None,
            Self::TextEncoder | Self::Denoiser | Self::Autoencoder | Self::PreviewDecoder => {
                Some("config.json")
            }
        }
    }
}

impl Checkpoint {
    /// Whether it has a component of its family.
    pub fn is_there(&self, component: &Component) -> bool {
        match component.presence {
            Presence::Always | Presence::Named => self.class_of(component.name).is_some(),
            Presence::Beside => self.has(component.name),
        }
    }

    /// Refuses one in files that lacks a component of `components`.
    ///
    /// # Errors
    /// The file that it begins with, the component, and how it is named.
    pub fn must_be_whole(&self, components: &[Component]) -> Result<(), DiffusionError> {
        let Some(file) = self.file() else { return Ok(()) };
        let missing = components
            .iter()
            .find(|component| self.is_there(component) && self.place(component.name).is_none());
        let Some(Component { name, role, .. }) = missing else { return Ok(()) };
        let (what, found) = match role {
            Role::Tokenizer => ("tokenizer", "files of weights have none"),
            Role::TextEncoder => ("text encoder", "none: it was saved without"),
            Role::Autoencoder => ("VAE", "none: it was saved without"),
            Role::Scheduler | Role::Denoiser | Role::PreviewDecoder => ("component", "none"),
        };
        let how = match role {
            Role::Tokenizer => "the folder of its tokenizer.json",
            _ => "a .safetensors file of it, or its folder in the diffusers layout",
        };
        Err(DiffusionError::Config {
            file: file.path().to_owned(),
            key: (*name).to_owned(),
            expected: format!("the model's {what}, in this file or named beside it: `{name}=PATH`, {how}"),
            found: found.to_owned(),
        })
    }

    /// Refuses one that lacks a component of `components`, or has one of a class that is not computed here.
    ///
    /// # Errors
    /// The index, the component, its known classes and what was found.
    pub fn must_have(&self, components: &[Component]) -> Result<(), DiffusionError> {
        for component in components.iter().filter(|component| !component.classes.is_empty()) {
            match (self.class_of(component.name), component.presence) {
                (Some(class), _) if component.classes.contains(&class) => {}
                (None, Presence::Named | Presence::Beside) => {}
                (found, _) => {
                    let expected = component.classes.join(" or ");
                    return Err(self.index().unusable(component.name, &expected, found.unwrap_or("none")));
                }
            }
        }
        Ok(())
    }
}
