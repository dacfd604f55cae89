//! What may be typed: the flags of `rbee-keeper`, with their environment variables and defaults.

use std::{path::PathBuf, time::Duration};

use clap::{Args, Parser, Subcommand};
use reqwest::Url;

use crate::{
    contract::{GuidanceInterval, JobId},
    logging::LogOptions,
    units::{parse_duration, parse_size},
};

/// Asks a pool of image workers for pictures, through queen.
#[derive(Debug, Parser)]
#[command(name = "rbee-keeper", version, arg_required_else_help = true)]
#[command(
    after_help = "Exit codes: 0 done, 1 the job failed, 2 usage, 3 cannot reach queen, 4 no worker, 130 cancelled."
)]
pub struct Cli {
    /// Where queen listens.
    #[arg(long, global = true, env = "RBEE_QUEEN", default_value = "http://127.0.0.1:7833", value_parser = parse_queen)]
    pub queen: Url,
    /// Queen's bearer token, if she asks for one.
    #[arg(long, global = true, env = "RBEE_TOKEN", hide_env_values = true)]
    pub token: Option<Token>,
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
    /// List them, the newest last.
    List {
        /// The newest so many.
        #[arg(long, default_value = "100", value_parser = clap::value_parser!(u32).range(1..=1000))]
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

/// Which operation.
#[derive(Debug, Subcommand)]
pub enum ImageCommand {
    /// Draw a picture from words.
    Generate {
        /// What every operation takes.
        #[command(flatten)]
        common: Common,
        /// Pixels, a multiple of 8; the model's native size if absent.
        #[arg(long)]
        width: Option<u32>,
        /// Pixels, a multiple of 8; the model's native size if absent.
        #[arg(long)]
        height: Option<u32>,
    },
    /// Draw a picture from words and another picture.
    Transform {
        /// What every operation takes.
        #[command(flatten)]
        common: Common,
        /// What it starts from.
        #[command(flatten)]
        start: Start,
    },
    /// Repaint the part of a picture that is white in a mask.
    Inpaint {
        /// What every operation takes.
        #[command(flatten)]
        common: Common,
        /// What it starts from.
        #[command(flatten)]
        start: Start,
        /// The mask, white where to repaint: a file, or `object:<key>` in the pool's store.
        #[arg(long, value_name = "FILE")]
        mask: PathBuf,
    },
}

/// What every operation takes.
#[derive(Debug, Args)]
pub struct Common {
    /// What to draw.
    #[arg(long)]
    pub prompt: String,
    /// What not to draw.
    #[arg(long)]
    pub negative_prompt: Option<String>,
    /// A model that the pool serves; the worker's first if absent.
    #[arg(long)]
    pub model: Option<String>,
    /// Denoising steps.
    #[arg(long)]
    pub steps: Option<u32>,
    /// How strongly the prompt guides; at 1 or below it does not.
    #[arg(long, value_parser = parse_number, allow_negative_numbers = true)]
    pub guidance_scale: Option<f64>,
    /// Guide in a part of the schedule only, between two fractions of it, for example 0.1,0.8; other steps cost half.
    #[arg(long, value_name = "FROM,TO", value_parser = parse_interval, allow_hyphen_values = true)]
    pub guidance_interval: Option<[f64; 2]>,
    /// Seed of the first picture; drawn at random if absent.
    #[arg(long)]
    pub seed: Option<u64>,
    /// The scheduler by name, for example ddim or euler; the model's own if absent.
    #[arg(long)]
    pub scheduler: Option<String>,
    /// Pictures; picture i has seed + i.
    #[arg(long)]
    pub n: Option<u32>,
    /// Where to put the picture: a .png, .jpg or .webp file (several get -0, -1, ... before the extension), or a
    /// folder. Without it: <job id>-0.png here.
    #[arg(long, short, value_name = "FILE")]
    pub output: Option<PathBuf>,
    /// Cancel the job when it has not ended by then, for example 90s.
    #[arg(long, value_parser = parse_duration)]
    pub timeout: Option<Duration>,
    /// The largest input or mask file that is read.
    #[arg(long, env = "RBEE_MAX_INPUT", default_value = "16MiB", value_parser = parse_size)]
    pub max_input: u64,
}

/// What transform and inpaint start from.
#[derive(Debug, Args)]
pub struct Start {
    /// The picture to start from: a file, or `object:<key>` in the pool's store.
    #[arg(long, value_name = "FILE")]
    pub input: PathBuf,
    /// How far to go from it: above 0, at most 1.
    #[arg(long, value_parser = parse_number, allow_negative_numbers = true)]
    pub strength: Option<f64>,
}

impl ImageCommand {
    /// The flags that every operation takes.
    pub fn common(&self) -> &Common {
        match self {
            Self::Generate { common, .. } | Self::Transform { common, .. } | Self::Inpaint { common, .. } => {
                common
            }
        }
    }
}

/// A secret that is not shown by `Debug`.
#[derive(Clone)]
pub struct Token(String);

impl Token {
    /// The secret itself.
    pub fn secret(&self) -> &str {
        &self.0
    }
}

impl std::str::FromStr for Token {
    type Err = std::convert::Infallible;
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Ok(Self(text.to_owned()))
    }
}

impl std::fmt::Debug for Token {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Token(..)")
    }
}

fn parse_queen(text: &str) -> Result<Url, String> {
    let url = Url::parse(text).map_err(|error| error.to_string())?;
    match url.scheme() {
        "http" | "https" => Ok(url),
        other => Err(format!("`{other}` is no scheme for queen; http and https are")),
    }
}

/// JSON has no NaN and no infinity: they are refused here rather than sent as null.
fn parse_number(text: &str) -> Result<f64, String> {
    match text.parse::<f64>() {
        Ok(number) if number.is_finite() => Ok(number),
        Ok(_) => Err("a finite number is expected".into()),
        Err(error) => Err(error.to_string()),
    }
}

/// An interval as the contract allows it: what is refused here was not sent.
fn parse_interval(text: &str) -> Result<[f64; 2], String> {
    let (from, to) = text.split_once(',').ok_or("two fractions are expected, for example 0.1,0.8")?;
    let bounds = [parse_number(from.trim())?, parse_number(to.trim())?];
    GuidanceInterval::new(bounds).map_err(|error| error.to_string())?;
    Ok(bounds)
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
    fn numbers_that_json_cannot_carry_are_refused() {
        for text in ["NaN", "inf", "-inf", "many"] {
            assert!(parse_number(text).is_err(), "{text}");
        }
        assert_eq!(parse_number("7.5"), Ok(7.5));
    }

    #[test]
    fn an_interval_is_two_fractions_in_order() {
        for text in ["", "0.1", "0.8,0.1", "0.5,1.5", "-0.1,1", "0,1,1", "a,1", "0,NaN"] {
            assert!(parse_interval(text).is_err(), "{text}");
        }
        assert_eq!(parse_interval("0.1, 0.8"), Ok([0.1, 0.8]));
    }

    #[test]
    fn a_token_is_not_printed() {
        let cli =
            Cli::parse_from(["rbee-keeper", "--token", "hunter2", "image", "generate", "--prompt", "a"]);
        assert_eq!(cli.token.as_ref().unwrap().secret(), "hunter2");
        assert!(!format!("{cli:?}").contains("hunter2"));
    }
}
