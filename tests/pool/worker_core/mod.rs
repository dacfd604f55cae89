//! Workers as they are run: real processes on a real nats-server, with the simulated model.

mod bad_input;
mod device;
mod durable;
mod http;
mod jobs;
mod loras;
mod models;
mod other_weights;
mod outage;
mod placement;
mod pool;
mod shutdown;
