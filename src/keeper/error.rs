//! What can go wrong, and the exit code of each.

use std::{io, path::PathBuf, time::Duration};

use super::signals::Stop;
use crate::contract::{ContractError, JobId};

/// Why there is no picture.
#[derive(Debug, thiserror::Error)]
pub enum KeeperError {
    /// A flag, an input file or the output path is wrong. Nothing was sent.
    #[error("{0}")]
    Usage(String),
    /// An input file cannot be read. Nothing was sent.
    #[error("cannot read {}: {}", path.display(), plain(source))]
    Input {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
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
    /// A value that the contract does not allow in a job. Nothing was sent.
    #[error(transparent)]
    Contract(#[from] ContractError),
    /// No connection to queen, or it broke and did not come back.
    #[error("cannot reach queen at {url}: {reason}")]
    Unreachable {
        /// Where queen was looked for, and through which proxy.
        url: String,
        /// Why, down to the operating system's words.
        reason: String,
        /// There was no connection at all.
        never_connected: bool,
    },
    /// Somebody else answered: a proxy, a portal, another server.
    #[error("{url} does not answer as queen does: {what}; is --queen right, and is a proxy between?")]
    Foreign {
        /// Where queen was looked for, and through which proxy.
        url: String,
        /// What the answer looks like.
        what: String,
        /// What proxies say of a server that is away for a moment: 429, 502 to 504.
        passing: bool,
        /// When to ask again, if it says so.
        after: Option<Duration>,
    },
    /// Nobody has a free slot for the job.
    #[error("no worker took the job: {message}")]
    NoWorker {
        /// Queen's words.
        message: String,
        /// When to ask again, if it says so.
        after: Option<Duration>,
    },
    /// Nobody has the model.
    #[error("no worker that is up has the model `{model}`; there are: {there}")]
    NoSuchModel {
        /// The model.
        model: String,
        /// The models that there are.
        there: String,
    },
    /// Queen answered with an error.
    #[error("queen refused ({status}): {message}")]
    Refused {
        /// HTTP status.
        status: u16,
        /// Queen's words.
        message: String,
        /// When to ask again, if it says so.
        after: Option<Duration>,
    },
    /// The job ended in an error.
    #[error("the job failed ({code}): {message}{}", if *retryable { "; it may succeed later" } else { "" })]
    Failed {
        /// Which error, as it is called on the wire.
        code: String,
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
    /// Ctrl-C, or another signal that ends programs.
    #[error("stopped by {}; the job was {job}", stop.name())]
    Interrupted {
        /// The job.
        job: JobId,
        /// Which signal.
        stop: Stop,
    },
    /// `--timeout` passed.
    #[error("the job did not end within {}", humantime::format_duration(*timeout))]
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
    #[error("cannot write {}: {}", path.display(), plain(source))]
    Output {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// Standard output does not take what it is told. The pictures are in their files.
    #[error("cannot write to standard output: {}; the pictures are saved", plain(source))]
    StandardOutput {
        /// Why.
        #[source]
        source: io::Error,
    },
    /// Queen said something that is not in the contract.
    #[error("queen's answer is not understood: {0}")]
    Protocol(String),
}

impl KeeperError {
    /// 1 job failed, 2 usage, 3 cannot reach queen, 4 no worker, 130 cancelled (143 and 129 by SIGTERM and SIGHUP).
    pub fn exit_code(&self) -> u8 {
        match self {
            Self::Refused { .. }
            | Self::Failed { .. }
            | Self::TimedOut { .. }
            | Self::Damaged { .. }
            | Self::Output { .. }
            | Self::StandardOutput { .. }
            | Self::Protocol(_) => 1,
            Self::Usage(_) | Self::Input { .. } | Self::InputTooLarge { .. } | Self::Contract(_) => 2,
            Self::Unreachable { .. } | Self::Foreign { .. } => 3,
            Self::NoWorker { .. } | Self::NoSuchModel { .. } => 4,
            Self::CancelledElsewhere { .. } => Stop::Interrupt.exit_code(),
            Self::Interrupted { stop, .. } => stop.exit_code(),
        }
    }

    /// What to do next, where the message does not say it.
    pub fn next(&self) -> Option<String> {
        let text = match self {
            Self::Usage(_) | Self::Contract(_) => "--help behind a command lists what it takes",
            Self::Input { .. } => "name a file that can be read, or - for standard input",
            Self::Unreachable { .. } => {
                "is queen-rbee up, and do --queen, RBEE_QUEEN or the profile name the place where it listens?"
            }
            Self::NoWorker { .. } => "`rbee-keeper worker list` shows who is up, and with what",
            Self::NoSuchModel { .. } => "`rbee-keeper model list` shows who has what",
            Self::Refused { status: 400 | 413 | 415, .. } => {
                "change what the message names, and send it again"
            }
            Self::Refused { status: 409, .. } => {
                "`rbee-keeper job show JOB` says how a job ended, `worker list` what workers do"
            }
            Self::Refused { status: 401, .. } => "an operator makes a token by `queen-rbee new-token NAME`",
            Self::Refused { status: 403, .. } => {
                "an administrator's token does it: --token-file or RBEE_TOKEN gives it"
            }
            Self::Refused { status: 404, .. } => {
                "`rbee-keeper job list`, `worker list` and `model list` show what there is"
            }
            Self::Refused { status: 429 | 500.., .. } => "try again in a moment",
            Self::Failed { retryable: true, .. } => {
                "send it again; `rbee-keeper worker list` shows who is up"
            }
            Self::Failed { retryable: false, .. } => "change what the message names, and send it again",
            Self::CancelledElsewhere { .. } => "the same command with another --job-id draws it anew",
            Self::TimedOut { .. } => "a longer --timeout, or --no-wait and `rbee-keeper job watch` later",
            Self::Damaged { .. } => {
                "something between changes what queen sends: ask it directly (--queen, --proxy)"
            }
            Self::Output { .. } => "name a place that can be written, with room for it",
            Self::StandardOutput { .. } => "name a file with --output",
            Self::Protocol(_) => "is queen of another version? `rbee-keeper --version` and its /health tell",
            Self::InputTooLarge { .. }
            | Self::Foreign { .. }
            | Self::Refused { .. }
            | Self::Interrupted { .. } => return None,
        };
        Some(text.to_owned())
    }

    /// When queen, or who stands before it, said to ask again.
    pub fn retry_after(&self) -> Option<Duration> {
        match self {
            Self::Foreign { after, .. } | Self::NoWorker { after, .. } | Self::Refused { after, .. } => {
                *after
            }
            Self::Usage(_)
            | Self::Input { .. }
            | Self::InputTooLarge { .. }
            | Self::Contract(_)
            | Self::Unreachable { .. }
            | Self::NoSuchModel { .. }
            | Self::Failed { .. }
            | Self::CancelledElsewhere { .. }
            | Self::Interrupted { .. }
            | Self::TimedOut { .. }
            | Self::Damaged { .. }
            | Self::Output { .. }
            | Self::StandardOutput { .. }
            | Self::Protocol(_) => None,
        }
    }
}

/// The system's words without its number.
fn plain(error: &io::Error) -> String {
    let text = error.to_string();
    text.split(" (os error").next().unwrap_or_default().to_owned()
}
