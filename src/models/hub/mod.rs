//! Repositories of the hub, through hf-hub: the files that a checkpoint is read from are brought into the cache that
//! Python's huggingface_hub shares, checked, and used from there.
//!
//! The environment is hf-hub's: HF_ENDPOINT, HF_HOME, HF_HUB_CACHE, HF_TOKEN, HF_TOKEN_PATH; and HF_HUB_OFFLINE, which
//! hf-hub does not know, is read here.

mod cache;
mod download;
mod error;
mod selection;

use std::{path::PathBuf, time::Duration};

use futures::TryStreamExt;
use hf_hub::{HFClient, HFError, HFRepository, RepoTypeModel, repository::RepoTreeEntry};

pub use error::HubError;

use self::{
    cache::{RepoCache, is_commit},
    download::{Download, Listed},
    error::status_of,
    selection::INDEX,
};
use super::HubRepo;
use crate::diffusion::Precision;

/// How long a download may go without a byte.
const STALL: Duration = Duration::from_secs(60);
/// The pause before a download is tried again; longer each time.
const PAUSE: Duration = Duration::from_secs(2);
/// The most entries of a repository that are looked at.
const MAX_ENTRIES: usize = 100_000;

/// How the hub is reached.
#[derive(Clone)]
pub struct HubOptions {
    /// The hub's address; HF_ENDPOINT, or else the public one.
    pub endpoint: Option<String>,
    /// The folder of the cache; HF_HUB_CACHE, or else below HF_HOME.
    pub cache: Option<PathBuf>,
    /// A token; HF_TOKEN, or else the one that a login left.
    pub token: Option<String>,
    /// Use the cache only.
    pub offline: bool,
    /// How long a download may go without a byte.
    pub stall: Duration,
    /// The pause before a download is tried again.
    pub pause: Duration,
}

impl HubOptions {
    /// What the process's environment says; what is `None` hf-hub reads from there.
    pub fn from_environment() -> Self {
        let offline = std::env::var("HF_HUB_OFFLINE")
            .is_ok_and(|value| ["1", "on", "yes", "true"].contains(&value.to_ascii_lowercase().as_str()));
        Self { endpoint: None, cache: None, token: None, offline, stall: STALL, pause: PAUSE }
    }
}

/// The hub, and its cache on disk.
pub struct Hub {
    client: HFClient,
    options: HubOptions,
}

impl Hub {
    /// Nothing is asked yet.
    ///
    /// # Errors
    /// When the endpoint is no URL.
    pub fn new(options: HubOptions) -> Result<Self, HubError> {
        // hf-hub's own retries begin at a twentieth of ours.
        let mut builder = HFClient::builder().retry_base_delay(options.pause / 20);
        builder = match &options.endpoint {
            Some(endpoint) => builder.endpoint(endpoint),
            None => builder,
        };
        builder = match &options.cache {
            Some(cache) => builder.cache_dir(cache),
            None => builder,
        };
        builder = match &options.token {
            Some(token) => builder.token(token),
            None => builder,
        };
        let client = builder.build().map_err(|source| HubError::Client { source })?;
        Ok(Self { client, options })
    }

    /// The folder of a repository's checkpoint in the cache, whole: what is not there yet is downloaded. Weights in
    /// half precision are taken where `precision` keeps them so.
    ///
    /// A hub that does not answer, or that must not be asked, leaves what the cache has.
    ///
    /// # Errors
    /// [`HubError`] says what to do.
    pub async fn fetch(&self, repo: &HubRepo, precision: Precision) -> Result<PathBuf, HubError> {
        let cache = RepoCache::new(self.client.cache_dir(), repo);
        if self.options.offline {
            return self.cached(&cache, repo, precision);
        }
        let files = self.client.model(repo.organisation(), repo.name());
        let commit = match self.commit(&files, repo).await {
            Err(error @ (HubError::Unreachable { .. } | HubError::Stalled { .. })) => {
                let folder = self.cached(&cache, repo, precision).map_err(|_| {
                    tracing::debug!(%repo, "the cache has no whole copy either");
                    error
                })?;
                tracing::warn!(%repo, folder = %folder.display(), "the hub does not answer; the cache is used");
                return Ok(folder);
            }
            other => other?,
        };
        let listed = self.list(&files, repo, &commit).await?;
        let snapshot = cache.snapshot(&commit);
        let refs = RepoCache::new(self.client.cache_dir(), repo);
        let (stall, pause) = (self.options.stall, self.options.pause);
        let download = Download { repo: &repo.to_string(), files, commit: &commit, cache, stall, pause };
        let index =
            listed.iter().find(|file| file.path == INDEX).ok_or_else(|| self.no_index(repo, &listed))?;
        let index = download.file(index).await?;
        for file in self.needed(repo, &index, &listed, precision)? {
            download.file(file).await?;
        }
        refs.remember(repo.revision(), &commit).map_err(|source| HubError::Cache {
            repo: repo.to_string(),
            file: snapshot.clone(),
            source,
        })?;
        tracing::info!(%repo, commit, folder = %snapshot.display(), "a repository of the hub is in the cache");
        Ok(snapshot)
    }

