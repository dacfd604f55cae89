//! The page that Prometheus reads.

use std::{
    collections::{BTreeMap, HashMap},
    time::SystemTime,
};

use axum::{Json, Router, extract::State, http::StatusCode, routing::get};

use super::super::{Durable, Queen};
use crate::{
    bus::{Connectivity, Line},
    contract::{ErrorCode, Health, JobStatus, WorkerStatus, model_token},
    http::ApiError,
    metrics::{MAX_SERIES, OTHER, Text},
    traces,
};

/// When a client that came while queen starts may try again.
const RETRY_WHILE_IT_STARTS: std::time::Duration = std::time::Duration::from_secs(5);

/// What queen answers while it waits for NATS and the store.
pub(in crate::queen) fn while_it_starts() -> Router {
    let health = || async {
        let nats = Connectivity::Away.name().into();
        Json(Health { status: "starting".into(), nats, durable: false, workers: 0 })
    };
    let ready = || async { (StatusCode::SERVICE_UNAVAILABLE, "not ready: queen starts\n") };
    let metrics = || async {
        let mut text = Text::new();
        about(&mut text, false);
        text.process();
        text
    };
    let refuse = || async {
        ApiError::new(ErrorCode::Busy, "queen starts: it takes jobs when /ready says so")
            .with_retry_after(RETRY_WHILE_IT_STARTS)
    };
    Router::new()
        .route("/health", get(health))
        .route("/ready", get(ready))
        .route("/metrics", get(metrics))
        .fallback(refuse)
}

/// The page.
pub(super) async fn metrics(State(queen): State<Queen>) -> Text {
    let mut text = Text::new();
    queen.write(&mut text);
    text
}

fn about(text: &mut Text, is_ready: bool) {
    let version = [("version", env!("CARGO_PKG_VERSION"))];
    text.gauge("sd_queen_build_info", "The program.").labelled(&version, 1);
    text.gauge("sd_queen_ready", "Whether it takes jobs, as /ready says.").value(u8::from(is_ready));
}

impl Queen {
    fn write(&self, text: &mut Text) {
        about(text, self.unready().is_none());
        let shared = &self.shared;
        text.gauge("sd_queen_nats_up", "Whether there is a connection to NATS.")
            .value(u8::from(shared.requester.is_connected()));
        text.counter("sd_queen_nats_reconnects_total", "Connections to NATS after the first.")
            .value(shared.requester.connections().saturating_sub(1));
        text.counter("sd_queen_store_failures_total", "Requests to the store that failed or were too slow.")
            .value(shared.store.failures());
        text.counter("sd_queen_spans_dropped_total", "Spans of traces that could not be sent.")
            .value(traces::dropped());
        self.write_requests(text);
        self.write_own_jobs(text);
        self.write_fleet(text);
        if let Some(durable) = &shared.durable {
            durable.write(text);
        }
        text.process();
    }

    fn write_requests(&self, text: &mut Text) {
        let (shared, metrics) = (&self.shared, &self.shared.metrics);
        metrics.requests.write(text.counter("sd_queen_requests_total", "Requests over HTTP."));
        metrics.request_seconds.write(
            text.histogram("sd_queen_request_seconds", "From a request to the beginning of its answer."),
        );
        let most = shared.options.max_streams;
        text.gauge("sd_queen_streams_open", "Streams of events that clients have open.")
            .value(most.saturating_sub(shared.open_streams.available_permits()));
        text.gauge("sd_queen_streams_limit", "Streams that may be open (--max-streams).").value(most);
    }

    /// The jobs that came to this queen.
    fn write_own_jobs(&self, text: &mut Text) {
        let metrics = &self.shared.metrics;
        metrics
            .accepted
            .write(text.counter("sd_queen_jobs_accepted_total", "Jobs that this queen accepted."));
        metrics.ended.write(text.counter("sd_queen_jobs_ended_total", "Jobs of this queen's that ended."));
        metrics.wait_seconds.write(text.histogram(
            "sd_queen_job_wait_seconds",
            "From a durable job's acceptance by this queen to its beginning on a worker.",
        ));
        let (mut waiting, mut running) = (0, 0);
        for record in self.shared.table.all() {
            match record.view().status {
                JobStatus::Queued => waiting += 1,
                JobStatus::Running => running += 1,
                JobStatus::Completed | JobStatus::Failed | JobStatus::Cancelled => {}
            }
        }
        let mut core = text.gauge("sd_queen_core_jobs", "Jobs of this queen's that are not durable.");
        core.labelled(&[("state", "waiting")], waiting);
        core.labelled(&[("state", "running")], running);
    }

