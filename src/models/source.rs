//! `--model [NAME=]SOURCE[,COMPONENT=PATH]...`: where a model comes from, the name that jobs use for it, and its components
//! that are elsewhere.

use std::{
    fs::File,
    io::Read,
    path::{Path, PathBuf},
    str::FromStr,
};

use super::{HubRepo, Sim, SimError};
use crate::diffusion::{BEGINNING, FAMILIES, Named, what_is};

/// What a source may be, for messages.
const EXPECTED: &str = "a folder in the diffusers layout (with model_index.json), a .safetensors file, a repository \
                        of the hub (org/name[@revision]) or sim:// is expected";

/// A model by name.
#[derive(Debug, Clone, PartialEq)]
pub struct ModelSource {
    name: String,
    origin: Origin,
    named: Vec<Named>,
}

/// Several models, as one text names them: what stands behind a comma is a component of the model before it if it is called
/// as one, and else another model.
#[derive(Debug, Clone, PartialEq)]
pub struct ModelSources(pub Vec<ModelSource>);

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
    /// A component without a model before it.
    #[error("`{0}` is a component, and no model stands before it: NAME=SOURCE,{0}=PATH is expected")]
    NoModel(String),
    /// A component of what has none that could be exchanged.
    #[error("`{0}`: a simulation has no components")]
    OfSim(String),
    /// A component whose file or folder is not there.
    #[error("`{component}={path}`: no such file or folder")]
    NoComponent {
        /// Its name.
        component: String,
        /// Where it should be.
        path: String,
    },
    /// A component that was named before.
    #[error("`{0}` is named twice for one model")]
    Twice(String),
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

    /// Its components that are in other files and folders.
    pub fn named(&self) -> &[Named] {
        &self.named
    }

    /// The same model, found in this folder.
    #[must_use]
    pub fn in_folder(&self, folder: PathBuf) -> Self {
        Self { origin: Origin::Folder(folder), ..self.clone() }
    }

    /// Has a component in another file or folder.
    fn put(&mut self, component: &str, path: &str) -> Result<(), SourceError> {
        let owned = component.to_owned();
        if matches!(self.origin, Origin::Sim(_)) {
            return Err(SourceError::OfSim(owned));
        }
        if self.named.iter().any(|(earlier, _)| earlier == component) {
            return Err(SourceError::Twice(owned));
        }
        if path.is_empty() || !Path::new(path).exists() {
            return Err(SourceError::NoComponent { component: owned, path: path.to_owned() });
        }
        self.named.push((owned, path.into()));
        Ok(())
    }
}

/// Whether a component of some family is called so.
fn is_component(name: &str) -> bool {
    FAMILIES.iter().flat_map(|family| family.components()).any(|component| component.name == name)
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
        Ok(Self { name, origin, named: Vec::new() })
    }
}

impl FromStr for ModelSources {
    type Err = SourceError;

    fn from_str(text: &str) -> Result<Self, SourceError> {
        let mut sources: Vec<ModelSource> = Vec::new();
        for piece in text.split(',') {
            match piece.split_once('=').filter(|(name, _)| is_component(name)) {
                Some((component, path)) => match sources.last_mut() {
                    Some(source) => source.put(component, path)?,
                    None => return Err(SourceError::NoModel(component.to_owned())),
                },
                None => sources.push(piece.parse()?),
            }
        }
        Ok(Self(sources))
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
    fn components_follow_their_model_behind_commas_and_other_models_too() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().to_str().unwrap();
        let file = |name: &str| {
            std::fs::write(folder.path().join(name), "").unwrap();
            format!("{path}/{name}")
        };
        let (unet, vae, text) = (file("u.safetensors"), file("v.safetensors"), file("t.safetensors"));
        let read = |text: &str| text.parse::<ModelSources>().map(|sources| sources.0);
        let sources =
            read(&format!("mine={unet},vae={vae},text_encoder={text},sim://,org/name,vae={vae}")).unwrap();
        let names: Vec<&str> = sources.iter().map(ModelSource::name).collect();
        assert_eq!(names, ["mine", "sim", "name"]);
        let named: Vec<Named> =
            vec![("vae".into(), vae.clone().into()), ("text_encoder".into(), text.into())];
        assert_eq!(sources[0].named(), named);
        assert_eq!(sources[2].in_folder("/x".into()).named(), &named[..1]);
        let error = |text: String| read(&text).unwrap_err().to_string();
        for (text, expected) in [
            (format!("vae={vae}"), "no model stands before it"),
            (format!("{unet},vae={vae},vae={vae}"), "`vae` is named twice"),
            (format!("{unet},vae={path}/none"), "no such file or folder"),
            (format!("{unet},vae="), "no such file or folder"),
            (format!("sim://,vae={vae}"), "a simulation has no components"),
            (format!("{unet},vea={path}/none"), "is not there"),
        ] {
            assert!(error(text.clone()).contains(expected), "{text}: {}", error(text.clone()));
        }
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
