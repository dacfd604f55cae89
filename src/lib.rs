//! `sd-worker-rbee`: Stable Diffusion workers on a message bus.
//!
//! `ARCHITECTURE.md` is the map: keeper → queen → NATS → worker → engine → diffusion, with the pictures in a store.

#[cfg(feature = "bus")]
pub mod bus;
pub mod contract;
#[cfg(feature = "keeper")]
pub mod keeper;
pub mod logging;
pub mod units;
