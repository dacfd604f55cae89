//! The command line of `queen-rbee`.

use std::{net::SocketAddr, path::PathBuf, time::Duration};

use url::Url;

use super::{WebhookOptions, aliases::ModelAlias, guard::parse_origin};
use crate::{
    bus::{NatsOptions, StreamOptions},
    logging::LogOptions,
    storage::StoreOptions,
    units::{parse_duration, parse_size},
};

/// The HTTP front of a pool of workers: takes jobs, hands them to workers over NATS, streams their events
#[derive(Debug, Clone, clap::Parser)]
#[command(name = "queen-rbee", version)]
pub struct QueenOptions {
    /// Address to listen on; port 0 takes a free one, which the log names
    #[arg(long, env = "QUEEN_LISTEN", default_value = "127.0.0.1:7833", value_name = "ADDRESS")]
    pub listen: SocketAddr,
    /// File with the hash of every client's token, as `queen-rbee new-token NAME >> FILE` writes it (`--admin NAME`: of one
    /// who sees the jobs of all); clients send theirs as `Authorization: Bearer <token>`. SIGHUP reads it again. None:
    /// anybody who can connect
    #[arg(long, env = "QUEEN_TOKEN_FILE", value_name = "FILE")]
    pub token_file: Option<PathBuf>,
    /// Jobs that one client (a name in the file of tokens, or else an address) may send in a second; 0: any number.
    /// A dead letter that is sent again counts as one
    #[arg(long, env = "QUEEN_RATE_LIMIT", default_value = "0", value_parser = parse_rate, value_name = "JOBS")]
    pub rate_limit: f64,
    /// Jobs that a client which has been quiet may send at once
    #[arg(long, env = "QUEEN_RATE_BURST", default_value = "20", value_parser = clap::value_parser!(u32).range(1..))]
    pub rate_burst: u32,
    /// Other requests (streams, pictures, states, cancels) that one client may send in a second; 0: any number
    #[arg(long, env = "QUEEN_REQUEST_LIMIT", default_value = "500", value_parser = parse_rate, value_name = "REQUESTS")]
    pub request_limit: f64,
    /// Other requests that a client which has been quiet may send at once
    #[arg(long, env = "QUEEN_REQUEST_BURST", default_value = "2000", value_parser = clap::value_parser!(u32).range(1..))]
    pub request_burst: u32,
    /// Origin of web pages that may use queen beside its own, as a browser sends it: `http(s)://host[:port]` (repeat, or
    /// separate by commas). They get CORS headers
    #[arg(long, env = "QUEEN_ALLOW_ORIGINS", value_name = "ORIGIN", value_delimiter = ',', value_parser = parse_origin)]
    pub allow_origin: Vec<String>,
    /// The URL by which clients reach queen, where a proxy or another name is in front of it, as in
    /// `https://pool.example`; also for addresses of pictures where the store has none
    #[arg(long, env = "QUEEN_PUBLIC_URL", value_name = "URL", value_parser = parse_public_url)]
    pub public_url: Option<Url>,
    /// Goes in front of every subject; must be the workers'
    #[arg(long, env = "SD_SUBJECT_PREFIX", default_value = "", hide_default_value = true)]
    pub subject_prefix: String,
    /// How long a job that is not durable waits for a worker to take it
    #[arg(long, env = "QUEEN_QUEUE_TIMEOUT", default_value = "60s", value_parser = parse_duration)]
    pub queue_timeout: Duration,
    /// How long a worker has to bring a model into memory that it was told to load
    #[arg(long, env = "QUEEN_LOAD_TIMEOUT", default_value = "10m", value_parser = parse_duration)]
    pub load_timeout: Duration,
    /// Models of the pool (repeat, or separate by commas): durable jobs for them are taken even while no worker is up,
    /// and the first is that of jobs which name none
    #[arg(long, env = "QUEEN_MODELS", value_name = "NAME", value_delimiter = ',')]
    pub models: Vec<String>,
    /// Jobs that may be sent again and again at one time; beyond them a job is refused with Retry-After
    #[arg(long, env = "QUEEN_MAX_RETRYING", default_value = "64")]
    pub max_retrying: usize,
    /// Jobs that are not durable and remembered, with their events; finished ones are forgotten first, and read from the
    /// store
    #[arg(long, env = "QUEEN_MAX_JOBS", default_value = "4096", value_parser = clap::value_parser!(u32).range(1..))]
    pub max_jobs: u32,
    /// The largest body of a request
    #[arg(long, env = "QUEEN_MAX_BODY", default_value = "48MiB", value_parser = parse_size)]
    pub max_body: u64,
    /// The largest input image
    #[arg(long, env = "SD_MAX_INPUT", default_value = "16MiB", value_parser = parse_size)]
    pub max_input: u64,
    /// Inputs above this size are put into the store and travel as a reference
    #[arg(long, env = "QUEEN_MAX_INLINE", default_value = "64KiB", value_parser = parse_size)]
    pub max_inline: u64,
    /// Streams of events that may be open at one time; beyond them 503. Each is a connection, which the system bounds
    /// too (`ulimit -n`)
    #[arg(long, env = "QUEEN_MAX_STREAMS", default_value = "10000", value_parser = parse_places)]
    pub max_streams: usize,
    /// Pictures that may be in memory on their way to clients at one time; more wait for their turn
    #[arg(long, env = "QUEEN_MAX_PICTURES", default_value = "64", value_parser = parse_places)]
    pub max_pictures: usize,
    /// Another name of a model (repeat, or separate by commas), for tools whose model has a fixed name; shown in
    /// GET /v1/models
    #[arg(
        long = "model-alias",
        env = "QUEEN_MODEL_ALIASES",
        value_name = "NAME=MODEL",
        value_delimiter = ','
    )]
    pub model_aliases: Vec<ModelAlias>,
    /// How long a call that waits for its pictures (POST /v1/images/...) waits at most; then 504. Its job is given as
    /// long, unless the client may come back for it
    #[arg(long, env = "QUEEN_SYNC_TIMEOUT", default_value = "10m", value_parser = parse_duration)]
    pub sync_timeout: Duration,
    /// Calls that may wait for their pictures at one time; beyond them 503. Each is a connection
    #[arg(long, env = "QUEEN_MAX_WAITING", default_value = "1000", value_parser = parse_places)]
    pub max_waiting: usize,
    /// Draw to the end what a waiting client asked for whose connection has ended; without, such a job is cancelled
    /// unless the client gave an id (`Idempotency-Key`) by which it can come back
    #[arg(long, env = "QUEEN_KEEP_ABANDONED")]
    pub keep_abandoned: bool,
    /// How long open connections have to end on SIGTERM
    #[arg(long, env = "QUEEN_GRACE", default_value = "10s", value_parser = parse_duration)]
    pub grace: Duration,
    /// A worker that is silent for this long is gone (three heartbeats)
    #[arg(long, env = "QUEEN_WORKER_SILENCE", default_value = "30s", value_parser = parse_duration, hide = true)]
    pub worker_silence: Duration,
    /// Where NATS is.
    #[command(flatten)]
    pub nats: NatsOptions,
    /// The streams of durable jobs.
    #[command(flatten)]
    pub streams: StreamOptions,
    /// Whether and how webhooks are posted.
    #[command(flatten)]
    pub webhooks: WebhookOptions,
    /// Where the store is.
    #[command(flatten)]
    pub store: StoreOptions,
    /// How logs are written.
    #[command(flatten)]
    pub log: LogOptions,
    /// Where traces go.
    #[cfg(feature = "otlp")]
    #[command(flatten)]
    pub traces: crate::traces::TraceOptions,
}

