//! Families of models: how a checkpoint is recognised, what it is made of, and how its network is told what to draw.
//!
//! A family is a folder and its line in [`FAMILIES`]; `unet/` is what two of them stand on, `originals/` are the networks that
//! several have, in files.

mod family;
pub mod flux;
mod opened;
mod originals;
mod sd;
mod sdxl;
mod stable_diffusion;
pub mod unet;
pub mod z_image;

pub use family::{Described, Family, by_pipeline};
pub use opened::{Inspection, Named, Opened, inspect, open, open_with};

/// Every family that is computed here.
pub static FAMILIES: [&dyn Family; 4] = [&sd::Sd, &sdxl::Sdxl, &flux::FluxFamily, &z_image::ZImageFamily];
