//! Pictures and what they are made with: one program, a module for each area. `cargo test --test model loras::` runs one.
#![cfg(feature = "worker")]

#[path = "../support/clip.rs"]
mod clip;
#[path = "../support/segmenter.rs"]
mod segmenter_weights;
#[path = "../support/parity.rs"]
mod support;
#[path = "../support/tensor_file.rs"]
mod tensor_file;

mod bad_files;
mod bad_loras;
mod batching;
mod checkpoint_copy;
mod checkpoints;
mod configurations;
mod embeddings;
mod few_steps;
mod files;
mod flux;
mod fp8;
mod generation;
mod half_precision;
mod loras;
mod ops;
mod parity;
mod parity_flux;
mod parity_z_image;
mod pictures;
mod prompts;
mod resume;
mod segmenter;
mod single_file;
mod whole_runs;
mod z_image;
