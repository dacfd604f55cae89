//! `sd-worker-rbee`: Stable Diffusion workers on a message bus.
//!
//! `ARCHITECTURE.md` is the map: keeper → queen → NATS → worker → engine → diffusion, with the pictures in a store.

// The macros panic where standard error or output is closed or full: what is printed goes through `logging`, or `writeln!`.
#![deny(clippy::print_stderr, clippy::print_stdout)]

#[cfg(feature = "worker")]
pub mod allocator;
#[cfg(feature = "bus")]
pub mod bus;
pub mod contract;
#[cfg(feature = "bus")]
pub mod decoding;
#[cfg(feature = "worker")]
pub mod diffusion;
#[cfg(feature = "worker")]
pub mod engine;
pub mod environment;
#[cfg(all(test, feature = "worker"))]
mod folders;
#[cfg(feature = "bus")]
pub mod http;
#[cfg(feature = "keeper")]
pub mod keeper;
pub mod logging;
#[cfg(feature = "bus")]
pub mod metrics;
#[cfg(feature = "worker")]
pub mod models;
#[cfg(feature = "bus")]
pub mod open_files;
#[cfg(feature = "queen")]
pub mod queen;
#[cfg(feature = "worker")]
pub mod segmenter;
pub mod signals;
#[cfg(feature = "bus")]
pub mod storage;
#[cfg(feature = "bus")]
pub mod systemd;
#[cfg(feature = "bus")]
pub mod traces;
pub mod units;
#[cfg(feature = "worker")]
pub mod worker;

#[cfg(feature = "worker")]
#[global_allocator]
static ALLOCATOR: allocator::Allocator = allocator::Allocator;
