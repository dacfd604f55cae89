//! A small file system in memory, which can be filled and emptied.

use std::{
    fs::{self, File},
    io::Write,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use tempfile::TempDir;

/// Written at one time.
const PAGE: usize = 4096;
const LARGE: usize = 1 << 20;

pub struct SmallDisk(TempDir);

impl SmallDisk {
    /// Of so many MiB. `None`, with a line that says so, where mounting is not allowed.
    pub fn mount(mib: u32) -> Option<Self> {
        let folder = TempDir::new().expect("a folder");
        let size = format!("size={mib}m");
        let mount = ["-t", "tmpfs", "-o", &size, "tmpfs"];
        let mounted = Command::new("mount").args(mount).arg(folder.path()).stderr(Stdio::null()).status();
        if mounted.is_ok_and(|status| status.success()) {
            return Some(Self(folder));
        }
        println!("a full disk: left out, a file system cannot be mounted here");
        None
    }

    pub fn path(&self) -> &Path {
        self.0.path()
    }

    fn filler(&self) -> PathBuf {
        self.path().join("filler")
    }

    /// Leaves no room for a page.
    pub fn fill(&self) {
        let mut file = File::create(self.filler()).expect("a file");
        for size in [LARGE, PAGE] {
            let zeros = vec![0; size];
            while file.write_all(&zeros).is_ok() {}
        }
    }

    /// Whether it is filled.
    pub fn is_full(&self) -> bool {
        self.filler().exists()
    }

    /// Gives the room back, if it was taken.
    pub fn empty(&self) {
        let _ = fs::remove_file(self.filler());
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(self.path()).status();
    }
}

#[test]
fn a_disk_that_was_filled_takes_nothing_until_it_is_emptied() {
    let Some(disk) = SmallDisk::mount(3) else { return };
    let file = disk.path().join("one-more");
    disk.fill();
    assert!(disk.is_full());
    fs::write(&file, [0; PAGE]).unwrap_err();
    disk.empty();
    assert!(!disk.is_full());
    fs::write(&file, [0; PAGE]).unwrap();
}
