//! The networks: arithmetic from a configuration and weights. What is asked of them, and when, is for the families to say.

pub mod clip;
pub mod flux;
pub mod qwen3;
pub mod t5;
pub mod unet;
pub mod z_image;
