//! One picture's life, the same for every family.

pub mod masking;
mod passes;
pub mod pixels;
mod preview;
mod progress;
mod spec;
mod warnings;

pub use passes::{Fit, LATENT_PIXELS_ON_CPU, in_passes, passes};
pub use pixels::is_drawn_anew;
pub use preview::Previews;
pub use progress::{Progress, ProgressError, Trajectory};
pub use spec::{Defaults, ImageSpec, Source};
pub use warnings::Warnings;
