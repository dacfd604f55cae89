//! What the targets for files share: a copy of a small checkpoint in memory, and an input as a row of choices.
#![allow(dead_code)]

use std::{
    fs,
    path::{Path, PathBuf},
    sync::{Mutex, PoisonError},
};

use tempfile::TempDir;

#[path = "../../../tests/support/tensor_file.rs"]
mod tensor_file;

pub use tensor_file::{Tensor, TensorFile, data_of};

/// A file under the tests' data.
pub fn data(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/data/parity").join(name)
}

/// A folder in memory, where there is one.
pub fn folder() -> TempDir {
    let memory = PathBuf::from("/dev/shm");
    let folder = match memory.is_dir() {
        true => TempDir::new_in(memory),
        false => TempDir::new(),
    };
    folder.expect("a temporary folder")
}

/// A copy of a checkpoint.
pub struct Checkpoint {
    folder: TempDir,
    files: &'static [&'static str],
    originals: Vec<Vec<u8>>,
    changed: Mutex<Vec<usize>>,
}

impl Checkpoint {
    /// Of these files of a checkpoint of the tests.
    pub fn copy(name: &str, files: &'static [&'static str]) -> Self {
        let folder = folder();
        let copy = |name: &&str, from: &Path| {
            let bytes = fs::read(from.join(name)).expect("a file");
            let to = folder.path().join(name);
            fs::create_dir_all(to.parent().expect("a file in a folder")).expect("a folder");
            fs::write(to, &bytes).expect("a file");
            bytes
        };
        let originals = files.iter().map(|file| copy(file, &data(name))).collect();
        Self { folder, files, originals, changed: Mutex::default() }
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        self.folder.path()
    }

    /// The undamaged file.
    pub fn original(&self, which: usize) -> &[u8] {
        &self.originals[which]
    }

    /// The file as it is now.
    pub fn current(&self, which: usize) -> Vec<u8> {
        fs::read(self.folder.path().join(self.files[which])).expect("a file")
    }

    /// Changes a file.
    pub fn write(&self, which: usize, bytes: &[u8]) {
        self.changed.lock().unwrap_or_else(PoisonError::into_inner).push(which);
        fs::write(self.folder.path().join(self.files[which]), bytes).expect("a file");
    }

    /// All files as they were.
    pub fn restore(&self) {
        for which in self.changed.lock().unwrap_or_else(PoisonError::into_inner).drain(..) {
            fs::write(self.folder.path().join(self.files[which]), &self.originals[which]).expect("a file");
        }
    }
}

/// An input as choices, a byte each.
pub struct Choices<'a>(pub &'a [u8]);

impl Choices<'_> {
    /// The next one; none at the end.
    pub fn next(&mut self) -> Option<usize> {
        let (first, rest) = self.0.split_first()?;
        self.0 = rest;
        Some(usize::from(*first))
    }
}
