//! How a worker takes jobs: which message next, whether this worker can do what it asks for, and what becomes of those that
//! it does not take.

mod admit;
mod intake;
mod refuse;
mod router;

pub use admit::Refusal;
pub use intake::take_jobs;
pub use router::{JobRouter, Routed};
