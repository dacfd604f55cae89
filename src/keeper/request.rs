//! From flags to an operation: reads the input files and settles where the pictures go, before anything is sent.

use std::{io::Read, path::Path};

use base64::{Engine, engine::general_purpose::STANDARD};

use super::{
    KeeperError,
    args::{Common, ImageCommand, Start, values},
    output::{Place, Plan, Wish},
};
use crate::contract::{
    Capability, GenerationBody, InpaintBody, Job, JobId, Limits, Operation, Output, OutputFormat,
    TransformBody,
};

/// Steps between previews where --preview names a file and nobody says how many.
const PREVIEW_EVERY: u32 = 5;

/// What stands for standard input.
const STANDARD_INPUT: &str = "-";
/// The most of a prompt that is read from standard input, in bytes; queen takes 4096 characters.
const MAX_PROMPT: u64 = 64 << 10;

/// A job that can be sent, as often as it takes: its id and seed are settled.
#[derive(Debug)]
pub struct Request {
    /// The job's id.
    pub job: JobId,
    /// The operation as JSON.
    pub body: Vec<u8>,
    /// Where its pictures go.
    pub plan: Plan,
    /// Where its previews go.
    pub preview: Option<Place>,
    /// Who can draw it.
    pub needs: Needs,
}

/// What a job asks of a worker.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Needs {
    /// What it must do.
    pub capability: Capability,
    /// A model that it must have.
    pub model: Option<String>,
    /// That worker alone.
    pub worker_id: Option<String>,
    /// A worker of that hive.
    pub hive_id: Option<String>,
}

/// Builds the operation that the flags ask for. `model`: that of jobs which name none. `json`: standard output is for events.
///
/// # Errors
/// What is wrong with a flag, an input file or a place for a picture, before anything is sent.
pub fn build(command: &ImageCommand, model: Option<&str>, json: bool) -> Result<Request, KeeperError> {
    let common = command.common();
    let said = Said { prompt: prompt(command)?, model: common.model.as_deref().or(model).map(str::to_owned) };
    let job = common.job_id.clone().unwrap_or_else(JobId::generate);
    let file = common.preview.as_deref().filter(|_| !common.shows_previews());
    let preview = file.map(preview).transpose()?;
    let wish =
        Wish { output: common.output.as_deref(), format: common.format, pictures: common.pictures(), json };
    let plan = Plan::new(wish, &job)?;
    let mut operation = operation(command, said, &job, plan.format)?;
    operation.settle()?;
    // What no pool takes is not sent.
    Job::new(operation.clone(), &Limits::WIDEST)?;
    let needs = Needs {
        capability: operation.capability(),
        model: operation.model().map(str::to_owned),
        worker_id: operation.worker_id().map(str::to_owned),
        hive_id: operation.hive_id().map(str::to_owned),
    };
    Ok(Request { job, body: operation.to_json(), plan, preview, needs })
}

/// Where previews go: a file, which is replaced by each.
fn preview(path: &Path) -> Result<Place, KeeperError> {
    let refused = |why: &str| KeeperError::Usage(format!("--preview {}: {why}", path.display()));
    let extension = path.extension().map(|extension| extension.to_string_lossy().to_ascii_lowercase());
    if !matches!(extension.as_deref(), None | Some("jpg" | "jpeg")) {
        return Err(refused("previews are JPEG; .jpg is what such files are called"));
    }
    let place = Place::look(path).map_err(|why| refused(&why))?;
    if place.is_file() { Ok(place) } else { Err(refused("previews go into a file")) }
}

/// What is not in the flags alone.
struct Said {
    prompt: String,
    model: Option<String>,
}

/// The prompt, which `-` alone reads from standard input.
fn prompt(command: &ImageCommand) -> Result<String, KeeperError> {
    let common = command.common();
    if common.prompt != STANDARD_INPUT {
        return Ok(common.prompt.clone());
    }
    let inputs = match command {
        ImageCommand::Generate { .. } => vec![],
        ImageCommand::Transform { start, .. } => vec![&start.input],
        ImageCommand::Inpaint { start, mask, .. } => [&start.input].into_iter().chain(mask).collect(),
    };
    if inputs.iter().any(|path| path.as_path() == Path::new(STANDARD_INPUT)) {
        let message = "--prompt - and a picture from standard input: it has one of them";
        return Err(KeeperError::Usage(message.into()));
    }
    let failed = |source| KeeperError::Input { path: "standard input".into(), source };
    let mut text = String::new();
    std::io::stdin().lock().take(MAX_PROMPT + 1).read_to_string(&mut text).map_err(failed)?;
    if text.len() as u64 > MAX_PROMPT {
        let message = format!("--prompt -: standard input has more than {MAX_PROMPT} bytes");
        return Err(KeeperError::Usage(message));
    }
    Ok(text.trim_end_matches(['\r', '\n']).to_owned())
}

