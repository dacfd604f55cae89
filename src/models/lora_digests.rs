//! SHA-256 of LoRA files, each computed once as long as its file does not change.

use std::{
    collections::HashMap,
    fs::File,
    io,
    path::{Path, PathBuf},
    sync::{Mutex, PoisonError},
};

use crate::diffusion::{Stamp, sha256};

/// Digests that are kept; when there are more, all are forgotten.
const MAX_KEPT: usize = 1024;
/// The digests that are known.
#[derive(Debug, Default)]
pub struct LoraDigests(Mutex<HashMap<PathBuf, (Stamp, [u8; 32])>>);

impl LoraDigests {
    /// SHA-256 of a file. It reads the file, and takes its time.
    ///
    /// # Errors
    /// The file cannot be read.
    pub fn digest(&self, file: &Path) -> io::Result<[u8; 32]> {
        let mut opened = File::open(file)?;
        let stamp = Stamp::of(&opened.metadata()?);
        if let Some((_, digest)) = self.known().get(file).filter(|(known, _)| *known == stamp) {
            return Ok(*digest);
        }
        let digest = sha256(&mut opened)?;
        if stamp.is_settled() && Stamp::of(&opened.metadata()?) == stamp {
            let mut known = self.known();
            if known.len() >= MAX_KEPT {
                known.clear();
            }
            known.insert(file.to_owned(), (stamp, digest));
        }
        Ok(digest)
    }

    fn known(&self) -> std::sync::MutexGuard<'_, HashMap<PathBuf, (Stamp, [u8; 32])>> {
        // Entries are whole: a panic leaves the map as it was.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, SystemTime};

    use sha2::{Digest, Sha256};

    use super::*;

    #[test]
    fn a_file_with_other_contents_of_the_same_size_has_another_digest() {
        let folder = tempfile::tempdir().unwrap();
        let (file, other) = (folder.path().join("a.safetensors"), folder.path().join("b.safetensors"));
        let digests = LoraDigests::default();
        let old = SystemTime::now() - Duration::from_secs(60);
        let write = |file: &Path, text: &str| {
            std::fs::write(file, text).unwrap();
            File::options().write(true).open(file).unwrap().set_modified(old).unwrap();
        };
        write(&file, "first");
        let first = digests.digest(&file).unwrap();
        assert_eq!(first[..], Sha256::digest("first")[..]);
        assert_eq!((digests.digest(&file).unwrap(), digests.known().len()), (first, 1));
        // Copied over with its time, as `cp -p` and a rename do.
        write(&other, "other");
        std::fs::rename(&other, &file).unwrap();
        assert_eq!(digests.digest(&file).unwrap()[..], Sha256::digest("other")[..]);
        // Where it is does not count.
        write(&other, "first");
        assert_eq!(digests.digest(&other).unwrap(), first);
        assert!(digests.digest(&folder.path().join("none")).is_err());
    }

    #[test]
    fn a_file_that_was_just_written_is_read_again() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("a.safetensors");
        let digests = LoraDigests::default();
        for text in ["first", "other"] {
            std::fs::write(&file, text).unwrap();
            File::options().write(true).open(&file).unwrap().set_modified(SystemTime::now()).unwrap();
            assert_eq!(digests.digest(&file).unwrap()[..], Sha256::digest(text)[..]);
            assert!(digests.known().is_empty());
        }
    }
}
