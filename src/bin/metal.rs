//! `sd-worker-metal`: the worker on a GPU, through Metal. Without the feature `metal` it says how it is built.

#![deny(clippy::print_stderr, clippy::print_stdout)]

use std::process::ExitCode;

#[cfg(feature = "metal")]
fn main() -> ExitCode {
    sd_worker_rbee::worker::start(open)
}

#[cfg(not(feature = "metal"))]
fn main() -> ExitCode {
    use std::io::Write;

    let how = "cargo build --release --features metal --bin sd-worker-metal";
    // The exit code says the same to whoever does not read.
    let _ = writeln!(std::io::stderr(), "this build has no Metal: {how}");
    ExitCode::FAILURE
}

#[cfg(feature = "metal")]
fn open(index: usize) -> Result<(candle_core::Device, String), String> {
    match candle_core::Device::new_metal(index) {
        Ok(device) => Ok((device, format!("metal:{index}"))),
        Err(error) => Err(format!("--device {index}: {error}; is there such a GPU, and its driver?")),
    }
}
