//! The three kinds of store, opened by URL. How S3 is set up is in `s3`.

use std::{path::PathBuf, sync::Arc};

use object_store::{ObjectStore, local::LocalFileSystem, memory::InMemory, path::Path};
use url::Url;

use super::{
    StorageError, StoreOptions,
    failures::Failures,
    s3::{self, S3},
};

/// A store of one kind.
pub(super) enum Backend {
    /// A bucket.
    S3(Box<S3>),
    /// A folder, by its path without links.
    File { store: LocalFileSystem, root: PathBuf },
    /// This process' memory.
    Memory { store: InMemory },
}

/// A store, the prefix in it, and what to call it in messages.
pub(super) struct Opened {
    pub backend: Backend,
    pub prefix: Path,
    pub location: String,
    pub failures: Arc<Failures>,
}

impl Backend {
    pub fn store(&self) -> &dyn ObjectStore {
        match self {
            Self::S3(s3) => &s3.client,
            Self::File { store, .. } => store,
            Self::Memory { store } => store,
        }
    }

    /// The store for a look at it, which says soon what is wrong.
    pub fn probe(&self) -> &dyn ObjectStore {
        match self {
            Self::S3(s3) => &s3.probe,
            Self::File { .. } | Self::Memory { .. } => self.store(),
        }
    }

    /// The bucket's name, or nothing.
    pub fn bucket(&self) -> &str {
        match self {
            Self::S3(s3) => &s3.bucket,
            Self::File { .. } | Self::Memory { .. } => "",
        }
    }
}

pub(super) fn open(
    options: &StoreOptions,
    environment: impl IntoIterator<Item = (String, String)>,
) -> Result<Opened, StorageError> {
    let text = options.url.as_str();
    if text.is_empty() {
        return Err(refused("it is empty"));
    }
    if !text.contains("://") {
        check_folder_name(text)?;
        return folder(text.into());
    }
    let url = Url::parse(text).map_err(|e| refused(e.to_string()))?;
    if !url.username().is_empty() || url.password().is_some() {
        return Err(refused(
            "credentials do not belong in a URL, set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY",
        ));
    }
    if url.query().is_some() || url.fragment().is_some() {
        return Err(refused("it has a query or a fragment"));
    }
    match url.scheme() {
        "file" => {
            folder(url.to_file_path().map_err(|()| refused(format!("`{text}` is no absolute file:/// URL")))?)
        }
        "memory" => Ok(Opened {
            backend: Backend::Memory { store: InMemory::new() },
            prefix: prefix(&url)?,
            location: "memory://".into(),
            failures: Arc::default(),
        }),
        "s3" => s3::open(&url, prefix(&url)?, options, environment),
        "http" | "https" => Err(refused(
            "an address of HTTP is no store: for S3 write s3://bucket/prefix here, and the address into AWS_ENDPOINT_URL",
        )),
        other => Err(refused(format!("`{other}` stores are not known"))),
    }
}

/// What was not meant to be a folder is told, and not made one.
fn check_folder_name(text: &str) -> Result<(), StorageError> {
    if text == "~" || text.starts_with("~/") {
        return Err(refused("`~` is read by shells alone, and none has read it here: write the whole path"));
    }
    let scheme = text.split_once(':').map(|(scheme, _)| scheme).filter(|scheme| {
        // A single letter may be a drive.
        scheme.len() > 1 && scheme.chars().all(|c| c.is_ascii_alphanumeric())
    });
    match scheme {
        Some(scheme) => Err(refused(format!(
            "`{scheme}:` is not followed by two slashes; a folder of that name would be ./{text}"
        ))),
        None => Ok(()),
    }
}

pub(super) fn refused(reason: impl Into<String>) -> StorageError {
    StorageError::Url { reason: reason.into() }
}

fn prefix(url: &Url) -> Result<Path, StorageError> {
    Path::from_url_path(url.path()).map_err(|e| refused(e.to_string()))
}

fn folder(path: PathBuf) -> Result<Opened, StorageError> {
    let unusable = |source| StorageError::Folder { path: path.clone(), source };
    std::fs::create_dir_all(&path).map_err(unusable)?;
    let root = path.canonicalize().map_err(unusable)?;
    let store = LocalFileSystem::new_with_prefix(&path)
        // A rename that a power cut undoes would be a result that is acknowledged and gone.
        .map(|store| store.with_fsync(true))
        .map_err(|e| unusable(std::io::Error::other(e)))?;
    Ok(Opened {
        location: root.display().to_string(),
        backend: Backend::File { store, root },
        prefix: Path::default(),
        failures: Arc::default(),
    })
}
