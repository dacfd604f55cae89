//! Jobs in: one subscription ("door") per free slot on `image.*`, and the worker's own subject.
//!
//! A door lets one job in. With its first message the server is told to end it; what reached it before the server
//! heard of that is handed over too, to be offered to others, so nothing is lost. Three ways lose messages and are not
//! used: a plain unsubscribe and a drain (the client forgets the subscription before the server does), and the server's
//! own limit of one message (two may arrive between SUB and UNSUB, of which the client drops the second: 16 of 56,000
//! requests of floods like the one in `tests/worker_core/pool.rs` had no answer).

use std::time::{Duration, Instant};

use async_nats::{Message, Subscriber};
use futures::{
    FutureExt, Stream, StreamExt,
    future::BoxFuture,
    stream::{self, BoxStream, SelectAll},
};
use tokio::sync::watch;

use super::{
    BusError, Incoming, Requests, Via,
    barrier::{Barrier, Passed},
    connect::Link,
    offers::Offers,
    reply::{is_inbox, may_be_answered},
    subscribe,
};
use crate::contract::{Capability, JobId, Subjects, WorkerId, headers};

/// More digits than the server reads as a count: it ends the subscription at once, while the client, for which this
/// count is never reached, still hands over what is on its way.
pub(super) const UNSUBSCRIBE_AT_THE_SERVER_ONLY: u64 = u64::MAX;
/// The pause before a round trip that failed is tried again.
const RETRY_PAUSE: Duration = Duration::from_millis(100);

/// What a worker subscribes to for jobs.
#[derive(Debug, Clone)]
pub struct DoorOptions {
    /// This worker.
    pub worker_id: WorkerId,
    /// What it can do.
    pub capabilities: Vec<Capability>,
    /// The queue group of the pool.
    pub queue_group: String,
    /// Subjects under the pool's prefix.
    pub subjects: Subjects,
}

/// Jobs from NATS.
pub struct Doors {
    link: Link,
    barrier: Barrier,
    offers: Offers,
    options: DoorOptions,
    /// One subject of doors: `image.*`, or one per capability of a worker that has not all of them.
    kinds: Vec<Kind>,
    messages: SelectAll<BoxStream<'static, Heard>>,
    closed: bool,
}

struct Kind {
    subject: String,
    armed: usize,
    /// Told to end the subscriptions of this kind.
    close: watch::Sender<bool>,
}

/// What the subscriptions say.
enum Heard {
    /// A door's first message.
    Fired(usize, Message),
    /// What came through a door before the server had ended it.
    Extra(Message),
    /// A door ended without a message.
    EndedUnused(usize),
    /// A message on the worker's own subject.
    Direct(Message),
}

impl Doors {
    pub(super) async fn open(
        link: Link,
        barrier: Barrier,
        offers: Offers,
        options: DoorOptions,
    ) -> Result<Self, BusError> {
        let all = Capability::ALL.iter().all(|capability| options.capabilities.contains(capability));
        let subjects = if all {
            vec![options.subjects.image_any()]
        } else {
            options.capabilities.iter().map(|c| options.subjects.image(*c)).collect()
        };
        let kind = |subject| Kind { subject, armed: 0, close: watch::Sender::new(false) };
        let kinds = subjects.into_iter().map(kind).collect();
        let direct = subscribe(&link.client, &options.subjects.direct_any(&options.worker_id)).await?;
        let mut messages = SelectAll::new();
        messages.push(direct.map(Heard::Direct).boxed());
        Ok(Self { link, barrier, offers, options, kinds, messages, closed: false })
    }

    fn read(&self, message: Message, via: Via) -> Incoming {
        let header = |name: &str| Some(message.headers.as_ref()?.get(name)?.as_str().to_owned());
        let own_reply = message.reply.as_ref().map(ToString::to_string).filter(|reply| {
            let may = may_be_answered(reply, &self.options.subjects);
            if !may {
                tracing::warn!(%reply, "a reply subject that is the server's or the pool's is not answered");
            }
            may
        });
        let reply = header(headers::JOB_REPLY).filter(|subject| is_inbox(subject)).or(own_reply);
        Incoming {
            capability: self.options.subjects.capability_of(&message.subject),
            via,
            reply,
            named: None,
            job_id: header(headers::JOB_ID).and_then(|id| JobId::new(id).ok()),
            owner: header(headers::JOB_OWNER),
            traceparent: header(headers::TRACEPARENT),
            hops: header(headers::JOB_HOPS).and_then(|hops| hops.parse().ok()).unwrap_or(0),
            received: Instant::now(),
            subject: message.subject.to_string(),
            body: message.payload,
        }
    }
}

