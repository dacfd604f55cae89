//! One attempt: a connection to an address that may be reached, a request, the status of its answer.
//!
//! Addresses are judged when they are connected to, by the same look-up that the connection uses: a name that is judged
//! first and looked up again may have another address by then. Redirects are not followed, no proxy of the environment is
//! used, connections are not kept, and an answer's body is not read.

use std::{error::Error, fmt, net::SocketAddr, sync::Arc, time::Duration};

use reqwest::{
    Client, StatusCode,
    dns::{Addrs, Name, Resolve, Resolving},
    header::{CONTENT_TYPE, RETRY_AFTER},
    redirect,
};
use url::Url;

use super::{network::Network, secrets::Signed, target::may_be_reached};

/// How long a connection may take to come about.
const CONNECT_WITHIN: Duration = Duration::from_secs(5);

/// Posts webhooks.
pub struct Poster {
    /// To public addresses, and those that are allowed.
    tls: Client,
    /// Without TLS, to those that are allowed alone.
    open: Client,
    timeout: Duration,
}

/// What came of an attempt.
#[derive(Debug, PartialEq, Eq)]
pub enum Outcome {
    /// 2xx.
    Taken,
    /// 410: the receiver wants no more of it.
    Gone,
    /// Nothing may be posted there.
    Forbidden(String),
    /// Any other answer, or none.
    Failed {
        /// Without the URL, and without a word of the answer.
        reason: String,
        /// What the receiver asks for.
        retry_after: Option<Duration>,
    },
}

impl Outcome {
    /// A failure that asks for nothing.
    pub fn failed(reason: impl Into<String>) -> Self {
        Self::Failed { reason: reason.into(), retry_after: None }
    }
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Taken => f.write_str("it is taken"),
            Self::Gone => f.write_str("410: the receiver wants no more of it"),
            Self::Forbidden(reason) | Self::Failed { reason, .. } => f.write_str(reason),
        }
    }
}

impl Poster {
    /// Posts to public addresses and to those in `allow`; each receiver has so long.
    ///
    /// # Errors
    /// When TLS cannot be set up.
    pub fn new(allow: &[Network], timeout: Duration) -> Result<Self, reqwest::Error> {
        let client = |is_open: bool| {
            Client::builder()
                .user_agent(concat!("queen-rbee/", env!("CARGO_PKG_VERSION")))
                .dns_resolver(Lookup { allow: allow.into(), is_open })
                .redirect(redirect::Policy::none())
                .retry(reqwest::retry::never())
                .no_proxy()
                .referer(false)
                .https_only(!is_open)
                .pool_max_idle_per_host(0)
                .connect_timeout(CONNECT_WITHIN.min(timeout))
                .timeout(timeout)
                .build()
        };
        Ok(Self { tls: client(false)?, open: client(true)?, timeout })
    }

    /// Posts a body. A URL whose host is an address must have been judged: it is looked up by nobody.
    pub async fn post(&self, url: Url, is_open: bool, signed: Signed, body: Vec<u8>) -> Outcome {
        let client = if is_open { &self.open } else { &self.tls };
        let request = client
            .post(url)
            .header(CONTENT_TYPE, "application/json")
            .header("webhook-id", signed.id)
            .header("webhook-timestamp", signed.timestamp)
            .header("webhook-signature", signed.signature)
            .body(body);
        match request.send().await {
            Ok(answer) => {
                let retry_after = answer.headers().get(RETRY_AFTER).and_then(|value| value.to_str().ok());
                judge(answer.status(), retry_after)
            }
            Err(error) => self.failure(&error),
        }
    }

    fn failure(&self, error: &reqwest::Error) -> Outcome {
        if let Some(forbidden) = sources(error).find_map(|error| error.downcast_ref::<Forbidden>()) {
            return Outcome::Forbidden(forbidden.to_string());
        }
        if error.is_timeout() {
            return Outcome::failed(format!("no answer within {:?}", self.timeout));
        }
        // The error itself shows the URL; what caused it does not.
        let cause = sources(error).last().map_or_else(|| "it cannot be sent".to_owned(), ToString::to_string);
        Outcome::failed(cause)
    }
}

/// What caused an error, the nearest first.
fn sources(error: &reqwest::Error) -> impl Iterator<Item = &(dyn Error + 'static)> {
    let mut next = error.source();
    std::iter::from_fn(move || {
        let cause = next?;
        next = cause.source();
        Some(cause)
    })
}

fn judge(status: StatusCode, retry_after: Option<&str>) -> Outcome {
    if status.is_success() {
        return Outcome::Taken;
    }
    if status == StatusCode::GONE {
        return Outcome::Gone;
    }
    let reason = match status.is_redirection() {
        true => format!("{}: redirects are not followed", status.as_u16()),
        false => format!("status {}", status.as_u16()),
    };
    let seconds = retry_after.and_then(|value| value.trim().parse().ok());
    Outcome::Failed { reason, retry_after: seconds.map(Duration::from_secs) }
}

