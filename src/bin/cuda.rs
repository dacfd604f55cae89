//! `sd-worker-cuda`: the worker on a GPU, through CUDA. Without the feature `cuda` it says how it is built.

use std::process::ExitCode;

#[cfg(feature = "cuda")]
fn main() -> ExitCode {
    sd_worker_rbee::worker::start(open)
}

#[cfg(not(feature = "cuda"))]
fn main() -> ExitCode {
    eprintln!("this build has no CUDA: cargo build --release --features cuda --bin sd-worker-cuda");
    ExitCode::FAILURE
}

#[cfg(feature = "cuda")]
fn open(index: usize) -> Result<(candle_core::Device, String), String> {
    match sd_worker_rbee::models::cuda::open(index) {
        Ok(device) => Ok((device, format!("cuda:{index}"))),
        Err(error) => Err(error.to_string()),
    }
}
