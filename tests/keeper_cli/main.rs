//! The real `rbee-keeper` process: against a small HTTP server that plays queen, against servers that are rude, behind
//! proxies, in shells that close or fill what it writes to, and against a real queen with a worker.
//! `cargo test --test keeper_cli outputs::` runs one module.

#[path = "../support/mod.rs"]
mod support;

mod answers;
mod flags;
mod fleet;
mod jobs;
mod outputs;
mod pool;
mod profiles;
mod proxies;
mod rude;
mod shells;
mod signals;
mod stand_in;
mod streams;
mod verbs;
