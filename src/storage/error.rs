//! What can go wrong with the store, said so that a reader knows which object and why.

use std::{error::Error as _, path::PathBuf};

use object_store::client::{HttpError, HttpErrorKind};

use super::Key;
use crate::contract::ErrorCode;

/// The longest part of a server's answer that is repeated in a message, in characters.
const MAX_CAUSE: usize = 300;

/// What servers say of a request that was signed at another time than theirs: the code is S3's, the words are also of others.
const OF_CLOCKS: [&str; 2] = ["RequestTimeTooSkewed", "difference between the request time"];
/// What servers say of a request that was signed for another region, or that was sent to the wrong one.
const OF_REGIONS: [&str; 4] = [
    "AuthorizationHeaderMalformed",
    "PermanentRedirect",
    "IllegalLocationConstraint",
    "incorrectly configured region",
];
/// What the TLS library says of an answer in plain text.
const NO_TLS: &str = "InvalidContentType";
/// What it says of a certificate that is not trusted, has run out, or is another host's.
const CERTIFICATE: &str = "invalid peer certificate";

/// An error of the store.
#[derive(Debug, thiserror::Error)]
pub enum StorageError {
    /// The URL names no store that we know.
    #[error("--store-url: {reason}; a folder, file:///absolute, s3://bucket/prefix or memory:// is expected")]
    Url {
        /// What is wrong with it.
        reason: String,
    },
    /// A variable or another flag cannot be used.
    #[error("{name}: {reason}")]
    Setting {
        /// Which.
        name: String,
        /// What is wrong with it, and what to write.
        reason: String,
    },
    /// Nothing says who signs requests to S3.
    #[error("{missing} not set, and S3 takes no request that nobody signed; {advice}")]
    NoCredentials {
        /// Which variables, with `is` or `are`.
        missing: String,
        /// What to do.
        advice: String,
    },
    /// The S3 client cannot be built from the environment.
    #[error("the S3 client cannot be set up from the AWS_* variables: {source}")]
    Setup {
        /// What object_store says.
        source: object_store::Error,
    },
    /// The folder of a file store cannot be made or opened.
    #[error("the store's folder {} cannot be used: {source}", path.display())]
    Folder {
        /// The folder.
        path: PathBuf,
        /// What the system says.
        source: std::io::Error,
    },
    /// A start found that the store cannot be used.
    #[error("the store {location} cannot be used: {source}; {hint}")]
    Check {
        /// The store's URL.
        location: String,
        /// What was tried and failed.
        source: Box<StorageError>,
        /// What to do.
        hint: String,
    },
    /// A client named a key that is not allowed.
    #[error("object key `{key}` is not allowed: {reason}")]
    Reference {
        /// The key as sent.
        key: String,
        /// Why.
        reason: String,
    },
    /// A link in a folder store leads out of it.
    #[error("object `{key}` is a link out of the store's folder, and is not read")]
    LeadsOut {
        /// The key.
        key: String,
    },
    /// There is no such object.
    #[error(
        "there is no object `{key}` in the store; if somebody wrote it, it was removed, or theirs is another --store-url"
    )]
    NotFound {
        /// The key.
        key: String,
    },
    /// The object is larger than the reader takes.
    #[error("object `{key}` has {bytes} bytes, at most {limit} are taken")]
    TooLarge {
        /// The key.
        key: String,
        /// Its size in bytes.
        bytes: u64,
        /// The most that is taken, in bytes.
        limit: u64,
    },
    /// The bucket is missing.
    #[error("{action} object `{key}`: NoSuchBucket: the bucket `{bucket}` does not exist")]
    NoSuchBucket {
        /// What was done.
        action: Action,
        /// The key.
        key: String,
        /// The bucket.
        bucket: String,
    },
    /// The credentials are wrong or may not do this.
    #[error("{action} object `{key}`: {cause}")]
    Denied {
        /// What was done.
        action: Action,
        /// The key.
        key: String,
        /// Status and the server's own code and words.
        cause: String,
    },
    /// No connection to the store.
    #[error("{action} object `{key}`: cannot connect: {cause}")]
    Unreachable {
        /// What was done.
        action: Action,
        /// The key.
        key: String,
        /// What the network says.
        cause: String,
    },
    /// It took longer than `--store-timeout`, retries included.
    #[error("{action} object `{key}`: no success within {seconds} s")]
    TimedOut {
        /// What was done.
        action: Action,
        /// The key.
        key: String,
        /// The time that it had.
        seconds: f64,
    },
    /// Anything else that the store answered, after the retries.
    #[error("{action} object `{key}`: {cause}")]
    Failed {
        /// What was done.
        action: Action,
        /// The key.
        key: String,
        /// Status and the server's own code and words, or the system's.
        cause: String,
        /// What object_store says.
        source: object_store::Error,
    },
    /// An object is there and is not what it should be.
    #[error("object `{key}` cannot be read: {reason}")]
    Malformed {
        /// The key.
        key: String,
        /// What is wrong with it.
        reason: String,
    },
}

/// What was being done to an object.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Action {
    /// A put.
    Write,
    /// A get.
    Read,
    /// A delete.
    Delete,
    /// A presigned URL being made.
    Sign,
}

impl std::fmt::Display for Action {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Write => "writing",
            Self::Read => "reading",
            Self::Delete => "deleting",
            Self::Sign => "signing a URL of",
        })
    }
}

