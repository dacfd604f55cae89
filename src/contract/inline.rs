//! A picture inside a message, as people write it down: base64 in lines or in one piece, with or without padding, of
//! either alphabet, bare or as a `data:` URL. What is in the picture is not looked at here, only what kind of file it is.

use base64::{
    Engine as _, alphabet,
    engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig},
};

/// Reads both paddings; what is left of the last character's bits is not looked at, as other decoders do it.
const READER: GeneralPurpose = GeneralPurpose::new(
    &alphabet::STANDARD,
    GeneralPurposeConfig::new()
        .with_decode_padding_mode(DecodePaddingMode::Indifferent)
        .with_decode_allow_trailing_bits(true),
);
/// Characters from which the kind of a file is read: 48 bytes.
const BEGINNING: usize = 64;

/// Why a text is no picture in base64.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum InlineError {
    /// A `data:` URL of another kind.
    #[error("a data: URL must be base64, as in data:image/png;base64,iVBORw0...")]
    DataUrl,
    /// An address where the picture should be.
    #[error("it is an address, and pictures are not fetched; send the file as base64, or object:<key>")]
    Address,
    /// A character that base64 does not have.
    #[error(
        "it is not base64: character {at} is {found:?}; base64 has A-Z, a-z, 0-9, + and /, or - and _ in place of these"
    )]
    Character {
        /// Its place, counted from 1 behind `data:...,`.
        at: usize,
        /// The character.
        found: char,
    },
    /// `=` with more data behind it.
    #[error(
        "it is not base64: character {at} comes behind the = that ends it; was it put together from two pieces?"
    )]
    BehindEnd {
        /// Its place, counted from 1 behind `data:...,`.
        at: usize,
    },
    /// A number of characters that no base64 has.
    #[error(
        "it is not base64: {characters} characters are no whole number of bytes; it is cut off, or lacks some"
    )]
    Length {
        /// Characters without white space and `=`.
        characters: usize,
    },
    /// No characters at all.
    #[error("it is empty; base64 or object:<key> is expected")]
    Empty,
    /// A file of another kind, known by its beginning.
    #[error("it is {0}; PNG, JPEG and WebP are read")]
    Kind(&'static str),
}

/// The base64 of a text: what stands behind the comma of a `data:` URL, or all of it.
///
/// # Errors
/// [`InlineError`] for a `data:` URL of another kind, and for an address.
pub fn base64_of(text: &str) -> Result<&str, InlineError> {
    let text = text.trim_start();
    let begins =
        |scheme: &str| text.get(..scheme.len()).is_some_and(|head| head.eq_ignore_ascii_case(scheme));
    if ["http://", "https://", "file://", "s3://"].into_iter().any(begins) {
        return Err(InlineError::Address);
    }
    if !begins("data:") {
        return Ok(text);
    }
    let (parameters, data) = text.split_once(',').ok_or(InlineError::DataUrl)?;
    let is_base64 = parameters.split(';').skip(1).any(|word| word.trim().eq_ignore_ascii_case("base64"));
    if is_base64 { Ok(data) } else { Err(InlineError::DataUrl) }
}

/// The bytes that a sound base64 text stands for, without decoding it: one look at each character.
///
/// # Errors
/// [`InlineError`] for what is no base64, and for a file that is known to be of another kind.
pub fn check(base64: &str) -> Result<u64, InlineError> {
    let mut characters = 0;
    let mut is_ended = false;
    for (at, byte) in base64.bytes().enumerate() {
        match byte {
            b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'+' | b'/' | b'-' | b'_' if !is_ended => {
                characters += 1
            }
            b'=' => is_ended = true,
            b' ' | b'\t' | b'\r' | b'\n' => {}
            _ => return Err(refused(base64, at, is_ended)),
        }
    }
    match characters % 4 {
        _ if characters == 0 => return Err(InlineError::Empty),
        1 => return Err(InlineError::Length { characters }),
        _ => {}
    }
    let beginning: String = base64.chars().filter(|c| !is_space(*c)).take(BEGINNING).collect();
    if let Some(kind) = decode(&beginning).ok().and_then(|bytes| other_kind(&bytes)) {
        return Err(InlineError::Kind(kind));
    }
    Ok(characters as u64 * 3 / 4)
}

/// Decodes it.
///
/// # Errors
/// [`InlineError`] as [`check`] gives it.
pub fn decode(base64: &str) -> Result<Vec<u8>, InlineError> {
    // As programs write it; others are put into this form first.
    if let Ok(bytes) = READER.decode(base64) {
        return Ok(bytes);
    }
    let usual: String = base64
        .chars()
        .filter(|c| !is_space(*c) && *c != '=')
        .map(|c| match c {
            '-' => '+',
            '_' => '/',
            c => c,
        })
        .collect();
    READER.decode(&usual).map_err(|_| match check(base64) {
        Err(error) => error,
        Ok(_) => InlineError::Length { characters: usual.len() },
    })
}

fn is_space(c: char) -> bool {
    matches!(c, ' ' | '\t' | '\r' | '\n')
}

fn refused(base64: &str, at: usize, is_ended: bool) -> InlineError {
    let found = base64.get(at..).and_then(|rest| rest.chars().next()).unwrap_or(char::REPLACEMENT_CHARACTER);
    let at = base64.get(..at).map_or(at, |before| before.chars().count()) + 1;
    match is_ended {
        true => InlineError::BehindEnd { at },
        false => InlineError::Character { at, found },
    }
}

