//! NATS in and out. async-nats lives here and nowhere else; what goes in and out is the contract's types.

mod connect;
mod fleet;
mod options;
mod requester;

pub use connect::{BusError, connect};
pub use fleet::{Fleet, GONE_AFTER, Heartbeat, MAX_WORKERS};
pub use options::NatsOptions;
pub use requester::{Exchange, Reply, Requester, Target};
