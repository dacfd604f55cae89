//! The wiring: reach the store and NATS, load, arm, and drain when told. A binary parses, calls this and exits.

use std::{pin::pin, process::ExitCode, sync::Arc, time::Duration};

use futures::future::select_all;
use tokio::{task::JoinHandle, time::MissedTickBehavior};

use super::{
    control::Control,
    drain::{Ending, Engine, LOST},
    http::{WorkerJobs, while_it_starts},
    options::{OptionsError, WorkerOptions},
};
use crate::{
    bus::{BusError, Cancels, Discovery, DoorOptions, Heartbeat, JobStreams, Streams, WorkerBus},
    engine::{EngineError, GenerationEngine, InferencePipeline, Lookout, RequestQueue, Stuck},
    http::{HttpServer, Listener},
    models::{ModelError, ModelOptions, ModelSource, Origin},
    segmenter::{Segmenter, SegmenterError},
    signals::Signals,
    storage::{StorageError, Store},
    systemd::Systemd,
    worker::{
        shared::{Context, Slots},
        take::{JobRouter, take_jobs},
    },
};

/// Exit code: it could not start; the message says what to do.
const FAILED_AT_START: u8 = 1;

/// How long the store and NATS are waited for before models are brought and loaded beside that: what is wrong with an
/// address or a credential is told first, and a download waits for nobody.
const FIRST_LOOK: Duration = Duration::from_secs(2);

