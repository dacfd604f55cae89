//! The front of the pool: HTTP in, bus out. Jobs, their events over SSE, routing, the view of the fleet.
//!
//! Nothing here computes a picture, and nothing here is needed for one: workers take jobs from NATS by themselves.
//!
//! A job goes one of two ways. `durable` puts it into a stream, where it outlives queen and any worker. On the core path
//! it is sent to a worker that is there (`route`, `seek`), followed to its end (`follow`, `watchdog`) and remembered
//! (`record`, `table`).
//!
//! Whoever asks is known by a token (`auth`), sees its own jobs (`owner`, `list`), and many of them on one stream (`watch`).
//! What a web page may ask for is `guard`'s. Whoever does not listen is told by `webhooks`.
//! `foreign/` has the doors of other APIs, which hand in jobs as any client does.

mod aliases;
mod auth;
mod durable;
mod follow;
mod foreign;
mod guard;
mod inputs;
mod known;
mod list;
mod metrics;
mod options;
mod owner;
mod page;
mod rate;
mod record;
mod refuse;
mod route;
mod routes;
mod run;
mod seek;
mod table;
mod tokens;
mod told;
mod trace;
mod watch;
mod watchdog;
mod webhooks;
mod workers;

use std::{sync::Arc, time::Duration};

use axum::http::Extensions;
use bytes::Bytes;
use futures::stream::{self, StreamExt};
use tokio::sync::{Semaphore, oneshot};
use tokio_util::sync::CancellationToken;

use crate::{
    bus::{Connectivity, Fleet, Requester},
    contract::{
        About, CompleteEvent, ErrorCode, Event, EventKind, Health, HttpCode, Job, JobId, JobStatus, JobView,
        Limits, Operation, TraceContext, Workers,
    },
    http::{ApiError, Jobs, MAX_IMAGE_BYTES, Opened},
    storage::{Key, Store, StoredResult},
};

use durable::{Durable, Submission, uninterrupted};
use follow::Follow;
use known::Known;
use metrics::Metrics;
use owner::Asker;
use record::Record;
use route::Wish;
use seek::Seek;
use table::{Claimed, Table};
use trace::SendSpan;
use watch::{FleetFeed, LOOKED_UP, holding};
use webhooks::Webhooks;

pub use aliases::ModelAlias;
pub use options::QueenOptions;
pub use record::MAX_EVENTS;
pub use routes::openapi;
pub use run::{QueenError, run};
pub use tokens::{Issued, Tokens, TokensError};
pub use webhooks::WebhookOptions;

/// When to send a job again that had no place.
const RETRY_AFTER: Duration = Duration::from_secs(2);

/// Jobs that may be cancelled at one time because their clients have left; a queen that ends waits for so many.
const MAX_LEAVING: u32 = 1 << 20;

/// The jobs of this queen. Cheap to clone.
#[derive(Clone)]
pub struct Queen {
    shared: Arc<Shared>,
    /// Whose jobs are seen.
    asker: Asker,
    /// Of the request that it answers.
    trace: Option<TraceContext>,
}

/// What every job needs.
struct Shared {
    options: QueenOptions,
    limits: Limits,
    requester: Requester,
    fleet: Fleet,
    store: Store,
    /// `None` with `--core`.
    durable: Option<Arc<Durable>>,
    table: Table,
    retrying: Arc<Semaphore>,
    /// Streams of events, of either kind of job, that may be open at one time.
    open_streams: Arc<Semaphore>,
    /// [`MAX_LEAVING`] places, one taken by each job that is being cancelled because its client has left.
    leaving: Arc<Semaphore>,
    /// Jobs that are looked up at one time for streams of many.
    looking_up: Semaphore,
    fleet_feed: FleetFeed,
    /// `None`: none are posted.
    webhooks: Option<Arc<Webhooks>>,
    metrics: Arc<Metrics>,
    /// Jobs that no worker has are ended.
    stopping: CancellationToken,
    /// Streams are ended.
    cut: CancellationToken,
}

