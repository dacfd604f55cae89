//! Durable jobs in: one consumer per capability and model, asked for a job only when there is a slot for it.
//!
//! Each has one inbox for as long as the worker runs, and at most one request under way on it. What the server sends
//! late, after a request ran out or while the worker closes, still arrives there; nothing has to wait until the server
//! takes the worker for dead. Which queue is asked first, `placement` says.

use std::{
    collections::VecDeque,
    time::{Duration, Instant},
};

use async_nats::{
    Message, StatusCode, Subscriber,
    jetstream::{
        self,
        consumer::{PullConsumer, pull::BatchConfig},
    },
};
use futures::{
    FutureExt, StreamExt,
    stream::{self, BoxStream, SelectAll},
};
use tokio::sync::{oneshot, watch};

use super::{
    BusError, Incoming, JobQueue, Streams, Via,
    barrier::{Barrier, Passed},
    connect::Link,
    delivery::{delivery, header},
    doors::UNSUBSCRIBE_AT_THE_SERVER_ONLY,
    opening::{self, Found, OPEN_AGAIN, Wanted, consumers},
    placement::{Choice, Placement},
    subscribe,
};
use crate::contract::{Capability, headers};

/// A request that nothing was heard of for this long after its end is lost, as after a lost connection.
const LOST_AFTER: Duration = Duration::from_secs(1);
/// How long the answer to a look may take.
const LOOK_FOR: Duration = Duration::from_millis(500);
/// How soon it is seen that they were found.
const OPENED_WITHIN: Duration = Duration::from_millis(50);

/// Jobs from JetStream.
pub struct JobStreams {
    link: Link,
    barrier: Barrier,
    streams: Streams,
    queues: Vec<Queue>,
    messages: SelectAll<BoxStream<'static, (usize, Message)>>,
    /// What came while a look waited for another.
    ready: VecDeque<Incoming>,
    /// The queue that a look begins with.
    first: usize,
    placement: Placement,
    /// When the worker last looked for a job.
    looked: Instant,
    /// Told to end the subscriptions.
    closed: watch::Sender<bool>,
    state: State,
    /// The connection on which the consumers were found. A server that was started again may have lost them, and says
    /// nothing to who asks one that is not there (2.9).
    opened_on: u64,
}

struct Queue {
    capability: Capability,
    model: String,
    inbox: String,
    consumer: Option<PullConsumer>,
    /// Until when a request stands.
    asked: Option<Instant>,
    /// When a request was last made, or answered: since then it is passed over.
    passed_over: Instant,
    /// The connection on which it was made: with another one it is lost.
    connection: u64,
}

impl Queue {
    /// Whether a request is under way, as far as is known, on this connection.
    fn stands(&self, connection: u64) -> bool {
        self.connection == connection && self.asked.is_some_and(|until| Instant::now() < until + LOST_AFTER)
    }
}

enum State {
    Ready,
    /// Streams and consumers are being looked for.
    Opening(oneshot::Receiver<Found>),
    Closed,
}

impl JobStreams {
    /// The queues of these capabilities and models. While JetStream is away or not there, they are looked for again and again.
    ///
    /// # Errors
    /// [`BusError::Mismatch`], or when the client takes no subscription.
    pub(super) async fn open(
        link: Link,
        barrier: Barrier,
        streams: Streams,
        capabilities: &[Capability],
        models: &[String],
    ) -> Result<Self, BusError> {
        let wanted: Wanted = models
            .iter()
            .flat_map(|model| capabilities.iter().map(|&capability| (capability, model.clone())))
            .collect();
        let queue = |(capability, model): &(Capability, String)| {
            let (capability, model, inbox) = (*capability, model.clone(), String::new());
            let passed_over = Instant::now();
            Queue { capability, model, inbox, consumer: None, asked: None, passed_over, connection: 0 }
        };
        let queues = wanted.iter().map(queue).collect();
        let mut jobs = Self { queues, ..Self::none(link, barrier, streams.clone()) };
        jobs.subscribe().await?;
        let connection = jobs.link.connections();
        match consumers(&streams, &wanted).await {
            Ok(consumers) => jobs.use_consumers((consumers, connection)),
            Err(error @ (BusError::Mismatch { .. } | BusError::Earlier { .. })) => return Err(error),
            Err(error) => {
                tracing::warn!(%error, "no durable jobs at present");
                jobs.state = jobs.opening(OPEN_AGAIN, error.to_string());
            }
        }
        Ok(jobs)
    }

    /// No queue: only what comes on request subjects.
    pub(super) fn none(link: Link, barrier: Barrier, streams: Streams) -> Self {
        let (queues, messages) = (vec![], SelectAll::new());
        let (ready, closed) = (VecDeque::new(), watch::Sender::new(true));
        let (placement, looked) = (Placement::none(), Instant::now());
        Self {
            link,
            barrier,
            streams,
            queues,
            messages,
            ready,
            first: 0,
            placement,
            looked,
            closed,
            state: State::Closed,
            opened_on: 0,
        }
    }