/// Looks names up, and leaves out addresses that may not be reached.
struct Lookup {
    allow: Arc<[Network]>,
    is_open: bool,
}

/// A name has none but addresses that may not be reached.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
struct Forbidden(String);

impl Resolve for Lookup {
    fn resolve(&self, name: Name) -> Resolving {
        let (allow, is_open) = (self.allow.clone(), self.is_open);
        Box::pin(async move {
            // reqwest puts the URL's port in the place of 0.
            let found: Vec<SocketAddr> = tokio::net::lookup_host((name.as_str(), 0)).await?.collect();
            let addresses = permitted(found, &allow, is_open)?;
            Ok(Box::new(addresses.into_iter()) as Addrs)
        })
    }
}

fn permitted(found: Vec<SocketAddr>, allow: &[Network], is_open: bool) -> Result<Vec<SocketAddr>, Forbidden> {
    let mut why = None;
    let mut permitted = vec![];
    for address in found {
        match may_be_reached(address.ip(), allow, is_open) {
            Ok(()) => permitted.push(address),
            Err(reason) => why = Some(reason),
        }
    }
    match why {
        Some(reason) if permitted.is_empty() => Err(Forbidden(reason)),
        _ => Ok(permitted),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn signed() -> Signed {
        let [id, timestamp, signature] = ["j_1", "1", "v1,x"].map(str::to_owned);
        Signed { id, timestamp, signature }
    }

    #[test]
    fn what_an_answer_says_is_its_status() {
        for (status, outcome) in [(200, Outcome::Taken), (204, Outcome::Taken), (410, Outcome::Gone)] {
            assert_eq!(judge(StatusCode::from_u16(status).unwrap(), Some("7")), outcome);
        }
        for (status, says) in [(302, "redirects are not followed"), (404, "404"), (500, "500")] {
            let outcome = judge(StatusCode::from_u16(status).unwrap(), None);
            assert!(matches!(&outcome, Outcome::Failed { retry_after: None, .. }));
            assert!(outcome.to_string().contains(says), "{outcome}");
        }
        let asked = judge(StatusCode::TOO_MANY_REQUESTS, Some(" 7 "));
        assert!(matches!(asked, Outcome::Failed { retry_after: Some(pause), .. } if pause.as_secs() == 7));
    }

    #[test]
    fn of_a_names_addresses_those_that_may_be_reached_are_left() {
        let [public, loopback]: [SocketAddr; 2] =
            ["1.1.1.1:0", "127.0.0.1:0"].map(|address| address.parse().unwrap());
        let home = ["127.0.0.1".parse().unwrap()];
        let left =
            |found: &[SocketAddr], allow: &[Network], is_open| permitted(found.into(), allow, is_open).ok();
        assert_eq!(left(&[loopback, public], &[], false), Some(vec![public]));
        assert_eq!(left(&[loopback], &[], false), None);
        assert_eq!(left(&[loopback, public], &home, true), Some(vec![loopback]));
        assert_eq!(left(&[public], &home, true), None);
        assert_eq!(left(&[loopback, public], &home, false), Some(vec![loopback, public]));
    }

    #[tokio::test]
    async fn a_name_of_this_machine_is_not_connected_to() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        listener.set_nonblocking(true).unwrap();
        let port = listener.local_addr().unwrap().port();
        let post = async |allow: &[&str], scheme: &str| {
            let allow: Vec<Network> = allow.iter().map(|network| network.parse().unwrap()).collect();
            let poster = Poster::new(&allow, Duration::from_millis(300)).unwrap();
            let url = format!("{scheme}://localhost:{port}/a?secret=b").parse().unwrap();
            poster.post(url, scheme == "http", signed(), b"{}".to_vec()).await
        };
        for scheme in ["http", "https"] {
            let outcome = post(&["10.0.0.0/8"], scheme).await;
            assert!(matches!(outcome, Outcome::Forbidden(_)), "{outcome}");
            assert!(outcome.to_string().contains("not public"), "{outcome}");
            assert_eq!(listener.accept().err().unwrap().kind(), std::io::ErrorKind::WouldBlock);
        }
        let outcome = post(&["127.0.0.0/8", "::1"], "http").await;
        assert_eq!(outcome, Outcome::failed("no answer within 300ms"), "it was connected to");
        assert!(listener.accept().is_ok());
        drop(listener);
        let outcome = post(&["127.0.0.0/8", "::1"], "http").await.to_string();
        assert!(outcome.contains("refused") && !outcome.contains("secret"), "{outcome}");
    }
}
