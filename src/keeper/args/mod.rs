//! What may be typed: the flags of `rbee-keeper`, with their environment variables and defaults. What a job takes is in
//! `image`, the verbs for what is in the pool in `pool`, how single values are read in `values`.

mod image;
mod pool;
pub mod values;

use std::{path::PathBuf, time::Duration};

use clap::{Args, Parser, Subcommand};
use clap_complete::Shell;
use reqwest::Url;

use crate::{logging::LogOptions, units::parse_duration};

pub use image::{Common, ImageCommand, Start};
pub use pool::{DlqCommand, JobCommand, Letters, Model, ModelCommand, WorkerCommand};
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
    /// Nothing on standard error but errors.
    #[arg(long, short, global = true)]
    pub quiet: bool,
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
    /// A profile of $XDG_CONFIG_HOME/rbee/keeper.toml (or ~/.config/rbee/keeper.toml): `queen`, `token_file`, `proxy`,
    /// `retry_for` and `model` for where no flag and no variable says them. Without this flag the profile `default`, if
    /// there is one.
    #[arg(long, global = true, env = "RBEE_PROFILE", value_name = "NAME")]
    pub profile: Option<String>,
    /// Where queen listens; http://127.0.0.1:7833 if nothing says so.
    #[arg(long, global = true, env = "RBEE_QUEEN", value_parser = values::queen)]
    pub queen: Option<Url>,
    /// Queen's bearer token, if it asks for one. Whoever lists the processes of this machine sees it: --token-file and
    /// RBEE_TOKEN are not seen.
    #[arg(long, global = true, env = "RBEE_TOKEN", hide_env_values = true)]
    pub token: Option<Token>,
    /// A file with queen's bearer token.
    #[arg(long, global = true, env = "RBEE_TOKEN_FILE", value_name = "FILE")]
    pub token_file: Option<PathBuf>,
    /// A proxy in front of queen, in place of the one that HTTP_PROXY, HTTPS_PROXY, ALL_PROXY and NO_PROXY name. Without
    /// this flag a queen on this machine is asked directly.
    #[arg(long, global = true, value_name = "URL", value_parser = values::proxy)]
    pub proxy: Option<Url>,
    /// How long a queen that was lost, who is too busy, or whose proxy answers 502 to 504 is asked again. The job goes on
    /// without its keeper. 60s if nothing says so.
    #[arg(long, global = true, env = "RBEE_RETRY_FOR", value_parser = parse_duration)]
    pub retry_for: Option<Duration>,
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
    /// Jobs that were sent.
    Job {
        /// What to do with them.
        #[command(subcommand)]
        command: JobCommand,
    },
    /// The workers of the pool.
    Worker {
        /// What to do with them.
        #[command(subcommand)]
        command: WorkerCommand,
    },
    /// The models of the workers.
    Model {
        /// What to do with them.
        #[command(subcommand)]
        command: ModelCommand,
    },
    /// Dead letters: durable jobs that failed on every worker that tried them.
    Dlq {
        /// What to do with them.
        #[command(subcommand)]
        command: DlqCommand,
    },
    /// Write completions for a shell to standard output.
    Completions {
        /// Which shell.
        shell: Shell,
    },
    /// Write manual pages into a folder: one for each command.
    Man {
        /// The folder, which is made if it is not there.
        #[arg(value_name = "DIR")]
        folder: PathBuf,
    },
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
    fn a_token_is_not_printed() {
        let cli =
            Cli::parse_from(["rbee-keeper", "--token", "hunter2", "image", "generate", "--prompt", "a"]);
        assert_eq!(cli.connection.token.as_ref().unwrap().secret(), "hunter2");
        assert!(!format!("{cli:?}").contains("hunter2"));
    }
}