    /// Jobs of the models that are `in_memory` at the time come first; those of others when they have been passed over for
    /// `switch_after`, or a moment later when there is nothing else to do. With zero all are alike, as without this.
    #[must_use]
    pub fn with_placement(
        self,
        in_memory: impl Fn() -> Vec<String> + Send + Sync + 'static,
        switch_after: Duration,
    ) -> Self {
        Self { placement: Placement::new(Box::new(in_memory), switch_after), ..self }
    }

    /// The queues, as placement sees them.
    fn choices(&self) -> Vec<Choice<'_>> {
        let passed_over = |queue: &Queue| queue.passed_over.elapsed();
        self.queues
            .iter()
            .map(|queue| Choice { model: &queue.model, passed_over: passed_over(queue) })
            .collect()
    }

    /// Gives every queue an inbox. Those of before are known to the server as ended; with their streams the client forgets
    /// them.
    async fn subscribe(&mut self) -> Result<(), BusError> {
        self.messages = SelectAll::new();
        self.closed = watch::Sender::new(false);
        for (index, queue) in self.queues.iter_mut().enumerate() {
            (queue.inbox, queue.asked) = (self.link.client.new_inbox(), None);
            let subscriber = subscribe(&self.link.client, &queue.inbox).await?;
            self.messages.push(heard(subscriber, index, self.closed.subscribe()));
        }
        Ok(())
    }

    fn use_consumers(&mut self, (consumers, connection): Found) {
        for (queue, consumer) in self.queues.iter_mut().zip(consumers) {
            (queue.consumer, queue.asked) = (Some(consumer), None);
        }
        self.opened_on = connection;
        self.state = State::Ready;
    }

    /// Whether jobs can be asked for. On a new connection the consumers are looked for first.
    fn is_ready(&mut self) -> bool {
        if !matches!(self.state, State::Ready) || !self.link.is_connected() {
            return false;
        }
        if self.opened_on != self.link.connections() {
            self.state = self.opening(Duration::ZERO, String::new());
            return false;
        }
        true
    }

    /// Looks for streams and consumers after this pause, and then again and again. `told`: the reason that was logged.
    fn opening(&self, pause: Duration, told: String) -> State {
        let wanted = self.queues.iter().map(|queue| (queue.capability, queue.model.clone())).collect();
        State::Opening(opening::begin(self.link.clone(), self.streams.clone(), wanted, pause, told))
    }

    /// Requests a job of a queue, unless that was done. `expires`: how long it is waited for; none: it must be there.
    async fn ask(&mut self, index: usize, expires: Option<Duration>) {
        let connection = self.link.connections();
        let queue = &mut self.queues[index];
        let Some(consumer) = queue.consumer.as_ref().filter(|_| !queue.stands(connection)) else { return };
        let request = BatchConfig { batch: 1, no_wait: expires.is_none(), expires, ..BatchConfig::default() };
        let now = Instant::now();
        (queue.asked, queue.passed_over) = (Some(now + expires.unwrap_or_default()), now);
        queue.connection = connection;
        if let Err(error) = consumer.request_batch(request, queue.inbox.clone().into()).await {
            tracing::warn!(model = %queue.model, %error, "a job could not be asked for");
        }
    }

    /// A job, or `None` for what is none. Either ends the request of its queue.
    fn read(&mut self, index: usize, message: Message) -> Option<Incoming> {
        let queue = &mut self.queues[index];
        match message.status {
            None | Some(StatusCode::OK) => {}
            Some(StatusCode::IDLE_HEARTBEAT) => return None,
            Some(StatusCode::NOT_FOUND | StatusCode::TIMEOUT) => {
                (queue.asked, queue.passed_over) = (None, Instant::now());
                return None;
            }
            Some(status) => {
                // Asked again at once, the answer would be the same: the request counts until it would be lost.
                queue.asked = Some(Instant::now());
                let description = message.description.as_deref().unwrap_or_default();
                // Without a consumer there is none to ask; anything else passes by itself.
                if status == StatusCode::NO_RESPONDERS || description.contains("Deleted") {
                    if matches!(self.state, State::Ready) {
                        tracing::warn!(model = %queue.model, %status, description, "the queue is gone; looking for it");
                        self.queues.iter_mut().for_each(|queue| queue.consumer = None);
                        self.state = self.opening(OPEN_AGAIN, String::new());
                    }
                } else {
                    tracing::debug!(model = %queue.model, %status, description, "no job");
                }
                return None;
            }
        }
        (queue.asked, queue.passed_over) = (None, Instant::now());
        let model = queue.model.clone();
        match self.incoming(message, model) {
            Ok(incoming) => Some(incoming),
            Err(error) => {
                tracing::warn!(%error, "a message of the queue is no job");
                None
            }
        }
    }

    /// Reads what has come and was not waited for.
    fn gather(&mut self) {
        while let Some(Some((index, message))) = self.messages.next().now_or_never() {
            if let Some(job) = self.read(index, message) {
                self.ready.push_back(job);
            }
        }
    }

    fn incoming(&self, message: Message, model: String) -> Result<Incoming, BusError> {
        let subject = message.subject.to_string();
        let (body, map) = (message.payload.clone(), message.headers.clone());
        let message = jetstream::Message { message, context: self.streams.context.clone() };
        let delivery = delivery(&self.streams, message)?;
        let (capability, _, job_id) = self.streams.subjects.parse_job(&subject);
        Ok(Incoming {
            capability,
            job_id,
            named: header(map.as_ref(), headers::JOB_ID).map(str::to_owned),
            owner: header(map.as_ref(), headers::JOB_OWNER).map(str::to_owned),
            traceparent: header(map.as_ref(), headers::TRACEPARENT).map(str::to_owned),
            subject,
            via: Via::Queue { model, delivery },
            body,
            reply: None,
            hops: 0,
            received: Instant::now(),
        })
    }
}

