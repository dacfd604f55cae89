//! The double of the bus: jobs and events through channels, for tests of what stands on it.

use std::{
    collections::{HashMap, VecDeque},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant, SystemTime},
};

use futures::{FutureExt, future::BoxFuture};
use tokio::sync::{mpsc, watch};

use super::{
    AppendError, BusError, Delivery, Entry, EventLog, EventSink, Incoming, JobQueue, Logged, Outgoing,
    QueuedJob, Requests, Settle, Via, delivery::Handle,
};
use crate::contract::{Capability, ErrorCode, Event, JobId, WorkerId};

/// Signs of life of a delivery in memory: nobody waits for them.
const SIGN_EVERY: Duration = Duration::from_secs(3600);

/// A source that tests put messages into. `image.*` gives a message only where a door is armed.
#[derive(Debug)]
pub struct MemorySource {
    messages: mpsc::UnboundedReceiver<Incoming>,
    armed: watch::Sender<usize>,
    passed_on: Arc<Mutex<Vec<JobId>>>,
    early: VecDeque<Incoming>,
}

/// The test's end of a [`MemorySource`].
#[derive(Debug, Clone)]
pub struct MemoryRequester {
    messages: mpsc::UnboundedSender<Incoming>,
    armed: watch::Receiver<usize>,
    passed_on: Arc<Mutex<Vec<JobId>>>,
}

impl MemorySource {
    /// A source and the end that feeds it.
    pub fn new() -> (Self, MemoryRequester) {
        let (sender, messages) = mpsc::unbounded_channel();
        let (armed, watched) = watch::channel(0);
        let passed_on = Arc::<Mutex<Vec<JobId>>>::default();
        let requester = MemoryRequester { messages: sender, armed: watched, passed_on: passed_on.clone() };
        (Self { messages, armed, passed_on, early: VecDeque::new() }, requester)
    }
}

impl MemoryRequester {
    /// Sends a body as if it came on `image.<capability>`, or on the worker's own subject.
    pub fn send(&self, via: Via, capability: Capability, body: &str, reply: &str) {
        let message = Incoming {
            subject: format!("image.{capability}"),
            via,
            capability: Some(capability),
            body: body.to_owned().into(),
            reply: Some(reply.to_owned()),
            job_id: None,
            named: None,
            owner: None,
            traceparent: None,
            hops: 0,
            received: Instant::now(),
        };
        // The worker under test may be gone; the test sees that in its events.
        let _ = self.messages.send(message);
    }

    /// Doors that are armed now.
    pub fn armed(&self) -> usize {
        *self.armed.borrow()
    }

    /// Waits until as many doors are armed.
    pub async fn wait_for_doors(&mut self, doors: usize) {
        // A source that is gone arms nothing; the test's own timeout tells.
        let _ = self.armed.wait_for(|armed| *armed == doors).await;
    }

    /// The jobs that were offered to others.
    pub fn passed_on(&self) -> Vec<JobId> {
        self.passed_on.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

impl Requests for MemorySource {
    async fn arm(&mut self, free: usize) -> Result<(), BusError> {
        self.armed.send_replace(free);
        Ok(())
    }

    async fn next(&mut self) -> Option<Incoming> {
        match self.early.pop_front() {
            Some(message) => Some(message),
            None => self.messages.recv().await,
        }
    }

    async fn pass_on(&mut self, _message: Incoming, job_id: JobId, _worker: Option<WorkerId>) {
        self.passed_on.lock().unwrap_or_else(PoisonError::into_inner).push(job_id);
    }

    async fn close(&mut self) {
        self.armed.send_replace(0);
        while let Ok(message) = self.messages.try_recv() {
            self.early.push_back(message);
        }
    }

    fn reopen(&mut self) {}
}

/// A queue of durable jobs that tests put messages into.
#[derive(Debug)]
pub struct MemoryQueue {
    messages: mpsc::UnboundedReceiver<Incoming>,
}

/// The test's end of a [`MemoryQueue`].
#[derive(Debug, Clone)]
pub struct MemoryPublisher {
    messages: mpsc::UnboundedSender<Incoming>,
    /// What became of messages: how they were settled, or the code that they were buried with.
    settled: mpsc::UnboundedSender<Settled>,
}

/// What a worker did with a message of the queue.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Settled {
    /// It was settled.
    As(Settle),
    /// A copy was put among the dead letters.
    Buried(ErrorCode),
}

impl MemoryQueue {
    /// A queue, the end that feeds it, and what becomes of its messages.
    pub fn new() -> (Self, MemoryPublisher, mpsc::UnboundedReceiver<Settled>) {
        let (sender, messages) = mpsc::unbounded_channel();
        let (settled, seen) = mpsc::unbounded_channel();
        (Self { messages }, MemoryPublisher { messages: sender, settled }, seen)
    }
}

impl MemoryPublisher {
    /// Delivers a job for the `times`-th time, of a message that was accepted `ago`.
    pub fn deliver(
        &self,
        model: &str,
        capability: Capability,
        job: &JobId,
        body: &str,
        times: u64,
        ago: Duration,
    ) {
        let accepted_at = SystemTime::now() - ago;
        let delivery = Delivery::new(Arc::new(self.clone()), times, 1, accepted_at, None, SIGN_EVERY);
        let message = Incoming {
            subject: format!("jobs.image.{capability}.{model}.{job}"),
            via: Via::Queue { model: model.to_owned(), delivery },
            capability: Some(capability),
            body: body.to_owned().into(),
            reply: None,
            job_id: Some(job.clone()),
            named: None,
            owner: None,
            traceparent: None,
            hops: 0,
            received: Instant::now(),
        };
        // The worker under test may be gone; the test sees that in what was settled.
        let _ = self.messages.send(message);
    }

