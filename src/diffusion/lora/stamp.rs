//! What shows that a LoRA's file has changed, without reading it.

use std::{
    fs::Metadata,
    time::{Duration, SystemTime},
};

/// A file that was changed so recently may change again without another time of change: some file systems count seconds.
const SETTLED: Duration = Duration::from_secs(3);

/// A file's size, the time of its last change, and which file it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stamp {
    bytes: u64,
    /// None on a file system that has no times.
    modified: Option<SystemTime>,
    /// 0 where the system has none.
    inode: u64,
}

impl Stamp {
    /// Of an opened file, or of the one that a path leads to.
    pub fn of(metadata: &Metadata) -> Self {
        #[cfg(unix)]
        let inode = std::os::unix::fs::MetadataExt::ino(metadata);
        #[cfg(not(unix))]
        let inode = 0;
        Self { bytes: metadata.len(), modified: metadata.modified().ok(), inode }
    }

    /// Bytes of the file.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Whether a later change would show.
    pub fn is_settled(&self) -> bool {
        self.modified.and_then(|modified| modified.elapsed().ok()).is_some_and(|age| age >= SETTLED)
    }
}
