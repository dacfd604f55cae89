//! `sd-worker-rbee`: Stable Diffusion workers on a message bus.
//!
//! `ARCHITECTURE.md` is the map: keeper → queen → NATS → worker → engine → diffusion, with the pictures in a store.

pub mod contract;
#[cfg(feature = "worker")]
pub mod diffusion;