/// Files and connections of queen beside streams: NATS, the store, pictures, requests that are no streams.
const OTHER_FILES: u64 = 256;

impl QueenOptions {
    /// Warns when as many streams as may be open are more than the system allows, which is `limit` files.
    pub fn check_open_files(&self, limit: Option<u64>) {
        let needed =
            (self.max_streams as u64).saturating_add(self.max_waiting as u64).saturating_add(OTHER_FILES);
        if let Some(limit) = limit.filter(|limit| *limit < needed) {
            tracing::warn!(
                "--max-streams {} cannot be held, with --max-waiting {}: this process may have {limit} files open, and \
                 needs {needed}; raise the hard limit (`ulimit -Hn`, LimitNOFILE= of systemd, `ulimits` of compose) or \
                 take fewer streams",
                self.max_streams,
                self.max_waiting
            );
        }
    }
}

/// A rate above 0 is one in 1000 s at least: a client is told how long to wait.
fn parse_rate(text: &str) -> Result<f64, String> {
    match text.parse::<f64>() {
        Ok(rate) if rate == 0.0 || (0.001..=1e6).contains(&rate) => Ok(rate),
        _ => Err("0, or 0.001 to 1000000 a second".into()),
    }
}

/// Paths are put behind it.
fn parse_public_url(text: &str) -> Result<Url, String> {
    let says = "an address such as https://pool.example is expected, without user, query and fragment";
    let url = Url::parse(text).map_err(|error| format!("{error}; {says}"))?;
    let is_plain = url.username().is_empty() && url.password().is_none();
    match (url.scheme(), url.query(), url.fragment()) {
        ("http" | "https", None, None) if is_plain => Ok(url),
        _ => Err(says.into()),
    }
}

fn parse_places(text: &str) -> Result<usize, String> {
    match text.parse() {
        Ok(places @ 1..=1_000_000) => Ok(places),
        _ => Err("1 to 1000000 are allowed".into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rate_is_a_number_that_can_be_waited_for() {
        for (text, rate) in [("0", Some(0.0)), ("0.5", Some(0.5)), ("10", Some(10.0))] {
            assert_eq!(parse_rate(text).ok(), rate);
        }
        for bad in ["-1", "NaN", "inf", "1e-300", "", "5/s"] {
            assert!(parse_rate(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn a_public_url_is_an_address_that_paths_are_put_behind() {
        for good in ["https://pool.example", "http://10.0.0.7:7833/", "https://example.org/pool"] {
            assert!(parse_public_url(good).is_ok(), "{good}");
        }
        for bad in ["", "pool.example", "ftp://a", "https://u:p@a", "https://a?b", "https://a#b", "file:///a"]
        {
            assert!(parse_public_url(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn no_number_of_places_that_a_queen_needs_is_none() {
        assert_eq!(parse_places("3"), Ok(3));
        for bad in ["0", "-1", "1000001", ""] {
            assert!(parse_places(bad).is_err(), "{bad}");
        }
    }
}
