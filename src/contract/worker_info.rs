//! What a worker says of itself in its heartbeat.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{Capability, ContractError, HiveId, ImageInput, Job, JobSource, MaskSource, WorkerId};

/// Whether a worker takes jobs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum WorkerStatus {
    /// At least one slot is free.
    Ready,
    /// Every slot is taken.
    Busy,
    /// An operator drained it: it finishes what it holds, takes no more, and stays.
    Draining,
    /// It finishes what it holds, takes no more, and ends.
    ShuttingDown,
}

impl WorkerStatus {
    /// Whether it takes jobs, now or as soon as a slot is free.
    pub fn takes_jobs(self) -> bool {
        match self {
            Self::Ready | Self::Busy => true,
            Self::Draining | Self::ShuttingDown => false,
        }
    }
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
    /// Jobs that may run together; 0 in the last heartbeat of a worker that has ended.
    pub slots: u32,
    /// Slots that are free now.
    pub free_slots: u32,
    /// `sd-worker-rbee`.
    pub implementation: String,
    /// The version of the worker.
    pub version: String,
    /// What a job may ask of it at most; none: it is of a version that does not say.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub limits: Option<WorkerLimits>,
    /// The LoRAs that it has; none: no folder of them, or a version that does not say.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub loras: Option<WorkerLoras>,
    /// Whether it makes masks of what jobs point at.
    #[serde(default)]
    pub segmenter: bool,
    /// The schedulers that jobs may name.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub schedulers: Vec<String>,
    /// The size of a picture of each model whose job names none: width and height in pixels.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub native_sizes: BTreeMap<String, (u32, u32)>,
    /// The licence of each model whose checkpoint names one, in its words.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub licenses: BTreeMap<String, String>,
    /// The title of each model whose checkpoint gives itself one, in its words.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub titles: BTreeMap<String, String>,
    /// The resolution of each model whose checkpoint says what it was trained for, such as 1024x1024.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub resolutions: BTreeMap<String, String>,
    /// The models that are in memory now.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub resident: Vec<String>,
    /// Jobs that ended here since it was started.
    #[serde(default)]
    pub jobs_done: u64,
    /// Milliseconds of a denoising step, of the latest jobs; none: of no job yet.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub step_ms: Option<f64>,
}

/// What a job may ask of a worker at most.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct WorkerLimits {
    /// Width times height.
    pub max_pixels: u64,
    /// Denoising steps.
    pub max_steps: u32,
    /// Pictures of one job.
    pub max_images: u32,
    /// Encoded bytes of an input image.
    pub max_input: u64,
}

/// The LoRAs of a worker.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct WorkerLoras {
    /// Their names, at most [`MAX_LORA_NAMES`].
    pub names: Vec<String>,
    /// Whether these are all.
    pub complete: bool,
}

/// LoRAs that a heartbeat names.
pub const MAX_LORA_NAMES: usize = 256;
/// The longest heartbeat that is read, in bytes.
pub const MAX_HEARTBEAT: usize = 64 << 10;

impl WorkerInfo {
    /// The last heartbeat of a worker: it has ended.
    #[must_use]
    pub fn farewell(self) -> Self {
        Self { status: WorkerStatus::ShuttingDown, slots: 0, free_slots: 0, ..self }
    }

    /// Whether it is the last heartbeat of a worker.
    pub fn is_farewell(&self) -> bool {
        self.status == WorkerStatus::ShuttingDown && self.slots == 0
    }

    /// Whether it reads an input image of so many bytes.
    ///
    /// # Errors
    /// The field, with what it takes.
    pub fn can_read(&self, field: &'static str, bytes: u64) -> Result<(), ContractError> {
        match self.limits {
            Some(limits) if bytes > limits.max_input => {
                Err(ContractError::TooLarge { field: field.into(), bytes, limit: limits.max_input })
            }
            _ => Ok(()),
        }
    }