impl Queen {
    /// A queen without jobs. `fleet` follows the heartbeats of the subjects that `requester` sends on.
    fn new(
        options: QueenOptions,
        requester: Requester,
        fleet: Fleet,
        store: Store,
        durable: Option<Arc<Durable>>,
        webhooks: Option<Arc<Webhooks>>,
        metrics: Arc<Metrics>,
    ) -> Self {
        let limits = Limits { max_input: options.max_input, ..Limits::default() };
        let table = Table::new(options.max_jobs as usize);
        let retrying = Arc::new(Semaphore::new(options.max_retrying));
        let open_streams = Arc::new(Semaphore::new(options.max_streams));
        let leaving = Arc::new(Semaphore::new(MAX_LEAVING as usize));
        let (stopping, cut) = (CancellationToken::new(), CancellationToken::new());
        let shared = Shared {
            options,
            limits,
            requester,
            fleet,
            store,
            durable,
            table,
            retrying,
            open_streams,
            leaving,
            looking_up: Semaphore::new(LOOKED_UP),
            fleet_feed: FleetFeed::default(),
            webhooks,
            metrics,
            stopping,
            cut,
        };
        Self { shared: Arc::new(shared), asker: Asker::Anybody, trace: None }
    }

    /// The workers that are up.
    pub fn workers(&self) -> Workers {
        Workers { workers: self.shared.fleet.all() }
    }

    /// The durable side, unless there is none.
    fn durable(&self) -> Option<&Arc<Durable>> {
        self.shared.durable.as_ref().filter(|durable| !durable.is_absent())
    }

    /// Refuses jobs while they cannot reach NATS, or queen is ending.
    fn may_accept(&self) -> Result<(), ApiError> {
        if self.shared.stopping.is_cancelled() {
            return Err(ApiError::new(ErrorCode::ShuttingDown, "queen is shutting down"));
        }
        if !self.shared.requester.is_connected() {
            return Err(busy("queen has no connection to NATS at present"));
        }
        Ok(())
    }

    /// Refuses what no worker would be reached by.
    fn may_send(&self) -> Result<(), ApiError> {
        self.may_accept()?;
        if self.shared.retrying.available_permits() == 0 {
            return Err(busy("every worker is busy, and as many jobs are waiting as may"));
        }
        Ok(())
    }

    /// Refuses the id of a durable job on the core path; whether it is that of the same request.
    async fn is_durable_already(&self, job: &Job) -> Result<bool, ApiError> {
        let Some(durable) = self.durable() else { return Ok(false) };
        match durable.find(&job.id).await?.and_then(|log| log.ticket) {
            None => Ok(false),
            Some(stored) if !self.asker.finds(stored.ticket.owner.as_deref()) => Err(other_request(&job.id)),
            Some(stored) if stored.ticket.is_of(&job.fingerprint) => Ok(true),
            Some(_) => Err(other_request(&job.id)),
        }
    }

    /// The events of a job, of which the caller sees to it that not too many are open.
    async fn opened(&self, id: &JobId, after: Option<u64>) -> Result<Opened, ApiError> {
        let known = self.known(id).await?;
        Ok(self.events_of(known, after).await)
    }

    /// The events of a job that is known, after number `after`.
    async fn events_of(&self, known: Known, after: Option<u64>) -> Opened {
        match known {
            Known::Logged(log) => {
                let durable = self.durable().expect("what is logged was found there");
                let queued = self.in_line(durable, &log).await;
                Opened { events: self.durable_events(durable, *log, after).await, queued }
            }
            Known::Remembered(record) => {
                // It is in no line: it is sent again and again until a worker takes it.
                let about = &record.about;
                let waits = || self.waits(record.id.clone(), about.capability, about.model.clone(), None);
                let queued = record.view().event.is_none().then(waits);
                Opened { events: record.stream(after, self.shared.cut.clone()), queued }
            }
            Known::Stored(result) => stream::iter([result.event]).boxed().into(),
        }
    }

    /// Runs a job in the background. `first` is told of the first answer.
    async fn start(
        &self,
        record: Arc<Record>,
        wish: Wish,
        body: Bytes,
        first: Option<oneshot::Sender<Result<(), ApiError>>>,
    ) -> Result<(), ApiError> {
        let (shared, trace) = (self.shared.clone(), self.trace);
        let span = SendSpan::begin(trace);
        let traceparent = span.as_ref().map(SendSpan::traceparent);
        let mut exchange = shared
            .requester
            .open(record.id.clone(), record.owner.clone(), traceparent)
            .await
            .map_err(|e| ApiError::new(ErrorCode::Internal, e.to_string()))?;
        tokio::spawn(async move {
            let (model, capability) = (wish.model.clone(), wish.capability);
            let seek = Seek { shared: &shared, record: &record, wish, body, first };
            let taken = seek.run(&mut exchange).await;
            if let Some(span) = span {
                span.end(&format!("image.{capability}"), capability, model.as_deref(), &record.id);
            }
            if let Some((runner, accepted_seq)) = taken {
                Follow::new(&shared, &record, runner, accepted_seq).run(&mut exchange).await;
            }
            told::ended(&shared.metrics, &record, model.as_deref(), trace);
        });
        Ok(())
    }
}

