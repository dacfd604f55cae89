//! Logs of every binary: to standard error, as text or as JSON, filtered by `RUST_LOG`.

use std::io::IsTerminal;

use tracing_subscriber::EnvFilter;

/// What is logged when `RUST_LOG` is not set. Why a connection to NATS fails is said by us, once and not at each attempt.
const DEFAULT_FILTER: &str = "warn,sd_worker_rbee=info,async_nats::connector=off";

/// Stays so whatever RUST_LOG says: at `trace` the client writes down every message, with prompts and pictures, and URLs
/// that give a picture to whoever has them.
const NEVER_MORE: &str = "async_nats::connection=debug";

/// How logs are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum LogFormat {
    /// One readable line an entry.
    Text,
    /// One JSON object an entry.
    Json,
}

/// The flags of logging.
#[derive(Debug, Clone, clap::Args)]
#[command(next_help_heading = "Log")]
pub struct LogOptions {
    /// How logs are written to standard error; RUST_LOG filters them (for example `debug` or `sd_worker_rbee=debug`)
    #[arg(long, value_enum, default_value = "text")]
    pub log_format: LogFormat,
}

impl LogOptions {
    /// Starts logging. Later calls in one process change nothing.
    pub fn init(&self) {
        let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new(DEFAULT_FILTER));
        let filter = filter.add_directive(NEVER_MORE.parse().expect("a directive"));
        let logs = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr);
        let started = match self.log_format {
            LogFormat::Text => logs.with_ansi(std::io::stderr().is_terminal()).try_init(),
            LogFormat::Json => logs.json().flatten_event(true).try_init(),
        };
        if started.is_err() {
            tracing::debug!("logging was started before");
        }
    }
}
