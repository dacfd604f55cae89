//! `sd-worker-metal`: the worker on a GPU, through Metal. Without the feature `metal` it says how it is built.

use std::process::ExitCode;

#[cfg(feature = "metal")]
fn main() -> ExitCode {
    sd_worker_rbee::worker::start(open)
}

#[cfg(not(feature = "metal"))]
fn main() -> ExitCode {
    eprintln!("this build has no Metal: cargo build --release --features metal --bin sd-worker-metal");
    ExitCode::FAILURE
}

#[cfg(feature = "metal")]
fn open(index: usize) -> Result<(candle_core::Device, String), String> {
    match candle_core::Device::new_metal(index) {
        Ok(device) => Ok((device, format!("metal:{index}"))),
        Err(error) => Err(format!("--device {index}: {error}; is there such a GPU, and its driver?")),
    }
}
