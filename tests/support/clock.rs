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
    let library = find(Path::new("/usr/lib"), 3).expect(
        "libfaketime is not under /usr/lib: run scripts/test, which brings it, or install it (apt install faketime)",
    );
    [
        ("LD_PRELOAD", library.to_str().expect("a UTF-8 path").to_owned()),
        ("FAKETIME", format!("{seconds:+}")),
        ("FAKETIME_DONT_FAKE_MONOTONIC", "1".to_owned()),
        ("DONT_FAKE_MONOTONIC", "1".to_owned()),
        ("NO_FAKE_STAT", "1".to_owned()),
    ]
    .map(|(name, value)| (name.to_owned(), value))
    .to_vec()
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
