//! What queen counts, and /metrics and /ready: who asks for them and how they are written. docs/metrics.md says what each
//! name means; a test compares the two.
//!
//! What is told of the pool is what the sweep of the queue and heartbeats say: nothing is asked for a scrape. Every queen
//! tells the same of it.

mod page;
mod requests;

use axum::{extract::State, http::StatusCode};

pub(super) use page::while_it_starts;
pub(super) use requests::count;

use super::{Queen, routes::Front};
use crate::{
    bus::Connectivity,
    contract::{Capability, ErrorBody, Event, EventKind},
    http::endpoint::{Endpoints, described, of, text},
    metrics::{Counters, Histograms, JOB_SECONDS, STEP_SECONDS},
};

/// Why queen is not ready.
const STOPPING: &str = "not ready: queen is stopping\n";
const REFUSED: &str = "not ready: NATS does not let queen in; its log says why\n";
const AWAY: &str = "not ready: queen has no connection to NATS\n";
const NO_STREAMS: &str = "not ready: JetStream does not answer\n";

/// The counters of one queen.
#[derive(Debug)]
pub(super) struct Metrics {
    requests: Counters<3>,
    request_seconds: Histograms<1>,
    accepted: Counters<2>,
    ended: Counters<3>,
    wait_seconds: Histograms<1>,
    /// How long sweeps of the queue took.
    pub sweep_seconds: Histograms<0>,
    /// What sweeps have put right.
    pub swept: Counters<1>,
}

impl Metrics {
    /// Nothing counted.
    pub fn new() -> Self {
        Self {
            requests: Counters::new(["route", "method", "status"]),
            request_seconds: Histograms::new(["route"], JOB_SECONDS),
            accepted: Counters::new(["operation", "model"]),
            ended: Counters::new(["model", "outcome", "code"]),
            wait_seconds: Histograms::new(["model"], JOB_SECONDS),
            sweep_seconds: Histograms::new([], STEP_SECONDS),
            swept: Counters::new(["what"]),
        }
    }

    /// A job is accepted.
    pub fn accepted(&self, capability: Capability, model: &str) {
        self.accepted.count([capability.operation(), model]);
    }

    /// A worker has begun a job that waited so long.
    pub fn begun(&self, model: &str, waited: std::time::Duration) {
        self.wait_seconds.observe([model], waited);
    }

    /// A job of this queen's has ended.
    pub fn ended(&self, event: &Event, model: &str) {
        let code = match &event.kind {
            EventKind::Error { code, .. } => code.code(),
            _ => "",
        };
        self.ended.count([model, event.kind.name(), code]);
    }
}

/// GET /ready, GET /metrics.
pub(super) fn endpoints() -> Endpoints<Front> {
    Endpoints::new("Health", of::<ErrorBody>)
        .get(
            "/ready",
            ready,
            described("ready", "Whether queen takes jobs; why not, in words.")
                .gives_as(200, "it does", &["text/plain"], text)
                .gives_as(503, "it does not", &["text/plain"], text)
                .for_all(),
        )
        .get(
            "/metrics",
            page::metrics,
            described("metrics", "What queen counts, as Prometheus reads it (docs/metrics.md).").gives_as(
                200,
                "the metrics",
                &["text/plain"],
                text,
            ),
        )
}

async fn ready(State(queen): State<Queen>) -> (StatusCode, &'static str) {
    match queen.unready() {
        None => (StatusCode::OK, "ready\n"),
        Some(why) => (StatusCode::SERVICE_UNAVAILABLE, why),
    }
}

impl Queen {
    /// Why it takes no jobs at present; none: it does.
    fn unready(&self) -> Option<&'static str> {
        let is_kept =
            self.shared.durable.as_ref().is_none_or(|durable| durable.is_ready() || durable.is_absent());
        match self.shared.requester.connectivity() {
            _ if self.shared.stopping.is_cancelled() => Some(STOPPING),
            Connectivity::Refused => Some(REFUSED),
            Connectivity::Away => Some(AWAY),
            Connectivity::Connected if !is_kept => Some(NO_STREAMS),
            Connectivity::Connected => None,
        }
    }
}
