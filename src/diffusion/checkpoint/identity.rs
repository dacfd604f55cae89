//! What tells a checkpoint from another one of the same name, without reading all of its weights.
//!
//! Configurations and tokenizers are hashed whole. Of a safetensors file these are hashed: its size, its header, and of
//! each tensor the first, the middle and the last [`BLOCK`] bytes. Weights that were trained further differ in all of
//! them; a file in which nobody but its editor would find the changed bytes is not what this is for. The hub names
//! its large files by SHA-256: where a folder of its cache is read, that name is compared too.

use std::{
    fs::File,
    io::{self, Read},
    ops::Range,
    path::{Path, PathBuf},
    sync::Arc,
};

use candle_core::DType;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use sha2::{Digest, Sha256};

use super::{Base, Checkpoint, Component, MappedFile, Place, Role, TokenizerFiles};
use crate::diffusion::{DiffusionError, precision::Precision};

/// Bytes of each of the three places of a tensor that are hashed.
const BLOCK: usize = 64;
/// The files of a tokenizer that are read.
const TOKENIZER: [&str; 5] =
    ["tokenizer.json", "vocab.json", "merges.txt", "tokenizer_config.json", "special_tokens_map.json"];
/// Digits of a SHA-256.
const HEX: usize = 64;

/// A part of a model that decides its pictures.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Part {
    /// For people: "the weights of `unet`".
    pub name: String,
    /// SHA-256 of what was looked at.
    digest: [u8; 32],
    /// SHA-256 of the hub's names of its files' contents; none where a file has no such name.
    contents: Option<[u8; 32]>,
}

impl Part {
    /// A part that was looked at whole.
    pub fn new(name: impl Into<String>, bytes: impl AsRef<[u8]>) -> Self {
        Self { name: name.into(), digest: Sha256::digest(bytes).into(), contents: None }
    }

    /// Whether both are the same as far as is known of both.
    pub fn is_same(&self, other: &Self) -> bool {
        let same_contents = self.contents.zip(other.contents).is_none_or(|(own, others)| own == others);
        self.name == other.name && self.digest == other.digest && same_contents
    }

    fn of_weights(name: String, files: &[&MappedFile]) -> Self {
        let (mut looked_at, mut contents) = (Sha256::new(), Some(Sha256::new()));
        for file in files {
            file.sample(&mut looked_at);
            contents = contents.zip(name_in_hub(file.path())).map(|(hash, name)| hash.chain_update(name));
        }
        let contents = contents.map(|hash| hash.finalize().into());
        Self { name, digest: looked_at.finalize().into(), contents }
    }

    /// Of files that are hashed whole; those that are not there are left out.
    fn of_files(name: String, files: &[PathBuf]) -> Result<Self, DiffusionError> {
        let mut hash = Sha256::new();
        for file in files {
            let read = |source| DiffusionError::Read { file: file.clone(), source };
            let mut opened = match File::open(file) {
                Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
                opened => opened.map_err(read)?,
            };
            let digest = sha256(&mut opened).map_err(read)?;
            hash.update(file.file_name().unwrap_or_default().as_encoded_bytes());
            hash.update(digest);
        }
        Ok(Self { name, digest: hash.finalize().into(), contents: None })
    }
}

impl Checkpoint {
    /// Every part that decides a picture, with the weights that `precision` chooses. The decoder of previews is left
    /// out: no picture goes through it.
    ///
    /// # Errors
    /// A file that cannot be read, or is missing.
    pub fn identity(
        &self,
        components: &[Component],
        precision: Precision,
    ) -> Result<Vec<Part>, DiffusionError> {
        let mut parts = Vec::new();
        match &self.base {
            Base::Folder(folder) => {
                let index = folder.join("model_index.json");
                parts.push(Part::of_files("the pipeline's index".into(), &[index])?);
            }
            // What its header says of components that are in it, and the program's tokenizers, follow from it.
            Base::File(file) => parts.push(Part::of_weights("the checkpoint".into(), &[file.as_ref()])),
        }
        let is_of_pictures = |component: &&Component| component.role != Role::PreviewDecoder;
        for component in components.iter().filter(is_of_pictures).filter(|other| self.is_there(other)) {
            let kept = component.role.kept_as(precision).unwrap_or(DType::F32);
            parts.extend(self.parts_of(component, kept)?);
        }
        Ok(parts)
    }

