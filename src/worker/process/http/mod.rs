//! `--http`: the job endpoints on this worker alone, through the same router as messages, and /ready and /metrics.
//! What the handlers share holds the queue, never the engine.

mod metrics;

use std::{sync::Arc, time::Duration};

use axum::{Json, Router, extract::State, http::StatusCode, routing::get};
use bytes::Bytes;
use futures::{StreamExt, stream};
use tokio::sync::broadcast::{Receiver, error::RecvError};

use crate::{
    bus::Connectivity,
    contract::{ErrorCode, Event, EventKind, Health, JobId, JobStatus, JobView, Operation},
    http::{ApiError, Jobs, MAX_IMAGE_BYTES, Opened, RouteLimits, fallback, job_routes},
    storage::Key,
    worker::{
        shared::{Context, Happened, HeldJob},
        take::{JobRouter, Refusal},
    },
};

/// When a client that found no free slot may try again.
const RETRY_AFTER: Duration = Duration::from_secs(1);
/// When a client that came while models were loaded may try again.
const RETRY_WHILE_IT_STARTS: Duration = Duration::from_secs(5);
const NOT_READY: (StatusCode, &str) = (StatusCode::SERVICE_UNAVAILABLE, "not ready\n");
const REFUSED: (StatusCode, &str) =
    (StatusCode::SERVICE_UNAVAILABLE, "not ready: NATS does not let this worker in; its log says why\n");

/// The jobs of this worker, for the endpoints. Cheap to clone.
#[derive(Clone)]
pub struct WorkerJobs {
    router: JobRouter,
    nats: Nats,
}

/// How the connection to NATS is.
#[derive(Clone)]
struct Nats {
    connectivity: Arc<dyn Fn() -> Connectivity + Send + Sync>,
    connections: Arc<dyn Fn() -> u64 + Send + Sync>,
}

impl WorkerJobs {
    /// `connectivity` says how the connection to NATS stands, and `connections` how often there was one.
    pub fn new(
        router: JobRouter,
        connectivity: impl Fn() -> Connectivity + Send + Sync + 'static,
        connections: impl Fn() -> u64 + Send + Sync + 'static,
    ) -> Self {
        let nats = Nats { connectivity: Arc::new(connectivity), connections: Arc::new(connections) };
        Self { router, nats }
    }

    /// All endpoints of a worker.
    pub fn routes(self) -> Router {
        let own = Router::new()
            .route("/ready", get(ready))
            .route("/metrics", get(metrics::metrics))
            .with_state(self.clone());
        fallback(job_routes(self, RouteLimits::default()).merge(own))
    }

    fn context(&self) -> &Context {
        self.router.context()
    }

    /// Whether it takes jobs.
    fn is_ready(&self) -> bool {
        (self.nats.connectivity)() == Connectivity::Connected && self.context().takes_jobs()
    }

    /// How a job ended that is not here any more.
    async fn ended(&self, id: &JobId) -> Result<Event, ApiError> {
        if let Some(event) = self.context().held.ended(id) {
            return Ok(Event::clone(&event));
        }
        let stored = self.context().store.find_result(id).await?;
        stored.map(|result| result.event).ok_or_else(|| ApiError::unknown_job(id))
    }
}

impl From<Refusal> for ApiError {
    fn from(refusal: Refusal) -> Self {
        let error = Self::new(refusal.code, refusal.message);
        if refusal.code.http_status() == 503 { error.with_retry_after(RETRY_AFTER) } else { error }
    }
}

impl Jobs for WorkerJobs {
    async fn submit(&self, operation: Operation) -> Result<JobId, ApiError> {
        let router = self.router.clone();
        // Megabytes of base64 are looked at.
        match tokio::task::spawn_blocking(move || router.submit(operation)).await {
            Ok(submitted) => Ok(submitted?),
            Err(error) => Err(ApiError::new(ErrorCode::Internal, error.to_string())),
        }
    }

    fn refused(&self, error: &ApiError) {
        tracing::info!(code = %error.code, message = %error.message, "a request over HTTP is refused");
        self.context().metrics.note(Happened::Refused);
    }

