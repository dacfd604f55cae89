//! An S3 store from the `AWS_*` variables. What cannot be used is refused by the name of its variable, before anything is
//! sent.

mod counted;
mod keys;

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use object_store::{
    BackoffConfig, RetryConfig,
    aws::{AmazonS3, AmazonS3Builder, AmazonS3ConfigKey},
    path::Path,
};
use url::{Host, Url};

use super::{
    StorageError, StoreOptions,
    backend::{Backend, Opened, refused},
    failures::Failures,
    options::MAX_PRESIGN_TTL,
};

use counted::Counted;
pub(super) use keys::{Keys, no_keys};

/// Retries of one request to S3 (5xx, 429, 408, lost connections).
const MAX_RETRIES: usize = 10;
/// The pause before the first retry; later ones are jittered, and up to twice the one before.
const FIRST_BACKOFF: Duration = Duration::from_millis(100);
/// The longest pause between retries.
const MAX_BACKOFF: Duration = Duration::from_secs(5);
/// A look at the store is tried again once, and not after this long.
const PROBE_RETRY: (usize, Duration) = (1, Duration::from_secs(1));
/// The variables that name the endpoint; the first wins.
const ENDPOINTS: [&str; 3] = ["AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL", "AWS_ENDPOINT"];

/// Variables that are set, by name; what is empty is not.
type Environment = BTreeMap<String, String>;

/// A bucket, and the ways to it.
pub(in crate::storage) struct S3 {
    pub client: AmazonS3,
    /// Gives up soon.
    pub probe: AmazonS3,
    /// Signs URLs for the endpoint that readers can reach.
    pub reader: AmazonS3,
    pub bucket: String,
    pub keys: Keys,
    /// The variable of the proxy that requests may go through.
    pub proxy: Option<&'static str>,
}

pub(in crate::storage) fn open(
    url: &Url,
    prefix: Path,
    options: &StoreOptions,
    environment: impl IntoIterator<Item = (String, String)>,
) -> Result<Opened, StorageError> {
    let bucket = url.host_str().filter(|b| !b.is_empty()).ok_or_else(|| refused("s3:// needs a bucket"))?;
    if options.presign_ttl.is_zero() || options.presign_ttl > MAX_PRESIGN_TTL {
        return Err(setting("--presign-ttl", "it must be above 0 and at most 7 days for s3://"));
    }
    // Files that secrets are kept in often end in a line break.
    let environment: Environment = environment
        .into_iter()
        .map(|(name, value)| (name, value.trim().to_owned()))
        .filter(|(_, value)| !value.is_empty())
        .collect();
    let endpoint = ENDPOINTS
        .iter()
        .find_map(|name| environment.get(*name).map(|value| http_url(name, value)))
        .transpose()?;
    let keys = keys::find(&environment, endpoint.as_ref())?;
    let mut builder = AmazonS3Builder::new();
    for (_, key, value) in configuration(&environment) {
        builder = builder.with_config(key, value);
    }
    if let Some(endpoint) = &endpoint {
        builder = builder.with_config(AmazonS3ConfigKey::S3Endpoint, without_slash(endpoint));
        // Whoever writes http:// means it; the AWS tools ask for no second word either.
        match (endpoint.scheme(), environment.get("AWS_ALLOW_HTTP")) {
            ("http", None) => builder = builder.with_allow_http(true),
            ("http", Some(allowed)) if is_no(allowed) => {
                let reason = format!("it is `{allowed}`, and the endpoint {endpoint} begins with http://");
                return Err(setting("AWS_ALLOW_HTTP", reason));
            }
            _ => {}
        }
    }
    // One object at a time is deleted here, by the request that every server knows and that is tried again like others.
    let builder = builder.with_bucket_name(bucket).with_disable_bulk_delete(true);
    let failures = Arc::<Failures>::default();
    let builder = builder.with_http_connector(Counted(failures.clone()));

    // Retries end, with the last pause, short of the whole time: the last answer is reported, not that time is up.
    let max_backoff = MAX_BACKOFF.min(options.store_timeout.mul_f64(0.125));
    let backoff = BackoffConfig { init_backoff: FIRST_BACKOFF.min(max_backoff), max_backoff, base: 2.0 };
    let retry =
        |max_retries, retry_timeout| RetryConfig { backoff: backoff.clone(), max_retries, retry_timeout };
    let builder = builder.with_retry(retry(MAX_RETRIES, options.store_timeout.mul_f64(0.75)));
    let build = |builder: AmazonS3Builder| builder.build().map_err(|source| culprit(&environment, source));
    let client = build(builder.clone())?;
    // What was found out about who we are counts for all.
    let builder = builder.with_credentials(client.credentials().clone());
    let probe = build(builder.clone().with_retry(retry(PROBE_RETRY.0, PROBE_RETRY.1)))?;
    let reader = match &options.public_url {
        None => client.clone(),
        Some(public) => {
            let public = http_url("--store-public-url", public)?;
            build(builder.with_config(AmazonS3ConfigKey::S3Endpoint, without_slash(&public)))?
        }
    };
    let location = match &endpoint {
        Some(endpoint) => format!("{url} at {}", without_slash(endpoint)),
        None => url.to_string(),
    };
    let proxy = proxy(&environment, endpoint.as_ref());
    let s3 = S3 { client, probe, reader, bucket: bucket.to_owned(), keys, proxy };
    Ok(Opened { backend: Backend::S3(Box::new(s3)), prefix, location, failures })
}

