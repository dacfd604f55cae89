//! What a file is that should be something else, told by its first bytes: what a download, a clone or a copy leaves in
//! the place of weights. Nothing here reads files.

use serde_json::Value;

/// Bytes at the beginning of a file that are enough for [`what_is`].
pub const BEGINNING: usize = 1 << 10;
/// Bytes before a safetensors file's header: its length.
const HEADER_LENGTH: usize = 8;
/// The longest header that the library reads, bytes.
const MAX_HEADER: u64 = 100_000_000;
/// Zeros at the beginning of a file that was given its size and not its contents. A header has none.
const ZEROS: usize = 64;

/// A kind of file that no weights or configurations are read from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum FileKind {
    /// Nothing in it.
    Empty,
    /// Only zeros where a header should be.
    Zeros,
    /// What Git LFS leaves where it was not asked for the file.
    LfsPointer {
        /// Bytes of the file that it stands for, if it says so.
        bytes: Option<u64>,
    },
    /// A page, as hosts answer who has not signed in.
    Html,
    /// XML, as stores answer with errors.
    Xml,
    /// JSON, as hosts answer with errors.
    Json,
    /// Other text: "Entry not found".
    Text,
    /// Weights of llama.cpp and its kin.
    Gguf,
    /// Weights that PyTorch or Python has pickled.
    Pickle,
    /// An archive; PyTorch pickles into these.
    Zip,
    /// Compressed by gzip.
    Gzip,
    /// A network in ONNX's format.
    Onnx,
    /// A file of HDF5, as Keras writes it.
    Hdf5,
    /// PNG, JPEG or WebP.
    Picture,
    /// A safetensors file whose end is missing.
    Cut {
        /// Bytes that its header tells of.
        expected: u64,
        /// Bytes that it has.
        found: u64,
    },
}

/// The kind of a file that begins so; none for what may be a safetensors file, and for what is not known here.
pub fn what_is(beginning: &[u8]) -> Option<FileKind> {
    if beginning.is_empty() {
        return Some(FileKind::Empty);
    }
    if is_like_safetensors(beginning) {
        return None;
    }
    let text = beginning.strip_prefix(b"\xef\xbb\xbf").unwrap_or(beginning).trim_ascii_start();
    let starts = |with: &[u8]| text.get(..with.len()).is_some_and(|begin| begin.eq_ignore_ascii_case(with));
    if beginning.starts_with(b"version https://git-lfs.github.com/spec/") {
        return Some(FileKind::LfsPointer { bytes: lfs_size(beginning) });
    }
    if starts(b"<!doctype html") || starts(b"<html") || starts(b"<head") || starts(b"<body") {
        return Some(FileKind::Html);
    }
    if starts(b"<?xml") || starts(b"<error") {
        return Some(FileKind::Xml);
    }
    match beginning {
        [b'G', b'G', b'U', b'F', ..] => Some(FileKind::Gguf),
        [b'P', b'K', 3, 4, ..] | [b'P', b'K', 5, 6, ..] => Some(FileKind::Zip),
        // The protocol's number, then the frame or the first object.
        [0x80, 2..=5, ..] => Some(FileKind::Pickle),
        [0x1f, 0x8b, ..] => Some(FileKind::Gzip),
        // The version of the format, then the text of who made it.
        [0x08, 1..=32, 0x12, ..] => Some(FileKind::Onnx),
        [0x89, b'H', b'D', b'F', ..] => Some(FileKind::Hdf5),
        [0x89, b'P', b'N', b'G', ..] | [0xff, 0xd8, 0xff, ..] => Some(FileKind::Picture),
        [b'R', b'I', b'F', b'F', _, _, _, _, b'W', b'E', b'B', b'P', ..] => Some(FileKind::Picture),
        _ if text.first() == Some(&b'{') => Some(FileKind::Json),
        _ if beginning.len() >= ZEROS && beginning[..ZEROS].iter().all(|byte| *byte == 0) => {
            Some(FileKind::Zeros)
        }
        _ if is_text(beginning) => Some(FileKind::Text),
        _ => None,
    }
}

/// What keeps a file of `length` bytes that begins with `bytes` from being a safetensors file: its kind, or the end that
/// is missing. None where its header is damaged in another way.
pub fn why_no_safetensors(bytes: &[u8], length: u64) -> Option<FileKind> {
    let cut = |expected: u64| (expected > length).then_some(FileKind::Cut { expected, found: length });
    if let Some(kind) = what_is(&bytes[..bytes.len().min(BEGINNING)]) {
        return Some(kind);
    }
    let header = header_length(bytes)?;
    let Some(text) = bytes.get(HEADER_LENGTH..HEADER_LENGTH + usize::try_from(header).ok()?) else {
        return cut(HEADER_LENGTH as u64 + header);
    };
    let Ok(Value::Object(tensors)) = serde_json::from_slice(text) else { return None };
    let ends = tensors.values().filter_map(|tensor| tensor.get("data_offsets")?.get(1)?.as_u64());
    cut((HEADER_LENGTH as u64).saturating_add(header).saturating_add(ends.max()?))
}

/// The length of a header, if the bytes may be the beginning of a safetensors file.
fn header_length(beginning: &[u8]) -> Option<u64> {
    let (length, header) = beginning.split_first_chunk::<HEADER_LENGTH>()?;
    let length = u64::from_le_bytes(*length);
    let is_object = header.first().is_none_or(|first| *first == b'{');
    ((2..=MAX_HEADER).contains(&length) && is_object).then_some(length)
}

