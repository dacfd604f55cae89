//! Typed keys: every path in the store is built here, so that none can leave it.

use sha2::{Digest, Sha256};

use super::StorageError;
use crate::contract::{JobId, OutputFormat};

/// The longest key that a client may name, in characters.
const MAX_REFERENCE: usize = 512;
/// The mask of a job that points at what it repaints.
const MASK_FILE: &str = "mask.png";

/// An object's place in the store, below the store's own prefix.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Key {
    /// `jobs/<job>/<index>.<ext>`, from the second attempt on `jobs/<job>/<index>-<attempt>.<ext>`: a picture of a job. A
    /// put of an attempt that was lost cannot change what another attempt has stored. Readers take keys from the complete
    /// event, and never build them.
    Image {
        /// The job.
        job: JobId,
        /// Which of its pictures, from 0.
        index: u32,
        /// Which attempt drew it, from 1.
        attempt: u32,
        /// How it is encoded, which gives the extension.
        format: OutputFormat,
    },
    /// `jobs/<job>/mask.png`: the mask that was made of what the job points at.
    Mask {
        /// The job.
        job: JobId,
    },
    /// `jobs/<job>/result.json`: written last, its presence means that the job is done.
    Result {
        /// The job.
        job: JobId,
    },
    /// `jobs/<job>/checkpoint`: how far a running job has got.
    Checkpoint {
        /// The job.
        job: JobId,
    },
    /// `jobs/<job>/cancelled`: the job was cancelled while it waited, which outlives its events.
    Cancelled {
        /// The job.
        job: JobId,
    },
    /// `inputs/<sha256>`: an uploaded input, named by its content.
    Input {
        /// SHA-256 of the bytes.
        sha256: ContentHash,
    },
    /// What a client named by `object:<key>`.
    Reference(Reference),
    /// `store-check.txt`: what a start writes and reads to see that the store can be used.
    Check,
}

/// SHA-256 in lower-case hexadecimal. Made from bytes only.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct ContentHash(String);

/// A key that a client named: an input, or a picture of a job, of characters that no store reads as a way out.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Reference(String);

impl Key {
    /// The key of an input with these bytes.
    pub fn input(bytes: &[u8]) -> Self {
        Self::Input { sha256: ContentHash(crate::contract::hex(&Sha256::digest(bytes))) }
    }

    /// Checks the key of an `object:<key>` input (without the `object:`).
    ///
    /// # Errors
    /// [`StorageError::Reference`] unless it is `inputs/...`, of segments of `A-Z a-z 0-9 - _ .` that are neither empty
    /// nor begin with a dot, 512 characters at most, or a picture of a job as [`Key::Image`] is written, or its mask. What else is in
    /// a job's folder is not for clients.
    pub fn parse_reference(text: &str) -> Result<Self, StorageError> {
        let refuse = |reason: &str| {
            let key = text.chars().take(MAX_REFERENCE).collect();
            Err(StorageError::Reference { key, reason: reason.into() })
        };
        if text.len() > MAX_REFERENCE {
            return refuse("it is longer than 512 characters");
        }
        let mut segments = text.split('/');
        if !matches!(segments.next(), Some("inputs" | "jobs")) {
            return refuse("only keys below inputs/ and jobs/ may be named");
        }
        let rest: Vec<_> = segments.collect();
        if rest.is_empty() {
            return refuse("it names no object");
        }
        for segment in &rest {
            if segment.is_empty() || segment.starts_with('.') {
                return refuse("a segment is empty or begins with a dot");
            }
            if !segment.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.')) {
                return refuse("only A-Z a-z 0-9 - _ . and / are allowed");
            }
        }
        if text.starts_with("jobs/")
            && !matches!(rest[..], [job, file] if JobId::new(job).is_ok() && is_picture(file))
        {
            return refuse("below jobs/ only pictures may be named, as jobs/<job>/<index>.png");
        }
        Ok(Self::Reference(Reference(text.to_owned())))
    }

    /// The path below the store's prefix.
    pub fn path(&self) -> String {
        match self {
            Self::Image { job, index, attempt: 0 | 1, format } => {
                format!("jobs/{job}/{index}.{}", format.extension())
            }
            Self::Image { job, index, attempt, format } => {
                format!("jobs/{job}/{index}-{attempt}.{}", format.extension())
            }
            Self::Mask { job } => format!("jobs/{job}/{MASK_FILE}"),
            Self::Result { job } => format!("jobs/{job}/result.json"),
            Self::Checkpoint { job } => format!("jobs/{job}/checkpoint"),
            Self::Cancelled { job } => format!("jobs/{job}/cancelled"),
            Self::Input { sha256 } => format!("inputs/{}", sha256.0),
            Self::Reference(reference) => reference.0.clone(),
            Self::Check => "store-check.txt".into(),
        }
    }

    /// The job that an object belongs to; it is written into the object's metadata.
    pub fn job(&self) -> Option<&JobId> {
        match self {
            Self::Image { job, .. }
            | Self::Mask { job }
            | Self::Result { job }
            | Self::Checkpoint { job }
            | Self::Cancelled { job } => Some(job),
            Self::Input { .. } | Self::Reference(_) | Self::Check => None,
        }
    }
}