/// The variables that object_store knows: name, key and value.
fn configuration(environment: &Environment) -> impl Iterator<Item = (&str, AmazonS3ConfigKey, &str)> {
    environment.iter().filter_map(|(name, value)| {
        let key = name.strip_prefix("AWS_").map(|_| name.to_ascii_lowercase().parse::<AmazonS3ConfigKey>());
        Some((name.as_str(), key?.ok()?, value.as_str()))
    })
}

/// Which variable it is that no client can be built with.
fn culprit(environment: &Environment, source: object_store::Error) -> StorageError {
    for (name, key, value) in configuration(environment) {
        let alone = AmazonS3Builder::new().with_bucket_name("bucket").with_access_key_id("key");
        if let Err(error) = alone.with_secret_access_key("secret").with_config(key, value).build() {
            return setting(name, super::error::cause(&error));
        }
    }
    StorageError::Setup { source }
}

fn setting(name: &str, reason: impl Into<String>) -> StorageError {
    StorageError::Setting { name: name.to_owned(), reason: reason.into() }
}

/// An address of HTTP, without credentials. No message repeats one that has some.
fn http_url(name: &str, text: &str) -> Result<Url, StorageError> {
    if text.contains('@') {
        return Err(setting(
            name,
            "credentials do not belong in a URL, set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY",
        ));
    }
    if !text.contains("://") {
        let reason = format!(
            "`{text}` does not say whether it is http:// or https://; write http://{text}, or https://{text}"
        );
        return Err(setting(name, reason));
    }
    let url = Url::parse(text).map_err(|error| setting(name, format!("`{text}`: {error}")))?;
    if !matches!(url.scheme(), "http" | "https") || url.host().is_none() {
        return Err(setting(name, format!("`{text}` is no http:// or https:// URL")));
    }
    if url.query().is_some() || url.fragment().is_some() {
        return Err(setting(name, format!("`{text}` has a query or a fragment")));
    }
    Ok(url)
}

/// As object_store puts a bucket behind it.
fn without_slash(url: &Url) -> &str {
    url.as_str().trim_end_matches('/')
}

fn is_no(text: &str) -> bool {
    ["0", "false", "off", "no", "n"].contains(&text.to_ascii_lowercase().as_str())
}

fn is_yes(text: &str) -> bool {
    ["1", "true", "on", "yes", "y"].contains(&text.to_ascii_lowercase().as_str())
}

/// The variable of the proxy that requests to this endpoint go through, unless NO_PROXY names it.
fn proxy(environment: &Environment, endpoint: Option<&Url>) -> Option<&'static str> {
    let is_here = match endpoint.and_then(Url::host) {
        Some(Host::Domain(name)) => name == "localhost",
        Some(Host::Ipv4(address)) => address.is_loopback(),
        Some(Host::Ipv6(address)) => address.is_loopback(),
        None => false,
    };
    let of_scheme: [&'static str; 2] = match endpoint.map(Url::scheme) {
        Some("http") => ["HTTP_PROXY", "http_proxy"],
        _ => ["HTTPS_PROXY", "https_proxy"],
    };
    let mut names = ["AWS_PROXY_URL"].into_iter().chain(of_scheme).chain(["ALL_PROXY", "all_proxy"]);
    names.find(|name| !is_here && environment.contains_key(*name))
}

#[cfg(test)]
mod tests;