/// Whether it is UTF-8 that prints; the last character may be cut.
fn is_text(beginning: &[u8]) -> bool {
    let text = match std::str::from_utf8(beginning) {
        Ok(text) => text,
        Err(error) if error.error_len().is_none() => {
            std::str::from_utf8(&beginning[..error.valid_up_to()]).unwrap_or_default()
        }
        Err(_) => return false,
    };
    text.chars().all(|c| !c.is_control() || c.is_ascii_whitespace())
}

fn is_like_safetensors(beginning: &[u8]) -> bool {
    header_length(beginning).is_some()
}

/// `size 3438354725` on a line of its own.
fn lfs_size(pointer: &[u8]) -> Option<u64> {
    std::str::from_utf8(pointer)
        .ok()?
        .lines()
        .find_map(|line| line.strip_prefix("size ")?.trim().parse().ok())
}

impl std::fmt::Display for FileKind {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let text = match self {
            Self::Empty => "it is empty",
            Self::Zeros => "it begins with zeros, as a download that was broken off leaves it",
            Self::LfsPointer { bytes } => {
                let size = bytes.map(|bytes| format!(" of {bytes} bytes")).unwrap_or_default();
                return write!(
                    f,
                    "it is a Git LFS pointer, which stands for a file{size} that was not fetched: run `git lfs pull` \
                     where it was cloned, or download the file itself"
                );
            }
            Self::Html => {
                "it is a web page (HTML), as hosts answer who has to sign in: download the file itself"
            }
            Self::Xml => "it is XML, as stores answer with an error: download the file itself",
            Self::Json => "it is JSON, as hosts answer with an error: download the file itself",
            Self::Text => "it is text: download the file itself",
            Self::Gguf => "it is a GGUF file, which is not read here: take the safetensors file",
            Self::Pickle => return pickled(f, ""),
            Self::Zip => return pickled(f, ", in a ZIP archive"),
            Self::Gzip => "it is compressed by gzip: unpack it",
            Self::Onnx => "it is an ONNX network, which is not read here: take the safetensors file",
            Self::Hdf5 => "it is an HDF5 file, which is not read here: take the safetensors file",
            Self::Picture => "it is a picture",
            Self::Cut { expected, found } => {
                return write!(
                    f,
                    "it was cut short: its header tells of {expected} bytes, and it has {found}: download it again"
                );
            }
        };
        f.write_str(text)
    }
}

fn pickled(f: &mut std::fmt::Formatter<'_>, archive: &str) -> std::fmt::Result {
    write!(
        f,
        "it is pickled by PyTorch or Python{archive} (.ckpt, .pt, .bin): pickled weights can run code when read; \
         convert them to safetensors"
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A safetensors file of one tensor of four bytes.
    fn safetensors(header: &str) -> Vec<u8> {
        [&(header.len() as u64).to_le_bytes(), header.as_bytes(), &[0; 4]].concat()
    }

    const HEADER: &str = r#"{"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}}"#;

    #[test]
    fn a_file_is_told_by_its_first_bytes() {
        let pointer = b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 3438354725\n";
        for (bytes, kind) in [
            (&b""[..], FileKind::Empty),
            (&[0; 100], FileKind::Zeros),
            (pointer, FileKind::LfsPointer { bytes: Some(3_438_354_725) }),
            (b"version https://git-lfs.github.com/spec/v1\n", FileKind::LfsPointer { bytes: None }),
            (b"\n <!DOCTYPE html><html>", FileKind::Html),
            (b"\xef\xbb\xbf<HTML lang=en>", FileKind::Html),
            (b"<?xml version=\"1.0\"?><Error>", FileKind::Xml),
            (br#"{"error": "unauthorized"}"#, FileKind::Json),
            ("Entry not found, 见".as_bytes(), FileKind::Text),
            (&"Entry not found, 见".as_bytes()[..18], FileKind::Text),
            (b"GGUF\x03\0\0\0", FileKind::Gguf),
            (b"PK\x03\x04 and so on", FileKind::Zip),
            (b"\x80\x02\x8a\x0a\x6c\xfc\x9c\x46\xf9", FileKind::Pickle),
            (b"\x1f\x8b\x08\0", FileKind::Gzip),
            (b"\x08\x07\x12\x07pytorch", FileKind::Onnx),
            (b"\x89HDF\r\n\x1a\n", FileKind::Hdf5),
            (b"\x89PNG\r\n\x1a\n", FileKind::Picture),
            (b"RIFF\x10\0\0\0WEBPVP8 ", FileKind::Picture),
        ] {
            assert_eq!(what_is(bytes), Some(kind.clone()), "{kind}");
        }
        assert_eq!(what_is(b"nonsense\x01\xff, but long enough"), None);
    }

    #[test]
    fn a_safetensors_file_is_none_of_them_whatever_the_length_of_its_header() {
        // In these lengths are the first bytes of pickles, of gzip and of ONNX.
        for length in [HEADER.len(), 0x0280, 0x0480, 0x8b1f, 0x12_0708] {
            let file = safetensors(&format!("{HEADER}{}", " ".repeat(length - HEADER.len())));
            assert_eq!(what_is(&file), None, "{length}");
            assert_eq!(why_no_safetensors(&file, file.len() as u64), None, "{length}");
        }
    }

    #[test]
    fn a_file_whose_end_is_missing_is_told_with_both_lengths() {
        let file = safetensors(HEADER);
        let whole = file.len() as u64;
        for kept in [file.len() - 1, file.len() - 4] {
            let cut = FileKind::Cut { expected: whole, found: kept as u64 };
            assert_eq!(why_no_safetensors(&file[..kept], kept as u64), Some(cut));
        }
        let in_header = FileKind::Cut { expected: whole - 4, found: 20 };
        assert_eq!(why_no_safetensors(&file[..20], 20), Some(in_header));
        assert_eq!(why_no_safetensors(&safetensors("{} nonsense"), 23), None);
    }
}