/// What comes to an inbox; once `closed`, what was on its way by then.
fn heard(
    subscriber: Subscriber,
    index: usize,
    closed: watch::Receiver<bool>,
) -> BoxStream<'static, (usize, Message)> {
    stream::unfold((subscriber, closed, false), move |(mut subscriber, mut closed, mut told)| async move {
        loop {
            tokio::select! {
                biased;
                message = subscriber.next() => return Some(((index, message?), (subscriber, closed, told))),
                // The sender lives as long as the queue.
                _ = async { closed.wait_for(|closed| *closed).await.is_ok() }, if !told => {
                    told = true;
                    subscriber.unsubscribe_after(UNSUBSCRIBE_AT_THE_SERVER_ONLY).await.ok()?;
                }
            }
        }
    })
    .boxed()
}

impl JobQueue for JobStreams {
    async fn look(&mut self) -> Option<Incoming> {
        if let Some(job) = self.ready.pop_front() {
            return Some(job);
        }
        if !self.is_ready() {
            return None;
        }
        self.looked = Instant::now();
        let order = self.placement.order(&self.choices(), self.first);
        for index in order {
            // Its request stands: what comes to it comes by itself.
            if self.queues[index].stands(self.link.connections()) {
                continue;
            }
            self.ask(index, None).await;
            let until = tokio::time::Instant::now() + LOOK_FOR;
            while self.queues[index].asked.is_some() {
                let Ok(Some((from, message))) = tokio::time::timeout_at(until, self.messages.next()).await
                else {
                    return None;
                };
                if let Some(job) = self.read(from, message) {
                    self.ready.push_back(job);
                }
            }
            if let Some(job) = self.ready.pop_front() {
                self.first = index + 1;
                return Some(job);
            }
        }
        None
    }

    async fn next(&mut self, ask: bool) -> Incoming {
        loop {
            if let Some(job) = self.ready.pop_front() {
                return job;
            }
            if let State::Opening(opened) = &mut self.state {
                match opened.try_recv() {
                    Ok(found) => self.use_consumers(found),
                    Err(oneshot::error::TryRecvError::Empty) => {}
                    Err(oneshot::error::TryRecvError::Closed) => {
                        self.state = self.opening(OPEN_AGAIN, String::new())
                    }
                }
            }
            let mut again = if matches!(self.state, State::Opening(_)) { OPENED_WITHIN } else { LOST_AFTER };
            if ask && self.is_ready() {
                let idle = self.looked.elapsed();
                let requests = self.placement.ask_for(&self.choices(), idle);
                for (index, expires) in requests.into_iter().enumerate() {
                    if expires.is_some() {
                        self.ask(index, expires).await;
                    }
                }
                let others = self.placement.head_start_left(idle);
                again = if others.is_zero() { again } else { again.min(others) };
            }
            tokio::select! {
                message = self.messages.next(), if !self.messages.is_empty() => {
                    if let Some((index, message)) = message
                        && let Some(job) = self.read(index, message)
                    {
                        return job;
                    }
                }
                // Requests that were lost are made again, others are made for the first time, and what was opened is used.
                () = tokio::time::sleep(again) => {}
            }
        }
    }

    async fn close(&mut self) {
        self.state = State::Closed;
        if self.queues.is_empty() {
            return;
        }
        // The requests that stand are for inboxes that nobody hears then: the server gives the jobs to others. What it
        // has sent before that is here when the round trip comes back.
        self.closed.send_replace(true);
        self.gather();
        if self.barrier.pass().await != Passed::Yes {
            tracing::warn!("the server does not confirm that the queue is closed");
        }
        self.gather();
    }

    async fn reopen(&mut self) -> Result<(), BusError> {
        if self.queues.is_empty() {
            return Ok(());
        }
        self.gather();
        self.subscribe().await?;
        self.state = self.opening(Duration::ZERO, String::new());
        Ok(())
    }
}
