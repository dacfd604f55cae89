//! What a job takes: the flags of `image generate`, `image transform` and `image inpaint`, one for each field of the body.

use std::{
    convert::Infallible,
    path::{Path, PathBuf},
    time::Duration,
};

use clap::{
    Args, Subcommand,
    builder::{PossibleValuesParser, TypedValueParser},
};

use super::values::{self, Seed, Stray, Text};
use crate::{
    contract::{HiveId, JobId, Lora, OutputFormat, PromptSyntax, WorkerId},
    units::{parse_duration, parse_size},
};

/// Which operation.
#[derive(Debug, Subcommand)]
pub enum ImageCommand {
    /// Draw a picture from words.
    Generate {
        /// What every operation takes.
        #[command(flatten)]
        common: Common,
        /// Pixels, a multiple of 8, 64 to 2048; the model's native size if absent.
        #[arg(long, value_parser = values::side, allow_negative_numbers = true)]
        width: Option<u32>,
        /// Pixels, a multiple of 8, 64 to 2048; the model's native size if absent.
        #[arg(long, value_parser = values::side, allow_negative_numbers = true)]
        height: Option<u32>,
    },
    /// Draw a picture from words and another picture. It has the size of that picture.
    Transform {
        /// What every operation takes.
        #[command(flatten)]
        common: Common,
        /// What it starts from.
        #[command(flatten)]
        start: Start,
    },
    /// Repaint the part of a picture that is white in a mask. It has the size of that picture.
    Inpaint {
        /// What every operation takes.
        #[command(flatten)]
        common: Common,
        /// What it starts from.
        #[command(flatten)]
        start: Start,
        /// The mask, white where to repaint: a file, - for standard input, or `object:<key>` in the pool's store.
        #[arg(long, value_name = "FILE")]
        mask: PathBuf,
        /// Soft edges of the mask, 0 to 64 pixels (the standard deviation of a Gaussian blur).
        #[arg(long, value_name = "PIXELS", value_parser = values::whole::<0, 64>, allow_negative_numbers = true)]
        mask_blur: Option<u32>,
        /// Draw the part around the mask alone, with so many pixels around it, 0 to 2048, and lay it into the picture.
        #[arg(long, value_name = "PIXELS", value_parser = values::whole::<0, 2048>, allow_negative_numbers = true)]
        padding_mask_crop: Option<u32>,
        /// Pixels that this part is drawn at, a multiple of 8, 64 to 2048; the model's native size if absent.
        #[arg(long, value_parser = values::side, allow_negative_numbers = true, requires = "padding_mask_crop")]
        width: Option<u32>,
        /// Pixels that this part is drawn at, a multiple of 8, 64 to 2048; the model's native size if absent.
        #[arg(long, value_parser = values::side, allow_negative_numbers = true, requires = "padding_mask_crop")]
        height: Option<u32>,
    },
}

/// What every operation takes.
#[derive(Debug, Args)]
pub struct Common {
    /// What to draw, 1 to 4096 characters; it may begin with a dash. - alone reads it from standard input.
    #[arg(long, value_parser = Text, allow_hyphen_values = true)]
    pub prompt: String,
    /// What not to draw.
    #[arg(long, visible_alias = "negative", value_parser = Text, allow_hyphen_values = true)]
    pub negative_prompt: Option<String>,
    /// How prompts are read. plain: every character is text; a1111: weights as (word:1.3), and chunks of 75 tokens.
    #[arg(long, value_parser = PossibleValuesParser::new(["plain", "a1111"]).map(values::syntax))]
    pub prompt_syntax: Option<PromptSyntax>,
    /// Layers of the text encoder to leave out at its end, 0 to 11.
    #[arg(long, value_parser = values::whole::<0, 11>, allow_negative_numbers = true)]
    pub clip_skip: Option<u32>,
    /// A model that the pool serves; the worker's first if absent.
    #[arg(long)]
    pub model: Option<String>,
    /// A LoRA of the worker's folder, and how strongly it is applied (1 if absent, below 0 to take away). May be repeated.
    #[arg(long = "lora", value_name = "NAME[=STRENGTH]", value_parser = values::lora)]
    pub loras: Vec<Lora>,
    /// Denoising steps, 1 to 150; the model's own if absent.
    #[arg(long, value_parser = values::whole::<1, 150>, allow_negative_numbers = true)]
    pub steps: Option<u32>,
    /// The scheduler by name, for example ddim, euler_a or dpmpp_2m_karras; the model's own if absent.
    #[arg(long)]
    pub scheduler: Option<String>,
    /// An option of the scheduler, as diffusers calls it: timestep_spacing=leading|trailing|linspace,
    /// prediction_type=epsilon|v_prediction|sample, rescale_betas_zero_snr=true|false, original_inference_steps=N; the model's
    /// own if absent. May be repeated.
    #[arg(long = "scheduler-option", value_name = "NAME=VALUE", value_parser = values::scheduler_option)]
    pub scheduler_options: Vec<(String, serde_json::Value)>,
    /// How strongly the prompt guides, 0 to 30; at 1 or below it does not. The model's own if absent.
    #[arg(long, value_parser = values::number, allow_negative_numbers = true)]
    pub guidance_scale: Option<f64>,
    /// Guide in a part of the schedule only, between two fractions of it, for example 0.1,0.8; other steps cost half.
    #[arg(long, value_name = "FROM,TO", value_parser = values::interval, allow_hyphen_values = true)]
    pub guidance_interval: Option<[f64; 2]>,
    /// Seed of the first picture; drawn at random if absent or -1. The one that is used is told.
    #[arg(long, allow_negative_numbers = true)]
    pub seed: Option<Seed>,
    /// Pictures, 1 to 8; picture i has seed + i. More pictures are more jobs, each with a --seed of its own.
    #[arg(long, visible_alias = "count", value_parser = values::whole::<1, 8>, allow_negative_numbers = true)]
    pub n: Option<u32>,

