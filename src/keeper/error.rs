//! What can go wrong, and the exit code of each.

use std::{path::PathBuf, time::Duration};

use crate::contract::{ContractError, ErrorCode, JobId};

/// Why there is no picture.
#[derive(Debug, thiserror::Error)]
pub enum KeeperError {
    /// A flag, an input file or the output path is wrong. Nothing was sent.
    #[error("{0}")]
    Usage(String),
    /// An input file cannot be read. Nothing was sent.
    #[error("cannot read {}: {source}", path.display())]
    Input {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// An input file is larger than is sent. Nothing was read or sent.
    #[error("{} has {bytes} bytes; at most {limit} are sent (--max-input)", path.display())]
    InputTooLarge {
        /// The file.
        path: PathBuf,
        /// Its size in bytes.
        bytes: u64,
        /// The most that is sent, in bytes.
        limit: u64,
    },
    /// A value that the contract does not allow in a job.
    #[error(transparent)]
    Contract(#[from] ContractError),
    /// No connection to queen, or it broke and did not come back.
    #[error("cannot reach queen at {url}: {reason}")]
    Unreachable {
        /// Where she was looked for.
        url: String,
        /// Why, down to the operating system's words.
        reason: String,
    },
    /// Nobody has a free slot for the job.
    #[error("no worker took the job: {message}")]
    NoWorker {
        /// Queen's words.
        message: String,
    },
    /// Queen answered with an error.
    #[error("queen refused ({status}): {message}")]
    Refused {
        /// HTTP status.
        status: u16,
        /// Queen's words.
        message: String,
    },
    /// The job ended in an error.
    #[error("the job failed ({code}): {message}{}", if *retryable { "; it may succeed later" } else { "" })]
    Failed {
        /// Which error.
        code: ErrorCode,
        /// The worker's words.
        message: String,
        /// Whether the same job may succeed later.
        retryable: bool,
    },
    /// Somebody else cancelled it.
    #[error("{job} was cancelled")]
    CancelledElsewhere {
        /// The job.
        job: JobId,
    },
    /// Ctrl-C.
    #[error("interrupted; the job was {job}")]
    Interrupted {
        /// The job.
        job: JobId,
    },
    /// `--timeout` passed.
    #[error("the job did not end within {timeout:?}")]
    TimedOut {
        /// What was allowed.
        timeout: Duration,
    },
    /// The picture that came is not the one that was promised.
    #[error("picture {index} is not what the worker stored: {reason}")]
    Damaged {
        /// Which picture.
        index: usize,
        /// How it differs.
        reason: String,
    },
    /// A picture cannot be written.
    #[error("cannot write {}: {source}", path.display())]
    Output {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// Queen said something that is not in the contract.
    #[error("queen's answer is not understood: {0}")]
    Protocol(String),
}

impl KeeperError {
    /// 1 job failed, 2 usage, 3 cannot reach queen, 4 no worker, 130 cancelled.
    pub fn exit_code(&self) -> u8 {
        match self {
            Self::Refused { .. }
            | Self::Failed { .. }
            | Self::TimedOut { .. }
            | Self::Damaged { .. }
            | Self::Output { .. }
            | Self::Protocol(_) => 1,
            Self::Usage(_) | Self::Input { .. } | Self::InputTooLarge { .. } | Self::Contract(_) => 2,
            Self::Unreachable { .. } => 3,
            Self::NoWorker { .. } => 4,
            Self::CancelledElsewhere { .. } | Self::Interrupted { .. } => 130,
        }
    }
}
