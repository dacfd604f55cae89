//! A job that a client waits for: submitted, followed to its end, and cancelled when its client leaves.

use std::time::{Duration, Instant};

use futures::stream::{BoxStream, StreamExt};
use tokio::sync::OwnedSemaphorePermit;

use super::{Foreign, leaving::Leaving, refusal::Failure};
use crate::{
    contract::{CompleteEvent, ErrorCode, Event, EventKind, JobId, Operation},
    http::{ApiError, Jobs},
    queen::{auth::Client, busy, record::QUEEN_ID},
    units::random_unit,
};

/// The longest pause before a job that no worker had a place for is sent again.
const LONGEST_PAUSE: Duration = Duration::from_secs(1);

/// A call waits no longer than this, whatever flags say, and no shorter than the contract's shortest deadline.
const BOUNDS: (Duration, Duration) = (Duration::from_millis(1), Duration::from_secs(365 * 86_400));

/// A call that waits.
pub(super) struct Call {
    foreign: Foreign,
    id: JobId,
    leaving: Leaving,
    events: BoxStream<'static, Event>,
    /// What is sent again when no worker had a place for it; a durable job waits in the queue by itself.
    again: Option<(Client, Operation)>,
    deadlines: Deadlines,
    _place: OwnedSemaphorePermit,
}

/// Until when what is waited for.
#[derive(Clone, Copy)]
struct Deadlines {
    /// A worker.
    place: Instant,
    /// The end.
    end: Instant,
}

impl Foreign {
    /// Submits a job that its client waits for. `key`: the id by which the client can come back.
    ///
    /// # Errors
    /// Why there is no job.
    pub(super) async fn call(
        &self,
        client: &Client,
        mut operation: Operation,
        key: Option<JobId>,
    ) -> Result<Call, Failure> {
        let options = &self.queen.shared.options;
        let place = self.places.clone().try_acquire_owned().map_err(|_| {
            let message = "calls wait for their pictures, as many as may (--max-waiting)";
            busy(&format!("{} {message}", options.max_waiting))
        })?;
        let patience = options.sync_timeout.clamp(BOUNDS.0, BOUNDS.1);
        let stays = key.is_some() || options.keep_abandoned;
        if let Some(key) = &key {
            operation.set_job_id(key);
        }
        if !stays {
            operation.set_deadline_ms(u64::try_from(patience.as_millis()).unwrap_or(u64::MAX));
        }
        let now = Instant::now();
        let deadlines = Deadlines { place: now + options.queue_timeout.min(patience), end: now + patience };
        let waits_here = self.queen.durable().is_none();
        let again = waits_here.then(|| (client.clone(), operation.clone()));
        let mut pause = Pause::default();
        let (id, leaving) = loop {
            let mut leaving = self.submit(client, operation.clone(), stays);
            match leaving.job().await {
                Ok(id) => break (id, leaving),
                Err(error) if waits_here && is_without_place(&error) && Instant::now() < deadlines.place => {
                    pause.wait().await;
                }
                Err(error) => return Err(Failure { error, job: key }),
            }
        };
        let events = self.events(&id).await?;
        Ok(Call { foreign: self.clone(), id, leaving, events, again, deadlines, _place: place })
    }

    /// The way that every job goes, on a task of its own: a client that leaves meanwhile does not stop it half-way.
    fn submit(&self, _client: &Client, operation: Operation, stays: bool) -> Leaving {
        let queen = self.queen.clone();
        let submitting = tokio::spawn(async move { queen.submit(operation).await });
        Leaving::of(self.queen.clone(), submitting, stays)
    }

    async fn events(&self, id: &JobId) -> Result<BoxStream<'static, Event>, Failure> {
        match self.queen.opened(id, None).await {
            Ok(opened) => Ok(opened.events),
            Err(error) => Err(Failure { error, job: Some(id.clone()) }),
        }
    }
}

impl Call {
    /// The job.
    pub fn id(&self) -> &JobId {
        &self.id
    }

