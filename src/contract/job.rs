//! A job: an operation whose every field has been checked. Valid once built.

use std::time::Duration;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{
    Capability, ContractError, Fingerprint, GuidanceInterval, HiveId, ImageInput, JobId, Limits, Masking,
    Operation, SchedulerOptions, WorkerId, fingerprint,
    limits::{
        MAX_CLIP_SKIP, MAX_GUIDANCE, MAX_IMAGES, MAX_LORAS, MAX_PROMPT_CHARS, MAX_SIDE, MIN_SIDE,
        SIDE_MULTIPLE,
    },
    operation::on_body,
};

/// How a prompt is read.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum PromptSyntax {
    /// As diffusers reads it: parentheses are characters, cut at the text encoder's length with a warning.
    #[default]
    Plain,
    /// Weights and chunks by AUTOMATIC1111's rules.
    A1111,
}

/// How a picture is encoded.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum OutputFormat {
    /// Lossless, with the parameters in a text chunk.
    #[default]
    Png,
    /// Lossy, by quality.
    Jpeg,
    /// Lossless WebP.
    Webp,
}

impl OutputFormat {
    /// The extension of a file: `png`, `jpg`, `webp`.
    pub fn extension(self) -> &'static str {
        match self {
            Self::Png => "png",
            Self::Jpeg => "jpg",
            Self::Webp => "webp",
        }
    }

    /// The media type.
    pub fn content_type(self) -> &'static str {
        match self {
            Self::Png => "image/png",
            Self::Jpeg => "image/jpeg",
            Self::Webp => "image/webp",
        }
    }
}

/// What a picture starts from.
#[derive(Debug, Clone, PartialEq)]
pub enum JobSource {
    /// Noise alone; a missing side is the model's native one.
    Text {
        /// Pixels.
        width: Option<u32>,
        /// Pixels.
        height: Option<u32>,
    },
    /// A picture.
    Image {
        /// The picture.
        image: ImageInput,
        /// Above 0, at most 1.
        strength: f64,
    },
    /// A picture, and a mask of what to repaint.
    Inpaint {
        /// The picture.
        image: ImageInput,
        /// White: repaint; black: keep.
        mask: ImageInput,
        /// Above 0, at most 1.
        strength: f64,
        /// A soft edge, or the part around the mask alone.
        masking: Masking,
    },
}

/// A LoRA by its name inside the worker's folder.
#[derive(Debug, Clone, PartialEq)]
pub struct LoraRef {
    /// Cannot leave the folder.
    pub name: String,
    /// How strongly it is applied.
    pub strength: f64,
}

/// A job that may be run.
#[derive(Debug, Clone, PartialEq)]
pub struct Job {
    /// The identifier.
    pub id: JobId,
    /// The hive asked for, unless any will do.
    pub hive_id: Option<HiveId>,
    /// The worker asked for.
    pub worker_id: Option<WorkerId>,
    /// The model asked for.
    pub model: Option<String>,
    /// What to draw.
    pub prompt: String,
    /// How prompts are read.
    pub prompt_syntax: PromptSyntax,
    /// Layers of the text encoder to leave out.
    pub clip_skip: u32,
    /// What not to draw.
    pub negative_prompt: Option<String>,
    /// Denoising steps, if not the model's own.
    pub steps: Option<u32>,
    /// Guidance, if not the model's own.
    pub guidance_scale: Option<f64>,
    /// The part of the schedule that is guided; none: all of it.
    pub guidance_interval: Option<GuidanceInterval>,
    /// Seed of the first picture.
    pub seed: u64,
    /// LoRAs.
    pub loras: Vec<LoraRef>,
    /// Pictures.
    pub n: u32,
    /// The scheduler's name, if not the model's own; whether there is one is for the model to say.
    pub scheduler: Option<String>,
    /// What the job sets of the scheduler.
    pub scheduler_options: SchedulerOptions,
    /// How pictures are encoded.
    pub format: OutputFormat,
    /// JPEG quality, 1..=100.
    pub quality: u8,
    /// Steps between previews; 0: none.
    pub preview_every: u32,
    /// Whether the requester wants every event, or the last alone.
    pub stream: bool,
    /// The time from acceptance, if shorter than the worker's own limit.
    pub deadline: Option<Duration>,
    /// What the picture starts from.
    pub source: JobSource,
    /// By what the request is known.
    pub fingerprint: Fingerprint,
    /// Fields that ask for webhooks, which whoever runs a job does not send.
    pub ignored: Vec<&'static str>,
}

impl JobSource {
    /// Width and height of what is drawn, as far as the request says them; a whole input picture says them itself.
    pub fn asked_size(&self) -> (Option<u32>, Option<u32>) {
        match self {
            Self::Text { width, height } => (*width, *height),
            Self::Inpaint { masking: Masking { crop: Some(crop), .. }, .. } => (crop.width, crop.height),
            Self::Image { .. } | Self::Inpaint { .. } => (None, None),
        }
    }
}

