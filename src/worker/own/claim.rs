//! Claiming a job: its log is read, and the event that makes it this worker's is stored.

use std::{
    sync::{Arc, Mutex, atomic::AtomicU64},
    time::Duration,
};

use tokio::time::Instant;

use super::{
    Ownership,
    found::{Asking, Found, LEASE, found},
    lease::Lease,
};
use crate::{
    bus::{AppendError, BusError, Delivery, Entry, Logged, QueuedJob, Settle, request_mark},
    contract::{ErrorCode, Event, EventKind, Job, Operation, TraceContext, WorkerId, model_token},
    storage::{Key, StorageError, StoredResult},
    worker::shared::{Context, Happened, HeldJob, Sight, conflict},
};

/// How long a job waits whose log could not be read or written, or whose dead letter could not be stored.
pub const AWAY_FOR: Duration = Duration::from_secs(5);
/// How long a slot rests after that: a worker that can do nothing would else take every job in the queue and give it back.
const REST: Duration = Duration::from_secs(1);
/// How often a claim is tried that another's event got in the way of.
pub const CLAIM_TRIES: u32 = 8;
/// The shortest time after which a job that another worker has is looked at again.
const HELD_FOR: Duration = Duration::from_secs(1);
/// The most bytes of a marker that are read: it says all by being there.
const MAX_MARKER: u64 = 1 << 10;

/// A job that this worker would have.
pub struct Claiming<'a> {
    pub context: &'a Arc<Context>,
    pub held: &'a Arc<HeldJob>,
    pub job: &'a Job,
    /// Whether the requester chose the job id: only then can anybody else have the job, or a result of it be there.
    pub is_named: bool,
    pub traceparent: Option<String>,
    /// What is told when it is this worker's.
    pub accepted: EventKind,
}

/// What became of it.
pub enum Claimed {
    /// It is this worker's.
    Ours(Box<Ours>),
    /// It is not; everybody who is to hear so has, and the message is settled. With whether an earlier snapshot of the job
    /// is of no more use.
    Over { has_ended: bool },
}

/// A job that is this worker's.
pub struct Ours {
    pub ownership: Ownership,
    /// Which run of the job this is, from 1.
    pub attempt: u32,
    /// How long it was in the queue, by the server's clock; known of jobs with a deadline of their own.
    pub waited: Duration,
    /// The complete event of an earlier run of the same request.
    pub earlier: Option<Event>,
    /// The trace context of the run before this one.
    pub before: Option<TraceContext>,
}

/// What is read of a job before it is claimed.
struct Read {
    found: Found,
    earlier: Option<StoredResult>,
    is_cancelled: bool,
    in_queue: Option<QueuedJob>,
    /// The trace context of the last event.
    trace: Option<TraceContext>,
}

/// Where in the job's log an event is to stand.
enum After {
    /// It is the first.
    Nothing,
    /// Behind the event of this number in the stream; 0: there was none when the log was read.
    Event(u64),
}

/// Why nothing could be read.
enum Unread {
    Bus(BusError),
    Store(StorageError),
}

