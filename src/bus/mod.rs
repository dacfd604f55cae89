//! NATS in and out. async-nats lives here and nowhere else; what goes in and out is the contract's types.

mod connect;
mod options;

pub use connect::{BusError, connect};
pub use options::NatsOptions;
