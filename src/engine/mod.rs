//! Who computes next, and on which thread. One engine per device; nothing here knows NATS, HTTP or the store.

mod by_hand;
mod faults;
mod generation_engine;
mod loading;
mod pipeline;
mod request;
mod request_queue;
mod running_job;
mod sharing;
mod snapshot;
mod turns;
mod view;
mod watch;

pub use by_hand::ByHand;
pub use generation_engine::{EngineHandle, EngineLost, GenerationEngine};
pub use pipeline::{InferencePipeline, PipelineError};
pub use request::{CancelFlag, EngineError, EngineTimings, Generated, GenerationRequest, GenerationResponse};
pub use request_queue::{EngineGone, RequestQueue, RequestReceiver};
pub use snapshot::Snapshot;
pub use view::EngineView;
pub use watch::{Lookout, STEP_LIMIT, Stuck};
