//! `sd-worker-rbee`: Stable Diffusion workers on a message bus.
//!
//! `ARCHITECTURE.md` is the map: keeper → queen → NATS → worker → engine → diffusion, with the pictures in a store.

#[cfg(feature = "bus")]
pub mod bus;
pub mod contract;
#[cfg(feature = "bus")]
pub mod http;
pub mod logging;
#[cfg(feature = "queen")]
pub mod queen;
#[cfg(feature = "bus")]
pub mod storage;
pub mod units;
