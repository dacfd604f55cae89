//! Processes whose clock is another than the machine's, by libfaketime.

use std::{
    fs,
    path::{Path, PathBuf},
};

/// The variables of a process whose clock is ahead by so many seconds (behind, if below 0).
///
/// Only the time of day is shifted: time that passes is measured as it is.
///
/// # Panics
/// Says what to install when libfaketime is missing: a test that is left out shows nothing.
pub fn shifted(seconds: i64) -> Vec<(String, String)> {
    variables([("FAKETIME", format!("{seconds:+}"))])
}

/// A clock that jumps while its process runs.
#[derive(Debug)]
pub struct Movable {
    file: PathBuf,
}

impl Movable {
    /// A clock that is right; `file` says how far it is not.
    pub fn new(file: PathBuf) -> Self {
        let clock = Self { file };
        clock.set(0);
        clock
    }

    /// The variables of a process with this clock. What is measured in it is time of day alone, as in [`shifted`].
    ///
    /// # Panics
    /// As [`shifted`].
    pub fn environment(&self) -> Vec<(String, String)> {
        let file = self.file.to_str().expect("a UTF-8 path").to_owned();
        // The file is looked at once a second.
        variables([("FAKETIME_TIMESTAMP_FILE", file), ("FAKETIME_CACHE_DURATION", "1".to_owned())])
    }

    /// Ahead by so many seconds (behind, if below 0) within a second.
    pub fn set(&self, seconds: i64) {
        // Whole at any time.
        let next = self.file.with_extension("next");
        fs::write(&next, format!("{seconds:+}\n")).expect("a file");
        fs::rename(&next, &self.file).expect("a file");
    }
}

fn variables<const N: usize>(own: [(&str, String); N]) -> Vec<(String, String)> {
    let library = find(Path::new("/usr/lib"), 3).expect(
        "libfaketime is not under /usr/lib: run scripts/test, which brings it, or install it (apt install faketime)",
    );
    let common = [
        ("LD_PRELOAD", library.to_str().expect("a UTF-8 path").to_owned()),
        ("FAKETIME_DONT_FAKE_MONOTONIC", "1".to_owned()),
        ("DONT_FAKE_MONOTONIC", "1".to_owned()),
        ("NO_FAKE_STAT", "1".to_owned()),
    ];
    common.into_iter().chain(own).map(|(name, value)| (name.to_owned(), value)).collect()
}

/// The library for programs with threads, so many folders deep.
fn find(folder: &Path, depth: u32) -> Option<PathBuf> {
    let entries = fs::read_dir(folder).ok()?;
    let (mut files, mut folders) = (vec![], vec![]);
    for entry in entries.flatten() {
        let path = entry.path();
        if path.is_dir() { folders.push(path) } else { files.push(path) }
    }
    let library = files.into_iter().find(|path| path.ends_with("libfaketimeMT.so.1"));
    library.or_else(|| folders.iter().filter(|_| depth > 0).find_map(|folder| find(folder, depth - 1)))
}
