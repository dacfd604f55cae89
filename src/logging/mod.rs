//! Logs of every binary: to standard error, as text or as JSON, filtered by `RUST_LOG`. How lines get there is in `writer`.

mod writer;

use std::{
    backtrace::Backtrace, io::IsTerminal, io::Write, panic::PanicHookInfo, sync::OnceLock, time::Duration,
};

use tracing_subscriber::EnvFilter;

use writer::LogWriter;

/// What is logged when `RUST_LOG` is not set, or cannot be read. Why a connection to NATS fails is said by us, once and not
/// at each attempt.
const DEFAULT_FILTER: &str = "warn,sd_worker_rbee=info,async_nats::connector=off";

/// Stays so whatever RUST_LOG says: at `trace` the client writes down every message, with prompts and pictures, and URLs
/// that give a picture to whoever has them.
const NEVER_MORE: &str = "async_nats::connection=debug";

/// How long an end waits for lines that have not been written: no longer for a log that nobody reads.
pub const FLUSH_LIMIT: Duration = Duration::from_millis(500);

/// Where the lines of this process go.
static WRITER: OnceLock<LogWriter> = OnceLock::new();

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
    /// Starts logging; what panics is logged too. Later calls in one process change nothing. Whoever ends the process
    /// calls [`flush`] first.
    pub fn init(&self) {
        let writer = WRITER.get_or_init(|| LogWriter::start(std::io::stderr()));
        let (filter, unread) = filter(std::env::var_os(EnvFilter::DEFAULT_ENV));
        let logs = tracing_subscriber::fmt().with_env_filter(filter).with_writer(writer.clone());
        let started = match self.log_format {
            LogFormat::Text => logs.with_ansi(std::io::stderr().is_terminal()).try_init(),
            LogFormat::Json => logs.json().flatten_event(true).try_init(),
        };
        if started.is_err() {
            tracing::debug!("logging was started before");
            return;
        }
        std::panic::set_hook(Box::new(log_panic));
        if let Some(reason) = unread {
            tracing::warn!("RUST_LOG: {reason}; `{DEFAULT_FILTER}` is used");
        }
    }
}

/// Waits until everything that was logged is written, [`FLUSH_LIMIT`] at most.
pub fn flush() {
    if let Some(writer) = WRITER.get() {
        writer.flush(FLUSH_LIMIT);
    }
}

/// The filter that this value of `RUST_LOG` asks for, or the usual one and why it is not that of the value.
fn filter(wanted: Option<std::ffi::OsString>) -> (EnvFilter, Option<String>) {
    let (filter, unread) = match wanted.map(std::ffi::OsString::into_string) {
        None => (None, None),
        Some(Err(_)) => (None, Some("it is not UTF-8".to_owned())),
        Some(Ok(text)) if text.trim().is_empty() => (None, None),
        Some(Ok(text)) => match EnvFilter::try_new(&text) {
            Ok(filter) => (Some(filter), None),
            Err(error) => (None, Some(format!("`{text}`: {error}"))),
        },
    };
    let filter = filter.unwrap_or_else(|| EnvFilter::new(DEFAULT_FILTER));
    (filter.add_directive(NEVER_MORE.parse().expect("a directive")), unread)
}

/// The standard library's own hook writes to standard error itself, and waits there for a reader.
fn log_panic(panic: &PanicHookInfo<'_>) {
    let message = panic.payload_as_str().unwrap_or("something that is no text");
    let thread = std::thread::current();
    let thread = thread.name().unwrap_or("without a name");
    let at = panic.location().map(ToString::to_string).unwrap_or_default();
    let backtrace = Backtrace::capture();
    let shown = match backtrace.status() {
        std::backtrace::BacktraceStatus::Captured => format!("\n{backtrace}"),
        _ => String::new(),
    };
    if tracing::enabled!(tracing::Level::ERROR) {
        tracing::error!(thread, at, "panicked: {message}{shown}");
    } else if let Some(mut writer) = WRITER.get() {
        // A filter that hides errors does not hide a defect. The writer gives no errors.
        let _ = writer.write_all(format!("thread {thread} panicked at {at}: {message}{shown}\n").as_bytes());
    }
    flush();
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_filter_that_is_empty_or_cannot_be_read_is_the_usual_one() {
        let usual = filter(None).0.to_string();
        assert!(usual.contains("sd_worker_rbee=info"), "{usual}");
        for empty in ["", " "] {
            let (filter, unread) = filter(Some(empty.into()));
            assert_eq!((filter.to_string(), unread), (usual.clone(), None));
        }
        let (bad, unread) = filter(Some("sd_worker_rbee=loud".into()));
        assert_eq!(bad.to_string(), usual);
        assert!(unread.is_some_and(|reason| reason.contains("loud")));
        let (debug, unread) = filter(Some("debug".into()));
        assert!(debug.to_string().contains("debug") && unread.is_none(), "{debug}");
    }
}
