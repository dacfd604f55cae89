//! The hub's cache on disk, in the layout that Python's huggingface_hub shares: `refs/` name commits, `snapshots/` hold
//! a commit's files as links into `blobs/`.

use std::path::{Path, PathBuf};

use super::{
    HubRepo,
    selection::{self, INDEX},
};
use crate::diffusion::{Component, Precision};

/// A repository's part of the cache.
pub(super) struct RepoCache {
    folder: PathBuf,
}

impl RepoCache {
    pub(super) fn new(cache: &Path, repo: &HubRepo) -> Self {
        Self { folder: cache.join(repo.cache_folder()) }
    }

    pub(super) fn snapshot(&self, commit: &str) -> PathBuf {
        self.folder.join("snapshots").join(commit)
    }

    /// The commit that a revision was last time; a commit is itself.
    pub(super) fn commit_of(&self, revision: &str) -> Option<String> {
        if is_commit(revision) {
            return Some(revision.to_owned());
        }
        let text = std::fs::read_to_string(self.folder.join("refs").join(revision)).ok()?;
        Some(text.trim().to_owned()).filter(|commit| is_commit(commit))
    }

    /// Notes which commit a revision is.
    pub(super) fn remember(&self, revision: &str, commit: &str) -> std::io::Result<()> {
        if is_commit(revision) {
            return Ok(());
        }
        let path = self.folder.join("refs").join(revision);
        std::fs::create_dir_all(path.parent().unwrap_or(&self.folder))?;
        std::fs::write(path, commit)
    }

    /// Removes a file of a snapshot and what it links to.
    pub(super) fn remove(&self, commit: &str, file: &str) -> std::io::Result<()> {
        let pointer = self.snapshot(commit).join(file);
        // A link to what is not there, or a file without a link, has nothing more to remove.
        if let Ok(blob) = pointer.canonicalize() {
            std::fs::remove_file(blob)?;
        }
        match std::fs::remove_file(&pointer) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(error),
            _ => Ok(()),
        }
    }
}

/// Whether it is a commit's id: 40 hexadecimal digits.
pub(super) fn is_commit(text: &str) -> bool {
    text.len() == 40 && text.bytes().all(|b| b.is_ascii_hexdigit())
}

/// What a snapshot lacks of a checkpoint; none when it is whole.
pub(super) fn missing(snapshot: &Path, precision: Precision) -> Option<String> {
    if !snapshot.is_dir() {
        return Some("no snapshot of this revision".into());
    }
    let Ok(components) = selection::components(&std::fs::read(snapshot.join(INDEX)).unwrap_or_default())
    else {
        return Some(format!("no usable {INDEX}"));
    };
    let files = files_of(snapshot, &components);
    let chosen = match selection::select(&files, &components, precision) {
        Ok(chosen) => chosen,
        Err(lacks) => return Some(format!("no safetensors weights in {}/", lacks.component)),
    };
    for component in &components {
        let own: Vec<&String> =
            chosen.iter().filter(|path| path.starts_with(&format!("{}/", component.name))).collect();
        let config = component.role.config_file().unwrap_or_default();
        if own.is_empty() || !own.iter().any(|path| path.ends_with(config)) {
            return Some(format!("no {}/{config}", component.name));
        }
        let shards = own.iter().filter(|path| path.contains("-of-")).count();
        if let Some(total) = own.iter().find_map(|path| shards_in_all(path)).filter(|total| *total != shards)
        {
            return Some(format!("{shards} of the {total} files of weights in {}/", component.name));
        }
    }
    None
}

/// The paths of the files that are there; links to what is not there are none.
fn files_of(snapshot: &Path, components: &[Component]) -> Vec<String> {
    let mut files = vec![];
    for component in components {
        let Ok(entries) = std::fs::read_dir(snapshot.join(component.name)) else { continue };
        for entry in entries.flatten().filter(|entry| entry.path().is_file()) {
            files.push(format!("{}/{}", component.name, entry.file_name().to_string_lossy()));
        }
    }
    files
}

/// 2 of `model-00001-of-00002.safetensors`.
fn shards_in_all(path: &str) -> Option<usize> {
    path.split_once("-of-")?.1.get(..5)?.parse().ok()
}