    /// The workers that are up.
    fn write_fleet(&self, text: &mut Text) {
        let known = self.shared.durable.as_ref().map(|durable| durable.models.known()).unwrap_or_default();
        let mut models: BTreeMap<String, u64> = known.into_iter().map(|model| (model, 0)).collect();
        let statuses =
            [WorkerStatus::Ready, WorkerStatus::Busy, WorkerStatus::Draining, WorkerStatus::ShuttingDown];
        let mut workers = [0_u64; 4];
        let (mut slots, mut free) = (0_u64, 0_u64);
        self.shared.fleet.with_all(|all| {
            for worker in all {
                let at = statuses.iter().position(|status| *status == worker.status);
                workers[at.expect("every status is listed")] += 1;
                if worker.status.takes_jobs() {
                    slots += u64::from(worker.slots);
                    free += u64::from(worker.free_slots);
                    for model in &worker.models {
                        let has_room = models.len() < MAX_SERIES || models.contains_key(model);
                        let model = if has_room { model } else { OTHER };
                        *models.entry(model.to_owned()).or_default() += 1;
                    }
                }
            }
        });
        let mut family = text.gauge("sd_queen_workers", "Workers that are up.");
        for (status, number) in ["ready", "busy", "draining", "shutting_down"].into_iter().zip(workers) {
            family.labelled(&[("status", status)], number);
        }
        let mut family = text.gauge("sd_queen_model_workers", "Workers that take jobs for a model.");
        for (model, number) in models.iter().take(MAX_SERIES + 1) {
            family.labelled(&[("model", model)], number);
        }
        text.gauge("sd_queen_slots", "Jobs that the workers that take jobs may run together.").value(slots);
        text.gauge("sd_queen_slots_free", "Jobs that they would take now.").value(free);
    }
}

impl Durable {
    /// What the queue and the streams were like when they were last looked at.
    fn write(&self, text: &mut Text) {
        text.gauge("sd_queen_jetstream_up", "Whether the streams of durable jobs are there.")
            .value(u8::from(self.is_ready()));
        self.metrics.sweep_seconds.write(text.histogram("sd_queen_sweep_seconds", "A sweep of the queue."));
        self.metrics.swept.write(text.counter("sd_queen_swept_total", "What sweeps of the queue put right."));
        let sizes = self.streams.sizes();
        let mut bytes = text.gauge("sd_queen_stream_bytes", "Bytes in a stream.");
        for size in &sizes {
            bytes.labelled(&[("stream", size.stream)], size.bytes);
        }
        let mut limits = text.gauge("sd_queen_stream_limit_bytes", "Bytes that a stream may have.");
        for (size, limit) in sizes.iter().filter_map(|size| Some((size, size.limit?))) {
            limits.labelled(&[("stream", size.stream)], limit);
        }
        let mut letters = text.gauge("sd_queen_dead_letters", "Jobs among the dead letters.");
        sizes.iter().filter(|size| size.stream == "DLQ").for_each(|size| letters.value(size.messages));
        let Some((at, lines)) = self.swept_lines() else { return };
        text.gauge("sd_queen_sweep_age_seconds", "How long ago the queue was last swept.")
            .value(at.elapsed().as_secs_f64());
        let known = self.models.known();
        let names: HashMap<String, &str> =
            known.iter().map(|model| (model_token(model), model.as_str())).collect();
        let lines = merged(&lines, &names);
        let now = SystemTime::now();
        let mut waiting = text.gauge("sd_queen_jobs_waiting", "Durable jobs that no worker has got.");
        lines.iter().for_each(|(labels, line)| waiting.labelled(labels, line.waiting));
        let mut running = text.gauge("sd_queen_jobs_running", "Durable jobs that workers have.");
        lines.iter().for_each(|(labels, line)| running.labelled(labels, line.in_hand));
        let mut oldest =
            text.gauge("sd_queen_oldest_waiting_seconds", "How long the oldest waiting job has waited.");
        for (labels, line) in &lines {
            let age = line.oldest.map(|at| now.duration_since(at).unwrap_or_default());
            oldest.labelled(labels, age.unwrap_or_default().as_secs_f64());
        }
    }
}

/// The lines with the labels of each: models by the names that jobs use where queen knows them, and so many lines and no
/// more.
fn merged<'a>(
    lines: &'a [Line],
    names: &HashMap<String, &'a str>,
) -> Vec<([(&'static str, &'a str); 2], Line)> {
    let mut merged: BTreeMap<(&str, &str), Line> = BTreeMap::new();
    for line in lines {
        let model = names.get(&line.model).copied().unwrap_or(&line.model);
        let key = match merged.len() < MAX_SERIES {
            true => (line.capability.operation(), model),
            false => (line.capability.operation(), OTHER),
        };
        match merged.get_mut(&key) {
            None => drop(merged.insert(key, line.clone())),
            Some(all) => {
                all.waiting += line.waiting;
                all.in_hand += line.in_hand;
                all.oldest = [all.oldest, line.oldest].into_iter().flatten().min();
            }
        }
    }
    let labelled = |((operation, model), line)| ([("operation", operation), ("model", model)], line);
    merged.into_iter().map(labelled).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::contract::Capability;

    #[test]
    fn lines_of_very_many_models_are_told_together() {
        let line = |number: usize| Line {
            capability: Capability::Generate,
            model: format!("m{number}"),
            waiting: 1,
            in_hand: 2,
            oldest: Some(SystemTime::UNIX_EPOCH),
        };
        let lines: Vec<_> = (0..100_000).map(line).collect();
        let names = HashMap::from([("m0".to_owned(), "org/m 0")]);
        let merged = merged(&lines, &names);
        assert_eq!(merged.len(), MAX_SERIES + 1);
        assert_eq!(merged.iter().map(|(_, line)| line.waiting).sum::<u64>(), 100_000);
        assert!(merged.iter().any(|(labels, line)| labels[1].1 == "org/m 0" && line.waiting == 1));
        assert!(merged.iter().any(|(labels, line)| labels[1].1 == OTHER && line.in_hand > 100_000));
    }
}
