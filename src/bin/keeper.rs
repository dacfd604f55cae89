//! `rbee-keeper`: the command line of the pool.

#![deny(clippy::print_stderr, clippy::print_stdout)]

use std::process::ExitCode;

use sd_worker_rbee::{
    environment,
    keeper::{Cli, run},
    logging,
};

fn main() -> ExitCode {
    let cli: Cli = environment::parse();
    cli.log.init();
    let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            tracing::error!("the runtime cannot be started: {error}");
            logging::flush();
            return ExitCode::FAILURE;
        }
    };
    let code = runtime.block_on(run(cli));
    logging::flush();
    code
}