impl Requests for Doors {
    async fn arm(&mut self, free: usize) -> Result<(), BusError> {
        if self.closed || !self.link.is_connected() {
            return Ok(());
        }
        for (index, kind) in self.kinds.iter_mut().enumerate() {
            while kind.armed < free {
                let door = Door::open(
                    &self.link,
                    &self.barrier,
                    &kind.subject,
                    &self.options.queue_group,
                    &kind.close,
                )
                .await?;
                self.messages.push(heard(door.messages(), index).boxed());
                kind.armed += 1;
            }
        }
        Ok(())
    }

    async fn next(&mut self) -> Option<Incoming> {
        loop {
            match self.messages.next().await? {
                Heard::Fired(kind, message) => {
                    self.kinds[kind].armed -= 1;
                    return Some(self.read(message, Via::Door));
                }
                Heard::Extra(message) => return Some(self.read(message, Via::Door)),
                Heard::EndedUnused(kind) => self.kinds[kind].armed -= 1,
                Heard::Direct(message) => return Some(self.read(message, Via::Direct)),
            }
        }
    }

    async fn pass_on(&mut self, message: Incoming, job_id: JobId, worker: Option<WorkerId>) {
        self.offers.pass_on(message, job_id, worker).await;
    }

    async fn close(&mut self) {
        self.closed = true;
        for kind in &self.kinds {
            kind.close.send_replace(true);
        }
        // Polled once, every door tells the server; what is already there stays there.
        let mut waiting = vec![];
        while let Some(Some(heard)) = self.messages.next().now_or_never() {
            waiting.push(heard);
        }
        self.messages.push(stream::iter(waiting).boxed());
        if self.barrier.pass().await != Passed::Yes {
            tracing::warn!("the server does not confirm that the doors are closed");
        }
    }

    fn reopen(&mut self) {
        self.closed = false;
        for kind in &mut self.kinds {
            // Those that are being closed have heard it.
            kind.close = watch::Sender::new(false);
        }
    }
}

/// One queue subscription, for one job.
struct Door {
    subscriber: Subscriber,
    barrier: Barrier,
    close: watch::Receiver<bool>,
    state: State,
}

enum State {
    Open,
    /// The server was told; this resolves when it has read that, and everything it let through before is here.
    Closing(BoxFuture<'static, ()>),
    Closed,
}

impl Door {
    async fn open(
        link: &Link,
        barrier: &Barrier,
        subject: &str,
        group: &str,
        close: &watch::Sender<bool>,
    ) -> Result<Self, BusError> {
        let subscriber =
            link.client.queue_subscribe(subject.to_owned(), group.to_owned()).await.map_err(|error| {
                BusError::Subscribe { subject: subject.to_owned(), reason: error.to_string() }
            })?;
        Ok(Self { subscriber, barrier: barrier.clone(), close: close.subscribe(), state: State::Open })
    }

    fn messages(self) -> impl Stream<Item = Message> + Send {
        stream::unfold(self, |mut door| async move { door.next().await.map(|message| (message, door)) })
    }

    async fn next(&mut self) -> Option<Message> {
        loop {
            let message = match &mut self.state {
                State::Open => tokio::select! {
                    biased;
                    message = self.subscriber.next() => Some(message?),
                    // The sender lives as long as the doors.
                    _ = async { self.close.wait_for(|close| *close).await.is_ok() } => None,
                },
                State::Closing(closed) => tokio::select! {
                    biased;
                    message = self.subscriber.next() => return message,
                    () = closed => {
                        self.state = State::Closed;
                        continue;
                    }
                },
                // Dropping the subscription now makes the client forget what the server has forgotten.
                State::Closed => return self.subscriber.next().now_or_never().flatten(),
            };
            self.subscriber.unsubscribe_after(UNSUBSCRIBE_AT_THE_SERVER_ONLY).await.ok()?;
            let barrier = self.barrier.clone();
            self.state = State::Closing(
                async move {
                    while barrier.pass().await != Passed::Yes {
                        tokio::time::sleep(RETRY_PAUSE).await;
                    }
                }
                .boxed(),
            );
            if message.is_some() {
                return message;
            }
        }
    }
}

fn heard(door: impl Stream<Item = Message> + Send, kind: usize) -> impl Stream<Item = Heard> + Send {
    stream::unfold((Box::pin(door.fuse()), 0usize), move |(mut door, messages)| async move {
        match (door.next().await, messages) {
            (Some(message), 0) => Some((Heard::Fired(kind, message), (door, 1))),
            (Some(message), n) => Some((Heard::Extra(message), (door, n + 1))),
            (None, 0) => Some((Heard::EndedUnused(kind), (door, 1))),
            (None, _) => None,
        }
    })
}
