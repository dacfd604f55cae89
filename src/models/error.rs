//! Why a model could not be loaded or could not draw.

use super::{HubRepo, SimError, memory::human};
use crate::{
    contract::ErrorCode,
    diffusion::{DiffusionError, says_device_failed},
};

/// Why a model could not be loaded or could not draw.
#[derive(Debug, thiserror::Error)]
pub enum ModelError {
    /// A checkpoint.
    #[error(transparent)]
    Diffusion(#[from] DiffusionError),
    /// A simulation.
    #[error(transparent)]
    Sim(#[from] SimError),
    /// A repository of the hub that is not in a folder yet: a defect of the caller.
    #[error("`{0}` was not fetched from the hub before it was to be loaded")]
    NotFetched(HubRepo),
    /// No model of that name; workers check this before a request is made.
    #[error("`model`: this worker has no `{0}`")]
    Unknown(String),
    /// A model that can never be loaded here.
    #[error(
        "`{model}`: its weights take {} and at most {} may be used ({limit}): choose a smaller --dtype or model, or \
         give it more memory",
        human(*needed),
        human(*available)
    )]
    TooLarge {
        /// The model.
        model: String,
        /// Bytes of its weights as they would be kept.
        needed: u64,
        /// Bytes that there are.
        available: u64,
        /// What limits them.
        limit: Limit,
    },
    /// A model that leaves no room for the pictures that jobs may ask for.
    #[error(
        "`{model}`: its weights take {}, computing a picture of {pixels} pixels (--max-pixels) up to {} beside them, and \
         --memory-limit is {}: choose a smaller --dtype or model, {}or a higher limit",
        human(*weights),
        human(*beside),
        human(*limit),
        smaller_pictures(*possible)
    )]
    OverLimit {
        /// The model.
        model: String,
        /// Bytes of its weights as they would be kept.
        weights: u64,
        /// Bytes of all else.
        beside: u64,
        /// The limit.
        limit: u64,
        /// The most pixels that a job may ask for.
        pixels: u64,
        /// The most that would fit; none where no picture would.
        possible: Option<u64>,
    },
    /// A model that cannot be loaded now.
    #[error(
        "`{model}`: its weights take {} and {} are free now{}: try again, or give it more memory",
        human(*needed),
        human(*available),
        busy_models(busy)
    )]
    NoRoom {
        /// The model.
        model: String,
        /// Bytes of its weights as they would be kept.
        needed: u64,
        /// Bytes that are free after every idle model was put out.
        available: u64,
        /// Models that stay because jobs run with them.
        busy: Vec<String>,
    },
    /// A model that was to be in memory from the start.
    #[error(
        "`{model}`: its weights take {} and {} are left for it{}: name fewer models in --preload, or give them more memory",
        human(*needed),
        human(*available),
        beside_models(beside)
    )]
    NotPreloaded {
        /// The model.
        model: String,
        /// Bytes of its weights as they would be kept.
        needed: u64,
        /// Bytes that are free.
        available: u64,
        /// Models that were loaded before it.
        beside: Vec<String>,
    },
    /// The code that reads a model panicked over its files.
    #[error("`{model}`: reading it panicked: {reason}")]
    Panicked {
        /// The model.
        model: String,
        /// What the panic says.
        reason: String,
    },
    /// A picture was given to a model that did not begin it: a defect of the caller.
    #[error("a picture was handed to a model that did not begin it")]
    Foreign,
}

/// What limits the memory for weights.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Limit {
    /// The flag.
    Flag,
    /// What `--memory-limit` leaves beside the largest picture.
    Memory,
    /// What the machine, or its control group, has free.
    Machine,
    /// What the GPU has free.
    Device,
}

impl std::fmt::Display for Limit {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Flag => "--model-memory",
            Self::Memory => "--memory-limit, less what the largest picture takes",
            Self::Machine => "free memory of this machine",
            Self::Device => "free memory of this GPU",
        })
    }
}

fn busy_models(busy: &[String]) -> String {
    if busy.is_empty() { String::new() } else { format!(" (jobs run with {})", busy.join(", ")) }
}

fn beside_models(beside: &[String]) -> String {
    if beside.is_empty() { String::new() } else { format!(" beside {}", beside.join(", ")) }
}

fn smaller_pictures(possible: Option<u64>) -> String {
    possible.map(|pixels| format!("--max-pixels {pixels}, ")).unwrap_or_default()
}

impl ModelError {
    /// As whoever sent a job is told it: files by their names, without the folders of this machine.
    #[must_use]
    pub fn without_folders(self) -> Self {
        match self {
            Self::Diffusion(error) => Self::Diffusion(error.without_folders()),
            other => other,
        }
    }

    /// The code on the wire.
    pub fn code(&self) -> ErrorCode {
        match self {
            Self::Diffusion(error) => error.code(),
            Self::Sim(SimError::OutOfMemory)
            | Self::TooLarge { .. }
            | Self::OverLimit { .. }
            | Self::NoRoom { .. }
            | Self::NotPreloaded { .. } => ErrorCode::OutOfMemory,
            Self::Sim(SimError::NonFinite) => ErrorCode::NonFinite,
            Self::Unknown(_) => ErrorCode::UnsupportedModel,
            Self::Sim(SimError::Option { .. } | SimError::Device)
            | Self::NotFetched(_)
            | Self::Panicked { .. }
            | Self::Foreign => ErrorCode::Internal,
        }
    }

    /// Whether the device failed, and not what was computed on it: nothing can be computed on it any more.
    pub fn is_of_device(&self) -> bool {
        match self {
            Self::Diffusion(error) => error.is_of_device(),
            Self::Sim(error) => matches!(error, SimError::Device),
            Self::Panicked { reason, .. } => says_device_failed(reason),
            Self::NotFetched(_)
            | Self::Unknown(_)
            | Self::TooLarge { .. }
            | Self::OverLimit { .. }
            | Self::NoRoom { .. }
            | Self::NotPreloaded { .. }
            | Self::Foreign => false,
        }
    }
}
