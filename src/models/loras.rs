//! The folder of LoRAs that jobs may name: a name to a file in it, never outside.

use std::{
    io,
    path::{Path, PathBuf},
    sync::Arc,
};

use super::lora_digests::LoraDigests;

/// How files end that are read, without the dot.
const EXTENSION: &str = "safetensors";
/// Names that an error lists.
const SHOWN: usize = 5;

/// A folder of `.safetensors` files.
#[derive(Debug, Clone)]
pub struct LoraFolder {
    folder: PathBuf,
    digests: Arc<LoraDigests>,
}

/// A name that is no LoRA's.
#[derive(Debug, thiserror::Error)]
pub enum LoraNameError {
    /// No such file.
    #[error("there is no `{name}.{EXTENSION}` in this worker's folder of LoRAs; there {}", there(known, *more))]
    Missing {
        /// The name.
        name: String,
        /// Some of those that there are.
        known: Vec<String>,
        /// How many there are besides.
        more: usize,
    },
    /// It leads out of the folder.
    #[error("`{0}` leads out of this worker's folder of LoRAs")]
    Outside(String),
}

fn there(known: &[String], more: usize) -> String {
    match (known.is_empty(), more) {
        (true, _) => "are none".into(),
        (false, 0) => format!("are {}", known.join(", ")),
        (false, more) => format!("are {} and {more} more", known.join(", ")),
    }
}

/// Folders below that of the LoRAs whose files are listed.
const MAX_DEPTH: u32 = 3;

impl LoraFolder {
    /// Nothing is looked at yet.
    pub fn new(folder: PathBuf) -> Self {
        Self { folder, digests: Arc::default() }
    }

    /// SHA-256 of a file of the folder. It reads the file, unless it did before and the file has not changed.
    ///
    /// # Errors
    /// The file cannot be read.
    pub fn digest(&self, file: &Path) -> io::Result<[u8; 32]> {
        self.digests.digest(file)
    }

    /// The file of a name, which may leave out the extension and may name a folder below: `styles/ink`.
    ///
    /// # Errors
    /// When there is no such file, or it is not below the folder: by its name, or by a symbolic link.
    pub fn find(&self, name: &str) -> Result<PathBuf, LoraNameError> {
        let whole = PathBuf::from(format!("{name}.{EXTENSION}"));
        for candidate in [Path::new(name), &whole] {
            if candidate.extension().is_none_or(|extension| extension != EXTENSION) {
                continue;
            }
            let file = self.folder.join(candidate);
            let (Ok(file), Ok(folder)) = (file.canonicalize(), self.folder.canonicalize()) else {
                continue;
            };
            if !file.starts_with(&folder) {
                return Err(LoraNameError::Outside(name.to_owned()));
            }
            if file.is_file() {
                return Ok(file);
            }
        }
        let mut known = self.names();
        let more = known.len().saturating_sub(SHOWN);
        known.truncate(SHOWN);
        let name = name.strip_suffix(&format!(".{EXTENSION}")).unwrap_or(name).to_owned();
        Err(LoraNameError::Missing { name, known, more })
    }

    /// Names of the files in the folder and those below it, at most `most`, in order; and whether these are all. As jobs
    /// write them: without the extension.
    pub fn listing(&self, most: usize) -> (Vec<String>, bool) {
        let (mut names, mut complete) = (vec![], true);
        let mut folders = vec![(self.folder.clone(), String::new(), 0)];
        while let Some((folder, prefix, depth)) = folders.pop() {
            for entry in folder.read_dir().into_iter().flatten().flatten() {
                let (path, name) = (entry.path(), entry.file_name().to_string_lossy().into_owned());
                if path.is_dir() {
                    match depth < MAX_DEPTH {
                        true => folders.push((path, format!("{prefix}{name}/"), depth + 1)),
                        false => complete = false,
                    }
                } else if let Some(stem) = name.strip_suffix(&format!(".{EXTENSION}")) {
                    names.push(format!("{prefix}{stem}"));
                }
            }
        }
        names.sort();
        complete &= names.len() <= most;
        names.truncate(most);
        (names, complete)
    }

    /// The names of the files directly in the folder; none where it cannot be read.
    fn names(&self) -> Vec<String> {
        let entries = self.folder.read_dir().into_iter().flatten().flatten();
        let files = entries.map(|entry| PathBuf::from(entry.file_name()));
        let files = files.filter(|file| file.extension().is_some_and(|extension| extension == EXTENSION));
        let mut names: Vec<String> =
            files.filter_map(|file| Some(file.file_stem()?.to_string_lossy().into_owned())).collect();
        names.sort();
        names
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `folder/` with `ink.safetensors`, `styles/oil.v2.safetensors` and `notes.txt`; `secret.safetensors` beside it.
    fn folder() -> (tempfile::TempDir, LoraFolder) {
        let root = tempfile::TempDir::new().unwrap();
        let folder = root.path().join("folder");
        std::fs::create_dir_all(folder.join("styles")).unwrap();
        for file in ["ink.safetensors", "styles/oil.v2.safetensors", "notes.txt", "../secret.safetensors"] {
            std::fs::write(folder.join(file), "").unwrap();
        }
        (root, LoraFolder::new(folder))
    }

    #[test]
    fn the_listing_names_what_is_below_too_and_says_whether_it_is_all() {
        let (_root, loras) = folder();
        assert_eq!(loras.listing(2), (vec!["ink".into(), "styles/oil.v2".into()], true));
        assert_eq!(loras.listing(1), (vec!["ink".into()], false));
    }

    #[test]
    fn a_name_is_found_with_and_without_its_extension_and_in_folders_below() {
        let (_root, loras) = folder();
        for (name, file) in [
            ("ink", "ink.safetensors"),
            ("ink.safetensors", "ink.safetensors"),
            ("styles/oil.v2", "oil.v2.safetensors"),
        ] {
            assert!(loras.find(name).unwrap().ends_with(file), "{name}");
        }
    }

    #[test]
    fn a_name_that_there_is_not_is_answered_with_those_that_there_are() {
        let (_root, loras) = folder();
        for name in ["oil", "notes.txt", "styles", "ink/x"] {
            let text = loras.find(name).unwrap_err().to_string();
            assert!(
                text.contains(&format!("`{name}.safetensors`")) && text.ends_with("there are ink"),
                "{text}"
            );
        }
        let nowhere = LoraFolder::new("no/such/folder".into()).find("ink").unwrap_err().to_string();
        assert!(nowhere.ends_with("there are none"), "{nowhere}");
    }

    #[test]
    fn nothing_outside_the_folder_is_found() {
        let (root, loras) = folder();
        let outside = |name: &str| matches!(loras.find(name), Err(LoraNameError::Outside(_)));
        assert!(outside("../secret"));
        assert!(outside(root.path().join("secret").to_str().unwrap()));
        #[cfg(unix)]
        {
            let link = root.path().join("folder/link.safetensors");
            std::os::unix::fs::symlink(root.path().join("secret.safetensors"), link).unwrap();
            assert!(outside("link"));
        }
    }
}
