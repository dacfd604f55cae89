//! `queen-rbee`: the HTTP front of a pool of workers.

use std::{io::Write, process::ExitCode};

use clap::Parser;
use sd_worker_rbee::{
    bus::{Moved, NatsOptions, StreamOptions, Streams, connect},
    contract::Subjects,
    logging::LogOptions,
    queen::{Issued, QueenError, QueenOptions, run},
};

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
    /// Moves the durable jobs that an earlier version left in its streams; once, while no queen and no worker runs
    MoveJobs(Box<MoveJobs>),
}

#[derive(clap::Args)]
struct MoveJobs {
    /// Goes in front of every subject
    #[arg(long, env = "SD_SUBJECT_PREFIX", default_value = "", hide_default_value = true)]
    subject_prefix: String,
    #[command(flatten)]
    nats: NatsOptions,
    #[command(flatten)]
    streams: StreamOptions,
    #[command(flatten)]
    log: LogOptions,
}

#[tokio::main]
async fn main() -> ExitCode {
    let Cli { command, options } = Cli::parse();
    match command {
        None => {}
        Some(Command::NewToken { name }) => return new_token(&name),
        Some(Command::MoveJobs(options)) => {
            options.log.init();
            return match move_jobs(*options).await {
                Ok(Moved { jobs, set_aside, letters }) => {
                    tracing::info!(jobs, set_aside, letters, "moved; queens and workers may start");
                    ExitCode::SUCCESS
                }
                Err(error) => {
                    tracing::error!("{error}");
                    ExitCode::FAILURE
                }
            };
        }
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

async fn move_jobs(options: MoveJobs) -> Result<Moved, QueenError> {
    let subjects = Subjects::new(&options.subject_prefix)?;
    let client = connect(&options.nats, "queen-rbee move-jobs").await?;
    Ok(Streams::new(client, subjects, options.streams).move_jobs().await?)
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