/// `<index>.<ext>` or `<index>-<attempt>.<ext>`, as pictures are stored, or a job's mask.
fn is_picture(file: &str) -> bool {
    if file == MASK_FILE {
        return true;
    }
    let formats = [OutputFormat::Png, OutputFormat::Jpeg, OutputFormat::Webp];
    let is_number = |text: &str| text.parse::<u32>().is_ok_and(|number| number.to_string() == text);
    file.split_once('.').is_some_and(|(name, extension)| {
        let (index, attempt) = name.split_once('-').unwrap_or((name, "2"));
        is_number(index) && is_number(attempt) && formats.iter().any(|format| format.extension() == extension)
    })
}

impl std::fmt::Display for Key {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.path())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_is_built_from_its_parts() {
        let job = JobId::new("j1").unwrap();
        let image = |attempt| Key::Image { job: job.clone(), index: 3, attempt, format: OutputFormat::Jpeg };
        assert_eq!(image(1).path(), "jobs/j1/3.jpg");
        assert_eq!(image(2).path(), "jobs/j1/3-2.jpg");
        assert!([1, 2].iter().all(|&attempt| Key::parse_reference(&image(attempt).path()).is_ok()));
        assert_eq!(Key::Result { job: job.clone() }.path(), "jobs/j1/result.json");
        assert_eq!(Key::Checkpoint { job: job.clone() }.path(), "jobs/j1/checkpoint");
        assert_eq!(Key::Cancelled { job: job.clone() }.path(), "jobs/j1/cancelled");
        let mask = Key::Mask { job: job.clone() };
        assert_eq!((mask.path(), mask.job()), ("jobs/j1/mask.png".into(), Some(&job)));
        assert!(Key::parse_reference(&mask.path()).is_ok());
        for key in [Key::Checkpoint { job: job.clone() }, Key::Cancelled { job: job.clone() }] {
            assert_eq!(key.job(), Some(&job), "{key}");
        }
        let empty = "inputs/e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";
        assert_eq!(Key::input(b"").path(), empty);
        assert_eq!(Key::parse_reference(empty).unwrap().path(), empty);
    }

    #[test]
    fn a_reference_cannot_leave_inputs_and_jobs() {
        for good in ["inputs/a", "jobs/j1/0.png", "jobs/j1/17.jpg", "jobs/j/2.webp", "inputs/2026/cat.v2.png"]
        {
            assert!(Key::parse_reference(good).is_ok(), "{good}");
        }
        for bad in [
            "",
            "/",
            "inputs",
            "inputs/",
            "/inputs/a",
            "inputs//a",
            "inputs/../a",
            "inputs/..",
            "inputs/./a",
            "inputs/.hidden",
            "inputs/a\\..\\b",
            "inputs/%2e%2e/a",
            "inputs/a b",
            "inputs/a\0",
            "inputs/ä",
            "other/a",
            "../inputs/a",
            "jobs/../../etc/passwd",
            "jobs/j1",
            "jobs/j1/result.json",
            "jobs/j1/checkpoint",
            "jobs/j1/cancelled",
            "jobs/j1/0.json",
            "jobs/j1/mask.jpg",
            "jobs/j1/deeper/mask.png",
            "jobs/j1/00.png",
            "jobs/j1/+1.png",
            "jobs/j1/0.png.json",
            "jobs/j1/deeper/0.png",
            "jobs/j.1/0.png",
            &format!("inputs/{}", "x".repeat(512)),
        ] {
            let error = Key::parse_reference(bad).unwrap_err();
            assert!(matches!(error, StorageError::Reference { .. }), "{bad:?}: {error}");
        }
    }
}
