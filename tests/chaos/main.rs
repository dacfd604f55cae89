//! The torture chamber: real workers, queens and a nats-server with a file store, an S3 server that misbehaves, a seed.
//!
//! A run draws faults while jobs come in, lifts them, waits for the pool to settle, and then reads streams and store for
//! itself: what was accepted has ended once, what is said to be stored is, and nothing is left over. `storm` holds the
//! runs, short and long; the other tests are about one fault each. `tools/chaos` runs it with larger numbers.

#[path = "../support/mod.rs"]
mod support;

mod blocks;
mod clocks;
mod cuttable;
mod disk;
mod evidence;
mod fairness;
mod faults;
mod follow;
mod full_disk;
mod full_jetstream;
mod journal;
mod killed_worker;
mod load;
mod log_lines;
mod memory;
mod missing_numbers;
mod nets;
mod objects;
mod poison;
mod power_cut;
mod proxy;
mod proxy_tests;
mod random;
mod report;
mod rolling_restart;
mod run;
mod s3_fault_tests;
mod s3_faults;
mod settings;
mod storm;
mod strike;
mod supervised;
mod tell;
mod two_queens;
mod verify;
mod verify_events;
mod verify_tests;
mod wishes;
mod world;
