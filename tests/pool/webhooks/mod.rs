//! Webhooks: what is posted, until when, and where it is not. `tests/wire/test_webhooks.py` reads the signatures by libraries
//! that are not ours.

mod addresses;
mod delivery;
mod remembered;
mod requests;

use std::{path::PathBuf, time::Duration};

use serde_json::Value;
use tempfile::TempDir;

use crate::support::{
    fake_durable::DurablePool,
    fake_pool::{generation, with},
    nats::NatsServer,
    queen::QueenProcess,
};

/// Nothing that is not told to wait takes longer.
const SOON: Duration = Duration::from_secs(15);

/// A secret of 32 bytes of this value.
fn secret(byte: u8) -> String {
    use base64::Engine as _;
    format!("whsec_{}", base64::engine::general_purpose::STANDARD.encode([byte; 32]))
}

/// A pool whose queens post to this machine.
struct Hooks {
    pool: DurablePool,
    folder: TempDir,
}

impl Hooks {
    async fn start() -> Self {
        Self::start_on(NatsServer::shared()).await
    }

    async fn start_on(server: &NatsServer) -> Self {
        let hooks = Self { pool: DurablePool::start_on(server).await, folder: TempDir::new().unwrap() };
        std::fs::write(hooks.secrets(), secret(1)).unwrap();
        hooks
    }

    fn secrets(&self) -> PathBuf {
        self.folder.path().join("secrets")
    }

    fn queen(&self, more: &[&str]) -> QueenProcess {
        self.queen_that_allows("127.0.0.0/8", more)
    }

    fn queen_that_allows(&self, network: &str, more: &[&str]) -> QueenProcess {
        let secrets = self.secrets();
        let own = ["--webhook-secret-file", secrets.to_str().unwrap(), "--webhook-allow", network];
        self.pool.queen(&[&["--models", "m"], &own[..], more].concat())
    }
}

/// A job that is told of there.
fn job(id: &str, url: &str) -> Value {
    with(with(generation(), "job_id", id), "webhook_url", url)
}
