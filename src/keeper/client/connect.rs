//! The way to queen: time limits, TLS, which proxy. No redirect is followed: a job that is posted again as something else, or
//! a token that goes to another host, is worse than a message.

use std::{net::IpAddr, time::Duration};

use hyper_util::client::proxy::matcher::Matcher;
use reqwest::{Client, Proxy, Url, redirect};

use super::KeeperError;

/// The longest wait for a connection.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// A client for `queen`, and how the proxy that it goes through is called in messages. Without `proxy` it is the
/// environment's, and none for a queen on this machine. `silence`: the longest on a connection.
pub fn client(
    queen: &Url,
    proxy: Option<&Url>,
    silence: Duration,
) -> Result<(Client, Option<String>), KeeperError> {
    let builder = Client::builder()
        .user_agent(concat!("rbee-keeper/", env!("CARGO_PKG_VERSION")))
        .connect_timeout(CONNECT_TIMEOUT)
        .read_timeout(silence)
        .redirect(redirect::Policy::none());
    let unusable = |error: reqwest::Error| KeeperError::Usage(error.to_string());
    let (builder, via) = match proxy {
        Some(proxy) => {
            let via = format!("the proxy {} (--proxy)", without_password(proxy));
            (builder.no_proxy().proxy(Proxy::all(proxy.clone()).map_err(unusable)?), Some(via))
        }
        None if is_here(queen) => (builder.no_proxy(), None),
        None => match of_the_environment(queen) {
            None => (builder.no_proxy(), None),
            Some(uri) if uri.starts_with("socks") => {
                let message = format!(
                    "the proxy {uri} of the environment: only HTTP proxies can be used; NO_PROXY={} goes around it",
                    queen.host_str().unwrap_or_default()
                );
                return Err(KeeperError::Usage(message));
            }
            Some(uri) => {
                (builder, Some(format!("the proxy {uri} (of the environment; NO_PROXY goes around it)")))
            }
        },
    };
    Ok((builder.build().map_err(unusable)?, via))
}

/// The proxy that the environment names for an address, without user and password.
fn of_the_environment(queen: &Url) -> Option<String> {
    Some(Matcher::from_env().intercept(&queen.as_str().parse().ok()?)?.uri().to_string())
}

/// Whether it is on this machine.
fn is_here(url: &Url) -> bool {
    let Some(host) = url.host_str() else { return false };
    let host = host.trim_end_matches('.');
    if host == "localhost" || host.ends_with(".localhost") {
        return true;
    }
    let address = host.trim_matches(['[', ']']).parse::<IpAddr>();
    address.is_ok_and(|address| {
        let address = address.to_canonical();
        address.is_loopback() || address.is_unspecified()
    })
}

/// An address as it may be shown.
pub fn without_password(url: &Url) -> String {
    let mut url = url.clone();
    // Both fail for addresses that can have neither.
    let _ = url.set_username("");
    let _ = url.set_password(None);
    url.to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_queen_on_this_machine_needs_no_proxy() {
        for (url, here) in [
            ("http://localhost:1", true),
            ("http://queen.localhost:1", true),
            ("http://127.0.0.1:7833", true),
            ("http://127.9.9.9", true),
            ("http://[::1]:7833", true),
            ("http://[::ffff:127.0.0.1]:7833", true),
            ("http://0.0.0.0:7833", true),
            ("http://queen.example", false),
            ("http://localhost.example", false),
            ("http://10.0.0.1", false),
        ] {
            assert_eq!(is_here(&Url::parse(url).unwrap()), here, "{url}");
        }
    }
}