impl Jobs for Queen {
    fn asked_by(&self, request: &Extensions) -> Self {
        self.on_behalf_of(request.get())
    }

    async fn submit(&self, mut operation: Operation) -> Result<JobId, ApiError> {
        aliases::resolve(&self.shared.options.model_aliases, &mut operation);
        self.refuse_early(&operation)?;
        self.refuse_others_pictures(&mut operation).await?;
        let webhook = self.take_webhook(&mut operation)?;
        let named = operation.job_id().is_some();
        let id = operation.settle()?;
        // Workers send every event to us; who wants the last one alone reads GET /v1/jobs/{id}.
        match &mut operation {
            Operation::ImageGeneration(body) => body.stream = None,
            Operation::ImageTransform(body) => body.stream = None,
            Operation::ImageInpaint(body) => body.stream = None,
        }
        let (max_inline, max_input) = (self.shared.options.max_inline, self.shared.options.max_input);
        // Decoding and hashing tens of megabytes would hold up every other request.
        let (operation, inputs) = tokio::task::spawn_blocking(move || {
            let inputs = inputs::extract(&mut operation, max_inline, max_input)?;
            Ok::<_, ApiError>((operation, inputs))
        })
        .await
        .map_err(|e| ApiError::new(ErrorCode::Internal, e.to_string()))??;
        // The queue of durable jobs cannot route to one worker, or to those of a hive.
        let routed = operation.worker_id().is_some() || operation.hive_id().is_some();
        if let Some(durable) = self.durable().filter(|_| !routed) {
            let (queen, durable) = (self.clone(), durable.clone());
            let submission = Submission { id, named, operation, inputs, webhook };
            let submit = async move { queen.submit_durably(&durable, submission).await };
            return uninterrupted(submit).await;
        }
        let about = About::of(&operation);
        let mut sent = operation.clone();
        sent.leave_out_defaults();
        let body = Bytes::from(sent.to_json());
        let job = Job::new(operation, &self.shared.limits)?;
        if named && self.is_durable_already(&job).await? {
            return Ok(id);
        }
        let (owner, finds) = (self.asker.name(), |owner: Option<&str>| self.asker.finds(owner));
        let claimed = self.shared.table.claim(&id, job.fingerprint.plain(), owner, about, finds);
        let claim = match claimed {
            Claimed::New(claim) => claim,
            Claimed::Known => return Ok(id),
            Claimed::Other => return Err(other_request(&id)),
            Claimed::Full => {
                return Err(busy(&format!("{} jobs are under way", self.shared.options.max_jobs)));
            }
        };
        if named && let Some(result) = self.stored(&id).await? {
            if !self.asker.finds(result.owner.as_deref()) || !job.fingerprint.is(&result.fingerprint) {
                return Err(other_request(&id));
            }
            claim.record().push(result.event);
            claim.keep();
            return Ok(id);
        }
        self.may_send()?;
        let wish = Wish::of(&job);
        let route = self.shared.fleet.with_taking(|workers| wish.route(workers, random_below))?;
        inputs::store(&self.shared.store, inputs).await?;
        let record = claim.record().clone();
        if route.known {
            self.start(record, wish, body, None).await?;
        } else {
            // No heartbeat says that anybody is there: the first answer decides whether there is a job at all.
            let (first, answer) = oneshot::channel();
            self.start(record, wish, body, Some(first)).await?;
            // A task that ended without an answer has written how the job ended into the record.
            answer.await.unwrap_or(Ok(()))?;
        }
        if let Some(webhook) = webhook {
            self.tell_of(claim.record().clone(), webhook);
        }
        claim.keep();
        told::accepted(&self.shared.metrics, &id, job.capability(), job.model.as_deref(), self.trace);
        Ok(id)
    }

    async fn events(&self, id: &JobId, after: Option<u64>) -> Result<Opened, ApiError> {
        let place = self.place()?;
        let Opened { events, queued } = self.opened(id, after).await?;
        Ok(Opened { events: holding(place, events), queued })
    }

