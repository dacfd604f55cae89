//! From flags to an operation: reads the input files and settles where the pictures go, before anything is sent.

use std::{
    io::Read,
    path::{Path, PathBuf},
};

use base64::{Engine, engine::general_purpose::STANDARD};

use super::{
    KeeperError,
    args::{Common, ImageCommand, Start},
};
use crate::contract::{GenerationBody, InpaintBody, JobId, Operation, Output, OutputFormat, TransformBody};

/// A job that can be sent, as often as it takes: its id and seed are settled.
#[derive(Debug)]
pub struct Request {
    /// The job's id.
    pub job: JobId,
    /// The operation as JSON.
    pub body: Vec<u8>,
    /// Where its pictures go.
    pub plan: OutputPlan,
}

/// Where pictures go.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OutputPlan {
    /// An existing folder.
    folder: PathBuf,
    /// The file's name without extension; absent: the job's id.
    stem: Option<String>,
    /// The extension as typed; absent with a stem: none.
    extension: Option<String>,
    /// Whether every file gets a number.
    numbered: bool,
}

/// Builds the operation that the flags ask for.
///
/// # Errors
/// What is wrong with a flag or an input file, before anything is sent.
pub fn build(command: &ImageCommand) -> Result<Request, KeeperError> {
    let common = command.common();
    let (plan, format) = OutputPlan::new(common.output.as_deref(), common.n.unwrap_or(1))?;
    let mut operation = operation(command, format)?;
    let job = operation.settle()?;
    Ok(Request { job, body: operation.to_json(), plan })
}

/// Fills the fields that every body has.
macro_rules! body {
    ($name:ident, $common:expr, $format:expr, { $($field:ident: $value:expr),* $(,)? }) => {{
        let common: &Common = $common;
        $name {
            $($field: $value,)*
            prompt: common.prompt.clone(),
            negative_prompt: common.negative_prompt.clone(),
            model: common.model.clone(),
            steps: common.steps,
            guidance_scale: common.guidance_scale,
            guidance_interval: common.guidance_interval,
            seed: common.seed,
            scheduler: common.scheduler.clone(),
            n: common.n,
            output: $format.map(|format| Output { format: Some(format), quality: None }),
            ..Default::default()
        }
    }};
}

fn operation(command: &ImageCommand, format: Option<OutputFormat>) -> Result<Operation, KeeperError> {
    Ok(match command {
        ImageCommand::Generate { common, width, height } => Operation::ImageGeneration(
            body!(GenerationBody, common, format, { width: *width, height: *height }),
        ),
        ImageCommand::Transform { common, start: Start { input, strength } } => {
            Operation::ImageTransform(body!(TransformBody, common, format, {
                init_image: read_image(input, common.max_input)?,
                strength: *strength,
            }))
        }
        ImageCommand::Inpaint { common, start: Start { input, strength }, mask } => {
            Operation::ImageInpaint(body!(InpaintBody, common, format, {
                init_image: read_image(input, common.max_input)?,
                mask_image: read_image(mask, common.max_input)?,
                strength: *strength,
            }))
        }
    })
}

