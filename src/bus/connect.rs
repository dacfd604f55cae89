//! The connection: waiting for NATS at start, reconnecting for ever, and saying so in the log.

use std::{
    sync::{Arc, Mutex, atomic::Ordering},
    time::{Duration, Instant},
};

use async_nats::{Client, ConnectErrorKind, Event, connection::State};
use tokio::sync::watch;

use super::{
    NatsOptions,
    connectivity::{Connectivity, LOG_EVERY, Observer},
};

/// How long one attempt to connect may take.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// The pause between attempts while NATS is away at start.
const RETRY_PAUSE: Duration = Duration::from_millis(500);
/// After this long without traffic the server is asked whether it is there; a third silence ends the connection.
const PING_INTERVAL: Duration = Duration::from_secs(10);
/// How long a reconnected worker waits before it publishes what it kept: NATS clients try every 2 s by default,
/// and an event that is published before its reader is back is lost.
pub(super) const RECONNECT_SETTLE: Duration = Duration::from_millis(2_500);

/// What can go wrong on the bus.
#[derive(Debug, thiserror::Error)]
pub enum BusError {
    /// A flag or variable that cannot be used.
    #[error("{flag}: {reason}")]
    Options {
        /// The flag.
        flag: &'static str,
        /// What is wrong with it, and what to write.
        reason: String,
    },
    /// The server is there and does not let us in, or TLS fails.
    #[error(
        "NATS at {url} refuses the connection ({signed_in}): {source}; check the credentials and certificates"
    )]
    Refused {
        /// The servers.
        url: String,
        /// Which flags said who we are.
        signed_in: String,
        /// What the client library says.
        #[source]
        source: async_nats::ConnectError,
    },
    /// A subscription could not be made.
    #[error("cannot subscribe to {subject}: {reason}")]
    Subscribe {
        /// The subject.
        subject: String,
        /// What the client library says.
        reason: String,
    },
    /// A message could not be handed to the client.
    #[error("cannot publish on {subject}: {reason}")]
    Publish {
        /// The subject.
        subject: String,
        /// What the client library says.
        reason: String,
    },
    /// A message is larger than the server takes.
    #[error("{bytes} bytes for {subject}: the server takes at most {limit}")]
    TooLarge {
        /// The subject.
        subject: String,
        /// Size of the body in bytes.
        bytes: usize,
        /// The server's limit in bytes.
        limit: usize,
    },
    /// There is no JetStream, so jobs cannot outlive who accepted them.
    #[error("NATS has no JetStream for this user; start nats-server with -js")]
    NoJetStream,
    /// A stream or consumer is there and is another than ours.
    #[error(
        "{what} is there with {found}, and must have {wanted}; edit it with the `nats` command line, or remove it"
    )]
    Mismatch {
        /// The stream or consumer.
        what: String,
        /// The settings that differ, as they must be.
        wanted: String,
        /// The settings that differ, as they are.
        found: String,
    },
    /// A stream is not there; it is being made again.
    #[error("stream {0} is not there")]
    NoStream(String),
    /// A stream is not there, and the server gives no answer to its making, as to a user who may not make one.
    #[error(
        "stream {0} is not there, and this user may not make it or JetStream is slow: queen makes it when it starts, \
         and so may whoever has the right to; it is looked for until then"
    )]
    NotMade(String),
    /// A stream of a version in which a job's subject did not name the job.
    #[error(
        "{what} was made by an earlier version; stop every queen and worker, and run `queen-rbee move-jobs` once: \
         it moves what is in the stream, and loses nothing"
    )]
    Earlier {
        /// The stream.
        what: String,
    },
    /// JetStream did not do what it was asked for; it may when it is asked again.
    #[error("JetStream: {doing}: {reason}")]
    JetStream {
        /// What it was asked for.
        doing: String,
        /// What it or the client library says.
        reason: String,
    },
}

impl BusError {
    /// Whether there is no JetStream, or no stream, to ask.
    pub fn is_absence(&self) -> bool {
        matches!(self, Self::NoJetStream | Self::NoStream(_))
    }

    pub(super) fn jetstream(doing: impl Into<String>, error: impl std::error::Error) -> Self {
        // The reason is often the source alone.
        let mut reason = error.to_string();
        let mut source = error.source();
        while let Some(inner) = source {
            let text = inner.to_string();
            if !reason.contains(&text) {
                reason = format!("{reason}: {text}");
            }
            source = inner.source();
        }
        Self::JetStream { doing: doing.into(), reason }
    }
}

/// A connection whose state can be watched. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Link {
    /// The client.
    pub client: Client,
    observer: Arc<Observer>,
    /// When the client last came back after an outage; `None` before the first.
    reconnected: watch::Receiver<Option<Instant>>,
}

impl Link {
    /// How often a connection was made. While this number stays, nothing that was handed to the client was lost.
    pub fn connections(&self) -> u64 {
        self.client.statistics().connects.load(Ordering::Relaxed)
    }

