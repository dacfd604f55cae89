//! One job from message to acknowledgement, and the worker around it.
//!
//! `run` wires; `intake` takes messages, `job_router` reads and checks them, `job` runs one to its end,
//! and `durable` settles those of the queue.

pub mod checkpoint;
mod checkpoints;
mod context;
mod dtype;
mod durable;
pub mod encode;
mod http;
mod http_server;
mod infotext;
pub mod inputs;
mod intake;
mod job;
mod job_events;
mod job_router;
mod metrics;
mod options;
mod progress;
mod registry;
mod run;
mod shutdown;
mod slots;
#[cfg(test)]
mod standstill_tests;
mod start;
#[cfg(test)]
mod testing;
mod uploads;

pub use context::{Context, Identity};
pub use dtype::DtypeOption;
pub use http::WorkerJobs;
pub use job_router::{JobRouter, Refusal, Routed};
pub use options::{OptionsError, WorkerOptions};
pub use run::{StartError, run};
pub use slots::{Permits, Slots};
pub use start::start;
