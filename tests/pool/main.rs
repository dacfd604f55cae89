//! Real workers and queens over a real nats-server and S3 servers: one program, a module for each area.
//! `cargo test --test pool queen_durable::` runs one.

#[path = "../support/mod.rs"]
mod support;

mod control;
mod foreign;
mod full_stack;
mod job_events;
mod metrics;
mod nats_server;
mod owner;
mod pictures;
mod pointing;
mod process;
mod queen_core;
mod queen_durable;
mod queen_events;
mod queen_forms;
mod queen_http;
mod queen_rules;
mod queen_workers;
mod security;
mod storage_s3;
mod storage_setup;
mod traces;
mod webhooks;
mod worker_core;
