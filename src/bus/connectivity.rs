//! How a connection stands, and what the log says of it: an outage every few seconds, a refusal and what the server does
//! not allow once.

use std::{
    collections::HashMap,
    sync::{Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use async_nats::{ConnectErrorKind, Event, Server, ServerError};

use super::{NatsOptions, reply::INBOX};

/// The longest pause between attempts to reconnect. Every client of the pool is back this soon after its server,
/// within [`RECONNECT_SETTLE`](super::connect::RECONNECT_SETTLE).
const MAX_RECONNECT_PAUSE: Duration = Duration::from_millis(500);
/// The pause between attempts while the server is there and does not let us in.
const REFUSED_PAUSE: Duration = Duration::from_secs(2);
/// How often a wait for NATS is logged.
pub(super) const LOG_EVERY: Duration = Duration::from_secs(5);
/// The same error of the server is logged this often.
const SAME_ERROR_EVERY: Duration = Duration::from_secs(600);
/// Errors that are kept in mind: beyond them all are forgotten.
const MOST_ERRORS: usize = 256;
/// What the client library says of a handshake that one side's certificate ended. It gives no more than its text here.
const REFUSED_CERTIFICATES: [&str; 2] = ["invalid peer certificate", "received fatal alert"];

/// How a connection to NATS stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Connectivity {
    /// There is one.
    Connected,
    /// NATS is away.
    Away,
    /// NATS is there and does not let this process in, or what it signs in by cannot be read.
    Refused,
}

impl Connectivity {
    /// Its name in `/health`.
    pub fn name(self) -> &'static str {
        match self {
            Self::Connected => "connected",
            Self::Away => "disconnected",
            Self::Refused => "refused",
        }
    }
}

/// Reads what the client library tells of a connection, and says it.
#[derive(Debug)]
pub(super) struct Observer {
    url: String,
    signed_in: String,
    /// Whether a name of our own was given to inboxes.
    named_inboxes: bool,
    known: Mutex<Known>,
}

#[derive(Debug, Default)]
struct Known {
    /// When a failed attempt was logged: there are several a second while a server is away.
    failure_told: Option<Instant>,
    /// Why we were not let in.
    refused: Option<String>,
    /// The failed attempts of each server, as they were told last: an error stands until its server is reached again.
    failed: HashMap<String, usize>,
    /// What the server reported, and when that was logged.
    errors: HashMap<String, Instant>,
}

impl Observer {
    pub fn new(options: &NatsOptions) -> Self {
        Self {
            url: options.nats_url.clone(),
            signed_in: options.signed_in(),
            named_inboxes: options.nats_inbox_prefix != INBOX,
            known: Mutex::default(),
        }
    }

    fn known(&self) -> MutexGuard<'_, Known> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether the last attempt found a server that does not let us in.
    pub fn is_refused(&self) -> bool {
        self.known().refused.is_some()
    }

    pub fn event(&self, event: &Event) {
        match event {
            Event::Connected => {
                let known = &mut *self.known();
                (known.refused, known.failure_told) = (None, None);
                tracing::info!("NATS: connected");
            }
            Event::Disconnected => {
                tracing::warn!("NATS: disconnected; reconnecting, events are kept until then")
            }
            Event::LameDuckMode => tracing::warn!("NATS: the server is about to shut down (lame duck)"),
            Event::Draining => tracing::debug!("NATS: draining"),
            Event::Closed => tracing::info!("NATS: closed"),
            Event::SlowConsumer(id) => {
                tracing::error!(subscription = id, "NATS: messages were dropped (slow consumer)");
            }
            Event::ServerError(error) => self.server_error(error),
            // Why is told before the next attempt, in more words.
            Event::ClientError(error) => tracing::debug!(%error, "NATS: an attempt to connect failed"),
        }
    }

    fn server_error(&self, error: &ServerError) {
        let text = error.to_string();
        {
            let errors = &mut self.known().errors;
            if errors.get(&text).is_some_and(|told| told.elapsed() < SAME_ERROR_EVERY) {
                return;
            }
            if errors.len() >= MOST_ERRORS {
                errors.clear();
            }
            errors.insert(text.clone(), Instant::now());
        }
        match hint(&text, self.named_inboxes) {
            Some(hint) => tracing::error!(%error, "NATS: the server reports an error: {hint}"),
            None => tracing::error!(%error, "NATS: the server reports an error"),
        }
    }

    /// Before each attempt to connect: how the last one ended at each server.
    pub fn attempt(&self, servers: &[Server]) {
        let known = &mut *self.known();
        let mut errors: Vec<&str> = vec![];
        for server in servers {
            let before = known.failed.insert(server.to_string(), server.failed_attempts).unwrap_or(0);
            errors.extend(server.last_error.as_deref().filter(|_| server.failed_attempts > before));
        }
        let refused = errors.iter().find_map(|error| refusal(error));
        match (refused, errors.is_empty()) {
            (Some(reason), _) => {
                if known.refused.as_deref() != Some(reason) {
                    tracing::error!(
                        url = %self.url, reason,
                        "NATS does not let this process in ({}). It is asked again every {} s, and files of credentials and \
                         certificates are read again each time: put good ones there, or start the process with others",
                        self.signed_in,
                        REFUSED_PAUSE.as_secs(),
                    );
                }
                known.refused = Some(reason.to_owned());
            }
            (None, true) => {}
            (None, false) => {
                known.refused = None;
                if known.failure_told.is_none_or(|at| at.elapsed() >= LOG_EVERY) {
                    tracing::warn!(url = %self.url, error = errors.join("; "), "NATS: still away");
                    known.failure_told = Some(Instant::now());
                }
            }
        }
    }