impl Job {
    /// Checks every field against the contract and against `limits`, and gives the job an id and a seed if it has none.
    ///
    /// # Errors
    /// The first field that is wrong, with what is allowed.
    pub fn new(mut operation: Operation, limits: &Limits) -> Result<Self, ContractError> {
        let id = operation.settle()?;
        let fingerprint = Fingerprint::of(&operation);
        let ignored = operation.webhook_fields();
        operation.leave_out_defaults();
        let source = source(&operation, limits)?;
        on_body!(operation, body => {
            let output = body.output.unwrap_or_default();
            Ok(Self {
                id,
                hive_id: body.hive_id.filter(|hive| hive != "localhost").map(HiveId::new).transpose()?,
                worker_id: body.worker_id.map(WorkerId::new).transpose()?,
                model: body.model,
                prompt: prompt("prompt", body.prompt, 1)?,
                prompt_syntax: body.prompt_syntax.unwrap_or_default(),
                clip_skip: within("clip_skip", body.clip_skip.unwrap_or(0), 0, MAX_CLIP_SKIP)?,
                negative_prompt: body.negative_prompt.map(|text| prompt("negative_prompt", text, 0)).transpose()?,
                steps: body.steps.map(|steps| within("steps", steps, 1, limits.max_steps)).transpose()?,
                guidance_scale: body.guidance_scale.map(guidance_scale).transpose()?,
                guidance_interval: body.guidance_interval.map(GuidanceInterval::new).transpose()?,
                seed: body.seed.expect("settle gives a seed"),
                loras: loras(body.loras)?,
                n: within("n", body.n.unwrap_or(fingerprint::IMAGES), 1, limits.max_images.min(MAX_IMAGES))?,
                scheduler: body.scheduler,
                scheduler_options: body.scheduler_options.unwrap_or_default().checked()?,
                format: output.format.unwrap_or_default(),
                quality: within("output.quality", output.quality.unwrap_or(fingerprint::QUALITY), 1, 100)?,
                preview_every: body.preview_every.unwrap_or(0),
                stream: body.stream.unwrap_or(true),
                deadline: body.deadline_ms
                    .map(|ms| within("deadline_ms", ms, 1, u64::MAX))
                    .transpose()?
                    .map(Duration::from_millis),
                source,
                fingerprint,
                ignored,
            })
        })
    }

    /// Which capability it needs.
    pub fn capability(&self) -> Capability {
        match self.source {
            JobSource::Text { .. } => Capability::Generate,
            JobSource::Image { .. } => Capability::Transform,
            JobSource::Inpaint { .. } => Capability::Inpaint,
        }
    }
}

pub(super) fn within<T: PartialOrd + std::fmt::Display>(
    field: &str,
    value: T,
    least: T,
    most: T,
) -> Result<T, ContractError> {
    if value < least || value > most {
        return Err(ContractError::field(
            field,
            format!("{value} is out of bounds; {least} to {most} are allowed"),
        ));
    }
    Ok(value)
}

fn prompt(field: &str, text: String, least: usize) -> Result<String, ContractError> {
    let chars = text.chars().count();
    if chars < least || chars > MAX_PROMPT_CHARS {
        return Err(ContractError::field(
            field,
            format!("{chars} characters; {least} to {MAX_PROMPT_CHARS} are allowed"),
        ));
    }
    Ok(text)
}

fn guidance_scale(value: f64) -> Result<f64, ContractError> {
    if !value.is_finite() {
        return Err(ContractError::field("guidance_scale", "must be a finite number"));
    }
    within("guidance_scale", value, 0.0, MAX_GUIDANCE)
}

fn strength(value: Option<f64>, default: f64) -> Result<f64, ContractError> {
    let value = value.unwrap_or(default);
    if value > 0.0 && value <= 1.0 {
        return Ok(value);
    }
    Err(ContractError::field(
        "strength",
        format!("{value} is out of bounds; above 0 and at most 1 is allowed"),
    ))
}

fn side(field: &str, value: u32) -> Result<u32, ContractError> {
    within(field, value, MIN_SIDE, MAX_SIDE)?;
    if !value.is_multiple_of(SIDE_MULTIPLE) {
        return Err(ContractError::field(field, format!("{value} is no multiple of {SIDE_MULTIPLE}")));
    }
    Ok(value)
}

