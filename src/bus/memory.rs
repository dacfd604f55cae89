//! The double of the bus: jobs and events through channels, for tests of what stands on it.

use std::{
    collections::VecDeque,
    sync::{Arc, Mutex, PoisonError},
    time::Instant,
};

use futures::{FutureExt, future::BoxFuture};
use tokio::sync::{mpsc, watch};

use super::{BusError, EventSink, Incoming, JobSource, Outgoing, Via};
use crate::contract::{Capability, JobId, WorkerId};

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

impl JobSource for MemorySource {
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
