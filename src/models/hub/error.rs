//! Why a repository of the hub could not be fetched, and what to do about it.

use std::{path::PathBuf, time::Duration};

use hf_hub::HFError;

/// An error of the hub. Each names the repository.
#[derive(Debug, thiserror::Error)]
pub enum HubError {
    /// The client cannot be built: an endpoint that is no URL.
    #[error(
        "the hub's client cannot be set up: {source}; HF_ENDPOINT is a URL such as https://huggingface.co"
    )]
    Client {
        /// Why.
        #[source]
        source: HFError,
    },
    /// No answer, and no whole copy in the cache.
    #[error("{repo}: {endpoint} does not answer: {source}; is HF_ENDPOINT right, and the network up?")]
    Unreachable {
        /// The repository.
        repo: String,
        /// The hub's address.
        endpoint: String,
        /// Why.
        #[source]
        source: HFError,
    },
    /// 401.
    #[error(
        "{repo}: the hub shows it to nobody without a token that may read it (401): it is private, gated, or does not \
         exist; set HF_TOKEN to a token of a user who may read it"
    )]
    TokenRequired {
        /// The repository.
        repo: String,
    },
    /// 403.
    #[error(
        "{repo}: the hub refuses this user (403): accept the model's terms on its page, and set HF_TOKEN to a token \
         of that user that may read gated repositories"
    )]
    Forbidden {
        /// The repository.
        repo: String,
    },
    /// 404.
    #[error(
        "{repo}: the hub has no such repository or revision (404), and there is no folder of that name here; correct \
         it, or set HF_TOKEN if it is private"
    )]
    NotFound {
        /// The repository, with its revision.
        repo: String,
    },
    /// Not in the diffusers layout.
    #[error(
        "{repo}: expected {expected}, found {found}; a repository in the diffusers layout with safetensors weights is \
         read (a single .safetensors file is: download it and give its path)"
    )]
    Layout {
        /// The repository.
        repo: String,
        /// The file that is needed.
        expected: String,
        /// What is there instead.
        found: String,
    },
    /// A file came otherwise than the hub lists it, twice.
    #[error(
        "{repo}: {file}: expected {expected}, found {found}; the hub, or something between, sends another file: try \
         again later, or another HF_ENDPOINT"
    )]
    Corrupt {
        /// The repository.
        repo: String,
        /// The file in it.
        file: String,
        /// Size or checksum that the hub lists.
        expected: String,
        /// What came.
        found: String,
    },
    /// No byte came for a while, each time.
    #[error("{repo}: {file}: no byte came for {}; tried {attempts} times", humantime::format_duration(*stall))]
    Stalled {
        /// The repository.
        repo: String,
        /// The file in it, or what was asked.
        file: String,
        /// How long was waited.
        stall: Duration,
        /// How often.
        attempts: u32,
    },
    /// A request that failed in another way, each time.
    #[error("{repo}: {file}: {source}; tried {attempts} times")]
    Failed {
        /// The repository.
        repo: String,
        /// The file in it, or what was asked.
        file: String,
        /// Why, the last time.
        #[source]
        source: HFError,
        /// How often.
        attempts: u32,
    },
    /// The cache has no whole copy, and the hub must not be asked.
    #[error(
        "{repo}: {} has no whole copy of it ({missing}), and HF_HUB_OFFLINE is set; unset it once to download, or set \
         HF_HUB_CACHE to the cache that has one",
        cache.display()
    )]
    NotCached {
        /// The repository.
        repo: String,
        /// The cache.
        cache: PathBuf,
        /// What is not there.
        missing: String,
    },
    /// A file of the cache cannot be read or written.
    #[error("{repo}: {}: {source}", file.display())]
    Cache {
        /// The repository.
        repo: String,
        /// The file.
        file: PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
}

/// The HTTP status of an answer that was an error.
pub(super) fn status_of(error: &HFError) -> Option<u16> {
    match error {
        HFError::AuthRequired { .. } => Some(401),
        HFError::Forbidden { .. } => Some(403),
        HFError::RepoNotFound { .. } | HFError::RevisionNotFound { .. } | HFError::EntryNotFound { .. } => {
            Some(404)
        }
        HFError::Http { context } => Some(context.status.as_u16()),
        _ => None,
    }
}