    /// No pause before the first attempt, then doubling from 20 ms.
    pub fn pause(&self, attempts: usize) -> Duration {
        if attempts > 1 && self.is_refused() { REFUSED_PAUSE } else { pause(attempts) }
    }
}

fn pause(attempts: usize) -> Duration {
    let doublings = u32::try_from(attempts.saturating_sub(2)).unwrap_or(u32::MAX).min(8);
    if attempts <= 1 {
        Duration::ZERO
    } else {
        (Duration::from_millis(20) * 2u32.pow(doublings)).min(MAX_RECONNECT_PAUSE)
    }
}

/// Why a server does not let us in, if that is what the error says.
fn refusal(error: &str) -> Option<&str> {
    let after = |kind: ConnectErrorKind| error.strip_prefix(&kind.to_string());
    // Our own words, of a file that cannot be used.
    if let Some(rest) = after(ConnectErrorKind::Authentication) {
        return Some(rest.trim_start_matches([':', ' ']));
    }
    let is_ours = after(ConnectErrorKind::AuthorizationViolation).is_some()
        || after(ConnectErrorKind::Tls).is_some()
        || REFUSED_CERTIFICATES.iter().any(|text| error.contains(text));
    is_ours.then_some(error)
}

/// What to do about what the server does not allow.
fn hint(error: &str, named_inboxes: bool) -> Option<&'static str> {
    let error = error.to_lowercase();
    if !error.contains("permissions violation") {
        return None;
    }
    if error.contains("subscription") && error.contains("\"_inbox.") {
        return Some(match named_inboxes {
            false => {
                "this user may read no answers: give the name that its rights have to --nats-inbox-prefix \
                 (NATS_INBOX_PREFIX), as in _INBOX.worker and _INBOX.queen of deploy/nats.conf"
            }
            true => {
                "this user may read no answers under that name: --nats-inbox-prefix (NATS_INBOX_PREFIX) is another than \
                 the one that its rights have"
            }
        });
    }
    error.contains("$js.api.stream.create.").then_some(
        "this user may not make streams: they are made by queen when it starts, or by somebody who may; until then there \
         are no durable jobs",
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_client_is_back_half_a_second_after_its_server() {
        assert_eq!(pause(1), Duration::ZERO);
        assert_eq!(pause(2), Duration::from_millis(20));
        assert_eq!(pause(usize::MAX), MAX_RECONNECT_PAUSE);
    }

    fn tried(failed_attempts: usize, error: &str) -> Vec<Server> {
        let addr = "nats://a:1".parse().expect("an address");
        let last_error = Some(error.to_owned());
        vec![Server { addr, failed_attempts, did_connect: true, is_discovered: false, last_error }]
    }

    #[test]
    fn a_refusal_is_told_from_an_outage_and_ends_with_a_connection() {
        let observer = Observer::new(&NatsOptions::new("nats://a:1"));
        for refused in [
            "authorization violation: nats: authorization violation",
            "failed signing nonce: --nats-creds: /a/b: No such file or directory (os error 2)",
            "IO error: invalid peer certificate: UnknownIssuer",
            "IO error: received fatal alert: CertificateExpired",
            "TLS error: No such file or directory (os error 2)",
        ] {
            observer.attempt(&tried(1, refused));
            assert!(observer.is_refused(), "{refused}");
            assert_eq!(observer.pause(7), REFUSED_PAUSE);
            observer.attempt(&tried(2, "IO error: Connection refused (os error 111)"));
            assert!(!observer.is_refused() && observer.pause(7) <= MAX_RECONNECT_PAUSE);
            observer.attempt(&tried(3, refused));
            observer.event(&Event::Connected);
            assert!(!observer.is_refused());
            // The same error, of an attempt that is told already: another server was reached since.
            observer.attempt(&tried(3, refused));
            assert!(!observer.is_refused());
            observer.attempt(&tried(0, refused));
        }
        assert_eq!(refusal("failed signing nonce: --nats-creds: gone"), Some("--nats-creds: gone"));
    }

    #[test]
    fn what_is_not_allowed_is_told_with_what_to_do() {
        let inbox = r#"nats: permissions violation for subscription to "_inbox.a.*""#;
        assert!(hint(inbox, false).unwrap().contains("give the name"));
        assert!(hint(inbox, true).unwrap().contains("is another than"));
        let making = r#"nats: Permissions Violation for Publish to "$JS.API.STREAM.CREATE.JOBS""#;
        assert!(hint(making, true).unwrap().contains("made by queen"));
        assert_eq!(hint(r#"nats: permissions violation for publish to "_inbox.a.b""#, false), None);
        assert_eq!(hint("nats: maximum connections exceeded", false), None);
    }
}
