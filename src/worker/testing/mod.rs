//! A worker without NATS, for the tests of its parts.

mod durable;
mod folders;
mod standstill;

use std::{sync::Arc, time::Duration};

use tokio::sync::mpsc::UnboundedReceiver;

use crate::{
    bus::{
        EventSink, Outgoing,
        memory::{
            MemoryLog, MemoryPublisher, MemoryQueue, MemoryRequester, MemorySink, MemorySource, Settled,
        },
    },
    contract::{Capability, Limits, WorkerId},
    diffusion::{DType, Precision},
    engine::{GenerationEngine, InferencePipeline, RequestQueue},
    storage::{Store, StoreOptions},
    worker::{
        process::Engine,
        shared::{Context, Identity, Slots},
        take::{JobRouter, take_jobs},
    },
};

pub struct Worker {
    pub context: Arc<Context>,
    pub requester: MemoryRequester,
    pub publisher: MemoryPublisher,
    pub settled: UnboundedReceiver<Settled>,
    pub log: MemoryLog,
    pub out: UnboundedReceiver<Outgoing>,
    pub engine: Engine,
}

/// A worker with this simulation, that takes jobs.
pub fn worker(model: &str, slots: usize) -> Worker {
    let (sink, out) = MemorySink::new();
    let store = Store::open(&StoreOptions::new("memory://")).unwrap();
    Worker { out, ..worker_between(model, slots, store, Arc::new(sink)) }
}

/// A worker with one slot that is in this way another.
pub fn worker_like(model: &str, change: impl FnOnce(&mut Identity)) -> Worker {
    let (sink, out) = MemorySink::new();
    let store = Store::open(&StoreOptions::new("memory://")).unwrap();
    Worker { out, ..built(model, 1, store, Arc::new(sink), change) }
}

/// A worker with this simulation between a store and a sink of the test's own; nothing comes `out`.
pub fn worker_between(model: &str, slots: usize, store: Store, sink: Arc<dyn EventSink>) -> Worker {
    built(model, slots, store, sink, |_| {})
}

fn built(
    model: &str,
    slots: usize,
    store: Store,
    sink: Arc<dyn EventSink>,
    change: impl FnOnce(&mut Identity),
) -> Worker {
    let source = format!("sim={model}").parse().unwrap();
    let pipeline = InferencePipeline::load(&[source], &candle_core::Device::Cpu).unwrap();
    let mut identity = Identity {
        worker_id: WorkerId::new("w").unwrap(),
        hive_id: None,
        capabilities: Capability::ALL.to_vec(),
        device: "cpu".into(),
        limits: Limits::default(),
        catalog: pipeline.catalog(),
        precision: Precision::all(DType::F32),
        snapshot_every: Duration::from_secs(10),
        loras: None,
        segmenter: None,
        embeddings: None,
    };
    change(&mut identity);
    let (queue, receiver) = RequestQueue::new();
    let engine = Engine::new(GenerationEngine::new(pipeline, receiver).with_slots(slots).start());
    let log = MemoryLog::default();
    let slots = Slots::new(slots, 0);
    let context = Arc::new(Context::new(identity, slots, store, sink, Arc::new(log.clone()), queue));
    let (_, out) = MemorySink::new();
    let (source, requester) = MemorySource::new();
    let (durable, publisher, settled) = MemoryQueue::new();
    tokio::spawn(take_jobs(source, durable, JobRouter::new(context.clone())));
    Worker { context, requester, publisher, settled, log, out, engine }
}