/// An image as the contract carries it: base64 of the file, or the `object:` key as it was typed.
fn read_image(path: &Path, limit: u64) -> Result<String, KeeperError> {
    if let Some(key) = path.to_str().filter(|text| text.starts_with("object:")) {
        return Ok(key.to_owned());
    }
    let failed = |source| KeeperError::Input { path: path.to_owned(), source };
    let file = std::fs::File::open(path).map_err(failed)?;
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

impl OutputPlan {
    /// Reads `--output`. The format is what the extension says; without one it is left to the pool (PNG).
    fn new(output: Option<&Path>, n: u32) -> Result<(Self, Option<OutputFormat>), KeeperError> {
        let unnamed =
            |folder: &Path| Self { folder: folder.to_owned(), stem: None, extension: None, numbered: true };
        let Some(output) = output else { return Ok((unnamed(Path::new(".")), None)) };
        if output.is_dir() {
            return Ok((unnamed(output), None));
        }
        let (Some(stem), false) =
            (output.file_stem().and_then(|stem| stem.to_str()), ends_with_separator(output))
        else {
            return Err(KeeperError::Usage(format!(
                "--output {}: there is no such folder",
                output.display()
            )));
        };
        let folder = match output.parent() {
            Some(parent) if !parent.as_os_str().is_empty() => parent.to_owned(),
            _ => PathBuf::from("."),
        };
        if !folder.is_dir() {
            return Err(KeeperError::Usage(format!(
                "--output {}: there is no folder {}",
                output.display(),
                folder.display()
            )));
        }
        let extension = output.extension().map(|extension| extension.to_string_lossy().into_owned());
        let format = match extension.as_deref().map(str::to_ascii_lowercase).as_deref() {
            None => None,
            Some("png") => Some(OutputFormat::Png),
            Some("jpg" | "jpeg") => Some(OutputFormat::Jpeg),
            Some("webp") => Some(OutputFormat::Webp),
            Some(other) => {
                return Err(KeeperError::Usage(format!(
                    "--output {}: `.{other}` is no format that is drawn; .png, .jpg and .webp are",
                    output.display()
                )));
            }
        };
        Ok((Self { folder, stem: Some(stem.to_owned()), extension, numbered: n > 1 }, format))
    }

    /// The file of picture `index`.
    pub fn path(&self, job: &JobId, index: usize, format: OutputFormat) -> PathBuf {
        let mut name = self.stem.clone().unwrap_or_else(|| job.to_string());
        if self.numbered {
            name.push_str(&format!("-{index}"));
        }
        match (&self.stem, &self.extension) {
            (_, Some(extension)) => name = format!("{name}.{extension}"),
            (None, None) => name = format!("{name}.{}", format.extension()),
            (Some(_), None) => {}
        }
        // `./x` would be printed for what the user knows as `x`.
        if self.folder == Path::new(".") { PathBuf::from(name) } else { self.folder.join(name) }
    }
}

fn ends_with_separator(path: &Path) -> bool {
    path.to_string_lossy().ends_with(std::path::is_separator)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn paths(output: Option<&Path>, n: u32) -> Vec<PathBuf> {
        let (plan, format) = OutputPlan::new(output, n).unwrap();
        let job = JobId::new("job").unwrap();
        (0..n as usize).map(|index| plan.path(&job, index, format.unwrap_or_default())).collect()
    }

    #[test]
    fn one_picture_goes_where_it_was_asked_for_and_several_are_numbered() {
        assert_eq!(paths(None, 1), [Path::new("job-0.png")]);
        assert_eq!(paths(Some(Path::new("a.png")), 1), [Path::new("a.png")]);
        assert_eq!(paths(Some(Path::new("a.b.JPG")), 2), [Path::new("a.b-0.JPG"), Path::new("a.b-1.JPG")]);
        assert_eq!(paths(Some(Path::new("plain")), 1), [Path::new("plain")]);
        let folder = tempfile::tempdir().unwrap();
        assert_eq!(paths(Some(folder.path()), 1), [folder.path().join("job-0.png")]);
    }

    #[test]
    fn the_extension_decides_the_format() {
        let format = |name: &str| OutputPlan::new(Some(Path::new(name)), 1).unwrap().1;
        assert_eq!(format("a.png"), Some(OutputFormat::Png));
        assert_eq!(format("a.jpeg"), Some(OutputFormat::Jpeg));
        assert_eq!(format("a.WebP"), Some(OutputFormat::Webp));
        assert_eq!(format("a"), None);
        assert!(OutputPlan::new(Some(Path::new("a.gif")), 1).is_err());
    }

    #[test]
    fn a_folder_that_is_missing_is_refused_before_anything_is_sent() {
        for bad in ["missing/a.png", "missing/", "missing/..", ""] {
            assert!(OutputPlan::new(Some(Path::new(bad)), 1).is_err(), "{bad:?}");
        }
    }

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
}
