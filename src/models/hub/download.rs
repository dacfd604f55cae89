//! One file of a repository into the cache: watched for stalls, checked against what the hub lists, tried again a few
//! times.
//!
//! hf-hub 1.0 saves the body of an answer that is an error as the file, and waits for ever for a server that has gone
//! silent: size and checksum are checked here, and the wait is bounded here.

use std::{
    io::Read,
    path::{Path, PathBuf},
    pin::pin,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use hf_hub::{
    HFError, HFRepository, RepoTypeModel,
    progress::{DownloadEvent, ProgressEvent, ProgressHandler},
};
use sha2::{Digest, Sha256};

use super::{HubError, cache::RepoCache, error::status_of};

/// How often a file is tried.
const ATTEMPTS: u32 = 3;
/// How often a file may come wrong.
const WRONG_FILES: u32 = 2;
/// Time between two lines of progress in the log.
const LOG_EVERY: Duration = Duration::from_secs(10);
/// How long another process may hold a file's lock, which it does while it downloads.
const LOCK_PATIENCE: Duration = Duration::from_secs(3600);
/// Bytes read at once for a checksum.
const HASH_CHUNK: usize = 1 << 20;
/// Characters of a wrong file that an error quotes: often it is the server's message.
const QUOTED: usize = 120;

/// A file as the hub lists it.
#[derive(Debug, Clone)]
pub(super) struct Listed {
    pub path: String,
    pub size: u64,
    /// Whether it is kept in large file storage, where a file's id is its SHA-256.
    pub large: bool,
    /// Its SHA-256, where the listing says so.
    pub sha256: Option<String>,
}

/// What all files of a download share.
pub(super) struct Download<'a> {
    pub repo: &'a str,
    pub files: HFRepository<RepoTypeModel>,
    pub commit: &'a str,
    pub cache: RepoCache,
    pub stall: Duration,
    pub pause: Duration,
}

/// Why one try failed.
enum Trouble {
    Stalled,
    Hub(HFError),
    Wrong { expected: String, found: String },
    Cache(PathBuf, std::io::Error),
}

/// Bytes that have come so far.
#[derive(Default)]
struct Received(AtomicU64);

impl ProgressHandler for Received {
    fn on_progress(&self, event: &ProgressEvent) {
        let bytes = match event {
            ProgressEvent::Download(DownloadEvent::Progress { files }) => {
                files.iter().map(|file| file.bytes_completed).sum()
            }
            ProgressEvent::Download(DownloadEvent::AggregateProgress { bytes_completed, .. }) => {
                *bytes_completed
            }
            _ => return,
        };
        self.0.fetch_max(bytes, Ordering::Relaxed);
    }
}

