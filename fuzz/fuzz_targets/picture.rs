//! A file as a job's picture and as its mask: it is read, or refused with an error that is not tried again; it never
//! panics and never takes memory by what a header says.
//!
//! The checksums of a PNG are set right, so that what is in its chunks is reached.
#![no_main]

use libfuzzer_sys::fuzz_target;
use sd_worker_rbee::decoding::{PictureError, read_mask, read_picture};

/// Pixels of a picture at most: small, so that many files are tried.
const MAX_PIXELS: u64 = 512 * 512;
const PNG: &[u8] = b"\x89PNG\r\n\x1a\n";

/// The same file with the checksums that its chunks should have.
fn with_checksums(file: &[u8]) -> Vec<u8> {
    let mut file = file.to_vec();
    let mut at = PNG.len();
    while let Some(length) = file.get(at..at + 4) {
        let length = u32::from_be_bytes(length.try_into().expect("four bytes")) as usize;
        let Some(chunk) = at.checked_add(8 + length).and_then(|end| file.get(at + 4..end)) else { break };
        let mut checksum = flate2::Crc::new();
        checksum.update(chunk);
        let Some(place) = file.get_mut(at + 8 + length..at + 12 + length) else { break };
        place.copy_from_slice(&checksum.sum().to_be_bytes());
        at += 12 + length;
    }
    file
}

fn look<T>(read: Result<T, PictureError>, size: impl Fn(&T) -> (u32, u32)) {
    match read {
        Ok(read) => {
            let (width, height) = size(&read);
            assert!(u64::from(width) * u64::from(height) <= MAX_PIXELS);
        }
        Err(error) => {
            assert!(error.to_string().starts_with("`init_image`: "), "{error}");
            assert!(!error.code().retryable(), "{error}");
        }
    }
}

fuzz_target!(|input: &[u8]| {
    let file = match input.starts_with(PNG) {
        true => with_checksums(input),
        false => input.to_vec(),
    };
    let mut warnings = vec![];
    look(read_picture("init_image", &file, MAX_PIXELS, &mut warnings), |picture| picture.dimensions());
    look(read_mask("init_image", &file, MAX_PIXELS, &mut warnings), |mask| mask.dimensions());
    assert!(warnings.len() < 8 && warnings.iter().all(|warning| warning.len() < 400));
});