/// A size that is drawn at, as far as it is told.
pub(super) fn picture_size(
    width: Option<u32>,
    height: Option<u32>,
    limits: &Limits,
) -> Result<(Option<u32>, Option<u32>), ContractError> {
    let width = width.map(|w| side("width", w)).transpose()?;
    let height = height.map(|h| side("height", h)).transpose()?;
    let pixels = u64::from(width.unwrap_or(MIN_SIDE)) * u64::from(height.unwrap_or(MIN_SIDE));
    if pixels > limits.max_pixels {
        return Err(ContractError::field(
            "width",
            format!("width times height is {pixels}; at most {} are allowed", limits.max_pixels),
        ));
    }
    Ok((width, height))
}

fn source(operation: &Operation, limits: &Limits) -> Result<JobSource, ContractError> {
    match operation {
        Operation::ImageGeneration(body) => {
            let (width, height) = picture_size(body.width, body.height, limits)?;
            Ok(JobSource::Text { width, height })
        }
        Operation::ImageTransform(body) => Ok(JobSource::Image {
            image: ImageInput::read("init_image", &body.init_image, limits)?,
            strength: strength(body.strength, fingerprint::TRANSFORM_STRENGTH)?,
        }),
        Operation::ImageInpaint(body) => Ok(JobSource::Inpaint {
            image: ImageInput::read("init_image", &body.init_image, limits)?,
            mask: ImageInput::read("mask_image", &body.mask_image, limits)?,
            strength: strength(body.strength, fingerprint::INPAINT_STRENGTH)?,
            masking: Masking::of(body, limits)?,
        }),
    }
}

fn loras(loras: Vec<super::Lora>) -> Result<Vec<LoraRef>, ContractError> {
    if loras.len() > MAX_LORAS {
        return Err(ContractError::field(
            "loras",
            format!("{} of them; at most {MAX_LORAS} are allowed", loras.len()),
        ));
    }
    loras
        .into_iter()
        .enumerate()
        .map(|(i, lora)| {
            let escapes = lora.path.is_empty()
                || lora.path.starts_with('/')
                || lora.path.contains(['\\', '\0'])
                || lora.path.split('/').any(|part| matches!(part, "" | "." | ".."));
            if escapes {
                return Err(ContractError::field(
                    format!("loras[{i}].path"),
                    format!("`{}` is no name inside the LoRA folder", lora.path),
                ));
            }
            let strength = lora.strength.unwrap_or(fingerprint::LORA_STRENGTH);
            if !strength.is_finite() {
                return Err(ContractError::field(format!("loras[{i}].strength"), "must be a finite number"));
            }
            Ok(LoraRef { name: lora.path, strength })
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn job(capability: Capability, body: serde_json::Value) -> Result<Job, ContractError> {
        let body = serde_json::to_vec(&body).unwrap();
        Job::new(Operation::parse(Some(capability), &body)?, &Limits::default())
    }

    #[test]
    fn what_is_out_of_bounds_names_its_field() {
        use serde_json::json;
        for (body, field) in [
            (json!({"prompt": ""}), "`prompt`"),
            (json!({"prompt": "x".repeat(4097)}), "`prompt`"),
            (json!({"prompt": "a", "steps": 0}), "`steps`"),
            (json!({"prompt": "a", "steps": 1_000_000_000}), "`steps`"),
            (json!({"prompt": "a", "width": 63}), "`width`"),
            (json!({"prompt": "a", "width": 100}), "`width`"),
            (json!({"prompt": "a", "height": 100_001}), "`height`"),
            (json!({"prompt": "a", "guidance_scale": -1}), "`guidance_scale`"),
            (json!({"prompt": "a", "guidance_scale": 31}), "`guidance_scale`"),
            (json!({"prompt": "a", "n": 9}), "`n`"),
            (json!({"prompt": "a", "deadline_ms": 0}), "`deadline_ms`"),
            (json!({"prompt": "a", "job_id": "a/b"}), "`job_id`"),
            (json!({"prompt": "a", "worker_id": "a.b"}), "`worker_id`"),
            (json!({"prompt": "a", "hive_id": "*"}), "`hive_id`"),
            (json!({"prompt": "a", "loras": [{"path": "../../etc/passwd"}]}), "`loras[0].path`"),
            (json!({"prompt": "a", "output": {"quality": 0}}), "`output.quality`"),
        ] {
            let message = job(Capability::Generate, body.clone()).unwrap_err().to_string();
            assert!(message.starts_with(field), "{body}: {message}");
        }
        for strength in [0.0, 2.0, -0.5] {
            let body = json!({"prompt": "a", "init_image": "aaaa", "strength": strength});
            let message = job(Capability::Transform, body).unwrap_err().to_string();
            assert!(message.starts_with("`strength`"), "{message}");
        }
    }

    #[test]
    fn an_input_is_measured_before_it_is_decoded() {
        let body = serde_json::json!({"prompt": "a", "init_image": "A".repeat(23 << 20)});
        let error = job(Capability::Transform, body).unwrap_err();
        assert_eq!(error.code(), super::super::ErrorCode::PayloadTooLarge);
    }
}