impl StorageError {
    /// The code on the wire.
    pub fn code(&self) -> ErrorCode {
        match self {
            Self::Reference { .. } | Self::LeadsOut { .. } => ErrorCode::InvalidRequest,
            Self::TooLarge { .. } => ErrorCode::PayloadTooLarge,
            Self::Url { .. }
            | Self::Setting { .. }
            | Self::NoCredentials { .. }
            | Self::Setup { .. }
            | Self::Folder { .. }
            | Self::Check { .. }
            | Self::NotFound { .. }
            | Self::NoSuchBucket { .. }
            | Self::Denied { .. }
            | Self::Unreachable { .. }
            | Self::TimedOut { .. }
            | Self::Failed { .. }
            | Self::Malformed { .. } => ErrorCode::Storage,
        }
    }

    /// What whoever runs the process should look at.
    pub(super) fn hint(&self) -> &'static str {
        let says =
            |words: &[&str]| self.cause().is_some_and(|cause| words.iter().any(|word| cause.contains(word)));
        if says(&OF_CLOCKS) {
            return "the clocks of this machine and of the store are too far apart: set this machine's right";
        }
        if says(&OF_REGIONS) {
            return "AWS_REGION must be the region of the bucket";
        }
        if says(&["ExpiredToken", "InvalidToken"]) {
            return "AWS_SESSION_TOKEN has run out, or belongs to other keys";
        }
        match self {
            Self::Denied { .. } => {
                "check AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY, AWS_SESSION_TOKEN and the bucket's policy"
            }
            Self::NoSuchBucket { .. } => "create the bucket or correct --store-url",
            Self::Unreachable { .. } if says(&[NO_TLS]) => {
                "what answers there does not speak TLS: AWS_ENDPOINT_URL may have to begin with http://"
            }
            Self::Unreachable { .. } if says(&[CERTIFICATE]) => {
                "the certificate of a private authority is trusted by SSL_CERT_FILE, which takes the place of the system's"
            }
            Self::Unreachable { .. } | Self::TimedOut { .. } => {
                "check AWS_ENDPOINT_URL and that the store is up"
            }
            _ => "check --store-url and the AWS_* variables",
        }
    }

    /// Whether the same may go well a moment later.
    pub(super) fn may_pass(&self) -> bool {
        match self {
            Self::TimedOut { .. } => true,
            Self::Unreachable { cause, .. } => !cause.contains(NO_TLS) && !cause.contains(CERTIFICATE),
            Self::Failed { cause, source, .. } => {
                // A lost connection, or a status that says so.
                http_kind(source).is_some()
                    || ["5", "429", "408"].iter().any(|status| cause.starts_with(status))
            }
            Self::Url { .. }
            | Self::Setting { .. }
            | Self::NoCredentials { .. }
            | Self::Setup { .. }
            | Self::Folder { .. }
            | Self::Check { .. }
            | Self::Reference { .. }
            | Self::LeadsOut { .. }
            | Self::NotFound { .. }
            | Self::TooLarge { .. }
            | Self::NoSuchBucket { .. }
            | Self::Denied { .. }
            | Self::Malformed { .. } => false,
        }
    }

    fn cause(&self) -> Option<&str> {
        match self {
            Self::Denied { cause, .. } | Self::Unreachable { cause, .. } | Self::Failed { cause, .. } => {
                Some(cause)
            }
            _ => None,
        }
    }

    /// Sorts out what object_store says of `key`. `bucket` is empty for a store without buckets.
    pub(super) fn of(action: Action, key: &Key, bucket: &str, source: object_store::Error) -> Self {
        let cause = cause(&source);
        let key = key.path();
        match &source {
            _ if cause.contains("NoSuchBucket") => {
                Self::NoSuchBucket { action, key, bucket: bucket.to_owned() }
            }
            object_store::Error::NotFound { .. } => Self::NotFound { key },
            object_store::Error::PermissionDenied { .. } | object_store::Error::Unauthenticated { .. }
                if !bucket.is_empty() =>
            {
                Self::Denied { action, key, cause }
            }
            _ => match http_kind(&source) {
                Some(HttpErrorKind::Connect) => Self::Unreachable { action, key, cause },
                _ => Self::Failed { action, key, cause, source },
            },
        }
    }
}

fn http_kind(error: &object_store::Error) -> Option<HttpErrorKind> {
    let mut next = error.source();
    while let Some(error) = next {
        if let Some(http) = error.downcast_ref::<HttpError>() {
            return Some(http.kind());
        }
        next = error.source();
    }
    None
}

/// The innermost error, which says the status and the server's answer; of an XML answer its code and message only.
pub(super) fn cause(error: &object_store::Error) -> String {
    let mut innermost: &dyn std::error::Error = error;
    while let Some(next) = innermost.source() {
        innermost = next;
    }
    let text = innermost.to_string();
    let text = text.strip_prefix("Server returned non-2xx status code: ").unwrap_or(&text);
    let short = match (text.split_once(": <"), tag(text, "Code")) {
        (Some((status, _)), Some(code)) => match tag(text, "Message") {
            Some(message) => format!("{status}: {code}: {}", plain(message)),
            None => format!("{status}: {code}"),
        },
        _ => text.trim_end_matches([':', ' ', '\n']).to_owned(),
    };
    if short.chars().count() > MAX_CAUSE {
        short.chars().take(MAX_CAUSE).chain("...".chars()).collect()
    } else {
        short
    }
}

/// Text as it was before XML took it.
fn plain(xml: &str) -> String {
    let entities = [
        ("&lt;", "<"),
        ("&gt;", ">"),
        ("&quot;", "\""),
        ("&#34;", "\""),
        ("&apos;", "'"),
        ("&#39;", "'"),
        ("&amp;", "&"),
    ];
    entities.iter().fold(xml.to_owned(), |text, (entity, character)| text.replace(entity, character))
}

fn tag<'a>(xml: &'a str, name: &str) -> Option<&'a str> {
    let (_, rest) = xml.split_once(&format!("<{name}>"))?;
    Some(rest.split_once(&format!("</{name}>"))?.0)
}
