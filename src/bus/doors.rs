//! Jobs in: one one-shot subscription ("door") per free slot on `image.*`, and the worker's own subject.
//!
//! A door is a queue subscription of which the server is told to end it after one message. It is never unsubscribed,
//! for the client forgets a subscription before the server does, and what arrives in between is lost; it fires, and is
//! armed again when a slot is free.

use std::time::{Duration, Instant};

use async_nats::{Client, Message, Subscriber};
use futures::{
    FutureExt, Stream, StreamExt,
    stream::{self, BoxStream, SelectAll},
};

use super::{
    BusError, Incoming, JobSource, Via,
    barrier::{Barrier, Passed},
    connect::Link,
    offers::Offers,
    subscribe,
};
use crate::contract::{Capability, JobId, Subjects, WorkerId, headers};

/// More digits than the server reads as a count: it then ends the subscription at once, while the client, for which
/// this count is never reached, still hands over what is on its way. Nothing is lost, unlike with a plain unsubscribe.
const UNSUBSCRIBE_AT_THE_SERVER_ONLY: u64 = u64::MAX;
/// How long stragglers are waited for when a round trip fails.
const STRAGGLERS: Duration = Duration::from_secs(1);

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
    close: tokio::sync::watch::Sender<bool>,
}

/// What the subscriptions say.
enum Heard {
    /// A door's first message.
    Fired(usize, Message),
    /// What a door lets in after its first (only when the connection was lost between its two commands).
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
        let kind = |subject| Kind { subject, armed: 0, close: tokio::sync::watch::Sender::new(false) };
        let kinds = subjects.into_iter().map(kind).collect();
        let direct = subscribe(&link.client, &options.subjects.direct_any(&options.worker_id)).await?;
        let mut messages = SelectAll::new();
        messages.push(direct.map(Heard::Direct).boxed());
        Ok(Self { link, barrier, offers, options, kinds, messages, closed: false })
    }

    fn read(&self, message: Message, via: Via) -> Incoming {
        let header = |name: &str| Some(message.headers.as_ref()?.get(name)?.as_str().to_owned());
        let own_reply = message.reply.as_ref().map(ToString::to_string);
        // Whoever may publish a request may name a place for its answers: only an inbox is one.
        let reply = header(headers::JOB_REPLY).filter(|subject| is_inbox(subject)).or(own_reply);
        Incoming {
            capability: self.options.subjects.capability_of(&message.subject),
            via,
            reply,
            job_id: header(headers::JOB_ID).and_then(|id| JobId::new(id).ok()),
            traceparent: header(headers::TRACEPARENT),
            hops: header(headers::JOB_HOPS).and_then(|hops| hops.parse().ok()).unwrap_or(0),
            received: Instant::now(),
            subject: message.subject.to_string(),
            body: message.payload,
        }
    }
}

/// `_INBOX.` and tokens that are subject to no wildcard.
fn is_inbox(subject: &str) -> bool {
    subject.strip_prefix("_INBOX.").is_some_and(|rest| {
        rest.split('.').all(|token| !token.is_empty())
            && rest.chars().all(|c| !c.is_whitespace() && !c.is_control() && !matches!(c, '*' | '>'))
    })
}

impl JobSource for Doors {
    async fn arm(&mut self, free: usize) -> Result<(), BusError> {
        if self.closed || !self.link.is_connected() {
            return Ok(());
        }
        for (index, kind) in self.kinds.iter_mut().enumerate() {
            while kind.armed < free {
                let door =
                    door(&self.link.client, &kind.subject, &self.options.queue_group, kind.close.subscribe())
                        .await?;
                self.messages.push(heard(door, index).boxed());
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
        // Polled once, every door sends its command; what is already there stays there.
        let mut waiting = vec![];
        while let Some(Some(heard)) = self.messages.next().now_or_never() {
            waiting.push(heard);
        }
        self.messages.push(stream::iter(waiting).boxed());
        if self.barrier.pass().await != Passed::Yes {
            tokio::time::sleep(STRAGGLERS).await;
        }
    }
}

/// A subscription that the server ends after one message.
async fn door(
    client: &Client,
    subject: &str,
    group: &str,
    mut close: tokio::sync::watch::Receiver<bool>,
) -> Result<impl Stream<Item = Message> + Send + use<>, BusError> {
    let failed = |reason: String| BusError::Subscribe { subject: subject.to_owned(), reason };
    let mut door = client
        .queue_subscribe(subject.to_owned(), group.to_owned())
        .await
        .map_err(|error| failed(error.to_string()))?;
    door.unsubscribe_after(1).await.map_err(|error| failed(error.to_string()))?;
    Ok(stream::unfold((door, false), move |(mut door, told)| {
        let mut close = close.clone();
        async move {
            let message = next_or_close(&mut door, told, &mut close).await;
            message.map(|(message, told)| (message, (door, told)))
        }
    }))
}

async fn next_or_close(
    door: &mut Subscriber,
    mut told: bool,
    close: &mut tokio::sync::watch::Receiver<bool>,
) -> Option<(Message, bool)> {
    loop {
        tokio::select! {
            biased;
            message = door.next() => return message.map(|message| (message, told)),
            closing = async { close.wait_for(|closing| *closing).await.is_ok() }, if !told => {
                told = true;
                if closing && door.unsubscribe_after(UNSUBSCRIBE_AT_THE_SERVER_ONLY).await.is_err() {
                    return None;
                }
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_an_inbox_is_answered() {
        assert!(is_inbox("_INBOX.abc.1"));
        for bad in ["_INBOX.", "_INBOX.a..b", "_INBOX.>", "_INBOX.a b", "jobs.image.generate.x", "$SYS.REQ"] {
            assert!(!is_inbox(bad), "{bad}");
        }
    }
}
