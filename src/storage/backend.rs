//! The three kinds of store, opened by URL.

use std::{path::PathBuf, time::Duration};

use object_store::{
    BackoffConfig, ObjectStore, RetryConfig,
    aws::{AmazonS3, AmazonS3Builder, AmazonS3ConfigKey},
    local::LocalFileSystem,
    memory::InMemory,
    path::Path,
};
use url::Url;

use super::{StorageError, StoreOptions, options::MAX_PRESIGN_TTL};

/// Retries of one request to S3 (5xx, 429, 408, lost connections).
const MAX_RETRIES: usize = 10;
/// The pause before the first retry; later ones are jittered, and up to twice the one before.
const FIRST_BACKOFF: Duration = Duration::from_millis(100);
/// The longest pause between retries.
const MAX_BACKOFF: Duration = Duration::from_secs(5);

/// A store of one kind.
pub(super) enum Backend {
    /// A bucket. `reader` signs URLs for the endpoint that readers can reach.
    S3 { client: AmazonS3, reader: AmazonS3, bucket: String },
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
}

impl Backend {
    pub fn store(&self) -> &dyn ObjectStore {
        match self {
            Self::S3 { client, .. } => client,
            Self::File { store, .. } => store,
            Self::Memory { store } => store,
        }
    }

    /// The bucket's name, or nothing.
    pub fn bucket(&self) -> &str {
        match self {
            Self::S3 { bucket, .. } => bucket,
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
        }),
        "s3" => s3(&url, options, environment),
        other => Err(refused(format!("`{other}` stores are not known"))),
    }
}

fn refused(reason: impl Into<String>) -> StorageError {
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
        backend: Backend::File { store, root },
        prefix: Path::default(),
        location: path.display().to_string(),
    })
}

fn s3(
    url: &Url,
    options: &StoreOptions,
    environment: impl IntoIterator<Item = (String, String)>,
) -> Result<Opened, StorageError> {
    let bucket = url.host_str().filter(|b| !b.is_empty()).ok_or_else(|| refused("s3:// needs a bucket"))?;
    if options.presign_ttl.is_zero() || options.presign_ttl > MAX_PRESIGN_TTL {
        return Err(refused("--presign-ttl must be above 0 and at most 7 days for s3://"));
    }
    // Retries end, with the last pause, short of the whole time: the last answer is reported, not that time is up.
    let max_backoff = MAX_BACKOFF.min(options.store_timeout.mul_f64(0.125));
    let retry = RetryConfig {
        backoff: BackoffConfig { init_backoff: FIRST_BACKOFF.min(max_backoff), max_backoff, base: 2.0 },
        max_retries: MAX_RETRIES,
        retry_timeout: options.store_timeout.mul_f64(0.75),
    };
    // One object at a time is deleted here, by the request that every server knows and that is tried again like others.
    let mut builder =
        AmazonS3Builder::new().with_bucket_name(bucket).with_retry(retry).with_disable_bulk_delete(true);
    let mut plain_http_is_decided = false;
    for (name, value) in environment {
        // An unset variable often arrives as an empty one, from compose files above all.
        let key = name.starts_with("AWS_").then(|| name.to_ascii_lowercase().parse::<AmazonS3ConfigKey>());
        if let (Some(Ok(key)), false) = (key, value.is_empty()) {
            plain_http_is_decided |= name == "AWS_ALLOW_HTTP";
            builder = builder.with_config(key, value);
        }
    }
    let endpoint = [AmazonS3ConfigKey::S3Endpoint, AmazonS3ConfigKey::Endpoint]
        .iter()
        .find_map(|key| builder.get_config_value(key));
    // Whoever writes http:// means it; the AWS tools ask for no second word either.
    let plain_http = endpoint.is_some_and(|e| e.starts_with("http://")) && !plain_http_is_decided;
    if plain_http {
        builder = builder.with_allow_http(true);
    }
    let build = |builder: AmazonS3Builder| builder.build().map_err(|source| StorageError::Setup { source });
    let client = build(builder.clone())?;
    let reader = match &options.public_url {
        None => client.clone(),
        Some(public) => {
            Url::parse(public)
                .ok()
                .filter(|u| matches!(u.scheme(), "http" | "https"))
                .filter(|u| u.username().is_empty() && u.password().is_none())
                .ok_or_else(|| refused("--store-public-url is no http:// or https:// URL"))?;
            let public = public.trim_end_matches('/');
            build(builder.with_config(AmazonS3ConfigKey::S3Endpoint, public))?
        }
    };
    let prefix = prefix(url)?;
    Ok(Opened {
        backend: Backend::S3 { client, reader, bucket: bucket.to_owned() },
        prefix,
        location: url.to_string(),
    })
}
