//! A worker: one job from the message to its end, and the process around it. The folders stand in the order of a job.
//!
//! | folder | what lives there |
//! |---|---|
//! | `process/` | the worker as a process: flags, start, HTTP, the end |
//! | `take/` | which message next, whether this worker can do it, and what is refused |
//! | `job/` | one job from its claim to its end: inputs, engine, pictures |
//! | `own/` | whose a job is: claimed in its log, told, given back |
//! | `resume/` | a job's state in the store, from which another worker goes on |
//! | `shared/` | what all jobs share: identity, slots, the jobs held and what is told of each, counters |
//!
//! A folder uses those below it in this table only.

mod job;
mod own;
mod process;
mod resume;
mod shared;
mod take;
#[cfg(test)]
mod testing;

pub use job::{inputs, pictures};
pub use process::{DtypeOption, OptionsError, StartError, WorkerJobs, WorkerOptions, run, start};
pub use resume::file as snapshot;
pub use shared::{Context, Identity, Permits, Slots};
pub use take::{JobRouter, Refusal, Routed};