/// What a file is that is no PNG, JPEG or WebP, as far as its first bytes say.
pub fn other_kind(bytes: &[u8]) -> Option<&'static str> {
    let begins = |with: &[u8]| bytes.starts_with(with);
    let brand = bytes.get(4..12).and_then(|found| found.strip_prefix(b"ftyp"));
    match brand {
        Some(b"avif" | b"avis") => return Some("an AVIF picture"),
        Some(b"heic" | b"heix" | b"hevc" | b"mif1" | b"msf1") => return Some("a HEIC picture"),
        Some(_) => return Some("a video"),
        None => {}
    }
    if begins(b"GIF87a") || begins(b"GIF89a") {
        Some("a GIF picture")
    } else if begins(b"II*\0") || begins(b"MM\0*") {
        Some("a TIFF picture")
    } else if begins(b"\xff\x0a") || begins(b"\0\0\0\x0cJXL ") {
        Some("a JPEG XL picture")
    } else if begins(b"\0\0\0\x0cjP  ") {
        Some("a JPEG 2000 picture")
    } else if begins(b"BM") && bytes.get(6..10) == Some(&[0; 4]) {
        Some("a BMP picture")
    } else if begins(b"8BPS") {
        Some("a Photoshop document")
    } else if begins(b"%PDF") {
        Some("a PDF document")
    } else if begins(b"<svg") || begins(b"<?xml") {
        Some("an SVG or XML text")
    } else if begins(b"<!DOC") || begins(b"<!doc") || begins(b"<html") || begins(b"<HTML") {
        Some("a page of HTML")
    } else if begins(b"version https://git-lfs") {
        Some("a pointer of Git LFS, not the picture itself")
    } else if begins(b"{\"") || begins(b"data:") {
        Some("text")
    } else {
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const BYTES: &[u8] =
        b"\x89PNG\r\n\x1a\n????>>>>\xfb\xff\xfe any bytes at all, enough of them for two lines of 76.";

    fn read(text: &str) -> Result<Vec<u8>, InlineError> {
        let base64 = base64_of(text)?;
        let size = check(base64)?;
        let bytes = decode(base64)?;
        assert_eq!(size, bytes.len() as u64, "{text}");
        Ok(bytes)
    }

    #[test]
    fn base64_is_read_as_people_make_it() {
        let plain = base64::engine::general_purpose::STANDARD.encode(BYTES);
        assert!(plain.ends_with('=') && plain.contains('+') && plain.contains('/'), "{plain}");
        let lines = |end: &str| {
            let (first, second) = plain.split_at(76);
            format!("{first}{end}{second}{end}")
        };
        let bare = plain.trim_end_matches('=').to_owned();
        for text in [
            plain.clone(),
            bare.clone(),
            lines("\n"),
            lines("\r\n"),
            lines("\r\n    "),
            format!("  {plain}\n\n"),
            plain.replace('+', "-").replace('/', "_"),
            bare.replace('+', "-").replace('/', "_"),
            format!("data:image/png;base64,{plain}"),
            format!("data:;base64,{plain}"),
            format!("DATA:image/png;charset=utf-8;Base64,{plain}"),
            format!("data:image/png;name=a b.png; base64 ,{}", lines("\n")),
            format!("\ndata:image/png;base64;x=y,{bare}"),
        ] {
            assert_eq!(read(&text), Ok(BYTES.to_vec()), "{text}");
        }
        // One byte, with bits left in its last character that are not 0.
        assert_eq!(read("QR=="), Ok(b"A".to_vec()));
    }

    #[test]
    fn what_is_no_base64_is_said_in_words() {
        for (text, says) in [
            ("iVBO!Rw0", "character 5 is '!'"),
            ("äöü", "character 1 is 'ä'"),
            ("iVBOé", "character 5 is 'é'"),
            ("iVBOR", "5 characters are no whole number of bytes"),
            ("QQ==QUJD", "character 5 comes behind the ="),
            (" \n", "empty"),
            ("data:image/png;base64,", "empty"),
            ("data:image/png,AAAA", "must be base64"),
            ("data:image/png;base64", "must be base64"),
            ("https://example.org/a.png", "address"),
            ("./a.png", "character 1 is '.'"),
        ] {
            let error = read(text).unwrap_err().to_string();
            assert!(error.contains(says), "{text}: {error}");
        }
    }

    #[test]
    fn a_file_of_another_kind_is_named() {
        for (bytes, kind) in [
            (&b"GIF89a\x01\0\x01\0\0\0\0"[..], "a GIF"),
            (b"\0\0\0\x20ftypavif\0\0\0\0", "an AVIF"),
            (b"\0\0\0\x20ftypheic\0\0\0\0", "a HEIC"),
            (b"II*\0\x08\0\0\0", "a TIFF"),
            (b"BM\x36\0\0\0\0\0\0\0\x36\0", "a BMP"),
            (b"<svg xmlns=", "an SVG"),
            (b"version https://git-lfs.github.com/spec/v1", "Git LFS"),
        ] {
            let error = read(&READER.encode(bytes)).unwrap_err().to_string();
            assert!(error.contains(kind) && error.contains("PNG, JPEG and WebP"), "{error}");
        }
        assert_eq!(other_kind(BYTES), None);
    }
}
