//! The object store: typed keys, pictures, results and inputs, over S3, a folder or memory.
//!
//! Writes overwrite: keys are determined by the job, so a second write of the same job is the same object,
//! and a write whose answer was lost may simply be repeated.

mod backend;
mod check;
mod error;
mod failures;
mod key;
mod options;
mod result;
mod s3;
#[cfg(test)]
mod tests;

use std::{fmt, future::Future, sync::Arc, time::Duration};

use bytes::Bytes;
use object_store::{
    Attribute, Attributes, ObjectStore, ObjectStoreExt, PutOptions,
    path::Path,
    signer::{Method, Signer},
};
use url::Url;

use backend::{Backend, Opened};

pub use error::{Action, StorageError};
pub use key::{ContentHash, Key, Reference};
pub use options::{DEFAULT_PRESIGN_TTL, DEFAULT_STORE_TIMEOUT, MAX_PRESIGN_TTL, StoreOptions};
pub use result::StoredResult;

/// The object store. Cheap to clone; clones share connections (and, of `memory://`, the objects).
#[derive(Clone)]
pub struct Store {
    inner: Arc<Inner>,
}

struct Inner {
    opened: Opened,
    presign_ttl: Duration,
    timeout: Duration,
}

impl fmt::Debug for Store {
    /// The location only: clients hold credentials.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Store").field(&self.location()).finish()
    }
}

impl Store {
    /// Opens the store that `options` name, S3 with the `AWS_*` variables of the environment. A folder is created.
    /// Nothing is sent yet: see [`Store::check`].
    pub fn open(options: &StoreOptions) -> Result<Self, StorageError> {
        let utf8 = |(name, value): (std::ffi::OsString, std::ffi::OsString)| {
            Some((name.into_string().ok()?, value.into_string().ok()?))
        };
        Self::open_with(options, std::env::vars_os().filter_map(utf8))
    }

    /// As [`Store::open`], with these variables in place of the environment's.
    pub fn open_with(
        options: &StoreOptions,
        environment: impl IntoIterator<Item = (String, String)>,
    ) -> Result<Self, StorageError> {
        let opened = backend::open(options, environment)?;
        let inner = Inner { opened, presign_ttl: options.presign_ttl, timeout: options.store_timeout };
        Ok(Self { inner: Arc::new(inner) })
    }

    /// What the store is called in messages: its URL or folder.
    pub fn location(&self) -> &str {
        &self.inner.opened.location
    }

    /// Requests to the store that failed or were too slow since it was opened, those included that were tried again and went
    /// well.
    pub fn failures(&self) -> u64 {
        self.inner.opened.failures.number()
    }

    /// Writes an object, over an earlier one if there is one. On S3 it carries the media type, and the job's id
    /// as metadata `job-id`; a folder keeps neither. Readers see the old object or the new one, never a part.
    pub async fn put(&self, key: &Key, bytes: Bytes, content_type: &str) -> Result<(), StorageError> {
        self.put_into(self.store(), key, bytes, content_type).await
    }

    async fn put_into(
        &self,
        store: &dyn ObjectStore,
        key: &Key,
        bytes: Bytes,
        content_type: &str,
    ) -> Result<(), StorageError> {
        let mut options = PutOptions::default();
        // LocalFileSystem refuses a put with attributes.
        if !matches!(self.backend(), Backend::File { .. }) {
            let mut attributes = Attributes::new();
            attributes.insert(Attribute::ContentType, content_type.to_owned().into());
            if let Some(job) = key.job() {
                attributes.insert(Attribute::Metadata("job-id".into()), job.as_str().to_owned().into());
            }
            options.attributes = attributes;
        }
        let path = self.path(key);
        let put = store.put_opts(&path, bytes.into(), options);
        self.bounded(Action::Write, key, put).await.map(drop)
    }

    /// Reads an object of at most `max_bytes`; its size is checked before its body is read.
    ///
    /// # Errors
    /// [`StorageError::NotFound`], [`StorageError::TooLarge`], or why the store gave nothing.
    pub async fn get(&self, key: &Key, max_bytes: u64) -> Result<Bytes, StorageError> {
        self.get_from(self.store(), key, max_bytes).await
    }

