//! The operations-contract's request: what a client sends, field by field, before any rule is applied.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use super::{
    Capability, ContractError, JobId, OutputFormat, PromptSyntax, SchedulerOptions, limits::RANDOM_SEED_BELOW,
};

/// Declares a body: the fields that every operation has, and its own.
macro_rules! body {
    ($(#[$meta:meta])* $name:ident { $($(#[$field_meta:meta])* $field:ident : $ty:ty),* $(,)? }) => {
        #[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
        $(#[$meta])*
        #[serde(deny_unknown_fields)]
        pub struct $name {
            /// What to draw, 1..=4096 characters.
            #[schemars(length(min = 1, max = 4096))]
            pub prompt: String,
            $($(#[$field_meta])* pub $field: $ty,)*
            /// "localhost" fits every worker; another value routes to workers of that hive.
            #[serde(default, skip_serializing_if = "Option::is_none")]
            pub hive_id: Option<String>,
            /// A name that the pool serves; absent: the worker's first model.
            #[serde(default, skip_serializing_if = "Option::is_none")]
            pub model: Option<String>,
            /// How the prompt is read.
            #[serde(default, skip_serializing_if = "Option::is_none")]
            pub prompt_syntax: Option<PromptSyntax>,
            /// Layers of the text encoder to leave out at its end, as diffusers counts them.
            #[serde(default, skip_serializing_if = "Option::is_none")]
            #[schemars(range(min = 0, max = 11))]
            pub clip_skip: Option<u32>,
            /// What not to draw; an empty one is the same as none.
            #[serde(default, skip_serializing_if = "Option::is_none")]
            #[schemars(length(max = 4096))]
            pub negative_prompt: Option<String>,
            /// Denoising steps; absent: the model's own, else 20.
            #[serde(default, skip_serializing_if = "Option::is_none")]
            #[schemars(range(min = 1, max = 150))]
            pub steps: Option<u32>,
            /// Classifier-free guidance; absent: the model's own, else 7.5. At 1 or below no unconditional pass is run.
            #[serde(default, skip_serializing_if = "Option::is_none")]
            #[schemars(range(min = 0.0, max = 30.0))]
            pub guidance_scale: Option<f64>,
            /// The part of the schedule that is guided, as two fractions of it: step i of N is guided where
            /// from <= i/N < to, with i from 0. The other steps cost half; absent: all are guided.
            #[serde(default, skip_serializing_if = "Option::is_none")]
            #[schemars(inner(range(min = 0.0, max = 1.0)))]
            pub guidance_interval: Option<[f64; 2]>,
            /// How far what guidance makes of a picture's contrast is taken back, 0 (not at all, as without the field) to 1;
            /// 0.7 is usual for models that predict velocity and were trained from noise alone on.
            #[serde(default, skip_serializing_if = "Option::is_none")]
            #[schemars(range(min = 0.0, max = 1.0))]
            pub guidance_rescale: Option<f64>,
            /// Seed of the noise; absent, or -1: drawn from the job's identifier, below 2^53.
            #[serde(default, skip_serializing_if = "Option::is_none")]
            #[schemars(extend("minimum" = -1))]
            pub seed: Option<u64>,
            /// LoRAs of this job.
            #[serde(default, skip_serializing_if = "Vec::is_empty")]
            #[schemars(with = "Option<Vec<Lora>>", length(max = 16))]
            pub loras: Vec<Lora>,
            /// Route to that worker alone.
            #[serde(default, skip_serializing_if = "Option::is_none")]
            pub worker_id: Option<String>,
            /// The idempotency key, 1..=128 of `A-Z a-z 0-9 - _`; absent: a new UUIDv7.
            #[serde(default, skip_serializing_if = "Option::is_none")]
            pub job_id: Option<String>,
            /// Pictures; picture i uses seed + i.
            #[serde(default, skip_serializing_if = "Option::is_none")]
            #[schemars(range(min = 1, max = 8))]
            pub n: Option<u32>,
            /// The scheduler by one of its names, as `GET /v1/workers` lists them; absent: the model's own.
            #[serde(default, skip_serializing_if = "Option::is_none")]
            pub scheduler: Option<String>,
            /// Options of the scheduler, in place of those of the model's configuration.
            #[serde(default, skip_serializing_if = "Option::is_none")]
            pub scheduler_options: Option<SchedulerOptions>,
            /// How the pictures are encoded.
            #[serde(default, skip_serializing_if = "Option::is_none")]
            pub output: Option<Output>,
            /// Steps between previews; 0: none.
            #[serde(default, skip_serializing_if = "Option::is_none")]
            pub preview_every: Option<u32>,
            /// false: one reply, the terminal event.
            #[serde(default, skip_serializing_if = "Option::is_none")]
            pub stream: Option<bool>,
            /// Milliseconds from acceptance; past them the job ends in `deadline_exceeded`.
            #[serde(default, skip_serializing_if = "Option::is_none")]
            #[schemars(range(min = 1))]
            pub deadline_ms: Option<u64>,
            /// Where queen posts events, signed as Standard Webhooks says; refused by a queen that posts none, ignored by
            /// workers, with a warning.
            #[serde(default, skip_serializing_if = "Option::is_none")]
            #[schemars(length(max = 2000))]
            pub webhook_url: Option<String>,
            /// Which events queen posts: accepted, progress, complete, error, cancelled; absent: the last three. Ignored by
            /// workers.
            #[serde(default, skip_serializing_if = "Option::is_none")]
            pub webhook_events: Option<Vec<String>>,
        }
    };
}

body! {
    /// Text to image.
    GenerationBody {
        /// Pixels, a multiple of 8, 64..=2048; absent: the model's native size.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        #[schemars(range(min = 64, max = 2048), extend("multipleOf" = 8))]
        width: Option<u32>,
        /// Pixels, a multiple of 8, 64..=2048; absent: the model's native size.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        #[schemars(range(min = 64, max = 2048), extend("multipleOf" = 8))]
        height: Option<u32>,
    }
}

body! {
    /// Image to image.
    #[schemars(transform = super::schema::allow_input_image)]
    TransformBody {
        /// The picture to start from: base64, a `data:` URL, or `object:<key>`.
        #[serde(alias = "input_image")]
        init_image: String,
        /// How far to go from it, above 0, at most 1 (0.8).
        #[serde(default, skip_serializing_if = "Option::is_none")]
        #[schemars(extend("exclusiveMinimum" = 0, "maximum" = 1))]
        strength: Option<f64>,
    }
}

body! {
    /// Repaint what a mask selects.
    #[schemars(transform = super::schema::allow_input_image, transform = super::schema::ask_for_a_mask)]
    InpaintBody {
        /// The picture to start from: base64, a `data:` URL, or `object:<key>`.
        #[serde(alias = "input_image")]
        init_image: String,
        /// White: repaint; black: keep. In place of it, `mask_points` or `mask_box`.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        mask_image: Option<String>,
        /// What to repaint, pointed at: `[x, y]` in pixels of the upright picture, 1..=64 of them. A worker with a segmenter
        /// makes the mask of it.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        #[schemars(length(min = 1, max = 64))]
        mask_points: Option<Vec<[u32; 2]>>,
        /// One for each of `mask_points`: 1 lies on what to repaint, 0 beside it; absent: all are 1.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        #[schemars(length(min = 1, max = 64), inner(range(min = 0, max = 1)))]
        mask_labels: Option<Vec<u32>>,
        /// A box around what to repaint, alone or beside `mask_points`: `[left, top, right, bottom]` in pixels of the upright
        /// picture.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        mask_box: Option<[u32; 4]>,
        /// How far to go from it, above 0, at most 1 (1.0).
        #[serde(default, skip_serializing_if = "Option::is_none")]
        #[schemars(extend("exclusiveMinimum" = 0, "maximum" = 1))]
        strength: Option<f64>,
        /// Soft edges of the mask: the standard deviation of a Gaussian blur in pixels, 0..=64 (0).
        #[serde(default, skip_serializing_if = "Option::is_none")]
        #[schemars(range(min = 0, max = 64))]
        mask_blur: Option<u32>,
        /// Draw the part around the mask alone, with so many pixels around what is white, 0..=2048, and lay it into the
        /// picture; absent: the whole picture is drawn.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        #[schemars(range(min = 0, max = 2048))]
        padding_mask_crop: Option<u32>,
        /// With `padding_mask_crop`: pixels that the part is drawn at, a multiple of 8, 64..=2048; absent: the model's
        /// native size.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        #[schemars(range(min = 64, max = 2048), extend("multipleOf" = 8))]
        width: Option<u32>,
        /// With `padding_mask_crop`: pixels that the part is drawn at, a multiple of 8, 64..=2048; absent: the model's
        /// native size.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        #[schemars(range(min = 64, max = 2048), extend("multipleOf" = 8))]
        height: Option<u32>,
    }
}

/// A LoRA and how strongly it is applied.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Lora {
    /// A name inside the worker's LoRA folder.
    pub path: String,
    /// 1.0 unless told.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub strength: Option<f64>,
}

/// How the pictures are encoded.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Output {
    /// png, jpeg, webp.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub format: Option<OutputFormat>,
    /// Of JPEG: 1..=100 (90).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 100))]
    pub quality: Option<u8>,
}

/// What a client asks for. Everything that asks for a picture speaks this.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(tag = "operation")]
pub enum Operation {
    /// Text to image.
    #[serde(rename = "image_generation")]
    ImageGeneration(GenerationBody),
    /// Image to image.
    #[serde(rename = "image_transform")]
    ImageTransform(TransformBody),
    /// Repaint what a mask selects.
    #[serde(rename = "image_inpaint")]
    ImageInpaint(InpaintBody),
}

/// Runs an expression on whichever body this is.
macro_rules! on_body {
    ($operation:expr, $body:ident => $value:expr) => {
        match $operation {
            Operation::ImageGeneration($body) => $value,
            Operation::ImageTransform($body) => $value,
            Operation::ImageInpaint($body) => $value,
        }
    };
}
pub(super) use on_body;

impl Operation {
    /// Which capability it needs.
    pub fn capability(&self) -> Capability {
        match self {
            Self::ImageGeneration(_) => Capability::Generate,
            Self::ImageTransform(_) => Capability::Transform,
            Self::ImageInpaint(_) => Capability::Inpaint,
        }
    }

    /// Gives it a job id and a seed where it has none, so that whoever runs it, however often, draws the same.
    /// The seed is drawn from the job id: the same id with the same body is the same request.
    ///
    /// # Errors
    /// [`ContractError::Field`] when `job_id` has characters or a length that are not allowed.
    pub fn settle(&mut self) -> Result<JobId, ContractError> {
        on_body!(self, body => {
            let id = match body.job_id.take() {
                Some(id) => JobId::new(id)?,
                None => JobId::generate(),
            };
            body.job_id = Some(id.to_string());
            body.seed.get_or_insert_with(|| seed_of(&id));
            Ok(id)
        })
    }

    /// The body as it travels.
    pub fn to_json(&self) -> Vec<u8> {
        serde_json::to_vec(self).expect("an operation has string keys only")
    }

    /// The model asked for.
    pub fn model(&self) -> Option<&str> {
        on_body!(self, body => body.model.as_deref())
    }

    /// What is to be drawn.
    pub fn prompt(&self) -> &str {
        on_body!(self, body => &body.prompt)
    }

    /// The scheduler asked for.
    pub fn scheduler(&self) -> Option<&str> {
        on_body!(self, body => body.scheduler.as_deref())
    }

    /// The fields that ask for webhooks.
    pub fn webhook_fields(&self) -> Vec<&'static str> {
        on_body!(self, body => {
            let url = body.webhook_url.is_some().then_some("webhook_url");
            url.into_iter().chain(body.webhook_events.is_some().then_some("webhook_events")).collect()
        })
    }

    /// The worker asked for.
    pub fn worker_id(&self) -> Option<&str> {
        on_body!(self, body => body.worker_id.as_deref())
    }

    /// The hive asked for; `None` for "localhost", which fits every worker.
    pub fn hive_id(&self) -> Option<&str> {
        on_body!(self, body => body.hive_id.as_deref()).filter(|hive| *hive != "localhost")
    }

    /// The job id as sent, unchecked.
    pub fn job_id(&self) -> Option<&str> {
        on_body!(self, body => body.job_id.as_deref())
    }

    /// Gives it the job id that came beside it.
    pub fn set_job_id(&mut self, id: &JobId) {
        on_body!(self, body => body.job_id = Some(id.to_string()));
    }

    /// Names the model of a request that names none.
    pub fn set_model(&mut self, model: &str) {
        on_body!(self, body => body.model = Some(model.to_owned()));
    }

    /// Gives it a time to be done in, in milliseconds from acceptance.
    pub fn set_deadline_ms(&mut self, ms: u64) {
        on_body!(self, body => body.deadline_ms = Some(ms));
    }

    /// The input pictures, by field name, to be replaced by references.
    pub fn images_mut(&mut self) -> Vec<(&'static str, &mut String)> {
        match self {
            Self::ImageGeneration(_) => vec![],
            Self::ImageTransform(body) => vec![("init_image", &mut body.init_image)],
            Self::ImageInpaint(body) => {
                let mask = body.mask_image.as_mut().map(|mask| ("mask_image", mask));
                [("init_image", &mut body.init_image)].into_iter().chain(mask).collect()
            }
        }
    }
}

/// Lower-case hexadecimal.
pub(crate) fn hex(bytes: &[u8]) -> String {
    use std::fmt::Write;
    bytes.iter().fold(String::with_capacity(bytes.len() * 2), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}

fn seed_of(id: &JobId) -> u64 {
    let digest = Sha256::digest(id.as_str());
    let head = digest.first_chunk::<8>().expect("a SHA-256 digest has 32 bytes");
    u64::from_le_bytes(*head) % RANDOM_SEED_BELOW
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_id_and_body_settle_to_the_same_request() {
        let body = br#"{"prompt":"a","job_id":"j1"}"#;
        let settled = || {
            let mut operation = Operation::parse(Some(Capability::Generate), body).unwrap();
            operation.settle().unwrap();
            operation
        };
        assert_eq!(settled(), settled());
        let Operation::ImageGeneration(body) = settled() else { unreachable!() };
        assert!(body.seed.unwrap() < RANDOM_SEED_BELOW);
    }

    #[test]
    fn an_operation_is_read_back_as_it_was_written() {
        let body =
            br#"{"prompt":"a","steps":3,"seed":18446744073709551615,"loras":[{"path":"x","strength":0.5}]}"#;
        let operation = Operation::parse(Some(Capability::Generate), body).unwrap();
        assert_eq!(Operation::parse(None, &operation.to_json()).unwrap(), operation);
    }
}
