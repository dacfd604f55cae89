//! `queen-rbee`: the HTTP front of a pool of workers.

use std::{io::Write, process::ExitCode};

use clap::Parser;
use sd_worker_rbee::queen::{Issued, QueenOptions, run};

/// The HTTP front of a pool of workers: takes jobs, hands them to workers over NATS, streams their events
#[derive(Parser)]
#[command(name = "queen-rbee", version, args_conflicts_with_subcommands = true)]
struct Cli {
    #[command(subcommand)]
    command: Option<Command>,
    #[command(flatten)]
    options: QueenOptions,
}

#[derive(clap::Subcommand)]
enum Command {
    /// Makes a token for a client: shown once on standard error; its line for --token-file goes to standard output
    NewToken {
        /// The client's name in logs and limits; one that has a token gets a second
        name: String,
    },
}

#[tokio::main]
async fn main() -> ExitCode {
    let Cli { command, options } = Cli::parse();
    if let Some(Command::NewToken { name }) = command {
        return new_token(&name);
    }
    options.log.init();
    match run(options).await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            tracing::error!("{error}");
            ExitCode::FAILURE
        }
    }
}

fn new_token(name: &str) -> ExitCode {
    match Issued::new(name) {
        // The line first: a token without it is good for nothing.
        Ok(Issued { token, line }) => match writeln!(std::io::stdout(), "{line}") {
            Ok(()) => {
                eprintln!("{token}");
                ExitCode::SUCCESS
            }
            Err(error) => {
                eprintln!("new-token: the line cannot be written: {error}");
                ExitCode::FAILURE
            }
        },
        Err(error) => {
            eprintln!("new-token: {error}");
            ExitCode::FAILURE
        }
    }
}
