//! What the requester of a picture should know beside the picture.

use std::sync::atomic::{AtomicBool, Ordering};

/// The warning of a picture whose decoding overflowed half precision.
const DECODED_IN_F32: &str = "the autoencoder overflowed half precision; the picture was decoded in f32";

/// The warnings of one picture.
#[derive(Debug, Default)]
pub struct Warnings {
    /// Known when the picture was begun.
    begun: Vec<String>,
    /// Known when it was decoded, which leaves the picture as it was.
    decoded_in_f32: AtomicBool,
}

impl Warnings {
    /// Those that are known from the beginning.
    pub fn new(begun: Vec<String>) -> Self {
        Self { begun, decoded_in_f32: AtomicBool::new(false) }
    }

    /// Half precision did not do for the autoencoder.
    pub fn decoded_in_f32(&self) {
        self.decoded_in_f32.store(true, Ordering::Relaxed);
    }

    /// All, in words.
    pub fn list(&self) -> Vec<String> {
        let decoded = self.decoded_in_f32.load(Ordering::Relaxed).then(|| DECODED_IN_F32.to_owned());
        self.begun.iter().cloned().chain(decoded).collect()
    }
}
