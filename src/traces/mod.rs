//! Spans of jobs: made when what they are of is over, and handed to whoever exports them (OTLP over HTTP, where an address is
//! given). Without one nothing is made; the context of a trace is passed on all the same, and is in the log.

#[cfg(feature = "otlp")]
mod export;
#[cfg(feature = "otlp")]
mod options;
#[cfg(feature = "otlp")]
mod otlp;

use std::{
    future::Future,
    time::{Duration, Instant, SystemTime},
};

#[cfg(feature = "otlp")]
pub use options::{TraceError, TraceOptions};

use crate::contract::TraceContext;

/// How long an end waits for spans that were not sent.
pub const FLUSH_LIMIT: Duration = Duration::from_secs(1);

/// What the process exports with; not set: nothing is exported.
#[cfg(feature = "otlp")]
static EXPORT: std::sync::OnceLock<Export> = std::sync::OnceLock::new();

tokio::task_local! {
    /// The request that the present task answers.
    static REQUEST: TraceContext;
}

#[cfg(feature = "otlp")]
struct Export {
    exporter: export::Exporter,
    /// The share of traces that are recorded, of those that begin here.
    ratio: f64,
}

/// What a span is of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Work of this process.
    Internal,
    /// A request that was answered.
    Server,
    /// A request that was made.
    Client,
    /// A message that was sent.
    Producer,
    /// A message that was worked on.
    Consumer,
}

/// The value of an attribute.
#[derive(Debug, Clone, PartialEq)]
pub enum Value {
    /// A text.
    Text(String),
    /// A number.
    Number(u64),
}

impl From<&str> for Value {
    fn from(text: &str) -> Self {
        Self::Text(text.to_owned())
    }
}

impl From<u64> for Value {
    fn from(number: u64) -> Self {
        Self::Number(number)
    }
}

/// A piece of work that is over.
#[derive(Debug, Clone)]
pub struct Span {
    /// Its trace, and itself.
    pub context: TraceContext,
    /// The span that it is a part of.
    pub parent: Option<u64>,
    /// What it is called: the kind of work, and nothing of the job.
    pub name: String,
    /// What it is of.
    pub kind: Kind,
    /// When it began.
    pub begun: SystemTime,
    /// When it ended.
    pub ended: SystemTime,
    /// What else there is to say.
    pub attributes: Vec<(&'static str, Value)>,
    /// Spans that it has to do with.
    pub links: Vec<TraceContext>,
    /// How it failed, if it did.
    pub error: Option<String>,
}

impl Span {
    /// Work of this process, a part of `parent`, that took from one moment to the other.
    pub fn of(parent: TraceContext, name: &str, begun: Instant, ended: Instant) -> Self {
        Self {
            context: parent.child(),
            parent: Some(parent.span),
            name: name.to_owned(),
            kind: Kind::Internal,
            begun: by_clock(begun),
            ended: by_clock(ended),
            attributes: vec![],
            links: vec![],
            error: None,
        }
    }

    /// With this to say.
    #[must_use]
    pub fn with(mut self, name: &'static str, value: impl Into<Value>) -> Self {
        self.attributes.push((name, value.into()));
        self
    }
}

/// The time of the system's clock at that moment.
fn by_clock(at: Instant) -> SystemTime {
    SystemTime::now().checked_sub(at.elapsed()).unwrap_or(SystemTime::UNIX_EPOCH)
}

/// A trace that begins here.
pub fn begin() -> TraceContext {
    #[cfg(feature = "otlp")]
    let is_recorded = EXPORT.get().is_some_and(|export| crate::units::random_unit() < export.ratio);
    #[cfg(not(feature = "otlp"))]
    let is_recorded = false;
    TraceContext::begin(is_recorded)
}

/// Whether spans of this trace are exported.
pub fn is_recorded(context: TraceContext) -> bool {
    #[cfg(feature = "otlp")]
    let exports = EXPORT.get().is_some();
    #[cfg(not(feature = "otlp"))]
    let exports = false;
    exports && context.is_sampled
}

/// Hands a span over, if its trace is recorded.
pub fn record(span: Span) {
    #[cfg(feature = "otlp")]
    if let Some(export) = EXPORT.get().filter(|_| span.context.is_sampled) {
        export.exporter.record(span);
    }
    #[cfg(not(feature = "otlp"))]
    drop(span);
}

/// Spans that were not sent, as their receiver was away or too slow.
pub fn dropped() -> u64 {
    #[cfg(feature = "otlp")]
    return EXPORT.get().map_or(0, |export| export.exporter.dropped());
    #[cfg(not(feature = "otlp"))]
    0
}

/// Waits until what was recorded is sent, a moment at most: a receiver that is away holds up no end.
pub async fn flush() {
    #[cfg(feature = "otlp")]
    if let Some(export) = EXPORT.get()
        && tokio::time::timeout(FLUSH_LIMIT, export.exporter.flush()).await.is_err()
    {
        tracing::warn!("the last spans were not sent");
    }
}

/// Answers a request of this trace.
pub async fn during<T>(request: TraceContext, answer: impl Future<Output = T>) -> T {
    REQUEST.scope(request, answer).await
}

/// The trace of the request that the present task answers.
pub fn of_request() -> Option<TraceContext> {
    REQUEST.try_with(|request| *request).ok()
}