    /// Whether there is a connection now.
    pub fn is_connected(&self) -> bool {
        self.client.connection_state() == State::Connected
    }

    /// How the connection stands now.
    pub fn connectivity(&self) -> Connectivity {
        match self.is_connected() {
            true => Connectivity::Connected,
            false if self.observer.is_refused() => Connectivity::Refused,
            false => Connectivity::Away,
        }
    }

    /// Resolves when the client comes back after an outage that begins later than this call.
    pub async fn reconnection(&mut self) {
        self.reconnected.borrow_and_update();
        if self.reconnected.changed().await.is_err() {
            // The client is gone, and nothing comes back.
            std::future::pending::<()>().await;
        }
    }

    /// Waits until there is a connection, and after an outage until the others are back too.
    pub async fn settled(&self) {
        loop {
            if !self.is_connected() {
                tokio::time::sleep(Duration::from_millis(20)).await;
                continue;
            }
            let since = (*self.reconnected.borrow()).map(|at| at.elapsed());
            match since {
                Some(since) if since < RECONNECT_SETTLE => {
                    tokio::time::sleep(RECONNECT_SETTLE - since).await;
                }
                _ => return,
            }
        }
    }
}

/// Connects, waiting for as long as NATS is away, and logging that every few seconds.
///
/// # Errors
/// [`BusError::Options`] for what can never work; [`BusError::Refused`] when the server answers and says no.
pub async fn connect(options: &NatsOptions, name: &str) -> Result<Client, BusError> {
    Ok(open(options, name).await?.client)
}

/// As [`connect`], with the connection's state.
///
/// # Errors
/// As [`connect`].
pub async fn open(options: &NatsOptions, name: &str) -> Result<Link, BusError> {
    let servers = options.servers()?;
    // rustls does not choose between cryptographic libraries where a crate brings a second one. An error says that
    // somebody has chosen before.
    let _ = async_nats::rustls::crypto::aws_lc_rs::default_provider().install_default();
    let mut logged: Option<Instant> = None;
    loop {
        let error = match attempt(options, name, servers.clone()).await? {
            Ok(link) => {
                tracing::info!(url = %options.nats_url, "connected to NATS");
                return Ok(link);
            }
            Err(error) => error,
        };
        match error.kind() {
            // A certificate that one side does not accept is no outage: waiting would not help.
            ConnectErrorKind::Io if !is_tls(&error) => {}
            ConnectErrorKind::Dns | ConnectErrorKind::TimedOut => {}
            ConnectErrorKind::Io
            | ConnectErrorKind::ServerParse
            | ConnectErrorKind::Authentication
            | ConnectErrorKind::AuthorizationViolation
            | ConnectErrorKind::Tls
            | ConnectErrorKind::MaxReconnects => {
                let (url, signed_in) = (options.nats_url.clone(), options.signed_in());
                return Err(BusError::Refused { url, signed_in, source: error });
            }
        }
        if logged.is_none_or(|at| at.elapsed() >= LOG_EVERY) {
            tracing::warn!(url = %options.nats_url, %error, "NATS is away; waiting for it");
            logged = Some(Instant::now());
        }
        tokio::time::sleep(RETRY_PAUSE).await;
    }
}

/// Whether the two sides did not agree on TLS.
fn is_tls(error: &async_nats::ConnectError) -> bool {
    let mut next: Option<&(dyn std::error::Error + 'static)> = Some(error);
    while let Some(error) = next {
        if error.is::<async_nats::rustls::Error>() {
            return true;
        }
        next = match error.downcast_ref::<std::io::Error>().and_then(std::io::Error::get_ref) {
            // An io::Error gives the source of what it wraps, and not what it wraps.
            Some(wrapped) => Some(wrapped),
            None => error.source(),
        };
    }
    false
}

async fn attempt(
    options: &NatsOptions,
    name: &str,
    servers: Vec<async_nats::ServerAddr>,
) -> Result<Result<Link, async_nats::ConnectError>, BusError> {
    let observer = Arc::new(Observer::new(options));
    let [events, attempts, pauses] = [&observer; 3].map(Arc::clone);
    let (came_back, reconnected) = watch::channel(None);
    let connected_before = Mutex::new(false);
    let options = options
        .to_connect_options()
        .await?
        .name(name)
        .connection_timeout(CONNECT_TIMEOUT)
        .ping_interval(PING_INTERVAL)
        .reconnect_delay_callback(move |attempts| pauses.pause(attempts))
        // It chooses no server: it is where the client says how attempts end, in full.
        .reconnect_to_server_callback(move |servers, _| {
            attempts.attempt(&servers);
            std::future::ready(None)
        })
        .event_callback(move |event| {
            events.event(&event);
            if event == Event::Connected {
                let mut before = connected_before.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
                if std::mem::replace(&mut *before, true) {
                    came_back.send_replace(Some(Instant::now()));
                }
            }
            std::future::ready(())
        });
    Ok(options.connect(servers).await.map(|client| Link { client, observer, reconnected }))
}