    /// What the cache has, if that is all of it.
    fn cached(&self, cache: &RepoCache, repo: &HubRepo, precision: Precision) -> Result<PathBuf, HubError> {
        let snapshot = cache.commit_of(repo.revision()).map(|commit| cache.snapshot(&commit));
        let missing = match &snapshot {
            Some(snapshot) => cache::missing(snapshot, precision),
            None => Some(format!("nothing of revision {}", repo.revision())),
        };
        match (snapshot, missing) {
            (Some(snapshot), None) => Ok(snapshot),
            (_, missing) => Err(HubError::NotCached {
                repo: repo.to_string(),
                cache: self.client.cache_dir().to_owned(),
                missing: missing.unwrap_or_default(),
            }),
        }
    }

    /// The commit that the revision is now.
    async fn commit(&self, files: &HFRepository<RepoTypeModel>, repo: &HubRepo) -> Result<String, HubError> {
        let what = "its revision";
        let info = tokio::time::timeout(self.options.stall, files.info().revision(repo.revision()).send());
        let info = self.answer(repo, what, info.await)?;
        match info.sha {
            Some(commit) if is_commit(&commit) => Ok(commit),
            other => Err(HubError::Layout {
                repo: repo.to_string(),
                expected: "a commit of 40 hexadecimal digits".into(),
                found: other.unwrap_or_else(|| "none".into()),
            }),
        }
    }

    /// Every file of a commit.
    async fn list(
        &self,
        files: &HFRepository<RepoTypeModel>,
        repo: &HubRepo,
        commit: &str,
    ) -> Result<Vec<Listed>, HubError> {
        let listing = async {
            let entries = files.list_tree().revision(commit).recursive(true).limit(MAX_ENTRIES).send()?;
            entries.try_collect::<Vec<RepoTreeEntry>>().await
        };
        let entries =
            self.answer(repo, "its list of files", tokio::time::timeout(self.options.stall, listing).await)?;
        let file = |entry| match entry {
            RepoTreeEntry::File { path, size, lfs, .. } => {
                Some(Listed { path, size, large: lfs.is_some(), sha256: lfs.and_then(|lfs| lfs.sha256) })
            }
            RepoTreeEntry::Directory { .. } => None,
        };
        Ok(entries.into_iter().filter_map(file).collect())
    }

    fn answer<T>(
        &self,
        repo: &HubRepo,
        what: &str,
        answer: Result<Result<T, HFError>, tokio::time::error::Elapsed>,
    ) -> Result<T, HubError> {
        let (repo, file) = (repo.to_string(), what.to_owned());
        let error = match answer {
            Ok(Ok(answer)) => return Ok(answer),
            Ok(Err(error)) => error,
            Err(_) => {
                return Err(HubError::Stalled { repo, file, stall: self.options.stall, attempts: 1 });
            }
        };
        Err(match (status_of(&error), error) {
            (Some(401), _) => HubError::TokenRequired { repo },
            (Some(403), _) => HubError::Forbidden { repo },
            (Some(404), _) => HubError::NotFound { repo },
            (_, source @ HFError::Request { .. }) => {
                HubError::Unreachable { repo, endpoint: self.client.endpoint().to_owned(), source }
            }
            (_, source) => HubError::Failed { repo, file, source, attempts: 1 },
        })
    }

    fn no_index(&self, repo: &HubRepo, listed: &[Listed]) -> HubError {
        let found: Vec<&str> = listed.iter().take(12).map(|file| file.path.as_str()).collect();
        let found = if found.is_empty() { "no file".to_owned() } else { found.join(", ") };
        HubError::Layout { repo: repo.to_string(), expected: INDEX.into(), found }
    }

    /// The files that the components in `index` are read from.
    fn needed<'a>(
        &self,
        repo: &HubRepo,
        index: &std::path::Path,
        listed: &'a [Listed],
        precision: Precision,
    ) -> Result<Vec<&'a Listed>, HubError> {
        let layout =
            |expected: String, found: String| HubError::Layout { repo: repo.to_string(), expected, found };
        let bytes = std::fs::read(index).map_err(|source| HubError::Cache {
            repo: repo.to_string(),
            file: index.to_owned(),
            source,
        })?;
        let components =
            selection::components(&bytes).map_err(|index| layout(index.expected, index.found))?;
        let paths: Vec<String> = listed.iter().map(|file| file.path.clone()).collect();
        let chosen = selection::select(&paths, &components, precision)
            .map_err(|lacks| layout(format!("safetensors weights in {}/", lacks.component), lacks.found))?;
        Ok(listed.iter().filter(|file| file.path != INDEX && chosen.contains(&file.path)).collect())
    }
}
