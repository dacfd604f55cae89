//! `queen-rbee`: the HTTP front of a pool of workers.

#![deny(clippy::print_stderr, clippy::print_stdout)]

use std::{
    io::{self, Write},
    process::ExitCode,
    time::Duration,
};

use clap::Parser;
use sd_worker_rbee::{
    bus::{Moved, NatsOptions, StreamOptions, Streams, connect},
    contract::Subjects,
    environment,
    logging::{self, LogOptions},
    open_files,
    queen::{Issued, QueenError, QueenOptions, run},
};

/// How long the runtime waits for blocking work after the last word: a store's folder may hang.
const RUNTIME_SHUTDOWN: Duration = Duration::from_secs(1);

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
        /// The client's name in logs and limits, and of its jobs; one that has a token gets a second
        name: String,
        /// It sees, cancels and fetches the jobs of all clients, and all dead letters
        #[arg(long)]
        admin: bool,
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

fn main() -> ExitCode {
    let Cli { command, options } = environment::parse();
    let log = match &command {
        Some(Command::NewToken { name, admin }) => return new_token(name, *admin),
        Some(Command::MoveJobs(options)) => &options.log,
        None => &options.log,
    };
    log.init();
    let done = match tokio::runtime::Runtime::new() {
        Ok(runtime) => {
            let done = runtime.block_on(work(command, options));
            runtime.shutdown_timeout(RUNTIME_SHUTDOWN);
            done
        }
        Err(error) => Err(format!("the runtime cannot be started: {error}")),
    };
    if let Err(error) = &done {
        tracing::error!("{error}");
    }
    logging::flush();
    if done.is_ok() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

async fn work(command: Option<Command>, options: QueenOptions) -> Result<(), String> {
    let done = match command {
        Some(Command::MoveJobs(options)) => move_jobs(*options).await,
        Some(Command::NewToken { .. }) | None => {
            let limit = open_files::raise_limit();
            options.check_open_files(limit);
            run(options).await
        }
    };
    done.map_err(|error| error.to_string())
}

async fn move_jobs(options: MoveJobs) -> Result<(), QueenError> {
    let subjects = Subjects::new(&options.subject_prefix)?;
    let client = connect(&options.nats, "queen-rbee move-jobs").await?;
    let streams = Streams::new(client, subjects, options.streams);
    let Moved { jobs, set_aside, letters } = streams.move_jobs().await?;
    tracing::info!(jobs, set_aside, letters, "moved; queens and workers may start");
    Ok(())
}

fn new_token(name: &str, is_admin: bool) -> ExitCode {
    match issue(name, is_admin) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            // The exit code says the same to whoever does not read.
            let _ = writeln!(io::stderr(), "new-token: {error}");
            ExitCode::FAILURE
        }
    }
}

/// The line first: a token without it is good for nothing.
fn issue(name: &str, is_admin: bool) -> Result<(), String> {
    let Issued { token, line } = Issued::new(name, is_admin)?;
    let mut out = io::stdout();
    writeln!(out, "{line}")
        .and_then(|()| out.flush())
        .map_err(|e| format!("the line cannot be written: {e}"))?;
    writeln!(io::stderr(), "{token}")
        .map_err(|e| format!("the token cannot be shown ({e}): remove the line of `{name}` and make another"))
}
