//! The operations-contract: what travels between keeper, queen, the bus and the workers.
//!
//! Plain data and the rules on it; no transport, no store, no image code.

mod asyncapi;
mod capability;
mod control;
mod error;
mod event;
mod fingerprint;
mod guidance_interval;
pub mod headers;
mod http_code;
mod ids;
mod image_input;
pub mod inline;
mod job;
pub mod limits;
mod masking;
mod nearest;
mod operation;
mod parse;
mod pointing;
mod queued;
mod responses;
mod scheduler_names;
mod scheduler_options;
pub mod schema;
mod subjects;
mod ticket;
mod trace;
mod values;
mod webhook;
mod worker_info;

pub use asyncapi::asyncapi;
pub use capability::Capability;
pub use control::{Command, MAX_COMMAND};
pub use error::{ContractError, Disposition, ErrorCode};
pub use event::{CompleteEvent, Event, EventKind, ImageResult, MaskResult, Timings};
pub use fingerprint::Fingerprint;
pub use guidance_interval::GuidanceInterval;
pub use http_code::{ErrorBody, ErrorDetail, HttpCode, WireCode};
pub use ids::{HiveId, JobId, WorkerId};
pub use image_input::ImageInput;
pub use job::{Job, JobSource, LoraRef, OutputFormat, PromptSyntax};
pub use limits::Limits;
pub use masking::{MaskCrop, Masking};
pub(crate) use operation::hex;
pub use operation::{GenerationBody, InpaintBody, Lora, Operation, Output, TransformBody};
pub use parse::{object, unmarked};
pub use pointing::{MaskBox, MaskPoint, MaskSource, Pointing};
pub use queued::Queued;
pub use responses::{
    DeadLetter, DeadLetters, Health, JobList, JobResponse, JobStatus, JobSummary, JobView, Workers,
};
pub use scheduler_names::{SCHEDULERS, check_scheduler};
pub use scheduler_options::{PredictionType, SchedulerOptions, TimestepSpacing};
pub use subjects::{Subjects, model_token};
pub use ticket::{About, SHOWN_PROMPT, Ticket};
pub use trace::TraceContext;
pub use webhook::{MAX_WEBHOOK_URL, WEBHOOK_EVENTS, Webhook, WebhookBody};
pub use worker_info::{MAX_HEARTBEAT, MAX_LORA_NAMES, WorkerInfo, WorkerLimits, WorkerLoras, WorkerStatus};
