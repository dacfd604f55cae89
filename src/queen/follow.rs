//! A job that a worker accepted: its events are taken down until one ends it, or the watchdog does.

use std::time::{Duration, Instant};

use super::{
    Shared,
    record::Record,
    watchdog::{self, Verdict},
};
use crate::{
    bus::{Exchange, Reply},
    contract::{ErrorCode, Event, EventKind, WorkerId},
};

/// A cancel is sent again after this long without an end.
const CANCEL_AGAIN: Duration = Duration::from_secs(2);
/// How long the store has to say whether a job is done, when a worker does not.
const LOOK_WITHIN: Duration = Duration::from_secs(5);

/// A worker that accepted the job, and which sending it answered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Runner {
    pub sending: u32,
    pub worker: WorkerId,
}

/// A worker that has the job, and the number of the last event that it sent: after a lost connection a worker may
/// send an event again.
struct Source {
    runner: Runner,
    last_seq: Option<u64>,
}

/// Follows a job to its end. A job that was sent twice may have been accepted twice: the first that accepted is
/// believed, and the other one when that one fails in a way that leaves the job undone. Either `complete` is true,
/// as both write the same objects.
pub struct Follow<'a> {
    shared: &'a Shared,
    record: &'a Record,
    believed: Source,
    others: Vec<Runner>,
}

impl<'a> Follow<'a> {
    /// Follows a job whose `accepted` event, with number `accepted_seq`, is in the record.
    pub fn new(shared: &'a Shared, record: &'a Record, runner: Runner, accepted_seq: u64) -> Self {
        Self { shared, record, believed: Source { runner, last_seq: Some(accepted_seq) }, others: vec![] }
    }

    /// Returns when the record has its terminal event.
    pub async fn run(mut self, exchange: &mut Exchange) {
        let mut last_event = Instant::now();
        let mut looked = last_event;
        let mut cancelled: Option<Instant> = None;
        let mut tick = tokio::time::interval(watchdog::EVERY);
        while !self.record.has_ended() {
            tokio::select! {
                reply = exchange.next() => match reply {
                    Some(Reply::Event { sending, event }) => {
                        if self.event(sending, *event) {
                            last_event = Instant::now();
                        }
                    }
                    Some(Reply::End { sending }) if sending == self.believed.runner.sending => {
                        self.lost("the worker ended its replies without saying how the job ended".into()).await;
                    }
                    Some(Reply::End { .. } | Reply::NoResponders { .. }) => {}
                    None => self.lost("the connection to NATS was closed".into()).await,
                },
                () = self.record.cancel.cancelled(), if cancelled.is_none() => {
                    cancelled = Some(Instant::now());
                    self.cancel().await;
                }
                _ = tick.tick() => {
                    if cancelled.is_some_and(|at| at.elapsed() >= CANCEL_AGAIN) {
                        cancelled = Some(Instant::now());
                        self.cancel().await;
                    }
                    match watchdog::judge(&self.shared.fleet, &self.believed.runner.worker, last_event) {
                        Verdict::Working => {}
                        Verdict::Look if looked.elapsed() < watchdog::LOOK_AFTER => {}
                        Verdict::Look => {
                            looked = Instant::now();
                            self.look().await;
                        }
                        Verdict::Lost(reason) => {
                            self.lost(reason).await;
                            last_event = Instant::now();
                        }
                    }
                }
            }
        }
    }

    /// Takes an event down if it counts; whether it is of the worker that is believed.
    fn event(&mut self, sending: u32, event: Event) -> bool {
        let from = Runner { sending, worker: event.worker_id.clone() };
        if from != self.believed.runner {
            match event.kind {
                EventKind::Accepted { .. } if self.others.contains(&from) => {}
                EventKind::Accepted { .. } => {
                    tracing::info!(job = %self.record.id, worker = %from.worker, "the job was accepted twice");
                    self.others.push(from);
                }
                EventKind::Complete(_) => self.record.push(event),
                EventKind::Error { .. } | EventKind::Cancelled { .. } => self.others.retain(|r| *r != from),
                EventKind::Progress { .. } | EventKind::Preview { .. } => {}
            }
            return false;
        }
        if self.believed.last_seq.is_some_and(|last| event.seq <= last) {
            return true;
        }
        self.believed.last_seq = Some(event.seq);
        let undone = matches!(event.kind, EventKind::Error { retryable: true, .. });
        if !(undone && self.believe_another()) {
            self.record.push(event);
        }
        true
    }

    /// Turns to another worker that has the job too; whether there is one.
    fn believe_another(&mut self) -> bool {
        let failed = self.believed.runner.worker.clone();
        while let Some(other) = self.others.pop() {
            if other.worker != failed {
                tracing::warn!(job = %self.record.id, %failed, worker = %other.worker, "another worker goes on");
                self.believed = Source { runner: other, last_seq: None };
                return true;
            }
        }
        false
    }

    async fn cancel(&self) {
        if let Err(error) = self.shared.requester.cancel(&self.record.id).await {
            tracing::warn!(job = %self.record.id, %error, "a cancel could not be sent");
        }
    }

    /// The worker has lost the job: it is done after all, or another has it too, or it has failed.
    async fn lost(&mut self, reason: String) {
        self.look().await;
        if self.record.has_ended() || self.believe_another() {
            return;
        }
        tracing::warn!(job = %self.record.id, worker = %self.believed.runner.worker, %reason, "job is lost");
        self.record.fail(Some(&self.believed.runner.worker), ErrorCode::Internal, reason);
    }

    /// Whether the store has the result, whatever events say.
    async fn look(&self) {
        let find = self.shared.store.find_result(&self.record.id);
        match tokio::time::timeout(LOOK_WITHIN, find).await {
            Ok(Ok(Some(result))) if result.fingerprint == self.record.fingerprint => {
                self.record.push(result.event);
            }
            Ok(Ok(_)) | Err(_) => {}
            Ok(Err(error)) => tracing::warn!(job = %self.record.id, %error, "cannot see whether it is done"),
        }
    }
}
