//! What the three binaries have in common: options, logging, threads, the runtime, the exit code.

use std::{process::ExitCode, time::Duration};

use super::{options::WorkerOptions, run::run};
use crate::{environment, logging, open_files};

/// How long the runtime waits for blocking work after the last word.
pub const RUNTIME_SHUTDOWN: Duration = Duration::from_secs(1);

/// Parses the command line and runs a worker on the device that `open` gives for `--device`, with its name.
/// A message of `open` is what to do about it. The first thing that `main` does.
pub fn start(open: impl FnOnce(usize) -> Result<(candle_core::Device, String), String>) -> ExitCode {
    let options: WorkerOptions = environment::parse();
    options.log.init();
    open_files::raise_limit();
    let code = match prepare(&options, open) {
        Ok((runtime, device, name)) => {
            let code = runtime.block_on(run(options, device, &name));
            runtime.shutdown_timeout(RUNTIME_SHUTDOWN);
            code
        }
        Err(message) => {
            tracing::error!("{message}");
            ExitCode::FAILURE
        }
    };
    logging::flush();
    code
}

fn prepare(
    options: &WorkerOptions,
    open: impl FnOnce(usize) -> Result<(candle_core::Device, String), String>,
) -> Result<(tokio::runtime::Runtime, candle_core::Device, String), String> {
    if let Some(threads) = options.threads {
        rayon::ThreadPoolBuilder::new()
            .num_threads(usize::from(threads))
            .build_global()
            .map_err(|error| format!("--threads: {error}"))?;
    }
    let (device, name) = open(options.device)?;
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .map_err(|error| format!("the runtime cannot be started: {error}"))?;
    Ok((runtime, device, name))
}
