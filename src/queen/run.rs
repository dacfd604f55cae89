//! From options to a queen that serves until it is told to stop.

use std::{io, path::PathBuf, sync::Arc, time::Duration};

use axum::{Router, middleware};
use tokio::net::TcpListener;

use super::{
    MAX_LEAVING, Queen, QueenOptions, Tokens, TokensError, auth,
    durable::Durable,
    foreign,
    guard::{self, Guard},
    metrics::{self, Metrics},
    page,
    rate::{self, RateLimit, RateLimits},
    routes, trace,
    webhooks::{Secrets, SecretsError, Webhooks},
};
use crate::{
    bus::{BusError, Fleet, Requester, Streams, open},
    contract::{ContractError, Subjects},
    http::{Listener, Pictures, RouteLimits, serve},
    signals::Signals,
    storage::{StorageError, Store},
    systemd::Systemd,
};

/// How often the view of the fleet is tidied.
const FLEET_EVERY: Duration = Duration::from_secs(1);
/// How long jobs that no worker has are given to say that they have ended, before streams are cut.
const LAST_WORDS: Duration = Duration::from_millis(200);

/// How long jobs whose clients had to leave are given to be cancelled.
const LAST_CANCELS: Duration = Duration::from_secs(2);

/// Why queen does not start, or stopped.
#[derive(Debug, thiserror::Error)]
pub enum QueenError {
    /// A flag cannot be used.
    #[error(transparent)]
    Flag(#[from] ContractError),
    /// NATS.
    #[error(transparent)]
    Bus(#[from] BusError),
    /// The store.
    #[error(transparent)]
    Storage(#[from] StorageError),
    /// The file of tokens.
    #[error("--token-file {}: {source}", path.display())]
    Tokens {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        source: TokensError,
    },
    /// The file of secrets.
    #[error("--webhook-secret-file {}: {source}", path.display())]
    Secrets {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        source: SecretsError,
    },
    /// Where traces go.
    #[cfg(feature = "otlp")]
    #[error(transparent)]
    Traces(#[from] crate::traces::TraceError),
    /// The client that posts webhooks.
    #[error("webhooks cannot be posted: {0}")]
    Webhooks(#[source] reqwest::Error),
    /// The address.
    #[error("--listen {address}: {source}; give a free address of this machine")]
    Listen {
        /// The address.
        address: std::net::SocketAddr,
        /// What the system says.
        source: io::Error,
    },
    /// Signals or the server.
    #[error("serving: {0}")]
    Serve(#[source] io::Error),
}

/// Runs queen until SIGTERM, SIGINT or SIGHUP, then ends within `--grace`. With a file of tokens or of secrets SIGHUP
/// reads it again.
pub async fn run(options: QueenOptions) -> Result<(), QueenError> {
    crate::metrics::note_start();
    let subjects = Subjects::new(&options.subject_prefix)?;
    let tokens = match &options.token_file {
        None => None,
        Some(path) => {
            let failed = |source| QueenError::Tokens { path: path.clone(), source };
            Some(Tokens::read(path).map_err(failed)?)
        }
    };
    let secrets = match &options.webhooks.webhook_secret_file {
        None => None,
        Some(path) => {
            let failed = |source| QueenError::Secrets { path: path.clone(), source };
            Some(Secrets::read(path).map_err(failed)?)
        }
    };
    let mut signals = match (&tokens, &secrets) {
        (None, None) => Signals::listen(),
        _ => {
            read_again_on_hangup(tokens.clone(), secrets.clone()).map_err(QueenError::Serve)?;
            Signals::without_hangup()
        }
    }
    .map_err(QueenError::Serve)?;
    let systemd = Systemd::from_environment();
    let started = tokio::select! {
        started = start(options, subjects, tokens, secrets, &systemd) => started?,
        signal = signals.recv() => {
            tracing::info!(signal, "stopped before it listened");
            return Ok(());
        }
    };
    systemd.ready();
    started.serve(signals, systemd).await
}

/// A queen that may listen.
struct Started {
    queen: Queen,
    listener: TcpListener,
    router: Router,
}

impl Started {
    async fn serve(self, mut signals: Signals, systemd: Systemd) -> Result<(), QueenError> {
        let Self { queen, listener, router } = self;
        let (grace, requester) = (queen.shared.options.grace, queen.shared.requester.clone());
        let leaving = queen.shared.leaving.clone();
        let stop = async move {
            let signal = signals.recv().await;
            systemd.stopping();
            tracing::info!(
                signal,
                "stopping: no new jobs; workers finish those that they have; a second signal stops at once"
            );
            signals.exit_at_the_next();
            queen.shared.stopping.cancel();
            tokio::time::sleep(LAST_WORDS).await;
            queen.shared.cut.cancel();
        };
        serve(listener, router, stop, grace).await.map_err(QueenError::Serve)?;
        if tokio::time::timeout(LAST_CANCELS, leaving.acquire_many(MAX_LEAVING)).await.is_err() {
            tracing::warn!("jobs whose clients have left were not all cancelled");
        }
        requester.flush().await;
        crate::traces::flush().await;
        tracing::info!("stopped");
        Ok(())
    }
}

async fn start(
    options: QueenOptions,
    subjects: Subjects,
    tokens: Option<Tokens>,
    secrets: Option<Secrets>,
    systemd: &Systemd,
) -> Result<Started, QueenError> {
    let failed = |source| QueenError::Listen { address: options.listen, source };
    // An address that cannot be had is told before the rest is waited for; who asks meanwhile is told that queen starts.
    let meanwhile = page::while_it_starts().merge(metrics::while_it_starts());
    let listener = Listener::bind(options.listen, meanwhile).map_err(failed)?;
    let metrics = Arc::new(Metrics::new());
    #[cfg(feature = "otlp")]
    options.traces.start("queen-rbee", &options.listen.to_string())?;
    let webhooks = secrets.map(|secrets| Webhooks::new(&options.webhooks, secrets)).transpose();
    let webhooks = webhooks.map_err(QueenError::Webhooks)?.map(Arc::new);
    let store = Store::open(&options.store)?;
    let check = async { Ok::<_, QueenError>(store.check().await?) };
    let connect = async { Ok(open(&options.nats, "queen-rbee").await?) };
    let ((), link) = tokio::try_join!(check, connect)?;
    let client = link.client.clone();
    let requester = Requester::new(link, subjects.clone());
    let fleet = Fleet::new(options.worker_silence);
    fleet.follow(&client, &subjects).await?;
    let durable = match options.streams.core {
        true => {
            requester.ask_for_heartbeats().await;
            None
        }
        false => {
            let streams = Streams::new(client, subjects, options.streams.clone());
            let durable = Arc::new(Durable::new(streams, &options, metrics.clone()));
            durable.start().await?;
            durable.models.learn(&requester.models_of_the_pool().await);
            Some(durable)
        }
    };
    tokio::spawn(tidy(fleet.clone(), requester.clone(), durable.clone(), systemd.clone()));

    let listener = listener.hand_over().await;
    let address = listener.local_addr().map_err(failed)?;
    if tokens.is_none() && !address.ip().is_loopback() {
        tracing::warn!("anybody who can reach {address} may send jobs: --token-file asks for a token");
    }
    let max_body = usize::try_from(options.max_body).unwrap_or(usize::MAX);
    let route_limits = RouteLimits { max_body, pictures: Pictures::new(options.max_pictures) };
    let limit = |rate: f64, burst| (rate > 0.0).then(|| RateLimit::new(rate, burst));
    let rate_limits = RateLimits {
        jobs: limit(options.rate_limit, options.rate_burst),
        others: limit(options.request_limit, options.request_burst),
    };
    let for_this_machine = tokens.is_none() && address.ip().is_loopback();
    let guard = Guard::new(
        &options.allow_origin,
        options.public_url.as_ref().map(url::Url::as_str),
        for_this_machine,
    );
    let queen =
        Queen::new(options, requester, fleet, store, durable.clone(), webhooks.clone(), metrics.clone());
    tokio::spawn(queen.clone().tell_of_the_fleet());
    if let (Some(webhooks), Some(durable)) = (webhooks, durable) {
        tokio::spawn(queen.clone().tell_of_durable_jobs(webhooks, durable));
    }
    let router = guarded(routes::routes(queen.clone(), route_limits), guard, tokens, rate_limits)
        .layer(middleware::from_fn(trace::follow))
        .layer(middleware::from_fn_with_state(metrics, metrics::count));
    tracing::info!("listening on http://{address}");
    Ok(Started { queen, listener, router })
}

/// In front of every endpoint: from which web page, who it is, and how often. Around all of it: in which form a refusal is said.
fn guarded(router: Router, guard: Guard, tokens: Option<Tokens>, limits: RateLimits) -> Router {
    router
        .layer(middleware::from_fn_with_state(limits, rate::limit))
        .layer(middleware::from_fn_with_state(tokens, auth::identify))
        .layer(middleware::from_fn_with_state(guard, guard::guard))
        .layer(middleware::from_fn(foreign::speak))
}

/// SIGHUP: clients and secrets come and go without a restart.
#[cfg(unix)]
fn read_again_on_hangup(tokens: Option<Tokens>, secrets: Option<Secrets>) -> io::Result<()> {
    use tokio::signal::unix::{SignalKind, signal};

    let mut hangup = signal(SignalKind::hangup())?;
    tokio::spawn(async move {
        while hangup.recv().await.is_some() {
            match tokens.as_ref().map(Tokens::read_again) {
                None => {}
                Some(Ok(number)) => tracing::info!(tokens = number, "read the file of tokens again"),
                Some(Err(error)) => {
                    tracing::error!(%error, "the file of tokens cannot be used; those of before stay good")
                }
            }
            match secrets.as_ref().map(Secrets::read_again) {
                None => {}
                Some(Ok(number)) => tracing::info!(secrets = number, "read the file of secrets again"),
                Some(Err(error)) => {
                    tracing::error!(%error, "the file of secrets cannot be used; those of before stay good")
                }
            }
        }
    });
    Ok(())
}

/// There is no SIGHUP: a restart reads them again.
#[cfg(not(unix))]
fn read_again_on_hangup(_: Option<Tokens>, _: Option<Secrets>) -> io::Result<()> {
    Ok(())
}

/// Forgets workers that are gone, and keeps their models in mind. While NATS is away nobody can be heard, and nobody is
/// gone for that. A queen that does so lives, which systemd is told.
async fn tidy(fleet: Fleet, requester: Requester, durable: Option<Arc<Durable>>, systemd: Systemd) {
    let mut tick = tokio::time::interval(FLEET_EVERY);
    loop {
        tick.tick().await;
        if !requester.is_connected() {
            fleet.deaf();
        }
        if let Some(durable) = &durable {
            fleet.with_all(|workers| {
                durable
                    .models
                    .learn(workers.iter().flat_map(|w| std::iter::once(&w.model_id).chain(&w.models)));
            });
        }
        fleet.forget_gone();
        systemd.alive();
    }
}
