//! The command line: asks queen for pictures over HTTP, follows the job's events, saves what it drew.
//!
//! `args` is what was typed, `request` the operation made of it, `output` the places for its pictures. `client` is queen over
//! HTTP, `follow` a job's events (read by `sse` and `heard`), `waiting` what is said while there are none, `save` its pictures.
//! `report` is what the user sees, through `console`; `signals` what stops it. `jobs`, `fleet` and `dlq` are the other verbs,
//! `profile` what a file says in place of flags, `shell` completions and manual pages, `terminal` how one shows pictures.
//! Nothing here knows of NATS, the store or candle.

mod args;
mod client;
mod console;
mod dlq;
mod error;
mod fleet;
mod follow;
mod heard;
mod jobs;
mod output;
mod profile;
mod report;
mod request;
mod save;
mod shell;
mod signals;
mod sse;
mod table;
mod terminal;
mod waiting;

use std::{cell::Cell, future::Future, process::ExitCode, time::Duration};

pub use args::{Cli, Command, Connection, DlqCommand, ImageCommand, JobCommand, ModelCommand, WorkerCommand};
pub use error::KeeperError;
pub use signals::Stop;

use crate::contract::{ErrorCode, Event, EventKind, JobId};
use args::Common;
use client::Queen;
use follow::Follower;
use output::Plan;
use profile::Way;
use report::Reporter;
use request::Request;
use signals::Signals;

/// The longest that queen is asked to cancel a job, before keeper ends without its answer.
const CANCEL_FOR: Duration = Duration::from_secs(5);
/// The pause before it is asked again about a job that had not reached it yet.
const CANCEL_PAUSE: Duration = Duration::from_millis(100);

/// Does what the command line asks for. Errors are printed here; the exit code says which kind it was.
pub async fn run(cli: Cli) -> ExitCode {
    let mut reporter = match &cli.command {
        Command::Image { .. } | Command::Job { command: JobCommand::Watch { .. } } => {
            Reporter::new(cli.json, cli.quiet)
        }
        _ => Reporter::plain(cli.json, cli.quiet),
    };
    let done = match &cli.command {
        Command::Image { command } if command.common().shows_previews() => reporter.show_pictures(),
        _ => Ok(()),
    };
    let done = match done {
        Ok(()) => obey(&cli, &reporter).await,
        Err(why) => Err(KeeperError::Usage(format!("--preview -: {why}; --preview FILE.jpg takes any"))),
    };
    if let Err(error) = &done {
        reporter.error(error);
    }
    reporter.last_words().await;
    match done {
        Ok(()) => ExitCode::SUCCESS,
        // Not by returning: a look-up of a name, which nothing can stop, would keep the process.
        Err(KeeperError::Interrupted { stop, .. }) => std::process::exit(stop.exit_code().into()),
        Err(error) => ExitCode::from(error.exit_code()),
    }
}

async fn obey(cli: &Cli, reporter: &Reporter) -> Result<(), KeeperError> {
    let done = match &cli.command {
        Command::Image { command } => return draw(cli, command, reporter).await,
        Command::Man { folder } => return shell::manual(folder),
        Command::Completions { shell } => {
            reporter.text(shell::completions(*shell).trim_end()).await;
            Ok(())
        }
        Command::Job { command } => jobs::run(&queen(cli)?, command, reporter).await,
        Command::Worker { command } => fleet::workers(&queen(cli)?, command, reporter).await,
        Command::Model { command } => {
            fleet::models(&Queen::patient(&Way::new(&cli.connection)?)?, command, reporter).await
        }
        Command::Dlq { command } => dlq::run(&queen(cli)?, command, reporter).await,
    };
    let told = reporter.flush().await;
    done.and(told.map_err(|source| KeeperError::Output { path: "standard output".into(), source }))
}

fn queen(cli: &Cli) -> Result<Queen, KeeperError> {
    Queen::new(&Way::new(&cli.connection)?)
}

/// One job, from the flags to the files.
async fn draw(cli: &Cli, command: &ImageCommand, reporter: &Reporter) -> Result<(), KeeperError> {
    let common = command.common();
    let way = Way::new(&cli.connection)?;
    let queen = Queen::new(&way)?;
    let request = request::build(command, way.model.as_deref(), cli.json)?;
    let job = request.job.clone();
    // Not before: until something is sent a signal may end keeper by itself.
    let mut signals = Signals::new();
    let is_taken = Cell::new(false);
    let work = async {
        let done = match common.no_wait {
            true => send(&queen, request, reporter).await,
            false => draw_job(&queen, request, reporter, &is_taken).await,
        };
        let told = reporter.flush().await;
        done.and(told.map_err(|source| KeeperError::StandardOutput { source }))
    };
    tokio::select! {
        result = within(common, work) => {
            if let Err(KeeperError::TimedOut { .. }) = &result {
                reporter.stop_bar();
                cancel(&queen, &job, reporter, is_taken.get()).await;
            }
            result
        }
        stop = signals.next() => {
            reporter.stop_bar();
            tokio::select! {
                () = cancel(&queen, &job, reporter, is_taken.get()) => {}
                _ = signals.next() => {}
            }
            Err(KeeperError::Interrupted { job, stop })
        }
    }
}

