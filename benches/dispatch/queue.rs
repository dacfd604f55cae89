//! Jobs in the queue, and when each of them ended.

use std::time::{Duration, Instant};

use async_nats::Subscriber;
use futures::{StreamExt, stream};
use sd_worker_rbee::{
    bus::{Sending, StreamOptions, Streams},
    contract::{Capability, JobId},
};

use super::{requests::event_of, support::worker::Pool};

/// Nothing here is without an end for longer.
const PATIENCE: Duration = Duration::from_secs(30);
/// Jobs that are on their way into the stream at a time.
const TOGETHER: usize = 64;

/// Makes the streams of a pool.
pub async fn open(pool: &Pool, options: StreamOptions) -> Streams {
    let streams = Streams::new(pool.client.clone(), pool.subjects.clone(), options);
    streams.ensure().await.expect("streams");
    streams
}

/// Puts jobs for the model `sim` into the queue.
pub async fn fill(streams: &Streams, body: &str, jobs: usize) {
    let sendings = (0..jobs).map(|_| {
        let job = JobId::generate();
        Sending {
            subject: streams.subject_of_job(Capability::Generate, "sim", &job),
            job,
            body: body.to_owned().into(),
            after: None,
            lost: None,
            owner: None,
            traceparent: None,
        }
    });
    let sent = stream::iter(sendings).for_each_concurrent(TOGETHER, async |sending| {
        streams.send_job(&sending).await.expect("a place in the queue");
    });
    sent.await;
}

/// The events of every job, from now on.
pub async fn ends(pool: &Pool) -> Subscriber {
    let events = pool.client.subscribe(pool.subjects.events_any()).await.expect("a subscription");
    pool.client.flush().await.expect("a flush");
    events
}

/// When each of so many jobs was complete.
pub async fn times(events: &mut Subscriber, jobs: usize) -> Vec<Instant> {
    let mut times = Vec::with_capacity(jobs);
    while times.len() < jobs {
        let message = tokio::time::timeout(PATIENCE, events.next()).await.expect("an event in time");
        match event_of(message.expect("a connection").headers.as_ref()) {
            "complete" => times.push(Instant::now()),
            "error" | "cancelled" => panic!("a job failed"),
            _ => {}
        }
    }
    times
}