    /// Why this worker cannot do a job, as far as its heartbeat says: its limits and its LoRAs. Capability, model and hive
    /// are looked at elsewhere.
    ///
    /// # Errors
    /// The field that asks for too much.
    pub fn can_do(&self, job: &Job) -> Result<(), ContractError> {
        let Some(limits) = self.limits else { return Ok(()) };
        let inline = |image: &ImageInput| match image {
            // Four characters of base64 are three bytes.
            ImageInput::Inline(text) => text.len() as u64 / 4 * 3,
            ImageInput::Object(_) => 0,
        };
        match &job.source {
            JobSource::Text { .. } => {}
            JobSource::Image { image, .. } => self.can_read("init_image", inline(image))?,
            JobSource::Inpaint { image, mask, .. } => {
                self.can_read("init_image", inline(image))?;
                match mask {
                    MaskSource::Image(mask) => self.can_read("mask_image", inline(mask))?,
                    MaskSource::Pointing(_) if self.segmenter => {}
                    MaskSource::Pointing(pointing) => {
                        let reason = "no worker that is up makes masks: none was started with --segmenter; send a `mask_image`";
                        return Err(ContractError::field(pointing.field(), reason));
                    }
                }
            }
        }
        let most = |field: &str, asked: u64, most: u64| match asked > most {
            true => Err(ContractError::field(
                field,
                format!("{asked}; no worker that is up takes more than {most}"),
            )),
            false => Ok(()),
        };
        most("steps", job.steps.unwrap_or(0).into(), limits.max_steps.into())?;
        most("n", job.n.into(), limits.max_images.into())?;
        if let (Some(width), Some(height)) = job.source.asked_size() {
            let pixels = u64::from(width) * u64::from(height);
            if pixels > limits.max_pixels {
                let reason = format!(
                    "{width}x{height} pixels; no worker that is up takes more than {} pixels",
                    limits.max_pixels
                );
                return Err(ContractError::field("width", reason));
            }
        }
        let lacks = |name: &str, loras: &WorkerLoras| {
            let plain = |name: &str| name.strip_suffix(".safetensors").unwrap_or(name).to_owned();
            loras.complete && !loras.names.iter().any(|known| *known == plain(name))
        };
        for (index, lora) in job.loras.iter().enumerate() {
            let reason = match &self.loras {
                None => "no worker that is up has a folder of LoRAs".to_owned(),
                Some(loras) if lacks(&lora.name, loras) => {
                    format!("no worker that is up has a LoRA `{}`", lora.name)
                }
                Some(_) => continue,
            };
            return Err(ContractError::field(format!("loras[{index}].path"), reason));
        }
        Ok(())
    }
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
            limits: None,
            loras: None,
            segmenter: false,
            schedulers: vec![],
            native_sizes: BTreeMap::new(),
            licenses: BTreeMap::new(),
            titles: BTreeMap::new(),
            resolutions: BTreeMap::new(),
            resident: vec![],
            jobs_done: 0,
            step_ms: None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::contract::{Limits, Operation};

    #[test]
    fn a_job_that_points_needs_a_worker_with_a_segmenter() {
        let limits = Some(Limits::default().of_a_worker());
        let without = WorkerInfo { limits, ..WorkerInfo::ready("w", &["m"]) };
        let with = WorkerInfo { segmenter: true, ..without.clone() };
        for (fields, field) in
            [(r#""mask_points":[[1,1]]"#, "`mask_points`: "), (r#""mask_box":[0,0,1,1]"#, "`mask_box`: ")]
        {
            let body = format!(r#"{{"prompt":"a","init_image":"AAAA",{fields}}}"#);
            let operation = Operation::parse(Some(Capability::Inpaint), body.as_bytes()).unwrap();
            let job = Job::new(operation, &Limits::WIDEST).unwrap();
            let message = without.can_do(&job).unwrap_err().to_string();
            assert!(message.starts_with(field) && message.contains("--segmenter"), "{message}");
            assert!(with.can_do(&job).is_ok());
        }
    }

    #[test]
    fn a_worker_is_asked_for_no_more_than_it_says_it_does() {
        let limits = WorkerLimits { max_pixels: 128 * 128, max_steps: 10, max_images: 1, max_input: 1 << 20 };
        let loras = WorkerLoras { names: vec!["ink".into()], complete: true };
        let small =
            WorkerInfo { limits: Some(limits), loras: Some(loras.clone()), ..WorkerInfo::ready("w", &["m"]) };
        let bare = WorkerInfo { loras: None, ..small.clone() };
        let many = WorkerInfo { loras: Some(WorkerLoras { complete: false, ..loras }), ..small.clone() };
        let silent = WorkerInfo::ready("w", &["m"]);
        let no = |worker: &WorkerInfo, fields: &str| {
            let body = format!(r#"{{"prompt":"a"{fields}}}"#);
            let operation = Operation::parse(Some(Capability::Generate), body.as_bytes()).unwrap();
            worker.can_do(&Job::new(operation, &Limits::WIDEST).unwrap()).err().map(|error| error.to_string())
        };
        for (fields, field) in [
            (r#","steps":11"#, "`steps`: 11"),
            (r#","n":2"#, "`n`: 2"),
            (r#","width":256,"height":128"#, "`width`: 256x128"),
            (r#","loras":[{"path":"oil"}]"#, "`loras[0].path`: no worker that is up has a LoRA `oil`"),
        ] {
            assert!(
                no(&small, fields).is_some_and(|error| error.starts_with(field)),
                "{:?}",
                no(&small, fields)
            );
            assert_eq!(no(&silent, fields), None);
        }
        assert_eq!(
            no(&small, r#","steps":10,"n":1,"width":128,"height":128,"loras":[{"path":"ink.safetensors"}]"#),
            None
        );
        assert!(no(&bare, r#","loras":[{"path":"ink"}]"#).unwrap().contains("a folder of LoRAs"));
        assert_eq!(no(&many, r#","loras":[{"path":"oil"}]"#), None, "its list is not complete");
    }
}
