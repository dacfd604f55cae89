//! What every job of a worker shares: who it is, its limits, its slots, the store, the way into the engine.
//! The queue is here, the engine is not.

use std::{
    collections::BTreeMap,
    num::NonZero,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use tokio::sync::{Semaphore, watch};

use super::{held::Held, metrics::Metrics, seen::Seen, slots::Slots};
use crate::{
    bus::{EventLog, EventSink},
    contract::{
        Capability, Event, EventKind, HiveId, Limits, MAX_LORA_NAMES, WorkerId, WorkerInfo, WorkerLoras,
        WorkerStatus,
    },
    diffusion::{Precision, SchedulerKind},
    engine::{EngineView, RequestQueue},
    models::{LoraFolder, ModelInfo},
    segmenter::Segmenter,
    storage::{Key, Store},
};

/// How often the folder of LoRAs is listed for the heartbeat.
const LIST_LORAS_EVERY: Duration = Duration::from_secs(10);

/// Who a worker is and what it takes.
#[derive(Debug, Clone)]
pub struct Identity {
    /// The worker.
    pub worker_id: WorkerId,
    /// Its hive.
    pub hive_id: Option<HiveId>,
    /// What it can do.
    pub capabilities: Vec<Capability>,
    /// `cpu`, `cuda:0`, `metal:0`.
    pub device: String,
    /// What a job may ask for.
    pub limits: Limits,
    /// Its models; the first is the default.
    pub catalog: Vec<ModelInfo>,
    /// The types that weights are kept in.
    pub precision: Precision,
    /// The time between two snapshots of a durable job.
    pub snapshot_every: Duration,
    /// Where the LoRAs are that jobs may name; none: they may not.
    pub loras: Option<LoraFolder>,
    /// What makes masks of what jobs point at; none: they may not point.
    pub segmenter: Option<Segmenter>,
    /// Where the textual inversions are that prompts may have words of; none: they have none.
    pub embeddings: Option<LoraFolder>,
}

/// What every job shares.
pub struct Context {
    /// Who the worker is.
    pub identity: Identity,
    /// How many jobs it holds.
    pub slots: Slots,
    /// Which they are.
    pub held: Held,
    /// Where pictures go.
    pub store: Store,
    /// One permit for each core: jobs that end together do not all encode their pictures at the same time, beside the
    /// engine that computes the next.
    pub encoders: Arc<Semaphore>,
    /// One permit: a mask that is made takes as much memory as a model.
    pub masks: Arc<Semaphore>,
    /// Where events go.
    pub sink: Arc<dyn EventSink>,
    /// Where the events of durable jobs go.
    pub log: Arc<dyn EventLog>,
    /// What was counted.
    pub metrics: Arc<Metrics>,
    /// What was seen of jobs that others hold.
    pub seen: Seen,
    /// Tells how the engine is.
    engine: Option<EngineView>,
    /// The LoRAs as they were last listed.
    listed: Mutex<Option<(Instant, WorkerLoras)>>,
    queue: Mutex<Option<RequestQueue>>,
    closed: AtomicBool,
    drained: AtomicBool,
    /// Whether jobs are taken, as who takes them says.
    doors_open: watch::Sender<bool>,
    engine_lost: watch::Sender<bool>,
}

/// The folders of files that jobs name.
#[derive(Debug, Clone, Copy)]
pub struct Folders<'a> {
    /// Of LoRAs.
    pub loras: Option<&'a LoraFolder>,
    /// Of embeddings.
    pub embeddings: Option<&'a LoraFolder>,
}

impl Identity {
    /// Its folders.
    pub fn folders(&self) -> Folders<'_> {
        Folders { loras: self.loras.as_ref(), embeddings: self.embeddings.as_ref() }
    }
}

impl Context {
    /// A worker that takes jobs.
    pub fn new(
        identity: Identity,
        slots: Slots,
        store: Store,
        sink: Arc<dyn EventSink>,
        log: Arc<dyn EventLog>,
        queue: RequestQueue,
    ) -> Self {
        let models = identity.catalog.iter().map(|model| model.name.as_str());
        let metrics = Arc::new(Metrics::new(models, &identity.capabilities));
        Self {
            identity,
            slots,
            held: Held::new(),
            store,
            encoders: Arc::new(Semaphore::new(std::thread::available_parallelism().map_or(1, NonZero::get))),
            masks: Arc::new(Semaphore::new(1)),
            sink,
            log,
            metrics,
            seen: Seen::default(),
            engine: None,
            listed: Mutex::default(),
            queue: Mutex::new(Some(queue)),
            closed: AtomicBool::new(false),
            drained: AtomicBool::new(false),
            doors_open: watch::Sender::new(true),
            engine_lost: watch::Sender::new(false),
        }
    }

    /// With what tells how its engine is.
    #[must_use]
    pub fn with_engine(self, engine: EngineView) -> Self {
        Self { engine: Some(engine), ..self }
    }

    /// How the engine is, where something tells it.
    pub fn engine(&self) -> Option<&EngineView> {
        self.engine.as_ref()
    }

    /// Takes no more jobs. It does not open again.
    pub fn close(&self) {
        self.closed.store(true, Ordering::Release);
        self.slots.changed();
    }

    /// Whether it takes no more jobs.
    pub fn is_closed(&self) -> bool {
        self.closed.load(Ordering::Acquire)
    }

