//! What a worker says of itself in its heartbeat.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{Capability, HiveId, WorkerId};

/// Whether a worker takes jobs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum WorkerStatus {
    /// At least one slot is free.
    Ready,
    /// Every slot is taken.
    Busy,
    /// It finishes what it holds and takes no more.
    ShuttingDown,
}

/// A heartbeat: published every 10 s and on change.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct WorkerInfo {
    /// The worker.
    pub id: WorkerId,
    /// The hive it belongs to, if it was started with one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hive_id: Option<HiveId>,
    /// The first model, used when a job names none.
    pub model_id: String,
    /// Every model, by the names that jobs use.
    pub models: Vec<String>,
    /// `cpu`, `cuda:0`, `metal:0`.
    pub device: String,
    /// Whether it takes jobs.
    pub status: WorkerStatus,
    /// What it can do.
    pub capabilities: Vec<Capability>,
    /// Jobs that may run together.
    pub slots: u32,
    /// Slots that are free now.
    pub free_slots: u32,
    /// `sd-worker-rbee`.
    pub implementation: String,
    /// The version of the worker.
    pub version: String,
}

#[cfg(test)]
impl WorkerInfo {
    /// A worker that draws from text with these models and has its one slot free.
    pub(crate) fn ready(id: &str, models: &[&str]) -> Self {
        Self {
            id: WorkerId::new(id).unwrap(),
            hive_id: None,
            model_id: models[0].into(),
            models: models.iter().map(|&model| model.into()).collect(),
            device: "cpu".into(),
            status: WorkerStatus::Ready,
            capabilities: vec![Capability::Generate],
            slots: 1,
            free_slots: 1,
            implementation: "test".into(),
            version: "0".into(),
        }
    }
}
