//! A job's state in the store, from which another worker goes on.

pub mod file;
mod keep;

pub use keep::{Resumed, Snapshots};
