//! What can go wrong with a segmenter.

use std::path::PathBuf;

/// Why there is no segmenter, or no mask of it.
#[derive(Debug, thiserror::Error)]
pub enum SegmenterError {
    /// A folder, or its file, cannot be read.
    #[error("{}: {source}", path.display())]
    Read {
        /// The folder or the file.
        path: PathBuf,
        /// What the system says.
        source: std::io::Error,
    },
    /// There is no file with weights.
    #[error(
        "{}: there is no .safetensors file in it; `sam_vit_b_01ec64.safetensors` of Segment Anything is expected, or MobileSAM's \
         `mobile_sam-tiny-vitt.safetensors` (pickled .pth files are not read)",
        folder.display()
    )]
    NoWeights {
        /// The folder.
        folder: PathBuf,
    },
    /// Nobody knows which file is meant.
    #[error("{}: several .safetensors files are in it: {}; leave one", folder.display(), names.join(", "))]
    Several {
        /// The folder.
        folder: PathBuf,
        /// Names of files.
        names: Vec<String>,
    },
    /// A file is larger than those of any Segment Anything.
    #[error("{}: {bytes} bytes, and no Segment Anything has more than {limit}", path.display())]
    TooLarge {
        /// The file.
        path: PathBuf,
        /// Its size in bytes.
        bytes: u64,
        /// The most that is read, in bytes.
        limit: u64,
    },
    /// A file is of something else.
    #[error("{}: {reason}", path.display())]
    Other {
        /// The file.
        path: PathBuf,
        /// What it is, or lacks.
        reason: String,
    },
    /// A file is damaged, or lacks tensors.
    #[error("{}: {source}", path.display())]
    Weights {
        /// The file.
        path: PathBuf,
        /// What candle says.
        source: Box<candle_core::Error>,
    },
    /// The numbers of a mask are not finite.
    #[error("the segmenter gave numbers that are not finite")]
    NonFinite,
    /// A mask could not be computed.
    #[error("the segmenter failed: {0}")]
    Compute(Box<candle_core::Error>),
}

impl From<candle_core::Error> for SegmenterError {
    fn from(error: candle_core::Error) -> Self {
        Self::Compute(Box::new(error))
    }
}
