//! `sd-worker-cpu`: the worker on the CPU.

use std::process::ExitCode;

fn main() -> ExitCode {
    sd_worker_rbee::worker::start(|index| match index {
        0 => Ok((candle_core::Device::Cpu, "cpu".into())),
        _ => Err(format!("--device {index}: there is only one CPU; sd-worker-cuda has several devices")),
    })
}
