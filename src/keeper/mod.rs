//! The command line: asks queen for pictures over HTTP, follows the job's events, saves what it drew.
//!
//! `args` is what was typed, `request` the operation made of it, `client` the HTTP endpoints, `follow` the events
//! (read by `sse`) across dropped connections, `save` the files, `report` what the user sees; `dlq` is dead letters.
//! Nothing here knows of NATS, the store or candle.

mod args;
mod client;
mod dlq;
mod error;
mod follow;
mod report;
mod request;
mod save;
mod sse;

use std::{future::Future, process::ExitCode};

pub use args::{Cli, Command, DlqCommand, ImageCommand};
pub use error::KeeperError;

use crate::contract::{ErrorCode, EventKind, JobId};
use args::Common;
use client::Queen;
use report::Reporter;
use request::Request;

/// Does what the command line asks for. Errors are printed here; the exit code says which kind it was.
pub async fn run(cli: Cli) -> ExitCode {
    let (reporter, done) = match &cli.command {
        Command::Image { command } => {
            let reporter = Reporter::new(cli.json);
            let done = draw(&cli, command, &reporter).await;
            (reporter, done)
        }
        Command::Dlq { command } => {
            let reporter = Reporter::plain(cli.json);
            let done = dead_letters(&cli, command, &reporter).await;
            (reporter, done)
        }
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            reporter.error(&error);
            ExitCode::from(error.exit_code())
        }
    }
}

async fn dead_letters(cli: &Cli, command: &DlqCommand, reporter: &Reporter) -> Result<(), KeeperError> {
    dlq::run(&Queen::new(&cli.queen, cli.token.as_ref())?, command, reporter).await
}

/// One job, from the flags to the files.
async fn draw(cli: &Cli, command: &ImageCommand, reporter: &Reporter) -> Result<(), KeeperError> {
    let common = command.common();
    let request = request::build(command)?;
    let queen = Queen::new(&cli.queen, cli.token.as_ref())?;
    let job = request.job.clone();
    let work = within(common, draw_job(&queen, request, reporter));
    tokio::select! {
        result = work => {
            if let Err(KeeperError::TimedOut { .. }) = &result {
                cancel(&queen, &job, reporter).await;
            }
            result
        }
        _ = tokio::signal::ctrl_c() => {
            reporter.stop_bar();
            tokio::select! {
                () = cancel(&queen, &job, reporter) => {}
                _ = tokio::signal::ctrl_c() => {}
            }
            Err(KeeperError::Interrupted { job })
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

async fn draw_job(queen: &Queen, request: Request, reporter: &Reporter) -> Result<(), KeeperError> {
    let Request { job, body, plan } = request;
    queen.submit(body).await?;
    reporter.submitted(&job);
    let end = follow::to_the_end(queen, &job, reporter).await?;
    match &end.kind {
        EventKind::Complete(complete) => match save::pictures(queen, &job, complete, &plan).await {
            Ok(files) => {
                reporter.complete(&end, &complete.warnings, &files);
                Ok(())
            }
            Err(error) => {
                reporter.event(&end);
                Err(error)
            }
        },
        EventKind::Error { code: ErrorCode::Busy, message, .. } => {
            reporter.event(&end);
            Err(KeeperError::NoWorker { message: message.clone() })
        }
        EventKind::Error { code, message, retryable } => {
            reporter.event(&end);
            Err(KeeperError::Failed { code: *code, message: message.clone(), retryable: *retryable })
        }
        EventKind::Cancelled { .. } => {
            reporter.event(&end);
            Err(KeeperError::CancelledElsewhere { job })
        }
        EventKind::Accepted { .. } | EventKind::Progress { .. } | EventKind::Preview { .. } => {
            Err(KeeperError::Protocol(format!("the events of {job} ended before the job did")))
        }
    }
}

/// Asks queen to cancel. Nothing is lost when she cannot: the user is told, and the exit code stays.
async fn cancel(queen: &Queen, job: &JobId, reporter: &Reporter) {
    match queen.cancel(job).await {
        Ok(()) => reporter.note(&format!("cancelled {job}")),
        Err(error) => reporter.note(&format!("{job} was not cancelled: {error}")),
    }
}