    async fn get_from(
        &self,
        store: &dyn ObjectStore,
        key: &Key,
        max_bytes: u64,
    ) -> Result<Bytes, StorageError> {
        let path = self.path(key);
        self.check_links(key, &path).await?;
        let read = async {
            let found = store.get(&path).await?;
            let bytes = found.meta.size;
            if bytes > max_bytes {
                return Ok(Err(StorageError::TooLarge { key: key.path(), bytes, limit: max_bytes }));
            }
            found.bytes().await.map(Ok)
        };
        self.bounded(Action::Read, key, read).await?
    }

    /// As [`Store::get`]; `None` when there is no such object.
    pub async fn find(&self, key: &Key, max_bytes: u64) -> Result<Option<Bytes>, StorageError> {
        match self.get(key, max_bytes).await {
            Ok(bytes) => Ok(Some(bytes)),
            Err(StorageError::NotFound { .. }) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Removes an object. One that is not there is removed already.
    pub async fn delete(&self, key: &Key) -> Result<(), StorageError> {
        let path = self.path(key);
        let delete = self.store().delete(&path);
        match self.bounded(Action::Delete, key, delete).await {
            // A folder says so, S3 and memory do not.
            Ok(()) | Err(StorageError::NotFound { .. }) => Ok(()),
            Err(error) => Err(error),
        }
    }

    /// Where a reader can fetch it: a presigned GET on S3 (good for `--presign-ttl`), `file:///absolute` of a folder,
    /// `memory:///key` of memory. The object need not exist.
    pub async fn url(&self, key: &Key) -> Result<String, StorageError> {
        let path = self.path(key);
        match self.backend() {
            Backend::S3(s3) => {
                let sign = s3.reader.signed_url(Method::GET, &path, self.inner.presign_ttl);
                Ok(self.bounded(Action::Sign, key, sign).await?.into())
            }
            Backend::File { store, .. } => {
                let file = store
                    .path_to_filesystem(&path)
                    .map_err(|source| StorageError::of(Action::Sign, key, "", source))?;
                let url = Url::from_file_path(file).expect("the store's folder is absolute");
                Ok(url.into())
            }
            Backend::Memory { .. } => Ok(format!("memory:///{path}")),
        }
    }

    /// Whether [`Store::url`] gives addresses that are read over the network.
    pub fn presigns(&self) -> bool {
        matches!(self.backend(), Backend::S3(_))
    }

    /// A key that a client named is read only where it leads to a file inside the folder: links may have come into it
    /// with an archive or from another machine. A store without folders has no links.
    async fn check_links(&self, key: &Key, path: &Path) -> Result<(), StorageError> {
        let (Backend::File { store, root }, Key::Reference(_)) = (self.backend(), key) else { return Ok(()) };
        let failed = |source| StorageError::of(Action::Read, key, "", source);
        let file = store.path_to_filesystem(path).map_err(failed)?;
        match tokio::fs::canonicalize(file).await {
            Ok(file) if !file.starts_with(root) => Err(StorageError::LeadsOut { key: key.path() }),
            // What is not there is said by the read itself.
            Ok(_) | Err(_) => Ok(()),
        }
    }

    fn backend(&self) -> &Backend {
        &self.inner.opened.backend
    }

    fn store(&self) -> &dyn ObjectStore {
        self.backend().store()
    }

    fn path(&self, key: &Key) -> Path {
        self.inner.opened.prefix.parts().chain(Path::from(key.path()).parts()).collect()
    }

    async fn bounded<T>(
        &self,
        action: Action,
        key: &Key,
        work: impl Future<Output = Result<T, object_store::Error>>,
    ) -> Result<T, StorageError> {
        match tokio::time::timeout(self.inner.timeout, work).await {
            Ok(done) => done.map_err(|source| {
                let error = StorageError::of(action, key, self.backend().bucket(), source);
                // Those of S3 are counted where they are sent.
                let is_counted = matches!(self.backend(), Backend::S3(_));
                if !is_counted && !matches!(error, StorageError::NotFound { .. }) {
                    self.inner.opened.failures.count();
                }
                error
            }),
            Err(_) => {
                self.inner.opened.failures.count();
                let seconds = self.inner.timeout.as_secs_f64();
                Err(StorageError::TimedOut { action, key: key.path(), seconds })
            }
        }
    }
}
