//! The consumers of a worker's queues: looked for again and again until streams and all of them are there.

use std::time::Duration;

use async_nats::jetstream::consumer::PullConsumer;
use tokio::sync::oneshot;

use super::{BusError, Streams, connect::Link};
use crate::contract::Capability;

/// The pause before they are looked for again.
pub(super) const OPEN_AGAIN: Duration = Duration::from_secs(2);

/// The consumers of all queues, and the connection on which they were looked for.
pub(super) type Found = (Vec<PullConsumer>, u64);

/// Capabilities and models, each with a queue.
pub(super) type Wanted = Vec<(Capability, String)>;

/// Looks for them after this pause, until they are found or nobody waits for them. `told`: the reason that was logged.
pub(super) fn begin(
    link: Link,
    streams: Streams,
    wanted: Wanted,
    mut pause: Duration,
    mut told: String,
) -> oneshot::Receiver<Found> {
    let (found, opened) = oneshot::channel();
    let quiet = pause.is_zero();
    tokio::spawn(async move {
        while !found.is_closed() {
            tokio::time::sleep(pause).await;
            pause = OPEN_AGAIN;
            let connection = link.connections();
            match consumers(&streams, &wanted).await {
                Ok(consumers) => {
                    if !quiet || !told.is_empty() {
                        tracing::info!("durable jobs are taken");
                    }
                    // The worker may have ended.
                    let _ = found.send((consumers, connection));
                    return;
                }
                Err(error) => {
                    let text = error.to_string();
                    if text != told {
                        tracing::warn!(%error, "no durable jobs at present");
                    }
                    told = text;
                }
            }
        }
    });
    opened
}

/// The consumer of each, made where it is missing.
pub(super) async fn consumers(
    streams: &Streams,
    wanted: &[(Capability, String)],
) -> Result<Vec<PullConsumer>, BusError> {
    streams.ensure().await?;
    let mut consumers = vec![];
    for (capability, model) in wanted {
        consumers.push(streams.consumer(*capability, model).await?);
    }
    Ok(consumers)
}
