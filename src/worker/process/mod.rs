//! The worker as a process: its flags, its start, what it says of itself, and its end.

mod control;
mod drain;
mod dtype;
mod http;
mod options;
mod run;
mod start;

#[cfg(test)]
pub use drain::Engine;
pub use dtype::DtypeOption;
pub use http::WorkerJobs;
pub use options::{OptionsError, WorkerOptions};
pub use run::{StartError, run};
pub use start::start;
