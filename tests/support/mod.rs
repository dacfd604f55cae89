//! What the tests over real servers share. Each test binary uses a part of it.

#![allow(dead_code, missing_docs)]

pub mod clock;
pub mod fake_durable;
pub mod fake_pool;
pub mod fake_worker;
pub mod forward;
pub mod nats;
pub mod process;
pub mod queen;
pub mod receiver;
pub mod s3;
pub mod s3_gate;
pub mod segmenter;
pub mod watch;
pub mod wire;
pub mod worker;
