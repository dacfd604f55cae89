//! `queen-rbee`: the HTTP front of a pool of workers.

use std::process::ExitCode;

use clap::Parser;
use sd_worker_rbee::queen::{QueenOptions, run};

#[tokio::main]
async fn main() -> ExitCode {
    let options = QueenOptions::parse();
    options.log.init();
    match run(options).await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            tracing::error!("{error}");
            ExitCode::FAILURE
        }
    }
}
