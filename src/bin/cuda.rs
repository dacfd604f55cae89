//! `sd-worker-cuda`: the worker on a GPU, through CUDA. Without the feature `cuda` it says how it is built.

#![deny(clippy::print_stderr, clippy::print_stdout)]

use std::process::ExitCode;

#[cfg(feature = "cuda")]
fn main() -> ExitCode {
    sd_worker_rbee::worker::start(open)
}

#[cfg(not(feature = "cuda"))]
fn main() -> ExitCode {
    use std::io::Write;

    let how = "cargo build --release --features cuda --bin sd-worker-cuda";
    // The exit code says the same to whoever does not read.
    let _ = writeln!(std::io::stderr(), "this build has no CUDA: {how}");
    ExitCode::FAILURE
}

#[cfg(feature = "cuda")]
fn open(index: usize) -> Result<(candle_core::Device, String), String> {
    match sd_worker_rbee::models::cuda::open(index) {
        Ok(device) => Ok((device, format!("cuda:{index}"))),
        Err(error) => Err(error.to_string()),
    }
}