    fn tell(&self, settled: Settled) -> BoxFuture<'static, Result<(), BusError>> {
        // A test that does not read is done.
        let _ = self.settled.send(settled);
        std::future::ready(Ok(())).boxed()
    }
}

impl Handle for MemoryPublisher {
    fn in_progress(&self) -> BoxFuture<'_, ()> {
        std::future::ready(()).boxed()
    }

    fn settle(&self, how: Settle) -> BoxFuture<'_, Result<(), BusError>> {
        self.tell(Settled::As(how))
    }

    fn bury<'a>(&'a self, _: &'a JobId, code: ErrorCode, _: &'a str) -> BoxFuture<'a, Result<(), BusError>> {
        self.tell(Settled::Buried(code))
    }
}

impl JobQueue for MemoryQueue {
    async fn look(&mut self) -> Option<Incoming> {
        self.messages.try_recv().ok()
    }

    async fn next(&mut self, ask: bool) -> Incoming {
        if ask && let Some(message) = self.messages.recv().await {
            return message;
        }
        std::future::pending().await
    }

    async fn close(&mut self) {}

    async fn reopen(&mut self) -> Result<(), BusError> {
        Ok(())
    }
}

/// The logs of jobs, for tests. Clones share them.
#[derive(Debug, Clone, Default)]
pub struct MemoryLog {
    logs: Arc<Mutex<HashMap<JobId, Vec<Logged>>>>,
    reads: Arc<AtomicU64>,
}

impl MemoryLog {
    /// The events of a job.
    pub fn events(&self, job: &JobId) -> Vec<Event> {
        self.lock().get(job).into_iter().flatten().map(|logged| logged.event.clone()).collect()
    }

    /// How often the last event of a job was asked for.
    pub fn reads(&self) -> u64 {
        self.reads.load(Ordering::Relaxed)
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<JobId, Vec<Logged>>> {
        self.logs.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl EventLog for MemoryLog {
    fn is_kept(&self) -> bool {
        true
    }

    fn in_queue<'a>(&'a self, _: &'a JobId) -> BoxFuture<'a, Result<Option<QueuedJob>, BusError>> {
        std::future::ready(Ok(None)).boxed()
    }

    fn last<'a>(&'a self, job: &'a JobId) -> BoxFuture<'a, Result<Option<Logged>, BusError>> {
        self.reads.fetch_add(1, Ordering::Relaxed);
        let last = self.lock().get(job).and_then(|log| log.last().cloned());
        std::future::ready(Ok(last)).boxed()
    }

    fn begin<'a>(&'a self, entry: &'a Entry) -> BoxFuture<'a, Result<u64, AppendError>> {
        self.append(entry, 0)
    }

    fn append<'a>(&'a self, entry: &'a Entry, after: u64) -> BoxFuture<'a, Result<u64, AppendError>> {
        let mut logs = self.lock();
        let log = logs.entry(entry.event.job_id.clone()).or_default();
        let stored = if log.last().map_or(0, |last| last.sequence) == after {
            let event = Event::clone(&entry.event);
            log.push(Logged {
                event,
                is_read: true,
                sequence: after + 1,
                failures: entry.failures,
                given_back: entry.given_back,
                queued: entry.queued,
                request: entry.request.clone(),
                traceparent: entry.traceparent.clone(),
                stored_at: SystemTime::now(),
            });
            Ok(after + 1)
        } else {
            Err(AppendError::Fenced)
        };
        std::future::ready(stored).boxed()
    }
}

/// A sink that tests read from.
#[derive(Debug, Clone)]
pub struct MemorySink(mpsc::UnboundedSender<Outgoing>);

impl MemorySink {
    /// A sink and what comes out of it.
    pub fn new() -> (Self, mpsc::UnboundedReceiver<Outgoing>) {
        let (sender, receiver) = mpsc::unbounded_channel();
        (Self(sender), receiver)
    }
}

impl EventSink for MemorySink {
    fn deliver<'a>(&'a self, messages: &'a [Outgoing]) -> BoxFuture<'a, ()> {
        async move {
            for message in messages {
                // A test that does not read is done.
                let _ = self.0.send(message.clone());
            }
        }
        .boxed()
    }
}
