//! `--model [NAME=]SOURCE`: where a model comes from, and the name that jobs use for it.

use std::{
    fs::File,
    io::Read,
    path::{Path, PathBuf},
    str::FromStr,
};

use super::{HubRepo, Sim, SimError};
use crate::diffusion::{BEGINNING, what_is};

/// What a source may be, for messages.
const EXPECTED: &str = "a folder in the diffusers layout (with model_index.json), a .safetensors file, a repository \
                        of the hub (org/name[@revision]) or sim:// is expected";

/// A model by name.
#[derive(Debug, Clone, PartialEq)]
pub struct ModelSource {
    name: String,
    origin: Origin,
}

/// Where a model comes from.
#[derive(Debug, Clone, PartialEq)]
pub enum Origin {
    /// A folder in the diffusers layout.
    Folder(PathBuf),
    /// A single safetensors file.
    File(PathBuf),
    /// A repository of the hub; [`Hub::fetch`](super::Hub::fetch) makes a folder of it.
    Hub(HubRepo),
    /// A simulation.
    Sim(Sim),
}

/// A source that cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum SourceError {
    /// The name is not one a subject or a request could carry.
    #[error(
        "`{0}` is no name for a model: 1 to 128 of A-Z a-z 0-9 - _ . are allowed; give one with NAME=SOURCE"
    )]
    Name(String),
    /// Nothing is there, and it cannot be a repository of the hub.
    #[error("`{0}` is not there: {EXPECTED}")]
    Missing(String),
    /// A file of another kind.
    #[error("`{given}` is no .safetensors file{}: {EXPECTED}", in_brackets(what.as_deref()))]
    NotAModel {
        /// As it was given.
        given: String,
        /// What its first bytes tell.
        what: Option<String>,
    },
    /// A simulation with options that it does not have.
    #[error(transparent)]
    Sim(#[from] SimError),
}

impl ModelSource {
    /// The name that jobs use.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Where it comes from.
    pub fn origin(&self) -> &Origin {
        &self.origin
    }

    /// The same model, found in this folder.
    #[must_use]
    pub fn in_folder(&self, folder: PathBuf) -> Self {
        Self { name: self.name.clone(), origin: Origin::Folder(folder) }
    }
}

impl Origin {
    /// What is there wins over a repository of the same name.
    fn find(source: &str) -> Result<Self, SourceError> {
        if source.starts_with("sim:") {
            return Ok(Self::Sim(source.parse()?));
        }
        let path = PathBuf::from(source);
        if path.is_dir() {
            return Ok(Self::Folder(path));
        }
        if path.exists() {
            let safetensors = path.extension().is_some_and(|ext| ext.eq_ignore_ascii_case("safetensors"));
            return if safetensors {
                Ok(Self::File(path))
            } else {
                Err(SourceError::NotAModel { given: source.into(), what: what_file_is(&path) })
            };
        }
        HubRepo::parse(source).map(Self::Hub).ok_or_else(|| SourceError::Missing(source.into()))
    }

    /// The name of a model that was given none.
    fn default_name(&self) -> String {
        let of_path = |path: &Path, part: fn(&Path) -> Option<&std::ffi::OsStr>| {
            let path = path.canonicalize().ok()?;
            Some(part(&path)?.to_str()?.to_owned())
        };
        match self {
            Self::Sim(_) => "sim".into(),
            Self::Hub(repo) => repo.name().to_owned(),
            Self::Folder(path) => of_path(path, Path::file_name).unwrap_or_default(),
            Self::File(path) => of_path(path, Path::file_stem).unwrap_or_default(),
        }
    }
}

fn in_brackets(what: Option<&str>) -> String {
    what.map(|what| format!(" ({what})")).unwrap_or_default()
}

/// What the first bytes of a file tell; nothing where it cannot be read.
fn what_file_is(path: &Path) -> Option<String> {
    // A pipe or a device may never give any.
    if !path.is_file() {
        return None;
    }
    let mut beginning = Vec::new();
    File::open(path).ok()?.take(BEGINNING as u64).read_to_end(&mut beginning).ok()?;
    Some(what_is(&beginning)?.to_string())
}

fn is_name(text: &str) -> bool {
    (1..=128).contains(&text.len())
        && text.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.'))
}

impl FromStr for ModelSource {
    type Err = SourceError;

    /// The name is what stands before the first `=`, unless that is part of a path or a URL; else that of the folder,
    /// the file or the repository.
    fn from_str(text: &str) -> Result<Self, SourceError> {
        let (name, source) = match text.split_once('=') {
            Some((name, source)) if !name.contains(['/', ':']) => (Some(name), source),
            _ => (None, text),
        };
        let origin = Origin::find(source)?;
        let name = name.map_or_else(|| origin.default_name(), str::to_owned);
        if !is_name(&name) {
            return Err(SourceError::Name(name));
        }
        Ok(Self { name, origin })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> ModelSource {
        text.parse().unwrap()
    }

    fn name(text: &str) -> String {
        read(text).name
    }

    #[test]
    fn a_source_is_named_by_the_user_or_by_what_it_is() {
        let folder = tempfile::Builder::new().prefix("shapes").tempdir().unwrap();
        let path = folder.path().to_str().unwrap();
        let file = folder.path().join("v1-5.pruned.safetensors");
        std::fs::write(&file, "").unwrap();
        assert_eq!(name(&format!("mine={path}")), "mine");
        assert_eq!(name(path), folder.path().file_name().unwrap().to_str().unwrap());
        assert_eq!(name(file.to_str().unwrap()), "v1-5.pruned");
        assert_eq!(name("sim://?step_ms=5&size=64"), "sim");
        assert_eq!(name("slow=sim://?step_ms=500"), "slow");
        assert_eq!(name("some-org/some.model@refs/pr/7"), "some.model");
        assert_eq!(name("turbo=some-org/some.model"), "turbo");
        assert_eq!(read(file.to_str().unwrap()).origin, Origin::File(file));
    }

    #[test]
    fn a_folder_wins_over_a_repository_of_the_same_name() {
        // Tests run in the package's folder.
        assert_eq!(read("models/tiny-shapes").origin, Origin::Folder("models/tiny-shapes".into()));
        assert!(matches!(read("models/tiny-shapes-2").origin, Origin::Hub(_)));
    }

    #[test]
    fn a_source_that_is_none_says_what_is_expected() {
        let error = |text: &str| text.parse::<ModelSource>().unwrap_err().to_string();
        for text in ["no/such/folder", "nothing", "./org/name", "../name", "org/", "org/name@", "org/a..b"] {
            assert!(error(text).contains("is not there"), "{text}");
        }
        assert!(error("Cargo.toml").contains("is no .safetensors file"));
        let file = tempfile::Builder::new().suffix(".gguf").tempfile().unwrap();
        std::fs::write(file.path(), b"GGUF\x03\0\0\0").unwrap();
        let text = error(file.path().to_str().unwrap());
        assert!(text.contains("is no .safetensors file (it is a GGUF file"), "{text}");
        assert!(error("a b=sim://").contains("is no name"));
        assert!(error("sim://?pace=5").contains("pace"));
    }
}
