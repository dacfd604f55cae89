//! The flags of `job`, `worker`, `model` and `dlq`: what is done to what is in the pool already.

use std::path::PathBuf;

use clap::{Args, Subcommand};

use super::values;
use crate::contract::{JobId, WorkerId};

/// What to do with jobs.
#[derive(Debug, Subcommand)]
pub enum JobCommand {
    /// List your jobs as a table, the newest first (all jobs, with an administrator's token); with --json one object a line.
    List {
        /// The newest so many, at most 1000.
        #[arg(long, default_value = "50", value_parser = values::whole::<1, 1000>)]
        limit: u32,
    },
    /// Say where a job is, or how it ended.
    Show {
        /// The job.
        job: JobId,
    },
    /// Follow a job to its end, and fetch its pictures with --output. Ctrl-C ends the watching, not the job.
    Watch {
        /// The job.
        job: JobId,
        /// Where to put its pictures: as --output of `image generate`. Without it they stay in the store.
        #[arg(long, short, value_name = "FILE")]
        output: Option<PathBuf>,
    },
    /// Cancel jobs.
    Cancel {
        /// The jobs.
        #[arg(required = true)]
        jobs: Vec<JobId>,
    },
}

/// What to do with workers.
#[derive(Debug, Subcommand)]
pub enum WorkerCommand {
    /// List the workers that are up as a table; with --json one object a line.
    List,
    /// Tell what changes in the fleet, a line each, until Ctrl-C.
    Watch,
    /// Let workers take no more jobs. Those that they have end, and they stay up, until they are told to resume.
    Drain(Workers),
    /// Let workers take jobs again.
    Resume(Workers),
}

/// Which workers.
#[derive(Debug, Args)]
pub struct Workers {
    /// The workers, by the names that `worker list` shows.
    #[arg(required = true, value_name = "WORKER")]
    pub workers: Vec<WorkerId>,
}

/// What to do with models.
#[derive(Debug, Subcommand)]
pub enum ModelCommand {
    /// List the models of the workers that are up as a table; with --json one object a line.
    List,
    /// Bring a model into memory, so that the next job need not wait for that. Jobs that run go on.
    Load(Model),
    /// Let a model's weights go, as soon as no job runs with it. A job that asks for it later brings it back.
    Unload(Model),
}

/// Which model, and where.
#[derive(Debug, Args)]
pub struct Model {
    /// The model, by the name that jobs use.
    pub model: String,
    /// On this worker (may be repeated); on every worker that has the model if absent.
    #[arg(long = "worker", value_name = "WORKER")]
    pub workers: Vec<WorkerId>,
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
    use clap::Parser;

    use crate::keeper::Cli;

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
    fn what_is_done_is_done_to_somebody_who_is_named() {
        let parse = |rest: &[&str]| Cli::try_parse_from([&["rbee-keeper"], rest].concat());
        for good in [
            &["job", "cancel", "a", "b"][..],
            &["worker", "drain", "w", "--quiet"],
            &["model", "load", "m", "--worker", "a", "--worker", "b"],
            &["job", "watch", "j", "-o", "a.png"],
        ] {
            assert!(parse(good).is_ok(), "{good:?}");
        }
        for bad in [
            &["job", "cancel"][..],
            &["job", "show", "a/b"],
            &["worker", "drain"],
            &["worker", "resume", "a b"],
            &["model", "load"],
            &["job", "list", "--limit", "1001"],
            &["completions", "cmd"],
            &["man"],
        ] {
            assert!(parse(bad).is_err(), "{bad:?}");
        }
    }
}
