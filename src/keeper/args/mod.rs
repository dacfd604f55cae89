//! What may be typed: the flags of `rbee-keeper`, with their environment variables and defaults. What a job takes is in
//! `image`, how single values are read in `values`.

mod image;
mod values;

use std::time::Duration;

use clap::{Args, Parser, Subcommand};
use reqwest::Url;

use crate::{contract::JobId, logging::LogOptions, units::parse_duration};

pub use image::{Common, ImageCommand, Start};
pub use values::Token;

/// Asks a pool of image workers for pictures, through queen.
#[derive(Debug, Parser)]
#[command(name = "rbee-keeper", version, arg_required_else_help = true)]
#[command(
    after_help = "Exit codes: 0 done, 1 the job failed, 2 usage, 3 cannot reach queen (nobody is there, or \
    somebody else answers), 4 no worker, 130 cancelled (by SIGTERM 143, by SIGHUP 129)."
)]
pub struct Cli {
    /// Queen and the way to it.
    #[command(flatten)]
    pub connection: Connection,
    /// One JSON line per event on standard output, and nothing else there.
    #[arg(long, global = true)]
    pub json: bool,
    /// How logs are written.
    #[command(flatten)]
    pub log: LogOptions,
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// Queen and the way to it.
#[derive(Debug, Args)]
#[command(next_help_heading = "Queen")]
pub struct Connection {
    /// Where queen listens.
    #[arg(long, global = true, env = "RBEE_QUEEN", default_value = "http://127.0.0.1:7833", value_parser = values::queen)]
    pub queen: Url,
    /// Queen's bearer token, if it asks for one.
    #[arg(long, global = true, env = "RBEE_TOKEN", hide_env_values = true)]
    pub token: Option<Token>,
    /// A proxy in front of queen, in place of the one that HTTP_PROXY, HTTPS_PROXY, ALL_PROXY and NO_PROXY name. Without
    /// this flag a queen on this machine is asked directly.
    #[arg(long, global = true, value_name = "URL", value_parser = values::proxy)]
    pub proxy: Option<Url>,
    /// How long a queen that was lost, who is too busy, or whose proxy answers 502 to 504 is asked again. The job goes on
    /// without its keeper.
    #[arg(long, global = true, env = "RBEE_RETRY_FOR", default_value = "60s", value_parser = parse_duration)]
    pub retry_for: Duration,
}

/// What to do.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Pictures.
    Image {
        /// Which operation.
        #[command(subcommand)]
        command: Box<ImageCommand>,
    },
    /// Dead letters: durable jobs that failed on every worker that tried them.
    Dlq {
        /// What to do with them.
        #[command(subcommand)]
        command: DlqCommand,
    },
}

/// What to do with dead letters.
#[derive(Debug, Subcommand)]
pub enum DlqCommand {
    /// List them as a table, the newest last; with --json one object a line.
    List {
        /// The newest so many, at most 1000.
        #[arg(long, default_value = "100", value_parser = values::whole::<1, 1000>)]
        limit: u32,
    },
    /// Send jobs again.
    Retry(Letters),
    /// Forget them; what became of their jobs can still be read.
    Drop(Letters),
}

/// Which dead letters.
#[derive(Debug, Args)]
#[group(required = true, multiple = false)]
pub struct Letters {
    /// The letter of this job.
    #[arg(value_name = "JOB")]
    pub job: Option<JobId>,
    /// Every letter.
    #[arg(long)]
    pub all: bool,
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn the_flags_do_not_contradict_each_other() {
        Cli::command().debug_assert();
    }

    #[test]
    fn one_dead_letter_is_named_or_all_are() {
        let parse = |rest: &[&str]| Cli::try_parse_from([&["rbee-keeper", "dlq"], rest].concat());
        for good in [&["list"][..], &["retry", "j"], &["drop", "--all"]] {
            assert!(parse(good).is_ok(), "{good:?}");
        }
        for bad in [&["retry"][..], &["drop", "j", "--all"], &["retry", "a/b"], &["list", "--limit", "0"]] {
            assert!(parse(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn a_token_is_not_printed() {
        let cli =
            Cli::parse_from(["rbee-keeper", "--token", "hunter2", "image", "generate", "--prompt", "a"]);
        assert_eq!(cli.connection.token.as_ref().unwrap().secret(), "hunter2");
        assert!(!format!("{cli:?}").contains("hunter2"));
    }
}
