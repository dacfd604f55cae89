//! A queen whose workers are the test's own words.

use std::time::Duration;

use bytes::Bytes;
use sd_worker_rbee::{
    contract::OutputFormat,
    storage::{Key, Store, StoreOptions},
};
use serde_json::{Value, json};
use tempfile::TempDir;

use super::{
    fake_worker::{FakeJob, FakeWorker},
    nats::{NatsServer, prefix},
    queen::QueenProcess,
};

/// A queen of the core path with its own subjects and its own store.
pub struct Pool {
    pub queen: QueenProcess,
    pub store: Store,
    pub prefix: String,
    _folder: TempDir,
}

impl Pool {
    pub async fn start(arguments: &[&str]) -> Self {
        let folder = TempDir::new().unwrap();
        let url = folder.path().join("store").to_str().unwrap().to_owned();
        let prefix = prefix();
        let arguments = [&["--core"], arguments].concat();
        let queen = QueenProcess::start(&NatsServer::shared().url(), &prefix, &url, &arguments);
        let store = Store::open(&StoreOptions::new(url)).unwrap();
        Self { queen, store, prefix, _folder: folder }
    }

    /// A worker that queen has heard of.
    pub async fn worker(&self, id: &str, models: &[&str]) -> FakeWorker {
        let worker = FakeWorker::start(&NatsServer::shared().url(), &self.prefix, id, models).await;
        for _ in 0..200 {
            let (_, workers) = self.queen.get("/v1/workers").await;
            if workers["workers"].as_array().unwrap().iter().any(|w| w["id"] == id) {
                return worker;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        panic!("queen does not hear of {id}");
    }

    pub async fn store_picture(&self, job: &FakeJob) {
        let key = Key::Image { job: job.id.clone(), index: 0, attempt: 1, format: OutputFormat::Png };
        self.store.put(&key, Bytes::from_static(b"png"), "image/png").await.unwrap();
    }
}

pub fn generation() -> Value {
    json!({"operation": "image_generation", "prompt": "a red circle"})
}

pub fn with(mut body: Value, field: &str, value: impl Into<Value>) -> Value {
    body[field] = value.into();
    body
}

pub fn is_error(line: &Value, code: &str, part: &str) -> bool {
    line["type"] == "error" && line["code"] == code && line["message"].as_str().unwrap().contains(part)
}
