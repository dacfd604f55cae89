//! What depends on the server: its version, its limits, how it is stopped, and what it has lost when it comes back.
//! NATS_SERVER says which server these tests run with.

mod acknowledgements;
mod cluster;
mod consumers;
mod crowd;
mod power_cut;
mod scaling;
