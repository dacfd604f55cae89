//! A claimed job's log: its events are stored there one after the other, each only behind the one before.

use std::{
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use futures::{FutureExt, future::BoxFuture};
use tokio::time::Instant;

use crate::{
    bus::{AppendError, BusError, Entry, EventLog, EventSink, Outgoing, To},
    contract::Event,
    worker::shared::{Lost, Outlet},
};

/// The pause before an event that was not stored is stored again.
const STORE_AGAIN: Duration = Duration::from_millis(500);
/// How long an event of a requested job is being stored until it is looked whether there are logs.
const LOOK_FOR_LOG: Duration = Duration::from_secs(2);
/// A job whose events cannot be stored for this long is given up; whoever gets it next finds what it has done.
const UNHEARD_AFTER: Duration = Duration::from_secs(600);

/// The log of a job that this worker has claimed: the way out for its events.
pub struct Lease {
    pub log: Arc<dyn EventLog>,
    pub sink: Arc<dyn EventSink>,
    pub traceparent: Option<String>,
    /// The message of the queue that it holds.
    pub queued: Option<u64>,
    /// The beginning of the request's fingerprint.
    pub request: String,
    /// The number in the stream of the last event.
    pub last: AtomicU64,
    /// Attempts that failed, this one counted until it is given back.
    pub failures: u32,
    /// When storing the last event that was stored began.
    pub confirmed: Mutex<Instant>,
}

impl Lease {
    /// Stores an event, however long JetStream is away.
    pub async fn store(&self, event: Arc<Event>) -> Result<(), Lost> {
        self.store_entry(self.entry(event)).await
    }

    /// Stores the event with which the job is given back: this attempt is not counted.
    pub async fn give_back(&self, event: Event) -> Result<(), Lost> {
        let failures = self.failures.saturating_sub(1);
        self.store_entry(Entry { failures, given_back: true, ..self.entry(Arc::new(event)) }).await
    }

    /// For how long nothing has confirmed that the job is this worker's.
    pub fn unconfirmed_for(&self) -> Duration {
        self.confirmed.lock().unwrap_or_else(PoisonError::into_inner).elapsed()
    }

    fn entry(&self, event: Arc<Event>) -> Entry {
        Entry {
            event,
            failures: self.failures,
            given_back: false,
            queued: self.queued,
            request: Some(self.request.clone()),
            traceparent: self.traceparent.clone(),
        }
    }

    /// Stores an event; that of a requested job, for whom it may concern, where there are no logs any more.
    async fn store_or_publish(&self, event: &Arc<Event>, message: &Outgoing) -> Result<(), Lost> {
        let mut store = std::pin::pin!(self.store(event.clone()));
        loop {
            match tokio::time::timeout(LOOK_FOR_LOG, &mut store).await {
                Ok(stored) => return stored,
                Err(_) => {
                    let gone = BusError::is_absence;
                    if self.log.last(&event.job_id).await.is_err_and(|error| gone(&error)) {
                        tracing::warn!("there are no logs of jobs any more; the event is not stored");
                        self.sink.deliver(std::slice::from_ref(message)).await;
                        return Ok(());
                    }
                }
            }
        }
    }

    async fn store_entry(&self, entry: Entry) -> Result<(), Lost> {
        let begun = Instant::now();
        loop {
            let tried = Instant::now();
            match self.log.append(&entry, self.last.load(Ordering::Acquire)).await {
                Ok(sequence) => {
                    self.last.store(sequence, Ordering::Release);
                    *self.confirmed.lock().unwrap_or_else(PoisonError::into_inner) = tried;
                    return Ok(());
                }
                Err(AppendError::Fenced) => return Err(Lost::ToAnother),
                Err(AppendError::Bus(error)) => {
                    if begun.elapsed() >= UNHEARD_AFTER {
                        tracing::error!(%error, "an event could not be stored; the job is given up");
                        return Err(Lost::Unheard);
                    }
                    tracing::warn!(%error, "an event is not stored yet");
                    tokio::time::sleep(STORE_AGAIN).await;
                }
            }
        }
    }
}

impl Outlet for Lease {
    fn deliver<'a>(&'a self, messages: &'a [Outgoing]) -> BoxFuture<'a, Result<(), Lost>> {
        async move {
            if self.queued.is_some() {
                for message in messages {
                    match &message.event {
                        Some(event) if message.to == To::Events => self.store(event.clone()).await?,
                        _ => self.sink.deliver(std::slice::from_ref(message)).await,
                    }
                }
                return Ok(());
            }
            // A requester does not wait long for the log.
            let (events, mut direct): (Vec<_>, Vec<_>) =
                messages.iter().cloned().partition(|message| message.to == To::Events);
            for message in &events {
                let Some(event) = &message.event else { continue };
                let mut stored = std::pin::pin!(self.store_or_publish(event, message));
                match tokio::time::timeout(LOOK_FOR_LOG, &mut stored).await {
                    Ok(stored) => stored?,
                    Err(_) => {
                        self.sink.deliver(&std::mem::take(&mut direct)).await;
                        stored.await?;
                    }
                }
            }
            self.sink.deliver(&direct).await;
            Ok(())
        }
        .boxed()
    }
}
