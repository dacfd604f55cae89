//! Why a LoRA's file cannot be used.

use std::io;

use safetensors::SafeTensorError;

use super::{FileKind, shown};
use crate::contract::ErrorCode;

/// The largest LoRA that is read, bytes: twice one of rank 256 for all layers of SDXL in half precision.
pub const MAX_LORA_BYTES: u64 = 4 << 30;

/// Why a file is no LoRA that can be used. No text of these names the file: who asked for it knows its name.
#[derive(Debug, thiserror::Error)]
pub enum LoraFileError {
    /// The system does not give it.
    #[error("it cannot be read: {0}; try again")]
    Unreadable(#[source] io::Error),
    /// It was written to, or cut, between the first byte that was read and the last; or just before that, and is not whole.
    #[error("it changed while it was read, or is still being written; try again")]
    Changed,
    /// Larger than any LoRA.
    #[error("it has {bytes} bytes; a LoRA has at most {MAX_LORA_BYTES}")]
    TooLarge {
        /// Its size.
        bytes: u64,
    },
    /// Something else, or not all of it.
    #[error("not a valid safetensors file: {0}")]
    Foreign(FileKind),
    /// Its header is damaged or hostile.
    #[error("not a valid safetensors file: {}", shown(&.0.to_string()))]
    Damaged(#[source] SafeTensorError),
}

impl LoraFileError {
    /// The code on the wire: what the file is does not change by trying again, what the system says may.
    pub fn code(&self) -> ErrorCode {
        match self {
            Self::Unreadable(_) | Self::Changed => ErrorCode::Storage,
            Self::TooLarge { .. } | Self::Foreign(_) | Self::Damaged(_) => ErrorCode::InvalidRequest,
        }
    }
}