    /// The next event; the terminal one is the last.
    ///
    /// # Errors
    /// The time is up, or queen is ending.
    pub async fn next(&mut self) -> Result<Event, Failure> {
        loop {
            let end = self.deadlines.end.into();
            let Ok(next) = tokio::time::timeout_at(end, self.events.next()).await else {
                return Err(self.overdue().await);
            };
            match next {
                None => return Err(self.cut().await),
                Some(event) if self.had_no_place(&event) => self.send_again().await?,
                Some(event) => {
                    if event.kind.is_terminal() {
                        self.leaving.ended();
                    }
                    return Ok(event);
                }
            }
        }
    }

    /// Waits for the end.
    ///
    /// # Errors
    /// How else than in pictures it ended.
    pub async fn finish(mut self) -> Result<CompleteEvent, Failure> {
        loop {
            let event = self.next().await?;
            if let Some(end) = end_of(event) {
                return end;
            }
        }
    }

    /// Whether it ended before any worker had it, though there is time left.
    fn had_no_place(&self, event: &Event) -> bool {
        let is_own = event.worker_id.as_str() == QUEEN_ID;
        let is_busy = matches!(event.kind, EventKind::Error { code: ErrorCode::Busy, .. });
        self.again.is_some() && is_own && is_busy && Instant::now() < self.deadlines.place
    }

    async fn send_again(&mut self) -> Result<(), Failure> {
        let mut pause = Pause::default();
        while let Some((client, operation)) = &self.again {
            pause.wait().await;
            let mut operation = operation.clone();
            operation.set_job_id(&self.id);
            let mut leaving = self.foreign.submit(client, operation, self.leaving.stays());
            match leaving.job().await {
                Ok(_) => {
                    // The one that it takes the place of holds a job that has ended.
                    self.leaving.ended();
                    self.leaving = leaving;
                    self.events = self.foreign.events(&self.id).await?;
                    return Ok(());
                }
                Err(error) if is_without_place(&error) && Instant::now() < self.deadlines.place => {}
                Err(error) => return Err(self.failed(error)),
            }
        }
        Ok(())
    }

    /// 504. The client is told where the job is, and not to send another.
    async fn overdue(&mut self) -> Failure {
        let waited = self.foreign.queen.shared.options.sync_timeout;
        let id = &self.id;
        let what = match self.leaving.give_up().await {
            true => format!("it goes on: GET /v1/jobs/{id}"),
            false => "it is cancelled".into(),
        };
        let message = format!("job `{id}` was not done within {waited:?} (--sync-timeout); {what}");
        self.failed(ApiError::new(ErrorCode::DeadlineExceeded, message))
    }

    async fn cut(&mut self) -> Failure {
        self.leaving.give_up().await;
        let message = format!("queen is shutting down while job `{}` is drawn", self.id);
        self.failed(ApiError::new(ErrorCode::ShuttingDown, message))
    }

    fn failed(&self, error: ApiError) -> Failure {
        Failure { error, job: Some(self.id.clone()) }
    }
}

/// What an event says of the end; `None`: the job goes on.
pub(super) fn end_of(event: Event) -> Option<Result<CompleteEvent, Failure>> {
    let job = Some(event.job_id);
    match event.kind {
        EventKind::Accepted { .. } | EventKind::Progress { .. } | EventKind::Preview { .. } => None,
        EventKind::Complete(complete) => Some(Ok(complete)),
        EventKind::Error { code, message, .. } => {
            Some(Err(Failure { error: ApiError::new(code, message), job }))
        }
        EventKind::Cancelled { .. } => {
            let error = ApiError::new(ErrorCode::Cancelled, "the job was cancelled");
            Some(Err(Failure { error, job }))
        }
    }
}

/// Whether no worker had a place for it, and one may soon.
fn is_without_place(error: &ApiError) -> bool {
    error.code == ErrorCode::Busy && error.http.is_none()
}

/// Pauses that grow, at random, so that many who wait do not come at once.
struct Pause(Duration);

impl Default for Pause {
    fn default() -> Self {
        Self(Duration::from_millis(100))
    }
}

impl Pause {
    async fn wait(&mut self) {
        tokio::time::sleep(self.0.mul_f64(0.5 + random_unit() / 2.0)).await;
        self.0 = (self.0 * 2).min(LONGEST_PAUSE);
    }
}
