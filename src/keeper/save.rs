//! Pictures, fetched through queen, checked against what the worker stored, and handed to their places.

use std::path::PathBuf;

use bytes::Bytes;
use sha2::{Digest, Sha256};

use super::{
    KeeperError,
    client::Queen,
    output::{Place, Plan, write_error},
    report::Reporter,
};
use crate::contract::{CompleteEvent, ImageResult, JobId, hex};

/// Fetches and writes every picture of a job; gives their places in order.
///
/// # Errors
/// The first picture that did not come, is not the one that was stored, or cannot be written.
pub async fn pictures(
    queen: &Queen,
    job: &JobId,
    complete: &CompleteEvent,
    mut plan: Plan,
    reporter: &Reporter,
) -> Result<Vec<PathBuf>, KeeperError> {
    if complete.images.len() != plan.places.len() {
        let (come, asked) = (complete.images.len(), plan.places.len());
        return Err(KeeperError::Protocol(format!("{come} pictures of {job}, where {asked} were asked for")));
    }
    let mut shown = Vec::with_capacity(plan.places.len());
    for (index, (image, place)) in complete.images.iter().zip(&mut plan.places).enumerate() {
        let bytes = fetch(queen, job, index, image, reporter).await?;
        if place.waits_for_a_reader() {
            reporter.note(&format!("{} waits for somebody who reads it", place.shown().display()));
        }
        let written = place.write(bytes.clone()).await;
        written.map_err(|source| write_error(place, source))?;
        reporter.picture(&bytes);
        shown.push(place.shown().to_owned());
    }
    Ok(shown)
}

/// A preview; one that cannot be written is lost, and said once by whoever calls this.
pub async fn preview(place: &mut Place, bytes: Bytes) -> Result<(), KeeperError> {
    let written = place.write(bytes).await;
    written.map_err(|source| write_error(place, source))
}

/// A picture whose bytes are those that were stored. Others are fetched once more, from queen and not from whoever keeps
/// copies on the way.
async fn fetch(
    queen: &Queen,
    job: &JobId,
    index: usize,
    image: &ImageResult,
    reporter: &Reporter,
) -> Result<Bytes, KeeperError> {
    let mut again = queen.again();
    let mut fresh = false;
    loop {
        let got = match queen.image(job, index, image.bytes, fresh).await {
            Ok(bytes) => check(index, image, &bytes).map(|()| bytes),
            Err(error) => Err(error),
        };
        match got {
            Ok(bytes) => return Ok(bytes),
            Err(error @ KeeperError::Damaged { .. }) if !fresh => {
                reporter.note(&format!("{error}; fetching it again"));
                fresh = true;
            }
            // Queen has been heard: whoever answers in its place may be gone in a moment.
            Err(error @ (KeeperError::Unreachable { .. } | KeeperError::Foreign { .. })) => {
                again.wait(error, |error| reporter.asking_again(error)).await?;
            }
            Err(KeeperError::Refused { status, message, after }) if status >= 500 || status == 429 => {
                let error = KeeperError::Refused { status, message, after };
                again.wait(error, |error| reporter.asking_again(error)).await?;
            }
            Err(error) => return Err(error),
        }
    }
}

fn check(index: usize, image: &ImageResult, bytes: &[u8]) -> Result<(), KeeperError> {
    let sha256 = hex(&Sha256::digest(bytes));
    if sha256.eq_ignore_ascii_case(&image.sha256) {
        return Ok(());
    }
    let reason = format!("its sha256 is {sha256}, {} was promised", image.sha256);
    Err(KeeperError::Damaged { index, reason })
}