/// `work`, ended at `--timeout` if one was given.
async fn within(
    common: &Common,
    work: impl Future<Output = Result<(), KeeperError>>,
) -> Result<(), KeeperError> {
    match common.timeout {
        Some(timeout) => {
            tokio::time::timeout(timeout, work).await.unwrap_or(Err(KeeperError::TimedOut { timeout }))
        }
        None => work.await,
    }
}

/// Sends a job that nobody waits for here.
async fn send(queen: &Queen, request: Request, reporter: &Reporter) -> Result<(), KeeperError> {
    queen.submit(&request.job, request.body, |error| reporter.asking_again(error)).await?;
    reporter.sent(&request.job).await;
    Ok(())
}

/// Sends a job and saves its pictures. `is_taken` is set when queen has it.
async fn draw_job(
    queen: &Queen,
    request: Request,
    reporter: &Reporter,
    is_taken: &Cell<bool>,
) -> Result<(), KeeperError> {
    let Request { job, body, plan, preview, needs } = request;
    queen.submit(&job, body, |error| reporter.asking_again(error)).await?;
    is_taken.set(true);
    reporter.submitted(&job);
    let started = Cell::new(false);
    let end = tokio::select! {
        end = Follower::new(queen, &job, reporter, preview, &started).until_the_end() => end,
        never = waiting::watch(queen, &needs, reporter, &started) => match never {},
    };
    let end = end.inspect_err(|error| {
        if matches!(error, KeeperError::Unreachable { .. } | KeeperError::Foreign { .. }) {
            reporter.note(&format!(
                "{job} goes on without its keeper; the same command with --job-id {job} fetches it"
            ));
        }
    })?;
    finish(queen, &job, &end, Some(plan), reporter).await
}

/// Tells how a job ended. Its pictures are fetched where there is a plan for them.
async fn finish(
    queen: &Queen,
    job: &JobId,
    end: &Event,
    plan: Option<Plan>,
    reporter: &Reporter,
) -> Result<(), KeeperError> {
    match &end.kind {
        EventKind::Complete(complete) => {
            let saved = match plan {
                Some(plan) => save::pictures(queen, job, complete, plan, reporter).await,
                // The event has them.
                None if reporter.is_json() => Ok(vec![]),
                None => {
                    let urls = (0..complete.images.len()).map(|index| queen.image_url(job, index).into());
                    Ok(urls.collect())
                }
            };
            match saved {
                Ok(places) => {
                    reporter.complete(end, &complete.warnings, &places).await;
                    Ok(())
                }
                Err(error) => {
                    reporter.event(end).await;
                    reporter.note(&format!("the pictures of {job} are stored: {}", queen.image_url(job, 0)));
                    Err(error)
                }
            }
        }
        EventKind::Error { code: ErrorCode::Busy, message, .. } => {
            reporter.event(end).await;
            Err(KeeperError::NoWorker { message: message.clone(), after: None })
        }
        EventKind::Error { code, message, retryable } => {
            reporter.event(end).await;
            let (code, message) = (code.to_string(), message.clone());
            Err(KeeperError::Failed { code, message, retryable: *retryable })
        }
        EventKind::Cancelled { .. } => {
            reporter.event(end).await;
            Err(KeeperError::CancelledElsewhere { job: job.clone() })
        }
        EventKind::Accepted { .. } | EventKind::Progress { .. } | EventKind::Preview { .. } => {
            Err(KeeperError::Protocol(format!("the events of {job} ended before the job did")))
        }
    }
}

/// Asks queen to cancel. Nothing is lost when it cannot: the user is told, and the exit code stays. One that `is_taken` not
/// may be on its way to it, and is asked for until it is there.
async fn cancel(queen: &Queen, job: &JobId, reporter: &Reporter, is_taken: bool) {
    let asked = tokio::time::timeout(CANCEL_FOR, async {
        loop {
            match queen.cancel(job).await {
                Err(KeeperError::Refused { status: 404, .. }) if !is_taken => {
                    tokio::time::sleep(CANCEL_PAUSE).await;
                }
                answer => return answer,
            }
        }
    });
    match asked.await {
        Ok(Ok(())) => reporter.note(&format!("cancelled {job}")),
        Ok(Err(error)) => reporter.note(&format!("{job} was not cancelled: {error}")),
        Err(_) if is_taken => reporter.note(&format!("{job} was not cancelled: queen does not answer")),
        Err(_) => reporter.note(&format!("{job} did not reach queen")),
    }
}