    /// Of one component, unless it is in the file that the checkpoint begins with, or in the program.
    fn parts_of(&self, component: &Component, kept: DType) -> Result<Vec<Part>, DiffusionError> {
        let name = component.name;
        let configuration =
            |config: &Value| Part::new(format!("the configuration of `{name}`"), config.to_string());
        let folder = match (self.places.get(name), &self.base) {
            (Some(Place::File(own)), Base::File(file)) if Arc::ptr_eq(file, &own.file) => return Ok(vec![]),
            (Some(Place::File(own)), _) => {
                let weights = Part::of_weights(format!("the weights of `{name}`"), &[own.file.as_ref()]);
                return Ok(vec![configuration(&own.config), weights]);
            }
            (Some(Place::Config(config)), _) => return Ok(vec![configuration(&config.json())]),
            (Some(Place::Tokenizer(TokenizerFiles::ClipBuiltIn { .. })), _) | (None, Base::File(_)) => {
                return Ok(vec![]);
            }
            (Some(Place::Folder(folder) | Place::Tokenizer(TokenizerFiles::Folder(folder))), _) => {
                folder.clone()
            }
            (None, Base::Folder(folder)) => folder.join(name),
        };
        match component.role {
            Role::Tokenizer => {
                let files = TOKENIZER.map(|file| folder.join(file));
                Ok(vec![Part::of_files(format!("the tokenizer `{name}`"), &files)?])
            }
            Role::Scheduler => {
                let file = folder.join("scheduler_config.json");
                Ok(vec![Part::of_files(format!("the configuration of `{name}`"), &[file])?])
            }
            Role::TextEncoder | Role::Denoiser | Role::Autoencoder | Role::PreviewDecoder => {
                Ok(parts_of_network(&folder, name, kept)?.into())
            }
        }
    }
}

fn parts_of_network(folder: &Path, component: &str, dtype: DType) -> Result<[Part; 2], DiffusionError> {
    let files = super::files_of(folder, component, dtype)?;
    let files: Vec<&MappedFile> = files.all().collect();
    Ok([
        Part::of_files(format!("the configuration of `{component}`"), &[folder.join("config.json")])?,
        Part::of_weights(format!("the weights of `{component}`"), &files),
    ])
}

/// The hub's cache links a file to `blobs/<SHA-256 of its contents>`.
fn name_in_hub(file: &Path) -> Option<String> {
    let blob = file.canonicalize().ok()?;
    let name = blob.file_name()?.to_str()?;
    let is_sha256 = name.len() == HEX && name.bytes().all(|byte| byte.is_ascii_hexdigit());
    let is_blob = blob.parent()?.file_name()? == "blobs";
    (is_sha256 && is_blob).then(|| name.to_ascii_lowercase())
}

/// SHA-256 of all that is read.
///
/// # Errors
/// What reading says.
pub fn sha256(from: &mut impl Read) -> io::Result<[u8; 32]> {
    let (mut hash, mut buffer) = (Sha256::new(), vec![0; 1 << 16]);
    loop {
        match from.read(&mut buffer) {
            Ok(0) => return Ok(hash.finalize().into()),
            Ok(count) => hash.update(&buffer[..count]),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
}

/// The places of `length` bytes that are hashed: all of a short one.
pub fn places(length: usize) -> [Range<usize>; 3] {
    if length <= 3 * BLOCK {
        return [0..length, length..length, length..length];
    }
    let middle = (length - BLOCK) / 2;
    [0..BLOCK, middle..middle + BLOCK, length - BLOCK..length]
}
