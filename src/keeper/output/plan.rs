//! From `--output` to a place for each picture. What is wrong with one is told before anything is sent.

use std::{
    ffi::OsString,
    io::IsTerminal,
    path::{Path, PathBuf},
};

use super::Place;
use crate::{
    contract::{JobId, OutputFormat},
    keeper::KeeperError,
};

/// What means standard output: there a name in a folder of the system is not a file that may be replaced.
const STANDARD_OUTPUT: [&str; 4] = ["-", "/dev/stdout", "/dev/fd/1", "/proc/self/fd/1"];

/// Where the pictures of a job go.
#[derive(Debug)]
pub struct Plan {
    /// One for each picture, in order.
    pub places: Vec<Place>,
    /// How they are encoded, if a flag says so.
    pub format: Option<OutputFormat>,
}

/// What the flags say.
#[derive(Debug, Clone, Copy)]
pub struct Wish<'a> {
    /// `--output`.
    pub output: Option<&'a Path>,
    /// `--format`.
    pub format: Option<OutputFormat>,
    /// Pictures of the job.
    pub pictures: u32,
    /// Standard output is for events.
    pub json: bool,
}

impl Plan {
    /// Looks at the place of each picture. Pipes and devices are opened.
    ///
    /// # Errors
    /// [`KeeperError::Usage`], which names the flag, the path and what is wrong with it.
    pub fn new(wish: Wish<'_>, job: &JobId) -> Result<Self, KeeperError> {
        let Some(output) = wish.output else { return in_folder(Path::new(""), wish, job) };
        let refused = |why: &str| KeeperError::Usage(format!("--output {}: {why}", output.display()));
        if STANDARD_OUTPUT.iter().any(|name| output == Path::new(name)) {
            standard_output(wish).map_err(|why| refused(&why))?;
            return Ok(Self { places: vec![Place::standard_output()], format: wish.format });
        }
        if output.as_os_str().is_empty() {
            return Err(refused("an empty name is none; ./ is this folder"));
        }
        if output.is_dir() {
            return in_folder(output, wish, job);
        }
        if ends_with_separator(output) || output.file_name().is_none() {
            return Err(refused("there is no such folder"));
        }
        let first = Place::look(output).map_err(|why| refused(&why))?;
        if !first.is_file() {
            // What its name ends in says nothing.
            return match wish.pictures {
                1 => Ok(Self { places: vec![first], format: wish.format }),
                n => Err(refused(&format!("it takes one picture; {n} go into a folder or a file"))),
            };
        }
        let format = format_of(output, wish.format).map_err(|why| refused(&why))?;
        if wish.pictures == 1 {
            return Ok(Self { places: vec![first], format });
        }
        let places = (0..wish.pictures).map(|index| {
            let path = numbered(output, index);
            Place::look(&path)
                .and_then(|place| if place.is_file() { Ok(place) } else { Err("it is no file".into()) })
                .map_err(|why| refused(&format!("{}: {why}", path.display())))
        });
        Ok(Self { places: places.collect::<Result<_, _>>()?, format })
    }
}

/// `<job>-<index>.<extension>` in a folder; the empty path is this one, which the user knows without a name.
fn in_folder(folder: &Path, wish: Wish<'_>, job: &JobId) -> Result<Plan, KeeperError> {
    let extension = wish.format.unwrap_or_default().extension();
    let places = (0..wish.pictures).map(|index| {
        let path = folder.join(format!("{job}-{index}.{extension}"));
        Place::look(&path).map_err(|why| match wish.output {
            Some(output) => KeeperError::Usage(format!("--output {}: {why}", output.display())),
            None => KeeperError::Usage(format!("{}: {why}; --output names another place", path.display())),
        })
    });
    Ok(Plan { places: places.collect::<Result<_, _>>()?, format: wish.format })
}

/// Whether standard output can have the picture.
fn standard_output(wish: Wish<'_>) -> Result<(), String> {
    if wish.json {
        return Err("with --json standard output has the events; name a file".into());
    }
    if wish.pictures > 1 {
        return Err(format!(
            "standard output takes one picture; {} go into a folder or a file",
            wish.pictures
        ));
    }
    if std::io::stdout().is_terminal() {
        return Err(
            "standard output is a terminal, which shows no picture; name a file, or write > a.png".into()
        );
    }
    if is_closed() {
        return Err("standard output is closed".into());
    }
    Ok(())
}

