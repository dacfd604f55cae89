//! `--model [NAME=]SOURCE`: where a model comes from, and the name that jobs use for it.

use std::{path::PathBuf, str::FromStr};

use super::{Sim, SimError};

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
    /// Nothing is there.
    #[error(
        "`{0}` is not there: a folder in the diffusers layout (with model_index.json) or sim:// is expected"
    )]
    Missing(String),
    /// It is a file.
    #[error(
        "`{0}` is a file: a folder in the diffusers layout (with model_index.json) or sim:// is expected"
    )]
    NotAFolder(String),
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
}

fn is_name(text: &str) -> bool {
    (1..=128).contains(&text.len())
        && text.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.'))
}

impl FromStr for ModelSource {
    type Err = SourceError;

    /// The name is what stands before the first `=`, unless that is part of a path or a URL; else the folder's name.
    fn from_str(text: &str) -> Result<Self, SourceError> {
        let (name, source) = match text.split_once('=') {
            Some((name, source)) if !name.contains(['/', ':']) => (Some(name), source),
            _ => (None, text),
        };
        let origin = if source.starts_with("sim:") {
            Origin::Sim(source.parse()?)
        } else {
            let path = PathBuf::from(source);
            if !path.exists() {
                return Err(SourceError::Missing(source.into()));
            }
            if !path.is_dir() {
                return Err(SourceError::NotAFolder(source.into()));
            }
            Origin::Folder(path)
        };
        let name = match (name, &origin) {
            (Some(name), _) => name.to_owned(),
            (None, Origin::Sim(_)) => "sim".to_owned(),
            (None, Origin::Folder(path)) => path
                .canonicalize()
                .ok()
                .and_then(|path| Some(path.file_name()?.to_str()?.to_owned()))
                .unwrap_or_default(),
        };
        if !is_name(&name) {
            return Err(SourceError::Name(name));
        }
        Ok(Self { name, origin })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name(text: &str) -> String {
        text.parse::<ModelSource>().unwrap().name
    }

    #[test]
    fn a_source_is_named_by_the_user_or_by_its_folder() {
        let folder = tempfile::Builder::new().prefix("shapes").tempdir().unwrap();
        let path = folder.path().to_str().unwrap();
        assert_eq!(name(&format!("mine={path}")), "mine");
        assert_eq!(name(path), folder.path().file_name().unwrap().to_str().unwrap());
        assert_eq!(name("sim://?step_ms=5&size=64"), "sim");
        assert_eq!(name("slow=sim://?step_ms=500"), "slow");
    }

    #[test]
    fn a_source_that_is_none_says_what_is_expected() {
        let error = |text: &str| text.parse::<ModelSource>().unwrap_err().to_string();
        assert!(error("no/such/folder").contains("is not there"));
        assert!(error("Cargo.toml").contains("is a file"));
        assert!(error("a b=sim://").contains("is no name"));
        assert!(error("sim://?pace=5").contains("pace"));
    }
}