    async fn events(&self, id: &JobId, after: Option<u64>) -> Result<Opened, ApiError> {
        let is_new = move |event: &Event| after.is_none_or(|after| event.seq > after);
        let Some(job) = self.context().held.running(id) else {
            let event = self.ended(id).await?;
            return Ok(stream::iter([event]).boxed().into());
        };
        let (history, live) = job.events.follow();
        let history: Vec<Event> = history.iter().map(|event| Event::clone(event)).filter(is_new).collect();
        let live = live.map_or_else(|| stream::empty().boxed(), |live| follow(job, live).boxed());
        Ok(stream::iter(history).chain(live).boxed().into())
    }

    async fn view(&self, id: &JobId) -> Result<JobView, ApiError> {
        let event = match self.context().held.running(id) {
            Some(job) => job.events.last().map(|event| Event::clone(&event)),
            None => Some(self.ended(id).await?),
        };
        let status = event.as_ref().map_or(JobStatus::Queued, |event| event.kind.status());
        Ok(JobView { job_id: id.clone(), status, event })
    }

    async fn cancel(&self, id: &JobId) -> Result<(), ApiError> {
        if self.router.cancel(id) {
            return Ok(());
        }
        let how = match self.context().held.running(id) {
            Some(job) => job.events.last().map_or("ended", |event| event.kind.name()),
            None => self.ended(id).await?.kind.name(),
        };
        Err(ApiError::has_ended(id, how))
    }

    async fn image(&self, id: &JobId, index: u32) -> Result<(Bytes, &'static str), ApiError> {
        let event = match self.context().held.running(id).and_then(|job| job.events.last()) {
            Some(event) => Event::clone(&event),
            None => self.ended(id).await?,
        };
        let EventKind::Complete(complete) = event.kind else {
            return Err(ApiError::not_found(format!("job `{id}` has no pictures")));
        };
        let Some(image) = complete.images.get(index as usize) else {
            let number = complete.images.len();
            return Err(ApiError::not_found(format!(
                "job `{id}` has {number} pictures, and none of index {index}"
            )));
        };
        let key = Key::parse_reference(&image.key)?;
        Ok((self.context().store.get(&key, MAX_IMAGE_BYTES).await?, image.format.content_type()))
    }

    async fn health(&self) -> Health {
        let connectivity = (self.nats.connectivity)();
        let status = match connectivity == Connectivity::Connected && !self.context().is_closed() {
            _ if self.context().is_engine_lost() => Health::FAILED,
            true => "ok",
            false => "degraded",
        };
        Health { status: status.into(), nats: connectivity.name().into(), durable: false, workers: 1 }
    }
}

/// What a worker on this device answers while it loads models, or waits for NATS.
pub fn while_it_starts(device: &str) -> Router {
    let device = device.to_owned();
    let health = || async {
        Json(Health {
            status: "starting".into(),
            nats: Connectivity::Away.name().into(),
            durable: false,
            workers: 1,
        })
    };
    let refuse = || async {
        ApiError::new(ErrorCode::Busy, "this worker starts: it takes jobs when /ready says so")
            .with_retry_after(RETRY_WHILE_IT_STARTS)
    };
    Router::new()
        .route("/health", get(health))
        .route("/ready", get(|| async { NOT_READY }))
        .route("/metrics", get(move || async move { metrics::while_it_starts(&device) }))
        .fallback(refuse)
}

/// What comes after the history, to the terminal event; a reader that fell behind skips to where the job is.
fn follow(job: Arc<HeldJob>, live: Receiver<Arc<Event>>) -> impl futures::Stream<Item = Event> + Send {
    stream::unfold(Some((job, live)), |state| async move {
        let (job, mut live) = state?;
        let event = loop {
            match live.recv().await {
                Ok(event) => break event,
                Err(RecvError::Lagged(_)) => {}
                Err(RecvError::Closed) => break job.events.last()?,
            }
        };
        let next = (!event.kind.is_terminal()).then_some((job, live));
        Some((Event::clone(&event), next))
    })
}

async fn ready(State(jobs): State<WorkerJobs>) -> (StatusCode, &'static str) {
    match (jobs.nats.connectivity)() {
        Connectivity::Connected if jobs.is_ready() => (StatusCode::OK, "ready\n"),
        Connectivity::Refused => REFUSED,
        Connectivity::Connected | Connectivity::Away => NOT_READY,
    }
}
