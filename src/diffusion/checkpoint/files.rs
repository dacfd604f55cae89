//! Which files hold the weights of a component's folder: one or several, in the precision that suits best.

use std::{
    collections::{BTreeMap, HashMap},
    path::{Component, Path},
    sync::Arc,
};

use candle_core::DType;
use serde_json::Value;

use super::{ConfigFile, mapped::MappedFile};
use crate::diffusion::DiffusionError;

/// The files of one component, and which of them holds which tensor.
pub struct ComponentFiles {
    files: Vec<Arc<MappedFile>>,
    /// Positions in `files`; empty when there is one file.
    holder: HashMap<String, usize>,
}

impl ComponentFiles {
    /// One file that holds all.
    pub fn one(file: Arc<MappedFile>) -> Self {
        Self { files: vec![file], holder: HashMap::new() }
    }

    /// Finds `stem` in the folder, whole or in several files with an index, as it is or as a `.fp16` or `.bf16`
    /// variant. The variant that is in the type `kept` comes first, then the one without a name.
    ///
    /// # Errors
    /// When there are none that are read here, or the index does not fit its files.
    pub fn find(folder: &Path, stem: &str, kept: DType) -> Result<Self, DiffusionError> {
        let variants: [&str; 3] = match kept {
            DType::F16 => [".fp16", "", ".bf16"],
            DType::BF16 => [".bf16", "", ".fp16"],
            _ => ["", ".fp16", ".bf16"],
        };
        for variant in variants {
            let whole = folder.join(format!("{stem}{variant}.safetensors"));
            if whole.is_file() {
                return Ok(Self::one(Arc::new(MappedFile::open(&whole)?)));
            }
            let index = folder.join(format!("{stem}.safetensors.index{variant}.json"));
            if index.is_file() {
                return Self::sharded(folder, &index);
            }
        }
        Err(DiffusionError::NoWeights {
            folder: folder.to_owned(),
            expected: format!(
                "{stem}.safetensors or {stem}.fp16.safetensors, or {stem}.safetensors.index.json and what it names"
            ),
            found: what_else_is_there(folder),
        })
    }

    /// The file that holds a tensor; for one that none holds, the first.
    pub fn holder(&self, key: &str) -> &MappedFile {
        &self.files[self.holder.get(key).copied().unwrap_or(0)]
    }

    /// Every file.
    pub fn all(&self) -> impl Iterator<Item = &MappedFile> {
        self.files.iter().map(Arc::as_ref)
    }

    /// Numbers in all tensors whose name `of_interest` holds for.
    pub fn elements(&self, of_interest: &dyn Fn(&str) -> bool) -> u64 {
        self.files.iter().map(|file| file.elements(of_interest)).sum()
    }

    /// Opens what an index names: `weight_map` has a file of the same folder for each tensor.
    fn sharded(folder: &Path, index: &Path) -> Result<Self, DiffusionError> {
        let unusable = |key: String, expected: String, found: String| DiffusionError::Config {
            file: index.to_owned(),
            key,
            expected,
            found,
        };
        let file = ConfigFile::read(index)?;
        let map = match file.value("weight_map") {
            Some(Value::Object(map)) if !map.is_empty() => map,
            other => {
                let found = match other {
                    None => "none",
                    Some(Value::Object(_)) => "an empty one",
                    Some(_) => "another value",
                };
                let expected = "an object with a file name for each tensor".into();
                return Err(unusable("weight_map".into(), expected, found.into()));
            }
        };
        let mut positions = BTreeMap::new();
        let mut files: Vec<Arc<MappedFile>> = Vec::new();
        let mut holder = HashMap::with_capacity(map.len());
        for (key, name) in map {
            let Some(file) = name.as_str().filter(|name| is_file_of_the_folder(name)) else {
                let expected = "the name of a .safetensors file in the same folder".into();
                return Err(unusable(format!("weight_map.{key}"), expected, name.to_string()));
            };
            let position = match positions.get(file) {
                Some(position) => *position,
                None => {
                    files.push(Arc::new(MappedFile::open(&folder.join(file))?));
                    positions.insert(file.to_owned(), files.len() - 1);
                    files.len() - 1
                }
            };
            if !files[position].has(key) {
                let expected = format!("a tensor that {file} holds");
                return Err(unusable(
                    format!("weight_map.{key}"),
                    expected,
                    "none of that name in it".into(),
                ));
            }
            holder.insert(key.clone(), position);
        }
        Ok(Self { files, holder })
    }
}

/// A bare file name: no folder, no way out of this one.
fn is_file_of_the_folder(name: &str) -> bool {
    let mut parts = Path::new(name).components();
    let bare = matches!((parts.next(), parts.next()), (Some(Component::Normal(part)), None) if part == name);
    bare && name.ends_with(".safetensors") && !name.contains('\\')
}

/// Names of a folder's files that an error lists.
const LISTED: usize = 8;

/// Why a folder without safetensors, or without an index of a pipeline, is not used: it is missing, or holds something
/// else, such as pickled weights, which can run code.
pub fn what_else_is_there(folder: &Path) -> String {
    let Ok(entries) = std::fs::read_dir(folder) else {
        return "no such folder".into();
    };
    let mut names: Vec<String> =
        entries.flatten().map(|entry| entry.file_name().to_string_lossy().into_owned()).collect();
    names.sort();
    let pickled: Vec<&str> = names
        .iter()
        .map(String::as_str)
        .filter(|name| name.ends_with(".bin") || name.ends_with(".ckpt") || name.ends_with(".pt"))
        .collect();
    if !pickled.is_empty() {
        return format!("{} (pickled weights can run code when read; convert them)", pickled.join(", "));
    }
    let more = names.len().saturating_sub(LISTED);
    names.truncate(LISTED);
    match (names.is_empty(), more) {
        (true, _) => "an empty folder".into(),
        (false, 0) => names.join(", "),
        (false, more) => format!("{} and {more} more", names.join(", ")),
    }
}

#[cfg(test)]
mod tests {
    use super::is_file_of_the_folder;

    #[test]
    fn a_shard_is_a_file_of_its_own_folder() {
        assert!(is_file_of_the_folder("model-00001-of-00002.safetensors"));
        for name in [
            "",
            "..",
            "../a.safetensors",
            "/etc/a.safetensors",
            "a/b.safetensors",
            "./a.safetensors",
            "a.safetensors/",
            "..\\a.safetensors",
            "model.bin",
        ] {
            assert!(!is_file_of_the_folder(name), "{name}");
        }
    }
}