    /// Where to put the picture: a .png, .jpg or .webp file (several get -0, -1, ... before the extension), a folder, a
    /// pipe, or - for standard output. A file that is there keeps its rights, its links and its owner. Without this flag:
    /// <job id>-0.png here.
    #[arg(long, short, value_name = "FILE", help_heading = "Where it goes")]
    pub output: Option<PathBuf>,
    /// How pictures are encoded; what the extension of --output says if absent, and png if it says nothing.
    #[arg(long, value_parser = PossibleValuesParser::new(["png", "jpeg", "webp"]).map(values::format), help_heading = "Where it goes")]
    pub format: Option<OutputFormat>,
    /// Quality of JPEG, 1 to 100; 90 if absent.
    #[arg(long, value_parser = values::whole::<1, 100>, allow_negative_numbers = true, help_heading = "Where it goes")]
    pub quality: Option<u32>,
    /// A JPEG file that shows how the picture looks while it is drawn; - shows that, and the picture, in a terminal that can
    /// (kitty, Ghostty, iTerm2, WezTerm, Konsole, mintty, Rio, Warp).
    #[arg(long, value_name = "FILE", help_heading = "Where it goes")]
    pub preview: Option<PathBuf>,
    /// Steps between previews; 5 with --preview, none without. With --json they are events, too.
    #[arg(long, value_parser = values::whole::<0, { u32::MAX }>, allow_negative_numbers = true, help_heading = "Where it goes")]
    pub preview_every: Option<u32>,

    /// The job's name, 1 to 128 of A-Z a-z 0-9 - _: the same name with the same job gives the same pictures, drawn once. A
    /// new one if absent.
    #[arg(long, help_heading = "The job")]
    pub job_id: Option<JobId>,
    /// That worker alone. Such a job is not durable.
    #[arg(long, help_heading = "The job")]
    pub worker_id: Option<WorkerId>,
    /// A worker of that hive. Such a job is not durable.
    #[arg(long, help_heading = "The job")]
    pub hive_id: Option<HiveId>,
    /// The longest that it may take from when a worker has it, for example 10m; the worker's limit if absent.
    #[arg(long, value_parser = parse_duration, help_heading = "The job")]
    pub deadline: Option<Duration>,
    /// Where queen posts the job's events.
    #[arg(long, value_name = "URL", help_heading = "The job")]
    pub webhook_url: Option<String>,
    /// Which events queen posts there; may be repeated, or separated by commas.
    #[arg(
        long,
        value_name = "TYPE",
        value_delimiter = ',',
        requires = "webhook_url",
        help_heading = "The job"
    )]
    pub webhook_events: Vec<String>,
    /// Send the job, print its name, and end: `job watch` follows it, and `job watch -o` fetches its pictures.
    #[arg(long, conflicts_with_all = ["output", "preview", "timeout"], help_heading = "The job")]
    pub no_wait: bool,
    /// Cancel the job when it has not ended by then, waiting included, for example 90s.
    #[arg(long, value_parser = parse_duration, help_heading = "The job")]
    pub timeout: Option<Duration>,
    /// Nothing belongs here.
    #[arg(hide = true, value_parser = Stray)]
    pub stray: Option<Infallible>,
    /// The largest input or mask file that is read.
    #[arg(long, env = "RBEE_MAX_INPUT", default_value = "16MiB", value_parser = parse_size, help_heading = "The job")]
    pub max_input: u64,
}

/// What transform and inpaint start from.
#[derive(Debug, Args)]
pub struct Start {
    /// The picture to start from: a file, - for standard input, or `object:<key>` in the pool's store.
    #[arg(long, value_name = "FILE")]
    pub input: PathBuf,
    /// How far to go from it: above 0, at most 1. 0.8 if absent, 1 for inpaint.
    #[arg(long, value_parser = values::number, allow_negative_numbers = true)]
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

impl Common {
    /// Whether previews go to the terminal.
    pub fn shows_previews(&self) -> bool {
        self.preview.as_deref() == Some(Path::new("-"))
    }