    /// Takes no more jobs until it is told to again: an operator's wish, which ends with the process.
    pub fn drain(&self, drained: bool) {
        self.drained.store(drained, Ordering::Release);
        self.slots.changed();
    }

    /// Whether it takes jobs: it is neither closed nor drained.
    pub fn takes_jobs(&self) -> bool {
        !self.is_closed() && !self.drained.load(Ordering::Acquire)
    }

    /// Whoever takes jobs says whether it does.
    pub fn set_doors_open(&self, open: bool) {
        self.doors_open.send_replace(open);
    }

    /// Waits until whoever takes jobs has said that it takes them (`open`), or none.
    pub async fn doors_are(&self, open: bool) {
        // The sender is a field of self: it cannot be gone.
        let _ = self.doors_open.subscribe().wait_for(|are| *are == open).await;
    }

    /// The way into the engine; `None` after [`Self::drop_queue`].
    pub fn queue(&self) -> Option<RequestQueue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Gives up the way into the engine, which ends when nobody has one.
    pub fn drop_queue(&self) {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner).take();
    }

    /// The event, with URLs that have not run out.
    pub async fn renewed(&self, mut event: Event) -> Event {
        if let EventKind::Complete(complete) = &mut event.kind {
            let images = complete.images.iter_mut().map(|image| (&image.key, &mut image.url));
            let mask = complete.mask.as_deref_mut().map(|mask| (&mask.key, &mut mask.url));
            for (key, url) in images.chain(mask) {
                let renewed = match Key::parse_reference(key) {
                    Ok(key) => self.store.url(&key).await,
                    Err(error) => Err(error),
                };
                match renewed {
                    Ok(renewed) => *url = renewed,
                    Err(error) => tracing::warn!(%key, %error, "a URL could not be made anew"),
                }
            }
        }
        event
    }

    /// Takes no more jobs, and says to those that wait for the engine that it will not answer.
    pub fn lose_engine(&self) {
        self.close();
        self.drop_queue();
        self.engine_lost.send_replace(true);
    }

    /// Whether the engine answers no more.
    pub fn is_engine_lost(&self) -> bool {
        *self.engine_lost.borrow()
    }

    /// Waits until the engine answers no more.
    pub async fn engine_lost(&self) {
        // The sender is a field of self: it cannot be gone.
        let _ = self.engine_lost.subscribe().wait_for(|lost| *lost).await;
    }

    /// What the heartbeat says now.
    pub fn info(&self) -> WorkerInfo {
        let free = if self.takes_jobs() { self.slots.free() } else { 0 };
        let status = match (self.is_closed(), self.takes_jobs(), free) {
            (true, _, _) => WorkerStatus::ShuttingDown,
            (false, false, _) => WorkerStatus::Draining,
            (false, true, 0) => WorkerStatus::Busy,
            (false, true, _) => WorkerStatus::Ready,
        };
        let slots = self.slots.slots();
        let models: Vec<String> = self.identity.catalog.iter().map(|model| model.name.clone()).collect();
        WorkerInfo {
            id: self.identity.worker_id.clone(),
            hive_id: self.identity.hive_id.clone(),
            model_id: models.first().cloned().unwrap_or_default(),
            models,
            device: self.identity.device.clone(),
            status,
            capabilities: self.identity.capabilities.clone(),
            slots: u32::try_from(slots).unwrap_or(u32::MAX),
            // With prefetch there may be room for more jobs than run together.
            free_slots: u32::try_from(free.min(slots)).unwrap_or(u32::MAX),
            implementation: env!("CARGO_PKG_NAME").to_owned(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            limits: Some(self.identity.limits.of_a_worker()),
            loras: self.lora_names(),
            segmenter: self.identity.segmenter.is_some(),
            schedulers: SchedulerKind::NAMES.iter().map(|&name| name.to_owned()).collect(),
            native_sizes: self
                .identity
                .catalog
                .iter()
                .map(|model| (model.name.clone(), model.native_size))
                .collect(),
            licenses: self.said(|model| model.license.clone()),
            titles: self.said(|model| model.title.clone()),
            resolutions: self.said(|model| model.resolution.clone()),
            resident: self.engine().map(EngineView::resident).unwrap_or_default(),
            jobs_done: self.metrics.jobs_done(),
            step_ms: self.metrics.step_ms(),
        }
    }

    /// What checkpoints say of themselves, by the models' names.
    fn said(&self, what: impl Fn(&ModelInfo) -> Option<String>) -> BTreeMap<String, String> {
        let catalog = self.identity.catalog.iter();
        catalog.filter_map(|model| Some((model.name.clone(), what(model)?))).collect()
    }

    /// The names of the LoRAs, looked up once in a while.
    fn lora_names(&self) -> Option<WorkerLoras> {
        let folder = self.identity.loras.as_ref()?;
        let mut listed = self.listed.lock().unwrap_or_else(PoisonError::into_inner);
        match &*listed {
            Some((at, loras)) if at.elapsed() < LIST_LORAS_EVERY => Some(loras.clone()),
            _ => {
                let (names, complete) = folder.listing(MAX_LORA_NAMES);
                let loras = WorkerLoras { names, complete };
                *listed = Some((Instant::now(), loras.clone()));
                Some(loras)
            }
        }
    }
}
