//! One picture's life, the same for every family: it is begun, advanced step by step, and finished.
//!
//! | file | what lives there |
//! |---|---|
//! | `spec` | what to draw |
//! | `model` | a loaded checkpoint: begins pictures, advances them, decodes them |
//! | `denoiser` | what a family gives for that: how its network is told what to draw, and asked |
//! | `begin`, `start` | from a request to the first latents |
//! | `drawn` | [`Picture`]: one picture between two steps |
//! | `guidance`, `keep` | what comes between the network's answer and the next latents |
//! | `passes` | which pictures share a pass |
//! | `progress` | what of a picture can be written down |
//! | `preview`, `pixels`, `masking/` | pictures made of latents, and the other way |

mod begin;
mod denoiser;
mod drawn;
mod guidance;
mod keep;
pub mod masking;
mod model;
mod passes;
mod pixels;
mod preview;
mod progress;
mod spec;
mod start;
mod warnings;

pub use denoiser::{Denoiser, PassKey, Plan, Schedule, Steering};
pub use drawn::Picture;
pub use guidance::{Form, Guidance};
pub use model::{Decoders, Model};
pub use passes::{Fit, LATENT_PIXELS_ON_CPU, passes};
pub use pixels::is_drawn_anew;
pub use progress::{Progress, ProgressError};
pub use spec::{Defaults, ImageSpec, Source};
