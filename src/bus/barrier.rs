//! A round trip through the server: when it returns, the server has read all that was published before it.
//! (The client's `flush` only says that the bytes were written to the socket.)

use std::time::Duration;

use futures::StreamExt;
use tokio::sync::{mpsc, oneshot};

use super::{BusError, connect::Link, subscribe};

/// The longest wait for a round trip while the connection stands.
const PATIENCE: Duration = Duration::from_secs(10);

/// Makes round trips; waiters that come while one is under way share the next. Cheap to clone.
#[derive(Debug, Clone)]
pub(super) struct Barrier {
    waiters: mpsc::UnboundedSender<oneshot::Sender<Passed>>,
}

/// How a round trip ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Passed {
    /// The server has read everything.
    Yes,
    /// The connection was lost meanwhile, and with it perhaps what was published.
    ConnectionLost,
    /// Nothing came back in time although the connection stands: our inbox may be denied to us.
    NoAnswer,
}

impl Barrier {
    pub async fn start(link: &Link) -> Result<Self, BusError> {
        let inbox = link.client.new_inbox();
        let markers = subscribe(&link.client, &inbox).await?;
        let (waiters, queue) = mpsc::unbounded_channel();
        tokio::spawn(run(link.clone(), inbox, markers, queue));
        Ok(Self { waiters })
    }

    /// Waits for a round trip that begins after this call.
    pub async fn pass(&self) -> Passed {
        let (done, passed) = oneshot::channel();
        if self.waiters.send(done).is_err() {
            return Passed::ConnectionLost;
        }
        passed.await.unwrap_or(Passed::ConnectionLost)
    }
}

async fn run(
    mut link: Link,
    inbox: String,
    mut markers: async_nats::Subscriber,
    mut queue: mpsc::UnboundedReceiver<oneshot::Sender<Passed>>,
) {
    let mut number = 0u64;
    while let Some(first) = queue.recv().await {
        let mut waiting = vec![first];
        while let Ok(more) = queue.try_recv() {
            waiting.push(more);
        }
        number += 1;
        let passed = round_trip(&mut link, &inbox, &mut markers, number).await;
        for waiter in waiting {
            // A waiter that went away needs no answer.
            let _ = waiter.send(passed);
        }
    }
}

async fn round_trip(
    link: &mut Link,
    inbox: &str,
    markers: &mut async_nats::Subscriber,
    number: u64,
) -> Passed {
    let connections = link.connections();
    let marker = number.to_string();
    let client = link.client.clone();
    if client.publish(inbox.to_owned(), marker.clone().into()).await.is_err() {
        return Passed::ConnectionLost;
    }
    let came_back = async {
        while let Some(message) = markers.next().await {
            if message.payload == marker.as_bytes() {
                return Passed::Yes;
            }
        }
        Passed::ConnectionLost
    };
    let passed = tokio::select! {
        passed = came_back => passed,
        () = link.reconnection() => Passed::ConnectionLost,
        () = tokio::time::sleep(PATIENCE) => Passed::NoAnswer,
    };
    if link.connections() != connections || !link.is_connected() { Passed::ConnectionLost } else { passed }
}
