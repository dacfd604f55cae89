//! NATS in and out. async-nats lives here and nowhere else; what goes in and out is the contract's types.
//!
//! The connection: `connect` (with `options`, `sign_in`, and `connectivity`, which says how it stands).
//! A worker's side: jobs in (`doors`, `offers`), events out (`sink`), `cancels`, `controls`, `heartbeat`, `discovery`.
//! The side of whoever asks: `requester`, `fleet`.
//! Durable jobs: `streams` (and their flags), `event_log`; for workers `queue` (with `opening` and `placement`) and `delivery`; for queen `job_store`,
//! `job_events` (with `fan_out`), `dead_letters`, which read streams by `ordered`, `outbox`, `sweep`, and
//! `move_jobs` for the streams of earlier versions.

mod barrier;
mod cancels;
mod connect;
mod connectivity;
mod consumer_limit;
mod controls;
mod dead_letters;
mod delivery;
mod discovery;
mod doors;
mod event_log;
mod fan_out;
mod fleet;
mod heartbeat;
mod incoming;
mod job_events;
mod job_store;
pub mod memory;
mod move_jobs;
mod numbers;
mod offers;
mod opening;
mod options;
mod ordered;
mod outbox;
mod placement;
mod queue;
mod register;
mod reply;
mod requester;
mod server_line;
mod sign_in;
mod sink;
mod stream_options;
mod streams;
mod sweep;
mod worker_bus;

pub use cancels::{CancelRequest, Cancels};
pub use connect::{BusError, Link, connect, open};
pub use connectivity::Connectivity;
pub use controls::{ControlError, ControlRequest, Controls};
pub use dead_letters::StoredLetter;
pub use delivery::{Delivery, Settle};
pub use discovery::{Counts, Discovery, ReadCounts, SERVICE};
pub use doors::{DoorOptions, Doors};
pub use event_log::{AppendError, Entry, EventLog, Logged, request_mark};
pub use fan_out::Told;
pub use fleet::{Fleet, GONE_AFTER, LastHeartbeat, MAX_WORKERS};
pub use heartbeat::{HEARTBEAT_EVERY, Heartbeat};
pub use incoming::{EventSink, Incoming, JobQueue, Outgoing, Requests, To, Via};
pub use job_events::{EventReader, JobEvents};
pub use job_store::{QueuedJob, SendError, Sending, Sent, StoredTicket};
pub use move_jobs::Moved;
pub use options::NatsOptions;
pub use outbox::{OUTBOX, OUTBOX_ACK_WAIT, Outbox, Posting};
pub use queue::JobStreams;
pub use register::{Entered, Register};
pub use requester::{Exchange, Reply, Requester, Target};
pub use sink::{NatsSink, shortened};
pub use stream_options::StreamOptions;
pub use streams::{StreamSize, Streams};
pub use sweep::{Line, Sweeper, Swept};
pub use worker_bus::WorkerBus;

async fn subscribe(client: &async_nats::Client, subject: &str) -> Result<async_nats::Subscriber, BusError> {
    client
        .subscribe(subject.to_owned())
        .await
        .map_err(|error| BusError::Subscribe { subject: subject.to_owned(), reason: error.to_string() })
}
