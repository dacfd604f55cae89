//! A worker without NATS, for the tests of its parts.

use std::sync::Arc;

use tokio::sync::{Notify, mpsc::UnboundedReceiver};

use super::{
    context::{Context, Identity},
    intake::take_jobs,
    job_router::JobRouter,
    shutdown::Engine,
    slots::Slots,
};
use crate::{
    bus::{
        Outgoing,
        memory::{MemoryRequester, MemorySink, MemorySource},
    },
    contract::{Capability, Limits, WorkerId},
    engine::{GenerationEngine, InferencePipeline, RequestQueue},
    storage::{Store, StoreOptions},
};

pub(super) struct Worker {
    pub context: Arc<Context>,
    pub requester: MemoryRequester,
    pub out: UnboundedReceiver<Outgoing>,
    pub closed: Arc<Notify>,
    pub engine: Engine,
}

/// A worker with this simulation, that takes jobs.
pub(super) fn worker(model: &str, slots: usize) -> Worker {
    let source = format!("sim={model}").parse().unwrap();
    let pipeline = InferencePipeline::load(&[source], &candle_core::Device::Cpu).unwrap();
    let identity = Identity {
        worker_id: WorkerId::new("w").unwrap(),
        hive_id: None,
        capabilities: Capability::ALL.to_vec(),
        device: "cpu".into(),
        limits: Limits::default(),
        catalog: pipeline.catalog(),
        loras: None,
    };
    let (queue, receiver) = RequestQueue::new();
    let engine = Engine::new(GenerationEngine::new(pipeline, receiver).with_slots(slots).start());
    let (sink, out) = MemorySink::new();
    let store = Store::open(&StoreOptions::new("memory://")).unwrap();
    let context = Arc::new(Context::new(identity, Slots::new(slots, 0), store, Arc::new(sink), queue));
    let (source, requester) = MemorySource::new();
    let closed = Arc::new(Notify::new());
    tokio::spawn(take_jobs(source, JobRouter::new(context.clone()), closed.clone()));
    Worker { context, requester, out, closed, engine }
}
