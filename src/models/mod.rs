//! Which checkpoints there are, where they come from, and which stay in memory. A model is a
//! checkpoint of any family, or a simulation.

#[cfg(feature = "cuda")]
pub mod cuda;
mod device;
mod error;
#[cfg(feature = "hub")]
mod hub;
mod hub_repo;
mod identity;
mod lora_digests;
mod loras;
mod memory;
mod model;
mod model_options;
mod progress;
mod set;
mod sim;
mod source;

pub use error::{Limit, ModelError};
#[cfg(feature = "hub")]
pub use hub::{Hub, HubError, HubOptions};
pub use hub_repo::HubRepo;
pub use identity::{LoadedIdentity, ModelIdentity};
pub use loras::{LoraFolder, LoraNameError};
pub use memory::MemoryLimit;
pub use model::{Model, ModelInfo, Needs, Picture};
pub use model_options::ModelOptions;
pub use progress::{Progress, ProgressError};
pub(crate) use set::panic_message;
pub use set::{Held, ModelSet, Reserved};
pub use sim::{Sim, SimError};
pub use source::{ModelSource, ModelSources, Origin, SourceError};
