//! /metrics of a worker. docs/metrics.md says what each name means; a test compares the two.

use axum::extract::State;

use super::WorkerJobs;
use crate::{bus::Connectivity, metrics::Text, traces};

/// The page of a worker that has started.
pub(super) async fn metrics(State(jobs): State<WorkerJobs>) -> Text {
    let mut text = Text::new();
    jobs.write(&mut text);
    text
}

/// The page of a worker that starts: all that is known of it.
pub(super) fn while_it_starts(device: &str) -> Text {
    let mut text = Text::new();
    build(&mut text, device);
    ready(&mut text, false);
    text.process();
    text
}

fn build(text: &mut Text, device: &str) {
    let labels = [("version", env!("CARGO_PKG_VERSION")), ("device", device)];
    text.gauge("sd_worker_build_info", "The program and its device.").labelled(&labels, 1);
}

fn ready(text: &mut Text, is_ready: bool) {
    text.gauge("sd_worker_ready", "Whether it takes jobs, as /ready says.").value(u8::from(is_ready));
}

impl WorkerJobs {
    fn write(&self, text: &mut Text) {
        let context = self.context();
        build(text, &context.identity.device);
        ready(text, self.is_ready());
        let connected = (self.nats.connectivity)() == Connectivity::Connected;
        text.gauge("sd_worker_nats_up", "Whether there is a connection to NATS.").value(u8::from(connected));
        let reconnects = (self.nats.connections)().saturating_sub(1);
        text.counter("sd_worker_nats_reconnects_total", "Connections to NATS after the first.")
            .value(reconnects);
        text.counter("sd_worker_store_failures_total", "Requests to the store that failed or were too slow.")
            .value(context.store.failures());
        text.counter("sd_worker_spans_dropped_total", "Spans of traces that could not be sent.")
            .value(traces::dropped());
        text.gauge("sd_worker_slots", "Jobs that may run together.").value(context.slots.slots());
        text.gauge("sd_worker_slots_free", "Jobs that would be taken now.").value(context.slots.free());
        text.gauge("sd_worker_jobs_held", "Jobs that are here: waiting for the engine, drawn or stored.")
            .value(context.held.len());
        text.gauge("sd_worker_device_failed", "1 when the device failed or hangs, and the worker ends.")
            .value(u8::from(context.is_engine_lost()));
        if let Some(engine) = context.engine() {
            let age = engine.step_age().unwrap_or_default().as_secs_f64();
            text.gauge("sd_worker_step_age_seconds", "How long the engine has been at its present work.")
                .value(age);
            text.gauge("sd_worker_pass_pictures", "Pictures that shared the last pass.")
                .value(engine.pictures_in_a_pass());
            text.counter("sd_worker_out_of_memory_total", "How often the device ran out of memory.")
                .value(engine.out_of_memory());
            let mut resident =
                text.gauge("sd_worker_model_resident_bytes", "Weights in memory; 0: the model is not there.");
            for (model, bytes) in engine.resident_bytes() {
                resident.labelled(&[("model", &model)], bytes);
            }
            if let Some(free) = engine.free_memory() {
                text.gauge("sd_worker_device_memory_free_bytes", "Free memory of the device.").value(free);
            }
            engine.write_loads(text.histogram("sd_model_load_seconds", "Loading a model."));
        }
        context.metrics.write(text);
        text.process();
    }
}
