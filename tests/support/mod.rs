//! What the tests over real servers share. Each test binary uses a part of it.

#![allow(dead_code, missing_docs)]

pub mod fake_durable;
pub mod fake_pool;
pub mod fake_worker;
pub mod nats;
pub mod process;
pub mod queen;
pub mod s3;
pub mod worker;
