//! `sd-worker-cpu`: the worker on the CPU.

#![deny(clippy::print_stderr, clippy::print_stdout)]

use std::process::ExitCode;

fn main() -> ExitCode {
    sd_worker_rbee::worker::start(|index| match index {
        0 => Ok((candle_core::Device::Cpu, "cpu".into())),
        _ => Err(format!("--device {index}: there is only one CPU; sd-worker-cuda has several devices")),
    })
}