/// Fills the fields that every body has.
macro_rules! body {
    ($name:ident, $common:expr, $said:expr, $job:expr, $format:expr, { $($field:ident: $value:expr),* $(,)? }) => {{
        let common: &Common = $common;
        let Said { prompt, model } = $said;
        $name {
            $($field: $value,)*
            prompt,
            negative_prompt: common.negative_prompt.clone(),
            prompt_syntax: common.prompt_syntax,
            clip_skip: common.clip_skip,
            model,
            loras: common.loras.clone(),
            steps: common.steps,
            scheduler: common.scheduler.clone(),
            scheduler_options: values::scheduler_options(&common.scheduler_options)
                .map_err(|error| KeeperError::Usage(format!("--scheduler-option: {error}")))?,
            guidance_scale: common.guidance_scale,
            guidance_interval: common.guidance_interval,
            guidance_rescale: common.guidance_rescale,
            seed: common.seed.and_then(|seed| seed.0),
            n: common.n,
            output: encoding(common, $format),
            preview_every: preview_every(common),
            job_id: Some($job.to_string()),
            worker_id: common.worker_id.as_ref().map(ToString::to_string),
            hive_id: common.hive_id.as_ref().map(ToString::to_string),
            deadline_ms: common.deadline.map(|deadline| u64::try_from(deadline.as_millis()).unwrap_or(u64::MAX)),
            webhook_url: common.webhook_url.clone(),
            webhook_events: (!common.webhook_events.is_empty()).then(|| common.webhook_events.clone()),
            ..Default::default()
        }
    }};
}

fn operation(
    command: &ImageCommand,
    said: Said,
    job: &JobId,
    format: Option<OutputFormat>,
) -> Result<Operation, KeeperError> {
    Ok(match command {
        ImageCommand::Generate { common, width, height } => Operation::ImageGeneration(
            body!(GenerationBody, common, said, job, format, { width: *width, height: *height }),
        ),
        ImageCommand::Transform { common, start: Start { input, strength } } => {
            Operation::ImageTransform(body!(TransformBody, common, said, job, format, {
                init_image: read_image(input, common.max_input)?,
                strength: *strength,
            }))
        }
        ImageCommand::Inpaint {
            common,
            start: Start { input, strength },
            mask,
            mask_point,
            mask_beside,
            mask_box,
            mask_blur,
            padding_mask_crop,
            width,
            height,
        } => {
            let (mask_points, mask_labels) = points(mask_point, mask_beside);
            Operation::ImageInpaint(body!(InpaintBody, common, said, job, format, {
                init_image: read_image(input, common.max_input)?,
                mask_image: mask.as_ref().map(|mask| read_image(mask, common.max_input)).transpose()?,
                mask_points: mask_points,
                mask_labels: mask_labels,
                mask_box: *mask_box,
                strength: *strength,
                mask_blur: *mask_blur,
                padding_mask_crop: *padding_mask_crop,
                width: *width,
                height: *height,
            }))
        }
    })
}

/// `mask_points` and `mask_labels` of pixels that lie on what is repainted, and beside it.
fn points(on_it: &[[u32; 2]], beside_it: &[[u32; 2]]) -> (Option<Vec<[u32; 2]>>, Option<Vec<u32>>) {
    let points = [on_it, beside_it].concat();
    let labels = [vec![1; on_it.len()], vec![0; beside_it.len()]].concat();
    ((!points.is_empty()).then_some(points), (!beside_it.is_empty()).then_some(labels))
}

fn encoding(common: &Common, format: Option<OutputFormat>) -> Option<Output> {
    let quality = common.quality.and_then(|quality| u8::try_from(quality).ok());
    (format.is_some() || quality.is_some()).then_some(Output { format, quality })
}

fn preview_every(common: &Common) -> Option<u32> {
    common.preview_every.or(common.preview.as_ref().map(|_| PREVIEW_EVERY))
}

/// An image as the contract carries it: base64 of the file, or the `object:` key as it was typed.
fn read_image(path: &Path, limit: u64) -> Result<String, KeeperError> {
    if let Some(key) = path.to_str().filter(|text| text.starts_with("object:")) {
        return Ok(key.to_owned());
    }
    let failed = |source| KeeperError::Input { path: path.to_owned(), source };
    let opened = if path == Path::new(STANDARD_INPUT) { Path::new("/dev/stdin") } else { path };
    let file = std::fs::File::open(opened).map_err(failed)?;
    let bytes = file.metadata().map_err(failed)?.len();
    if bytes > limit {
        return Err(KeeperError::InputTooLarge { path: path.to_owned(), bytes, limit });
    }
    let mut content = Vec::new();
    // A pipe has no length: one byte beyond the limit is enough to know.
    file.take(limit.saturating_add(1)).read_to_end(&mut content).map_err(failed)?;
    if content.is_empty() {
        return Err(KeeperError::Usage(format!("{} is empty", path.display())));
    }
    if content.len() as u64 > limit {
        return Err(KeeperError::InputTooLarge { path: path.to_owned(), bytes: content.len() as u64, limit });
    }
    Ok(STANDARD.encode(content))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_input_over_the_limit_is_not_sent() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("in.png");
        std::fs::write(&file, [7; 10]).unwrap();
        assert!(matches!(read_image(&file, 9), Err(KeeperError::InputTooLarge { bytes: 10, limit: 9, .. })));
        assert_eq!(read_image(&file, 10).unwrap(), STANDARD.encode([7; 10]));
        std::fs::write(&file, []).unwrap();
        assert!(matches!(read_image(&file, 9), Err(KeeperError::Usage(_))));
        assert_eq!(read_image(Path::new("object:inputs/x"), 1).unwrap(), "object:inputs/x");
    }

    #[test]
    fn previews_go_into_a_jpeg_file() {
        let folder = tempfile::tempdir().unwrap();
        assert!(preview(&folder.path().join("now.jpg")).is_ok());
        for bad in [folder.path().join("now.png"), folder.path().to_owned()] {
            let Err(KeeperError::Usage(said)) = preview(&bad) else { panic!("{}", bad.display()) };
            assert!(said.contains("--preview"), "{said}");
        }
    }
}
