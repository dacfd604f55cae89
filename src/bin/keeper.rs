//! `rbee-keeper`: the command line of the pool.

use std::process::ExitCode;

use clap::Parser;
use sd_worker_rbee::keeper::{Cli, run};

#[tokio::main(flavor = "current_thread")]
async fn main() -> ExitCode {
    let cli = Cli::parse();
    cli.log.init();
    run(cli).await
}