    async fn view(&self, id: &JobId) -> Result<JobView, ApiError> {
        Ok(match self.known(id).await? {
            Known::Logged(log) => {
                let view = log.view();
                let event = match view.event {
                    Some(event) => Some(self.renewed(event).await),
                    None => None,
                };
                JobView { event, ..view }
            }
            Known::Remembered(record) => record.view(),
            Known::Stored(result) => {
                let status = result.event.kind.status();
                JobView { job_id: id.clone(), status, event: Some(result.event) }
            }
        })
    }

    async fn cancel(&self, id: &JobId) -> Result<(), ApiError> {
        let known = self.known_to_all(id).await;
        if let Ok(known) = &known
            && !self.may_see(known).await?
        {
            return Err(ApiError::unknown_job(id));
        }
        match known {
            Ok(Known::Logged(log)) => {
                let durable = self.durable().expect("what is logged was found there").clone();
                let queen = self.clone();
                uninterrupted(async move { queen.cancel_durably(&durable, *log).await }).await
            }
            Ok(Known::Remembered(record)) if record.has_ended() => {
                Err(ApiError::has_ended(id, ended_how(record.view().status)))
            }
            Ok(Known::Remembered(record)) => {
                record.cancel.cancel();
                Ok(())
            }
            Ok(Known::Stored(_)) => Err(ApiError::has_ended(id, ended_how(JobStatus::Completed))),
            // Whose it is cannot be seen at present.
            Err(error) if self.asker.is_bounded() && error.http != Some(HttpCode::NotFound) => Err(error),
            // Not our job, and perhaps another queen's.
            Err(unknown) => match self.shared.requester.cancel_and_ask(id).await {
                true => Ok(()),
                false => Err(unknown),
            },
        }
    }

    async fn image(&self, id: &JobId, index: u32) -> Result<(Bytes, &'static str), ApiError> {
        let complete = match self.known(id).await {
            Ok(Known::Logged(log)) => log.last.and_then(|last| complete_of(last.event)),
            Ok(Known::Remembered(record)) => record.complete(),
            Ok(Known::Stored(result)) => complete_of(result.event),
            // A picture that is stored can be had whether NATS is there or not.
            Err(unknown) => {
                let finds = |result: &StoredResult| self.asker.finds(result.owner.as_deref());
                complete_of(self.stored(id).await?.filter(finds).ok_or(unknown)?.event)
            }
        };
        let missing = |message: String| ApiError::not_found(message);
        let complete = complete.ok_or_else(|| missing(format!("job `{id}` has no pictures")))?;
        let image = complete.images.get(index as usize).ok_or_else(|| {
            missing(format!("job `{id}` has {} pictures, and none of index {index}", complete.images.len()))
        })?;
        let key = Key::parse_reference(&image.key)?;
        let bytes = self.shared.store.get(&key, MAX_IMAGE_BYTES).await?;
        Ok((bytes, image.format.content_type()))
    }

    async fn health(&self) -> Health {
        let connectivity = self.shared.requester.connectivity();
        let workers = self.shared.fleet.with_all(|workers| workers.len());
        let status = if connectivity == Connectivity::Connected && workers > 0 { "ok" } else { "degraded" };
        Health {
            status: status.into(),
            nats: connectivity.name().into(),
            durable: self.durable().is_some_and(|durable| durable.is_ready()),
            workers: u32::try_from(workers).unwrap_or(u32::MAX),
        }
    }
}

/// 503 for what may be tried again soon.
fn busy(message: &str) -> ApiError {
    ApiError::new(ErrorCode::Busy, message).with_retry_after(RETRY_AFTER)
}

/// The id is known with another body.
fn other_request(id: &JobId) -> ApiError {
    let message = format!("`job_id`: `{id}` is the id of another request");
    ApiError::new(ErrorCode::InvalidRequest, message)
}

fn complete_of(event: Event) -> Option<CompleteEvent> {
    match event.kind {
        EventKind::Complete(complete) => Some(complete),
        _ => None,
    }
}

fn ended_how(status: JobStatus) -> &'static str {
    match status {
        JobStatus::Completed => "completed",
        JobStatus::Failed => "failed",
        JobStatus::Cancelled => "cancelled",
        JobStatus::Queued | JobStatus::Running => "not yet",
    }
}

/// A random number below `n`, or 0.
fn random_below(n: usize) -> usize {
    ((crate::units::random_unit() * n as f64) as usize).min(n.saturating_sub(1))
}