/// Whether keeper was started without a standard output. Rust's runtime has opened the null device in its place, for reading
/// and writing, which a shell that redirects never does.
fn is_closed() -> bool {
    let is_null = std::fs::read_link("/proc/self/fd/1").is_ok_and(|to| to == Path::new("/dev/null"));
    let opened = std::fs::read_to_string("/proc/self/fdinfo/1").unwrap_or_default();
    let flags = opened.lines().find_map(|line| line.strip_prefix("flags:"));
    let flags = flags.and_then(|flags| u32::from_str_radix(flags.trim(), 8).ok());
    // The lowest two bits: 0 reads, 1 writes, 2 does both.
    is_null && flags.is_some_and(|flags| flags & 3 == 2)
}

/// The format that an extension says, which a flag may say too.
fn format_of(path: &Path, asked: Option<OutputFormat>) -> Result<Option<OutputFormat>, String> {
    let Some(extension) = path.extension() else { return Ok(asked) };
    let said = match extension.to_string_lossy().to_ascii_lowercase().as_str() {
        "png" => OutputFormat::Png,
        "jpg" | "jpeg" => OutputFormat::Jpeg,
        "webp" => OutputFormat::Webp,
        other => {
            return Err(format!("`.{other}` is no format that is drawn; .png, .jpg and .webp are"));
        }
    };
    match asked {
        Some(asked) if asked != said => {
            Err(format!("--format {} is another format than the name says", name(asked)))
        }
        Some(_) | None => Ok(Some(said)),
    }
}

fn name(format: OutputFormat) -> &'static str {
    match format {
        OutputFormat::Png => "png",
        OutputFormat::Jpeg => "jpeg",
        OutputFormat::Webp => "webp",
    }
}

/// With a number before the extension.
fn numbered(path: &Path, index: u32) -> PathBuf {
    let mut name = path.file_stem().map(OsString::from).unwrap_or_default();
    name.push(format!("-{index}"));
    if let Some(extension) = path.extension() {
        name.push(".");
        name.push(extension);
    }
    path.with_file_name(name)
}

fn ends_with_separator(path: &Path) -> bool {
    path.to_string_lossy().ends_with(std::path::is_separator)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plan(output: Option<&Path>, pictures: u32) -> Result<Plan, KeeperError> {
        let wish = Wish { output, format: None, pictures, json: false };
        Plan::new(wish, &JobId::new("job").unwrap())
    }

    fn paths(output: Option<&Path>, pictures: u32) -> Vec<PathBuf> {
        plan(output, pictures).unwrap().places.iter().map(|place| place.shown().to_owned()).collect()
    }

    #[test]
    fn one_picture_goes_where_it_was_asked_for_and_several_are_numbered() {
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| folder.path().join(name);
        assert_eq!(paths(None, 1), [Path::new("job-0.png")]);
        assert_eq!(paths(Some(&at("a.png")), 1), [at("a.png")]);
        assert_eq!(paths(Some(&at("a.b.JPG")), 2), [at("a.b-0.JPG"), at("a.b-1.JPG")]);
        assert_eq!(paths(Some(&at("plain")), 1), [at("plain")]);
        assert_eq!(paths(Some(folder.path()), 1), [at("job-0.png")]);
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0, "looking leaves nothing behind");
    }

    #[test]
    fn the_extension_decides_the_format() {
        let folder = tempfile::tempdir().unwrap();
        let format = |name: &str| plan(Some(&folder.path().join(name)), 1).map(|plan| plan.format);
        assert_eq!(format("a.png").unwrap(), Some(OutputFormat::Png));
        assert_eq!(format("a.jpeg").unwrap(), Some(OutputFormat::Jpeg));
        assert_eq!(format("a.WebP").unwrap(), Some(OutputFormat::Webp));
        assert_eq!(format("a").unwrap(), None);
        assert!(format("a.gif").is_err());
        let webp = Some(OutputFormat::Webp);
        assert_eq!(format_of(Path::new("a"), webp), Ok(webp));
        assert!(format_of(Path::new("a.png"), webp).is_err());
    }

    #[test]
    fn every_name_of_standard_output_is_standard_output() {
        for name in STANDARD_OUTPUT {
            let wish = Wish { output: Some(Path::new(name)), format: None, pictures: 1, json: true };
            let Err(refused) = Plan::new(wish, &JobId::new("job").unwrap()) else { panic!("{name}") };
            assert!(refused.to_string().contains("standard output has the events"), "{refused}");
        }
    }

    #[test]
    fn a_folder_that_is_missing_is_refused() {
        for bad in ["missing/a.png", "missing/", "missing/..", ""] {
            let refused = plan(Some(Path::new(bad)), 1);
            assert!(matches!(refused, Err(KeeperError::Usage(_))), "{bad:?}");
        }
    }
}
