//! A run of a job on this worker as a span, with what it did in it. A later run is linked to the one before it.

use std::time::{Duration, Instant};

use crate::{
    contract::{Job, TraceContext},
    engine::EngineTimings,
    traces::{self, Kind, Span},
    worker::own::Fate,
};

/// The trace that a job is of, on this worker.
#[derive(Debug, Clone)]
pub struct JobTrace {
    /// Whoever sent the job.
    parent: Option<TraceContext>,
    /// This run; none: nobody records it.
    run: Option<TraceContext>,
    /// As the events of the job have it.
    pub traceparent: Option<String>,
}

impl JobTrace {
    /// Of a job that came with this `traceparent`.
    pub fn of(traceparent: Option<String>) -> Self {
        let parent = traceparent.as_deref().and_then(TraceContext::parse);
        let run = parent.map_or_else(traces::begin, |parent| parent.child());
        match traces::is_recorded(run) {
            true => Self { parent, run: Some(run), traceparent: Some(run.to_string()) },
            false => Self { parent, run: None, traceparent },
        }
    }

    /// The trace's name, for the log.
    pub fn id(&self) -> Option<String> {
        self.run.or(self.parent).map(|context| context.trace_id())
    }

    /// What its parts are parts of, if they are recorded.
    pub fn run(&self) -> Option<TraceContext> {
        self.run
    }

    /// The engine has drawn the job: `until` this moment, each part as long as it took in all. Parts of several pictures took
    /// turns, and are shown one behind the other.
    pub fn drawn(&self, timings: &EngineTimings, until: Instant) {
        let Some(run) = self.run else { return };
        let parts = [
            ("load", timings.load),
            ("text", timings.text),
            ("denoise", timings.denoise),
            ("decode", timings.decode),
        ];
        let all: Duration = parts.iter().map(|(_, took)| *took).sum();
        let back = |took| until.checked_sub(took).unwrap_or(until);
        let mut begun = back(all);
        traces::record(Span::of(run, "wait for the engine", back(all + timings.queue), begun));
        let engine = Span::of(run, "engine", begun, until);
        let context = engine.context;
        traces::record(engine);
        for (name, took) in parts.into_iter().filter(|(_, took)| !took.is_zero()) {
            traces::record(Span::of(context, name, begun, begun + took));
            begun += took;
        }
    }

    /// The run is over.
    pub fn over(&self, job: &Job, model: &str, run: Run) {
        let Some(context) = self.run else { return };
        let capability = job.capability();
        let destination = match run.is_queued {
            true => "JOBS".to_owned(),
            false => format!("image.{capability}"),
        };
        let span = Span::of(context, &format!("process {destination}"), run.begun, Instant::now());
        let (outcome, error) = outcome(run.fate);
        let mut span = span
            .with("messaging.system", "nats")
            .with("messaging.operation.name", "process")
            .with("messaging.operation.type", "process")
            .with("messaging.destination.name", destination.as_str())
            .with("messaging.consumer.group.name", format!("{capability}-{model}").as_str())
            .with("messaging.message.id", job.id.as_str())
            .with("sd.operation", capability.operation())
            .with("sd.model", model)
            .with("sd.attempt", u64::from(run.attempt))
            .with("sd.outcome", outcome);
        (span.context, span.parent, span.kind) =
            (context, self.parent.map(|parent| parent.span), Kind::Consumer);
        (span.error, span.links) = (error, run.before.into_iter().collect());
        traces::record(span);
    }
}

/// What there is to say of a run.
pub struct Run<'a> {
    pub begun: Instant,
    pub is_queued: bool,
    pub attempt: u32,
    pub fate: &'a Fate,
    /// The run before it.
    pub before: Option<TraceContext>,
}

fn outcome(fate: &Fate) -> (&'static str, Option<String>) {
    use crate::contract::EventKind;

    match fate {
        Fate::End { kind: EventKind::Error { code, message, .. }, .. } => {
            ("error", Some(format!("{code}: {message}")))
        }
        Fate::End { kind, .. } => (kind.name(), None),
        Fate::Bury(code, message) => ("dead letter", Some(format!("{code}: {message}"))),
        Fate::Retry(code, message, _) => ("tried again", Some(format!("{code}: {message}"))),
        Fate::GiveBack(_) => ("handed back", None),
    }
}