/// How often it is seen whether what a heartbeat says has changed.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// Why a worker could not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// Flags.
    #[error(transparent)]
    Options(#[from] OptionsError),
    /// A model.
    #[error("--model: {0}")]
    Model(#[from] ModelError),
    /// A model of the hub.
    #[cfg(feature = "hub")]
    #[error("--model: {0}")]
    Hub(#[from] crate::models::HubError),
    /// A model of the hub, for a build that cannot fetch it.
    #[cfg(not(feature = "hub"))]
    #[error(
        "--model {0}: this build was made without the feature `hub`: give it a folder, or build it with that feature"
    )]
    NoHub(crate::models::HubRepo),
    /// The segmenter.
    #[error("--segmenter: {0}")]
    Segmenter(#[from] SegmenterError),
    /// The store.
    #[error(transparent)]
    Store(#[from] StorageError),
    /// NATS.
    #[error(transparent)]
    Bus(#[from] BusError),
    /// The address of `--http`.
    #[error("--http {address}: {source}; give a free address of this machine")]
    Http {
        /// The address.
        address: std::net::SocketAddr,
        /// What the system says.
        source: std::io::Error,
    },
    /// Where traces go.
    #[cfg(feature = "otlp")]
    #[error(transparent)]
    Traces(#[from] crate::traces::TraceError),
    /// Loading ended without a result.
    #[error("loading the models did not end: {0}")]
    Lost(#[from] tokio::task::JoinError),
    /// The device computes nothing with a model.
    #[error("the test of the device failed with `{model}`: {source}; no job is taken")]
    Test {
        /// The model.
        model: String,
        /// How it failed.
        source: Box<EngineError>,
    },
    /// The test of the device does not end.
    #[error("{0}; no job is taken")]
    Stuck(#[from] Stuck),
}

impl StartError {
    /// A device that is broken is told apart from what somebody has to set right.
    fn exit_code(&self) -> u8 {
        match self {
            Self::Test { .. } | Self::Stuck(_) => LOST,
            Self::Model(error) if error.is_of_device() => LOST,
            _ => FAILED_AT_START,
        }
    }
}

/// A worker that takes jobs.
struct Running {
    context: Arc<Context>,
    bus: WorkerBus,
    engine: Engine,
    lookout: Lookout,
    heartbeat: Option<Heartbeat>,
    tasks: Tasks,
    /// Ends when this is dropped.
    _discovery: Discovery,
    http: Option<HttpServer>,
}

/// Tasks without which a worker takes nothing, by name. They end with their owner.
struct Tasks(Vec<(&'static str, JoinHandle<()>)>);

impl Tasks {
    /// Resolves when one of them ends although it was needed: which, and how. Not to be called again after that.
    async fn lost(&mut self) -> String {
        let (ended, at, _) = select_all(self.0.iter_mut().map(|(_, task)| task)).await;
        let (name, _) = self.0.remove(at);
        match ended {
            Ok(()) => format!("{name} ended while it was needed"),
            Err(error) => format!("{name} was lost: {error}"),
        }
    }
}

impl Drop for Tasks {
    fn drop(&mut self) {
        self.0.iter().for_each(|(_, task)| task.abort());
    }
}

/// Runs a worker on `device` (called `device_name` in heartbeats) until it is told to stop.
pub async fn run(options: WorkerOptions, device: candle_core::Device, device_name: &str) -> ExitCode {
    crate::metrics::note_start();
    let mut signals = match Signals::listen() {
        Ok(signals) => signals,
        Err(error) => return failed(FAILED_AT_START, format!("signals cannot be listened to: {error}")),
    };
    let started = tokio::select! {
        started = start(&options, device, device_name) => started,
        signal = signals.recv() => {
            tracing::info!(signal, "stopped before it took a job");
            return ExitCode::SUCCESS;
        }
    };
    let mut running = match started {
        Ok(running) => running,
        Err(error) => return failed(error.exit_code(), error.to_string()),
    };
    let systemd = Systemd::from_environment();
    systemd.ready();
    tokio::spawn(live(systemd.clone(), running.lookout));
    let mut ending =
        Ending { context: &running.context, engine: &mut running.engine, heartbeat: &mut running.heartbeat };
    let code = tokio::select! {
        signal = signals.recv() => {
            systemd.stopping();
            tracing::info!(signal, grace = ?options.grace, "draining: no new jobs; a second signal stops at once");
            signals.exit_at_the_next();
            ending.drain(&running.bus, options.grace).await
        }
        lost = ending.engine.lost() => {
            tracing::error!(error = %lost, "the engine was lost; the worker ends");
            ending.leave().await
        }
        lost = running.tasks.lost() => {
            tracing::error!(error = %lost, "the worker takes nothing any more, and ends");
            ending.leave().await
        }
    };
    if let Some(server) = running.http.take() {
        server.stop().await;
    }
    crate::traces::flush().await;
    code
}

fn failed(code: u8, message: String) -> ExitCode {
    tracing::error!("{message}");
    ExitCode::from(code)
}

async fn start(
    options: &WorkerOptions,
    device: candle_core::Device,
    device_name: &str,
) -> Result<Running, StartError> {
    let subjects = options.check()?;
    let http = match options.http {
        Some(address) => Some(
            Listener::bind(address, while_it_starts(device_name))
                .map_err(|source| StartError::Http { address, source })?,
        ),
        None => None,
    };
    if let Some(address) = options.http.filter(|address| !address.ip().is_loopback()) {
        tracing::warn!(
            "anybody who can reach {address} may send jobs to this worker: --http asks for no token"
        );
    }
    // Before the models: what is free for them is measured when it is in memory.
    let segmenter = open_segmenter(options).await?;
    let loading = options.loading(device, segmenter.as_ref().map_or(0, Segmenter::bytes))?;
    let precision = loading.precision;
    let worker_id = options.worker_id(device_name);
    #[cfg(feature = "otlp")]
    options.traces.start("sd-worker", worker_id.as_str())?;
    let doors = DoorOptions {
        worker_id: worker_id.clone(),
        capabilities: options.distinct_capabilities(),
        queue_group: options.queue_group.clone(),
        subjects,
    };
    let mut reached = pin!(reach(options, doors));
    let load = load(options, loading);
    let (Reached { store, bus, streams, durable }, pipeline) =
        match tokio::time::timeout(FIRST_LOOK, &mut reached).await {
            Ok(reached) => (reached?, load.await?),
            Err(_) => tokio::try_join!(reached, load)?,
        };
    let (view, by_hand, lookout) = (pipeline.view(), pipeline.by_hand(), pipeline.lookout());
    let identity = options.identity(worker_id, device_name, precision, pipeline.catalog(), segmenter);
    let durable = {
        let view = view.clone();
        durable.with_placement(move || view.at_hand(), options.switch_after)
    };

    let (queue, receiver) = RequestQueue::new();
    let engine = Engine::new(GenerationEngine::new(pipeline, receiver).with_slots(options.slots).start());
    let slots = Slots::new(options.slots, options.prefetch);
    let (sink, log) = (Arc::new(bus.sink()), Arc::new(streams));
    let context = Arc::new(Context::new(identity, slots, store, sink, log, queue).with_engine(view));
    let router = JobRouter::new(context.clone());

    let (heartbeat, discovery, status) = announce(&context, &bus).await?;
    let intake = tokio::spawn(take_jobs(bus.doors().await?, durable, router.clone()));
    let cancels = tokio::spawn(hear_cancels(bus.cancels().await?, router.clone()));
    let control = Control::new(context.clone(), by_hand, bus.heartbeat_asked());
    let commands = tokio::spawn(control.hear(bus.controls().await?));
    let http = match http {
        Some(listener) => {
            let jobs = WorkerJobs::new(router, bus.connectivity(), bus.connections());
            Some(listener.started(jobs.routes()).await)
        }
        None => None,
    };
    // Everything above is with the server when this comes back.
    if !bus.round_trip().await {
        tracing::warn!(
            "the server does not confirm the subscriptions: are they allowed to this user? Where each user has inboxes of \
             its own, as in deploy/nats.conf, --nats-inbox-prefix names them"
        );
    }
    let identity = &context.identity;
    tracing::info!(
        worker_id = %identity.worker_id,
        device = device_name,
        models = ?identity.catalog.iter().map(|model| &model.name).collect::<Vec<_>>(),
        slots = options.slots,
        "ready"
    );
    let tasks = [
        ("what takes jobs", intake),
        ("what hears cancels", cancels),
        ("what hears commands", commands),
        ("what tells the status", status),
    ];
    let (heartbeat, tasks) = (Some(heartbeat), Tasks(tasks.into()));
    Ok(Running { context, bus, engine, lookout, heartbeat, tasks, _discovery: discovery, http })
}

/// Tells systemd that this worker lives for as long as its engine's work ends in time.
async fn live(systemd: Systemd, mut lookout: Lookout) {
    let mut stuck = pin!(lookout.stuck());
    let mut tick = tokio::time::interval(LOOK_EVERY);
    loop {
        tokio::select! {
            _ = tick.tick() => systemd.alive(),
            _ = &mut stuck => return,
        }
    }
}

/// What a worker needs that is elsewhere.
struct Reached {
    store: Store,
    bus: WorkerBus,
    streams: Streams,
    durable: JobStreams,
}

/// Sees whether the store can be used, and connects to NATS, each beside the other.
async fn reach(options: &WorkerOptions, doors: DoorOptions) -> Result<Reached, StartError> {
    let store = Store::open(&options.store)?;
    let check = async { Ok::<_, StartError>(store.check().await?) };
    let connect = async {
        let bus = WorkerBus::connect(&options.nats, doors).await?;
        let streams = bus.streams(options.streams.clone());
        let names = options.sources().iter().map(|model| model.name().to_owned()).collect();
        let durable = bus.queue(&streams, names).await?;
        Ok((bus, streams, durable))
    };
    let ((), (bus, streams, durable)) = tokio::try_join!(check, connect)?;
    Ok(Reached { store, bus, streams, durable })
}

/// Reads the segmenter's weights, if there is one: what is wrong with them is told at the start, and not to a job.
async fn open_segmenter(options: &WorkerOptions) -> Result<Option<Segmenter>, StartError> {
    let Some(folder) = options.segmenter.clone() else { return Ok(None) };
    Ok(Some(tokio::task::spawn_blocking(move || Segmenter::open(&folder)).await??))
}

/// Brings, opens and tests the models.
async fn load(options: &WorkerOptions, loading: ModelOptions) -> Result<InferencePipeline, StartError> {
    let sources = fetch(&options.sources(), &loading).await?;
    let pipeline = tokio::task::spawn_blocking(move || InferencePipeline::open(&sources, loading)).await??;
    test(pipeline.with_step_limit(options.step_limit)).await
}

/// Sees whether the device computes: a worker whose device does not would only fail jobs.
async fn test(pipeline: InferencePipeline) -> Result<InferencePipeline, StartError> {
    let mut lookout = pipeline.lookout();
    let test = tokio::task::spawn_blocking(move || pipeline.test_all().map(|()| pipeline));
    tokio::select! {
        tested = test => tested?.map_err(|(model, source)| StartError::Test { model, source }),
        stuck = lookout.stuck() => Err(stuck.into()),
    }
}

/// Brings what is on the hub into folders.
async fn fetch(sources: &[ModelSource], loading: &ModelOptions) -> Result<Vec<ModelSource>, StartError> {
    let mut fetched = Vec::with_capacity(sources.len());
    for source in sources {
        fetched.push(match source.origin() {
            Origin::Hub(repo) => source.in_folder(fetch_repo(repo, loading).await?),
            Origin::Folder(_) | Origin::File(_) | Origin::Sim(_) => source.clone(),
        });
    }
    Ok(fetched)
}

#[cfg(feature = "hub")]
async fn fetch_repo(
    repo: &crate::models::HubRepo,
    loading: &ModelOptions,
) -> Result<std::path::PathBuf, StartError> {
    use crate::models::{Hub, HubOptions};

    Ok(Hub::new(HubOptions::from_environment())?.fetch(repo, loading.precision).await?)
}

#[cfg(not(feature = "hub"))]
async fn fetch_repo(
    repo: &crate::models::HubRepo,
    _: &ModelOptions,
) -> Result<std::path::PathBuf, StartError> {
    Err(StartError::NoHub(repo.clone()))
}

/// Heartbeat and discovery, and the task that keeps them up to date.
async fn announce(
    context: &Arc<Context>,
    bus: &WorkerBus,
) -> Result<(Heartbeat, Discovery, JoinHandle<()>), BusError> {
    let (sender, info) = tokio::sync::watch::channel(context.info());
    let mut changes = context.slots.changes();
    let watched = context.clone();
    let status = tokio::spawn(async move {
        let mut look = tokio::time::interval(LOOK_EVERY);
        look.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                // The context, and with it the sender of changes, lives in this task.
                _ = changes.changed() => {}
                // Models come into memory and go without a word.
                _ = look.tick() => {}
            }
            let now = watched.info();
            sender.send_if_modified(|info| {
                let changed = *info != now;
                *info = now;
                changed
            });
        }
    });
    let counted = context.clone();
    let counts = Box::new(move |capability| counted.metrics.counts(capability));
    let discovery = bus.discovery(info.clone(), counts).await?;
    Ok((bus.heartbeat(info), discovery, status))
}

async fn hear_cancels(mut cancels: Cancels, router: JobRouter) {
    while let Some(request) = cancels.next().await {
        if router.cancel(&request.job_id) {
            tracing::info!(job_id = %request.job_id, "a job is cancelled");
            request.answer(&router.context().identity.worker_id).await;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_task_that_panics_or_ends_is_named() {
        let forever = || tokio::spawn(std::future::pending());
        let panics = tokio::spawn(async { panic!("as it was told to") });
        let lost = Tasks(vec![("the first", forever()), ("the second", panics)]).lost().await;
        assert!(lost.starts_with("the second was lost") && lost.contains("as it was told to"), "{lost}");
        let lost = Tasks(vec![("the first", tokio::spawn(async {})), ("the second", forever())]).lost().await;
        assert_eq!(lost, "the first ended while it was needed");
    }
}
