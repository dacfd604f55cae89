//! The trace that a request is of: its client's, or one that begins here. It goes with the job, and its lines in the log.

use std::time::Instant;

use axum::{
    extract::{MatchedPath, Request},
    http::Method,
    middleware::Next,
    response::Response,
};

use crate::{
    contract::{Capability, JobId, TraceContext, headers},
    traces::{self, Kind, Span},
};

/// Answers a request as a part of its trace. A span is recorded of what may hand in a job.
pub(super) async fn follow(request: Request, next: Next) -> Response {
    let header = request.headers().get(headers::TRACEPARENT);
    let parent = header.and_then(|text| TraceContext::parse(text.to_str().ok()?));
    let own = parent.map_or_else(traces::begin, |parent| parent.child());
    if request.method() != Method::POST || !traces::is_recorded(own) {
        // Who passes a trace on and records nothing is no part of it.
        return traces::during(parent.unwrap_or(own), next.run(request)).await;
    }
    let begun = Instant::now();
    let route = request.extensions().get::<MatchedPath>().cloned();
    let route = route.as_ref().map_or("none", MatchedPath::as_str).to_owned();
    let response = traces::during(own, next.run(request)).await;
    let status = response.status();
    let mut span = Span::of(own, &format!("POST {route}"), begun, Instant::now())
        .with("http.request.method", "POST")
        .with("http.route", route.as_str())
        .with("http.response.status_code", u64::from(status.as_u16()));
    (span.context, span.parent, span.kind) = (own, parent.map(|parent| parent.span), Kind::Server);
    // As the conventions have it: what a client did wrong is no error of a server's.
    span.error = status.is_server_error().then(|| status.to_string());
    traces::record(span);
    response
}

/// A job on its way to workers, as a part of the request that it came with.
pub(super) struct SendSpan {
    request: TraceContext,
    own: TraceContext,
    begun: Instant,
}

impl SendSpan {
    /// It is about to be sent.
    pub fn begin(request: Option<TraceContext>) -> Option<Self> {
        let request = request?;
        Some(Self { request, own: request.child(), begun: Instant::now() })
    }

    /// What goes with the message.
    pub fn traceparent(&self) -> String {
        match traces::is_recorded(self.own) {
            true => self.own.to_string(),
            false => self.request.to_string(),
        }
    }

    /// It was sent there, or was not.
    pub fn end(self, destination: &str, capability: Capability, model: Option<&str>, job: &JobId) {
        let mut span = Span::of(self.request, &format!("send {destination}"), self.begun, Instant::now())
            .with("messaging.system", "nats")
            .with("messaging.operation.name", "send")
            .with("messaging.operation.type", "send")
            .with("messaging.destination.name", destination)
            .with("messaging.message.id", job.as_str())
            .with("sd.operation", capability.operation());
        if let Some(model) = model {
            span = span.with("sd.model", model);
        }
        (span.context, span.kind) = (self.own, Kind::Producer);
        traces::record(span);
    }
}