impl Download<'_> {
    /// The file in the snapshot. One that is there already is checked by its size, one that comes by its checksum too.
    pub(super) async fn file(&self, file: &Listed) -> Result<PathBuf, HubError> {
        let there = self.cache.snapshot(self.commit).join(&file.path);
        match std::fs::metadata(&there) {
            Ok(found) if found.len() == file.size => return Ok(there),
            Ok(found) => {
                tracing::warn!(
                    repo = self.repo,
                    file = file.path,
                    expected = file.size,
                    found = found.len(),
                    "a file in the cache has another size than on the hub; it is fetched again"
                );
                self.remove(file)?;
            }
            Err(_) => {}
        }
        let (mut attempts, mut wrong) = (0, 0);
        let waiting = Instant::now();
        loop {
            let trouble = match self.attempt(file).await {
                Ok(path) => return Ok(path),
                Err(Trouble::Hub(HFError::CacheLockTimeout { .. })) if waiting.elapsed() < LOCK_PATIENCE => {
                    tracing::info!(
                        repo = self.repo,
                        file = file.path,
                        "another process downloads it; waiting"
                    );
                    continue;
                }
                Err(trouble) => trouble,
            };
            attempts += 1;
            if let Trouble::Wrong { .. } = trouble {
                wrong += 1;
                self.remove(file)?;
            }
            let last = attempts == ATTEMPTS || wrong == WRONG_FILES || !trouble.may_pass();
            let error = self.error(file, trouble, attempts);
            if last {
                return Err(error);
            }
            tracing::warn!(%error, "a download failed; it is tried again");
            tokio::time::sleep(self.pause * attempts).await;
        }
    }

    async fn attempt(&self, file: &Listed) -> Result<PathBuf, Trouble> {
        let path = self.receive(file).await?;
        let (expected, checked) = (file.clone(), path.clone());
        // Reads up to several gigabytes.
        match tokio::task::spawn_blocking(move || check(&expected, &checked)).await {
            Ok(checked) => checked?,
            Err(error) => return Err(Trouble::Cache(path, std::io::Error::other(error))),
        }
        Ok(path)
    }

    /// Downloads it, and gives up when no byte comes.
    async fn receive(&self, file: &Listed) -> Result<PathBuf, Trouble> {
        let received = Arc::new(Received::default());
        let download = self.files.download_file().filename(&file.path).revision(self.commit);
        let mut download = pin!(download.progress(received.clone()).send());
        let (mut bytes, mut since, mut logged) = (0, Instant::now(), Instant::now());
        loop {
            let tick = (self.stall / 4).min(LOG_EVERY);
            match tokio::time::timeout(tick, &mut download).await {
                Ok(result) => return result.map_err(Trouble::Hub),
                Err(_) => {
                    let now = received.0.load(Ordering::Relaxed);
                    if now != bytes {
                        (bytes, since) = (now, Instant::now());
                    } else if since.elapsed() >= self.stall {
                        return Err(Trouble::Stalled);
                    }
                    if logged.elapsed() >= LOG_EVERY {
                        logged = Instant::now();
                        tracing::info!(
                            repo = self.repo,
                            file = file.path,
                            bytes,
                            of = file.size,
                            "downloading"
                        );
                    }
                }
            }
        }
    }

    fn remove(&self, file: &Listed) -> Result<(), HubError> {
        self.cache.remove(self.commit, &file.path).map_err(|source| HubError::Cache {
            repo: self.repo.to_owned(),
            file: self.cache.snapshot(self.commit).join(&file.path),
            source,
        })
    }

    fn error(&self, file: &Listed, trouble: Trouble, attempts: u32) -> HubError {
        let (repo, file) = (self.repo.to_owned(), file.path.clone());
        match trouble {
            Trouble::Stalled => HubError::Stalled { repo, file, stall: self.stall, attempts },
            Trouble::Wrong { expected, found } => HubError::Corrupt { repo, file, expected, found },
            Trouble::Cache(file, source) => HubError::Cache { repo, file, source },
            Trouble::Hub(source) => match status_of(&source) {
                Some(401) => HubError::TokenRequired { repo },
                Some(403) => HubError::Forbidden { repo },
                _ => HubError::Failed { repo, file, source, attempts },
            },
        }
    }
}

impl Trouble {
    /// Whether another try could end better.
    fn may_pass(&self) -> bool {
        match self {
            Self::Stalled | Self::Wrong { .. } => true,
            Self::Cache(..) | Self::Hub(HFError::Io(_)) => false,
            Self::Hub(error) => !matches!(status_of(error), Some(400..=499)),
        }
    }
}

/// Compares a file with what the hub lists: its size, and of a large file the SHA-256.
fn check(listed: &Listed, path: &Path) -> Result<(), Trouble> {
    let cache = |source| Trouble::Cache(path.to_owned(), source);
    let size = std::fs::metadata(path).map_err(cache)?.len();
    if size != listed.size {
        let found = format!("{size} bytes{}", quote(path, size).map_err(cache)?);
        return Err(Trouble::Wrong { expected: format!("{} bytes", listed.size), found });
    }
    // The cache names a file by the id that the hub gave with it.
    let id = path.canonicalize().map_err(cache)?;
    let id = id.file_name().and_then(|name| name.to_str()).filter(|id| id.len() == 64).map(str::to_owned);
    let Some(expected) = listed.sha256.clone().or(id).filter(|_| listed.large) else {
        return Ok(());
    };
    let found = sha256(path).map_err(cache)?;
    if found.eq_ignore_ascii_case(&expected) {
        return Ok(());
    }
    Err(Trouble::Wrong { expected: format!("SHA-256 {expected}"), found: format!("SHA-256 {found}") })
}

/// The text of a file that is short enough to be a message.
fn quote(path: &Path, size: u64) -> std::io::Result<String> {
    if size > 64 * 1024 {
        return Ok(String::new());
    }
    let bytes = std::fs::read(path)?;
    let text = String::from_utf8_lossy(&bytes);
    let text: String = text.chars().take(QUOTED).map(|c| if c.is_control() { ' ' } else { c }).collect();
    Ok(if text.trim().is_empty() { String::new() } else { format!(" (`{}`)", text.trim()) })
}

fn sha256(path: &Path) -> std::io::Result<String> {
    let mut file = std::fs::File::open(path)?;
    let mut hash = Sha256::new();
    let mut chunk = vec![0; HASH_CHUNK];
    loop {
        match file.read(&mut chunk)? {
            0 => return Ok(crate::contract::hex(&hash.finalize())),
            read => hash.update(&chunk[..read]),
        }
    }
}
