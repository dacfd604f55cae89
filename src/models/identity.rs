//! What decides a model's pictures beside the request: its parts, the arithmetic, the program.

use std::sync::{Arc, PoisonError, RwLock};

use serde::{Deserialize, Serialize};

use super::{ModelError, ModelSource, Origin, Sim};
use crate::diffusion::{self, Part, Precision, ops};

/// What a picture's latents are bound to: they go on only where all of it is the same.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ModelIdentity {
    /// The parts of the model.
    pub parts: Vec<Part>,
    /// The name of the [arithmetic](ops::arithmetic).
    pub arithmetic: String,
    /// The types that weights are kept in, as [`Precision`] writes them.
    pub precision: String,
    /// The program's version, system and features.
    pub build: String,
}

impl ModelIdentity {
    /// Of a model from this source. Nothing is loaded; of weights a few bytes of each tensor are read.
    ///
    /// # Errors
    /// A file that cannot be read.
    pub fn of(
        source: &ModelSource,
        device: &candle_core::Device,
        precision: Precision,
    ) -> Result<Self, ModelError> {
        let (parts, uses_products_of_candle) = match source.origin() {
            Origin::Folder(path) | Origin::File(path) => {
                let opened = diffusion::open_with(path, source.named())?;
                (opened.identity(precision)?, opened.family().uses_products_of_candle())
            }
            Origin::Hub(repo) => return Err(ModelError::NotFetched(repo.clone())),
            Origin::Sim(sim) => (vec![part_of_sim(sim)], false),
        };
        Ok(Self {
            parts,
            arithmetic: ops::arithmetic(device, uses_products_of_candle),
            precision: precision.to_string(),
            build: build(),
        })
    }

    /// What differs from what another was, for people; nothing where a picture of the other goes on here bit for bit.
    pub fn differences(&self, before: &Self) -> Vec<String> {
        let mut differences = vec![];
        let values = [
            ("the program", &before.build, &self.build),
            ("the arithmetic", &before.arithmetic, &self.arithmetic),
            ("the precision", &before.precision, &self.precision),
        ];
        for (what, before, here) in values.into_iter().filter(|(_, before, here)| before != here) {
            differences.push(format!("{what} (`{}`, here `{here}`)", shortened(before)));
        }
        let part = |parts: &[Part], name: &str| parts.iter().position(|part| part.name == name);
        for here in &self.parts {
            let same = part(&before.parts, &here.name).is_some_and(|at| before.parts[at].is_same(here));
            if !same {
                differences.push(here.name.clone());
            }
        }
        let gone = before.parts.iter().filter(|before| part(&self.parts, &before.name).is_none());
        differences.extend(gone.map(|part| shortened(&part.name).to_owned()));
        differences
    }
}

/// The identity of a model of this process: its folder may be replaced between two times that it is loaded.
#[derive(Debug, Clone)]
pub struct LoadedIdentity(Arc<Loaded>);

#[derive(Debug)]
struct Loaded {
    source: ModelSource,
    device: candle_core::Device,
    precision: Precision,
    identity: RwLock<Arc<ModelIdentity>>,
}

impl LoadedIdentity {
    /// Of a model that will be loaded from here.
    ///
    /// # Errors
    /// A file that cannot be read.
    pub fn new(
        source: &ModelSource,
        device: &candle_core::Device,
        precision: Precision,
    ) -> Result<Self, ModelError> {
        let identity = Arc::new(ModelIdentity::of(source, device, precision)?);
        let (source, device, identity) = (source.clone(), device.clone(), RwLock::new(identity));
        Ok(Self(Arc::new(Loaded { source, device, precision, identity })))
    }

    /// As it was when it was last loaded.
    pub fn loaded(&self) -> Arc<ModelIdentity> {
        self.0.identity.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// As its files are now. It reads them.
    ///
    /// # Errors
    /// A file that cannot be read.
    pub fn of_files(&self) -> Result<ModelIdentity, ModelError> {
        ModelIdentity::of(&self.0.source, &self.0.device, self.0.precision)
    }

    /// Notes that it was loaded just now.
    ///
    /// # Errors
    /// A file that cannot be read.
    pub(super) fn note_loaded(&self) -> Result<(), ModelError> {
        let now = self.of_files()?;
        let others = now.differences(&self.loaded());
        if !others.is_empty() {
            tracing::warn!(
                model = self.0.source.name(),
                ?others,
                "a model was replaced since it was last loaded"
            );
            *self.0.identity.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(now);
        }
        Ok(())
    }
}

/// The same model as loaded.
impl PartialEq for LoadedIdentity {
    fn eq(&self, other: &Self) -> bool {
        self.loaded() == other.loaded()
    }
}

/// The longest text of a snapshot that is repeated, in bytes: whoever can write to the store wrote it.
const MAX_REPEATED: usize = 120;

fn shortened(text: &str) -> &str {
    &text[..text.floor_char_boundary(MAX_REPEATED)]
}

/// Of a simulation only the size decides a picture beside the request.
fn part_of_sim(sim: &Sim) -> Part {
    let (width, height) = sim.native_size();
    Part::new("the simulation", format!("{width}x{height}"))
}

/// The program: its version, its system with the C library, and the features that choose what computes.
fn build() -> String {
    let libc = match () {
        () if cfg!(target_env = "gnu") => "-gnu",
        () if cfg!(target_env = "musl") => "-musl",
        () if cfg!(target_env = "msvc") => "-msvc",
        () => "",
    };
    let features = [
        ("cuda", cfg!(feature = "cuda")),
        ("cudnn", cfg!(feature = "cudnn")),
        ("metal", cfg!(feature = "metal")),
    ];
    let features: String =
        features.into_iter().filter(|(_, is_on)| *is_on).map(|(name, _)| format!(" {name}")).collect();
    format!("{} {}{libc}{features}", env!("CARGO_PKG_VERSION"), std::env::consts::OS)
}

#[cfg(test)]
#[path = "identity_tests.rs"]
mod tests;
