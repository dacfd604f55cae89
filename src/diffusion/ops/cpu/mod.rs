//! The kernels of a CPU, in f32: chosen for its vectors when they run, on all threads.
//!
//! | file | what lives there |
//! |---|---|
//! | `lanes`, `simd`, `floats` | vectors of each level of processor, and functions that are compiled for each |
//! | `tile`, `parts` | the product of matrices that all of it comes down to, and how work is divided among threads |
//! | `linear`, `conv`, `winograd/`, `attention`, `norm`, `elementwise` | what layers ask for |
//! | `wide_weights` | weights of any type, read as f32 |
//! | `scratch` | memory that is used again |

pub mod attention;
pub mod conv;
pub mod elementwise;
pub mod floats;
pub mod lanes;
pub mod linear;
pub mod norm;
mod parts;
pub mod scratch;
pub mod simd;
mod tile;
mod wide_weights;
mod winograd;
