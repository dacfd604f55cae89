//! Where the store is: the command line's part of it. Credentials come from the environment alone.

use std::{fmt, time::Duration};

/// The time that one object may take with all retries, unless told.
pub const DEFAULT_STORE_TIMEOUT: Duration = Duration::from_secs(60);
/// How long a presigned URL is good, unless told.
pub const DEFAULT_PRESIGN_TTL: Duration = Duration::from_secs(3600);
/// The longest that S3 allows a presigned URL to be good: seven days.
pub const MAX_PRESIGN_TTL: Duration = Duration::from_secs(7 * 24 * 3600);

/// Flags of every binary that uses the store.
///
/// Endpoint, region and credentials of S3 are read from the environment in the names that AWS tools use:
/// `AWS_ACCESS_KEY_ID`, `AWS_SECRET_ACCESS_KEY`, `AWS_SESSION_TOKEN`, `AWS_REGION`, `AWS_DEFAULT_REGION`,
/// `AWS_ENDPOINT`, `AWS_ENDPOINT_URL`, `AWS_ENDPOINT_URL_S3` (wins), `AWS_ALLOW_HTTP`,
/// `AWS_VIRTUAL_HOSTED_STYLE_REQUEST`. Nothing secret is kept here.
#[derive(Clone, PartialEq, Eq, clap::Args)]
#[command(next_help_heading = "Store")]
pub struct StoreOptions {
    /// Where pictures and inputs are kept: a folder, file:///absolute, s3://bucket/prefix, memory://
    #[arg(
        id = "store_url",
        long = "store-url",
        env = "STORE_URL",
        default_value = "./store",
        hide_env_values = true,
        value_name = "URL"
    )]
    pub url: String,
    /// The S3 endpoint that readers of a result's `url` can reach, if it is another than ours
    #[arg(
        id = "store_public_url",
        long = "store-public-url",
        env = "STORE_PUBLIC_URL",
        hide_env_values = true,
        value_name = "URL"
    )]
    pub public_url: Option<String>,
    /// How long a presigned URL is good (at most 7 days)
    #[arg(long, env = "SD_PRESIGN_TTL", default_value = "1h", value_parser = crate::units::parse_duration)]
    pub presign_ttl: Duration,
    /// The time that one object may take, with all retries
    #[arg(long, env = "SD_STORE_TIMEOUT", default_value = "60s", value_parser = crate::units::parse_duration)]
    pub store_timeout: Duration,
}

impl StoreOptions {
    /// The store at `url`, everything else as the flags' defaults.
    pub fn new(url: impl Into<String>) -> Self {
        Self {
            url: url.into(),
            public_url: None,
            presign_ttl: DEFAULT_PRESIGN_TTL,
            store_timeout: DEFAULT_STORE_TIMEOUT,
        }
    }
}

impl fmt::Debug for StoreOptions {
    /// A URL with credentials is refused, and until then not shown.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let shown = |url: &str| if url.contains('@') { "***".to_owned() } else { url.to_owned() };
        f.debug_struct("StoreOptions")
            .field("url", &shown(&self.url))
            .field("public_url", &self.public_url.as_deref().map(shown))
            .field("presign_ttl", &self.presign_ttl)
            .field("store_timeout", &self.store_timeout)
            .finish()
    }
}