    /// How many pictures there will be.
    pub fn pictures(&self) -> u32 {
        self.n.unwrap_or(1)
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::super::{Cli, Command};
    use super::*;

    fn generate(rest: &[&str]) -> Result<Common, String> {
        let args = [&["rbee-keeper", "image", "generate"], rest].concat();
        match Cli::try_parse_from(args).map_err(|error| error.to_string())?.command {
            Command::Image { command } => match *command {
                ImageCommand::Generate { common, .. } => Ok(common),
                _ => unreachable!("generate was typed"),
            },
            _ => unreachable!("image was typed"),
        }
    }

    #[test]
    fn text_that_begins_with_a_dash_is_text() {
        for text in [
            "-foo",
            "--a dash, twice",
            "- item",
            "-1girl",
            "-5 degrees",
            "--",
            "--steps of a dance",
            "-osaka",
        ] {
            let common = generate(&["--prompt", text, "--negative-prompt", text]).unwrap();
            assert_eq!((common.prompt.as_str(), common.negative_prompt.as_deref()), (text, Some(text)));
            assert_eq!(generate(&[&format!("--prompt={text}")]).unwrap().prompt, text);
        }
    }

    #[test]
    fn a_flag_in_the_place_of_a_text_is_told() {
        for args in [
            &["--prompt", "--negative-prompt", "x"][..],
            &["--prompt", "--negative", "x"],
            &["--prompt", "--negative=x"],
            &["--prompt", "--neg", "x"],
            &["--prompt", "--steps", "3"],
            &["--prompt", "-o", "a.png"],
            &["--prompt", "--json"],
            &["--prompt", "a", "--negative-prompt", "--steps=3"],
        ] {
            let said = generate(args).unwrap_err();
            assert!(said.contains("is a flag") && said.contains("prompt"), "{args:?}: {said}");
        }
        let said = generate(&["--prompt"]).unwrap_err();
        assert!(said.contains("a value is required for '--prompt"), "{said}");
    }

    #[test]
    fn what_cannot_be_in_a_job_is_refused_in_plain_words() {
        for (args, said) in [
            (&["--steps", "0"][..], "a whole number from 1 to 150"),
            (&["--steps", "-5"], "a whole number from 1 to 150"),
            (&["--steps", "many"], "a whole number from 1 to 150"),
            (&["--n", "9"], "a whole number from 1 to 8"),
            (&["--clip-skip", "99999999999999"], "a whole number from 0 to 11"),
            (&["--preview-every", "-1"], "a whole number"),
            (&["--width", "100"], "a multiple of 8 from 64 to 2048"),
            (&["--guidance-scale", "much"], "a number"),
            (&["--seed", "-2"], "a whole number from 0 to 18446744073709551615, or -1"),
            (&["--seed", "1.5"], "or -1"),
            (&["--job-id", "a/b"], "A-Z a-z 0-9"),
            (&["--format", "gif"], "png, jpeg, webp"),
            (&["--prompt-syntax", "comfy"], "plain, a1111"),
            (&["--lora", "ink=much"], "a number"),
            (&["--webhook-events", "complete"], "--webhook-url"),
        ] {
            let refused = generate(&[&["--prompt", "a"], args].concat()).unwrap_err();
            assert!(refused.contains(said), "{args:?}: {refused}");
            for rust in ["invalid digit", "u32", "u64", "IntErrorKind", "number too"] {
                assert!(!refused.contains(rust), "{args:?}: {refused}");
            }
        }
    }

    #[test]
    fn every_field_of_a_job_has_a_flag() {
        let schema = serde_json::to_value(schemars::schema_for!(crate::contract::GenerationBody)).unwrap();
        let fields = schema["properties"].as_object().unwrap();
        let command = <Cli as clap::CommandFactory>::command();
        let generate = command.find_subcommand("image").unwrap().find_subcommand("generate").unwrap();
        let flags: Vec<_> = generate.get_arguments().filter_map(clap::Arg::get_long).collect();
        for field in fields.keys() {
            let flag = match field.as_str() {
                "loras" => "lora".to_owned(),
                "scheduler_options" => "scheduler-option".to_owned(),
                "output" => "format".to_owned(),
                "deadline_ms" => "deadline".to_owned(),
                // keeper follows every job.
                "stream" => continue,
                field => field.replace('_', "-"),
            };
            assert!(flags.contains(&flag.as_str()), "no --{flag} for `{field}`");
        }
    }

    #[test]
    fn a_lora_may_have_a_strength() {
        let loras = generate(&["--prompt", "a", "--lora", "ink", "--lora", "styles/oil=-0.5"]).unwrap().loras;
        let read: Vec<_> = loras.iter().map(|lora| (lora.path.as_str(), lora.strength)).collect();
        assert_eq!(read, [("ink", None), ("styles/oil", Some(-0.5))]);
    }
}