impl Claiming<'_> {
    /// Claims the job by storing `accepted`; or ends it, and settles the message.
    pub async fn claim(self, delivery: Option<Delivery>) -> Claimed {
        if delivery.is_none() && !(self.is_named && self.context.log.is_kept()) {
            return self.without_log().await;
        }
        // Nearly every job is new: its log is read where the first event finds it not empty.
        let mut is_new =
            delivery.as_ref().is_none_or(|delivery| delivery.times == 1 && delivery.after.is_none());
        for _ in 0..CLAIM_TRIES {
            let read = match self.read(delivery.as_ref(), is_new).await {
                Ok(read) => read,
                // Nobody else can have claimed it either.
                Err(Unread::Bus(error)) if error.is_absence() && delivery.is_none() => {
                    return self.without_log().await;
                }
                Err(Unread::Bus(error)) => return self.away(delivery, ErrorCode::Busy, &error).await,
                Err(Unread::Store(error)) => return self.away(delivery, error.code(), &error).await,
            };
            let is_other = |result: &StoredResult| !self.job.fingerprint.is(&result.fingerprint);
            if read.earlier.as_ref().is_some_and(is_other)
                || read.in_queue.as_ref().is_some_and(|queued| !self.is_same(queued))
            {
                return self.other_request(delivery).await;
            }
            let (last, failures, attempt, seq) = match read.found {
                Found::OtherRequest => return self.other_request(delivery).await,
                Found::Held { by } => return self.held(delivery, &by).await,
                Found::Ended(last) => {
                    let (sequence, attempt, seq) = (last.sequence, last.event.attempt, last.event.seq);
                    match self.ended(delivery.as_ref(), last.event, read.earlier.as_ref()).await {
                        Some(event) => return self.repeat(delivery, event).await,
                        // Its pictures were removed since.
                        None => (sequence, 0, attempt + 1, seq + 1),
                    }
                }
                Found::WornOut(last) => match self.wear_out(delivery.as_ref(), &last).await {
                    Ok(true) => return self.over(delivery, Settle::Gone, true).await,
                    Ok(false) => continue,
                    Err(error) => return self.away(delivery, ErrorCode::Internal, &error).await,
                },
                Found::Free { last, failures, attempt, seq } => (last, failures, attempt, seq),
            };
            self.held.events.go_on(attempt, seq);
            let ends = read.is_cancelled;
            let kind = if ends { EventKind::Cancelled { step: 0 } } else { self.accepted.clone() };
            let counted = failures + u32::from(!ends);
            let tried = Instant::now();
            let after = if is_new { After::Nothing } else { After::Event(last) };
            match self.append(kind, after, counted, delivery.as_ref()).await {
                Err(AppendError::Fenced) => is_new = false,
                Err(AppendError::Bus(error)) if error.is_absence() && delivery.is_none() => {
                    return self.without_log().await;
                }
                Err(AppendError::Bus(error)) => return self.away(delivery, ErrorCode::Busy, &error).await,
                Ok(_) if ends => return self.over(delivery, Settle::Done, true).await,
                Ok(sequence) => {
                    let waited = self.waited(delivery.as_ref()).await;
                    let lease = Lease {
                        log: self.context.log.clone(),
                        sink: self.context.sink.clone(),
                        traceparent: self.traceparent.clone(),
                        queued: delivery.as_ref().map(|delivery| delivery.sequence),
                        request: request_mark(self.job.fingerprint.written()),
                        last: AtomicU64::new(sequence),
                        failures: counted,
                        confirmed: Mutex::new(tried),
                    };
                    let ownership = Ownership::leased(self.context, self.held, lease, delivery);
                    let earlier = read.earlier.map(|result| result.event);
                    return Claimed::Ours(Box::new(Ours {
                        ownership,
                        attempt,
                        waited,
                        earlier,
                        before: read.trace,
                    }));
                }
            }
        }
        tracing::warn!("another worker is at work on the job; it waits");
        self.away(delivery, ErrorCode::Busy, &"another worker is at work on the job").await
    }

    /// A job that nobody else can have: it is accepted at once, and has a result already only if its id was chosen.
    async fn without_log(self) -> Claimed {
        let ownership = Ownership::requested(self.context, self.held);
        self.held.events.emit(self.accepted.clone());
        let mut earlier = None;
        if self.is_named {
            match self.context.store.find_result(&self.job.id).await {
                Ok(Some(result)) if !self.job.fingerprint.is(&result.fingerprint) => {
                    ownership.refuse(ErrorCode::InvalidRequest, conflict(&self.job.id)).await;
                    return Claimed::Over { has_ended: false };
                }
                Ok(result) => earlier = result.map(|result| result.event),
                Err(error) => {
                    ownership.refuse(error.code(), error.to_string()).await;
                    return Claimed::Over { has_ended: false };
                }
            }
        }
        Claimed::Ours(Box::new(Ours { ownership, attempt: 1, waited: Duration::ZERO, earlier, before: None }))
    }

    /// `is_new`: the job has no log yet, as far as it is known.
    async fn read(&self, delivery: Option<&Delivery>, is_new: bool) -> Result<Read, Unread> {
        let id = &self.job.id;
        let in_queue = async {
            match delivery {
                Some(_) => Ok(None),
                None => self.context.log.in_queue(id).await,
            }
        };
        let is_cancelled = async {
            match delivery {
                Some(_) => self.was_cancelled().await,
                None => false,
            }
        };
        let last = async {
            match is_new {
                true => Ok(None),
                false => self.context.log.last(id).await,
            }
        };
        let (last, earlier, in_queue, is_cancelled) =
            tokio::join!(last, self.context.store.find_result(id), in_queue, is_cancelled);
        let (last, in_queue) = (last.map_err(Unread::Bus)?, in_queue.map_err(Unread::Bus)?);
        let quiet = last.as_ref().map(|last| self.context.seen.since(id, Sight::LastEvent(last.sequence)));
        let asking = Asking {
            worker: &self.context.identity.worker_id,
            queued: delivery.map(|delivery| delivery.sequence),
            after: delivery.and_then(|delivery| delivery.after),
            request: &request_mark(self.job.fingerprint.written()),
            also: &request_mark(self.job.fingerprint.also_written()),
            quiet: quiet.unwrap_or_default(),
        };
        let earlier = match earlier {
            // What nobody can read is no result: the job is run, and writes another.
            Err(error @ StorageError::Malformed { .. }) => {
                tracing::warn!(%error, "an earlier result of the job cannot be read");
                None
            }
            earlier => earlier.map_err(Unread::Store)?,
        };
        let traceparent = last.as_ref().and_then(|last| last.traceparent.as_deref());
        let trace = traceparent.and_then(TraceContext::parse);
        Ok(Read { found: found(last, asking), earlier, is_cancelled, in_queue, trace })
    }

    /// Whether what waits in the queue under this id is the same request.
    fn is_same(&self, queued: &QueuedJob) -> bool {
        let Ok(mut operation) = Operation::parse(queued.capability, &queued.body) else { return false };
        if operation.model().is_none() {
            let catalog = &self.context.identity.catalog;
            let named = catalog.iter().find(|known| model_token(&known.name) == queued.model);
            operation.set_model(named.map_or("", |named| &named.name));
        }
        operation.set_job_id(&self.job.id);
        operation.settle().is_ok() && operation.fingerprint() == self.job.fingerprint.plain()
    }

    /// Whether somebody cancelled it while it waited, longer ago than events are kept.
    async fn was_cancelled(&self) -> bool {
        let key = Key::Cancelled { job: self.job.id.clone() };
        match self.context.store.find(&key, MAX_MARKER).await {
            Ok(found) => found.is_some(),
            Err(error) => {
                tracing::warn!(%error, "cannot see whether the job was cancelled");
                false
            }
        }
    }

    /// How long the job waited: both times are of the server's clock.
    async fn waited(&self, delivery: Option<&Delivery>) -> Duration {
        let (Some(delivery), Some(_)) = (delivery, self.job.deadline) else { return Duration::ZERO };
        match self.context.log.last(&self.job.id).await {
            Ok(Some(last)) => last.stored_at.duration_since(delivery.accepted_at).unwrap_or_default(),
            Ok(None) => Duration::ZERO,
            Err(error) => {
                tracing::warn!(%error, "how long the job waited is not known");
                Duration::ZERO
            }
        }
    }

    /// Stores an event outside of the publisher's turn; its number in the stream.
    async fn append(
        &self,
        kind: EventKind,
        after: After,
        failures: u32,
        delivery: Option<&Delivery>,
    ) -> Result<u64, AppendError> {
        let entry = Entry {
            failures,
            queued: delivery.map(|delivery| delivery.sequence),
            request: Some(request_mark(self.job.fingerprint.written())),
            traceparent: self.traceparent.clone(),
            ..Entry::of(self.held.events.build(kind))
        };
        let sequence = match after {
            After::Nothing => self.context.log.begin(&entry).await?,
            After::Event(last) => self.context.log.append(&entry, last).await?,
        };
        self.held.events.stored(Event::clone(&entry.event));
        Ok(sequence)
    }

    /// How a job that has ended is told of; `None`: its pictures are gone, and it is to be run.
    async fn ended(
        &self,
        delivery: Option<&Delivery>,
        event: Event,
        earlier: Option<&StoredResult>,
    ) -> Option<Event> {
        match (&event.kind, earlier) {
            (EventKind::Complete(_), Some(result)) => Some(self.context.renewed(result.event.clone()).await),
            (EventKind::Complete(_), None) if delivery.is_none() => None,
            _ => Some(event),
        }
    }

    /// The third attempt died without a word. False: another event came in between.
    async fn wear_out(&self, delivery: Option<&Delivery>, last: &Logged) -> Result<bool, BusError> {
        let worker = &last.event.worker_id;
        let message = format!(
            "{} attempts failed; the last was given up by worker `{worker}` without a word",
            last.failures
        );
        self.held.events.go_on(last.event.attempt, last.event.seq + 1);
        if let Some(delivery) = delivery {
            delivery.bury(&self.job.id, ErrorCode::Internal, &message).await?;
            self.context.metrics.note(Happened::DeadLetter);
        }
        let kind = EventKind::error(ErrorCode::Internal, message);
        match self.append(kind, After::Event(last.sequence), last.failures, delivery).await {
            Ok(_) => Ok(true),
            Err(AppendError::Fenced) => Ok(false),
            Err(AppendError::Bus(error)) => Err(error),
        }
    }

    /// It has ended: whoever asked here is told how.
    async fn repeat(self, delivery: Option<Delivery>, event: Event) -> Claimed {
        tracing::info!(end = event.kind.name(), "the job has ended already");
        self.context.metrics.note(Happened::Duplicate);
        self.held.events.leave(event.kind);
        self.over(delivery, Settle::Done, true).await
    }

    async fn held(self, delivery: Option<Delivery>, by: &WorkerId) -> Claimed {
        tracing::info!(%by, "the job is held by another worker");
        self.held
            .events
            .leave(EventKind::error(ErrorCode::Busy, format!("worker `{by}` has the job; try again")));
        let again = HELD_FOR.max(LEASE / 3);
        self.over(delivery, Settle::Again(again), false).await
    }

    /// The id stands for another request: this one is refused, and the job of that id hears nothing of it.
    async fn other_request(self, delivery: Option<Delivery>) -> Claimed {
        let message = conflict(&self.job.id);
        self.held.events.leave(EventKind::error(ErrorCode::InvalidRequest, message.clone()));
        self.context.metrics.note(Happened::Refused);
        match delivery {
            None => self.over(None, Settle::Gone, false).await,
            Some(delivery) => {
                super::set_aside(Some(&self.job.id), delivery, &message).await;
                self.over(None, Settle::Gone, false).await
            }
        }
    }

    /// What must be known of the job cannot be read or written now.
    async fn away(
        self,
        delivery: Option<Delivery>,
        code: ErrorCode,
        error: &(impl std::fmt::Display + ?Sized),
    ) -> Claimed {
        tracing::warn!(%error, "a job's log or result is out of reach; the job waits");
        self.held.events.leave(EventKind::error(code, error.to_string()));
        let over = self.over(delivery, Settle::Again(AWAY_FOR), false).await;
        tokio::time::sleep(REST).await;
        over
    }

    /// Publishes what is left for those who read here, and settles the message.
    async fn over(self, delivery: Option<Delivery>, how: Settle, has_ended: bool) -> Claimed {
        super::tell_readers(self.context, self.held).await;
        if let Some(delivery) = delivery {
            delivery.settle(how).await;
        }
        Claimed::Over { has_ended }
    }
}
