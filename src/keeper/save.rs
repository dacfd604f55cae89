//! Pictures, fetched through queen, checked against what the worker stored, and written whole or not at all.

use std::{
    io::Write,
    path::{Path, PathBuf},
    time::Duration,
};

use sha2::{Digest, Sha256};

use super::{KeeperError, client::Queen, request::OutputPlan};
use crate::contract::{CompleteEvent, ImageResult, JobId, hex};

/// How often a picture is fetched again after a broken connection.
const FETCH_RETRIES: u32 = 3;
/// The pause before a picture is fetched again.
const FETCH_PAUSE: Duration = Duration::from_millis(500);

/// Fetches and writes every picture of a job; gives the files in order.
///
/// # Errors
/// The first picture that did not come, is not the one that was stored, or cannot be written.
pub async fn pictures(
    queen: &Queen,
    job: &JobId,
    complete: &CompleteEvent,
    plan: &OutputPlan,
) -> Result<Vec<PathBuf>, KeeperError> {
    let mut files = Vec::with_capacity(complete.images.len());
    for (index, image) in complete.images.iter().enumerate() {
        let bytes = fetch(queen, job, index, image).await?;
        let path = plan.path(job, index, image.format);
        write(&path, &bytes).map_err(|source| KeeperError::Output { path: path.clone(), source })?;
        files.push(path);
    }
    Ok(files)
}

async fn fetch(
    queen: &Queen,
    job: &JobId,
    index: usize,
    image: &ImageResult,
) -> Result<bytes::Bytes, KeeperError> {
    let mut retries = 0;
    let bytes = loop {
        match queen.image(job, index, image.bytes).await {
            Err(KeeperError::Unreachable { .. }) if retries < FETCH_RETRIES => {
                retries += 1;
                tokio::time::sleep(FETCH_PAUSE).await;
            }
            result => break result?,
        }
    };
    let sha256 = hex(&Sha256::digest(&bytes));
    if sha256 != image.sha256 {
        let reason = format!("its sha256 is {sha256}, {} was promised", image.sha256);
        return Err(KeeperError::Damaged { index, reason });
    }
    Ok(bytes)
}

/// Writes beside the file and renames: whoever looks sees the whole picture or the file that was there before.
fn write(path: &Path, bytes: &[u8]) -> std::io::Result<()> {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let part = path.with_file_name(format!(".{name}.{}.part", std::process::id()));
    let written = (|| {
        let mut file = std::fs::File::create(&part)?;
        file.write_all(bytes)?;
        file.sync_all()?;
        std::fs::rename(&part, path)
    })();
    if written.is_err() {
        // The reason is what the user needs; a leftover that cannot be removed adds nothing to it.
        let _ = std::fs::remove_file(&part);
    }
    written
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_that_cannot_be_written_leaves_nothing_behind() {
        let folder = tempfile::tempdir().unwrap();
        let target = folder.path().join("taken");
        std::fs::create_dir(&target).unwrap();
        assert!(write(&target, b"picture").is_err());
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1);
        let file = folder.path().join("a.png");
        write(&file, b"old").unwrap();
        write(&file, b"new").unwrap();
        assert_eq!(std::fs::read(&file).unwrap(), b"new");
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 2);
    }
}
