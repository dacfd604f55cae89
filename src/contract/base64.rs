//! Base64 as people make it: in lines, without the `=` at its end, in the alphabet of URLs.

use base64::{
    Engine as _,
    alphabet::STANDARD,
    engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig},
};

/// Padding may be there or not; what is over in the last character does not count.
const LENIENT: GeneralPurpose = GeneralPurpose::new(
    &STANDARD,
    GeneralPurposeConfig::new()
        .with_decode_padding_mode(DecodePaddingMode::Indifferent)
        .with_decode_allow_trailing_bits(true),
);

/// A text that is no base64.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Base64Error {
    /// A character that base64 has not.
    #[error("{0:?} at character {1} is not of base64, which has A-Z a-z 0-9 + / and = at its end")]
    Character(char, usize),
    /// Its end is missing.
    #[error("it is cut: base64 comes in groups of 4 characters, and one is left over")]
    Cut,
}

/// The bytes that a text stands for. Spaces and line breaks count for nothing, `-` and `_` are `+` and `/`.
///
/// # Errors
/// [`Base64Error`].
pub fn decode_base64(text: &str) -> Result<Vec<u8>, Base64Error> {
    check_base64(text)?;
    let plain: Vec<u8> = text.bytes().filter_map(plain).collect();
    // What was checked has no other fault than a wrong number of `=`.
    LENIENT.decode(plain).map_err(|_| Base64Error::Cut)
}

/// Whether a text is base64; nothing is kept of it.
///
/// # Errors
/// [`Base64Error`].
pub fn check_base64(text: &str) -> Result<(), Base64Error> {
    let (mut letters, mut ended) = (0usize, false);
    for (at, byte) in text.bytes().enumerate() {
        match byte {
            _ if byte.is_ascii_whitespace() => {}
            b'=' => ended = true,
            _ if plain(byte).is_some() && !ended => letters += 1,
            _ => {
                let found = text.get(at..).and_then(|rest| rest.chars().next()).unwrap_or_default();
                return Err(Base64Error::Character(found, text[..at].chars().count() + 1));
            }
        }
    }
    if letters % 4 == 1 { Err(Base64Error::Cut) } else { Ok(()) }
}

/// The byte in the usual alphabet; `None` for what is no letter of it: padding is left out, as its number may be wrong.
fn plain(byte: u8) -> Option<u8> {
    match byte {
        b'-' => Some(b'+'),
        b'_' => Some(b'/'),
        b'+' | b'/' => Some(byte),
        _ if byte.is_ascii_alphanumeric() => Some(byte),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn base64_as_people_make_it_is_read() {
        let bytes: Vec<u8> = (0..=255).cycle().take(1000).collect();
        for length in [0, 1, 2, 3, 57, 1000] {
            let bytes = &bytes[..length];
            let text = base64::engine::general_purpose::STANDARD.encode(bytes);
            let lines = |end: &str| {
                let lines: Vec<_> =
                    text.as_bytes().chunks(76).map(|line| std::str::from_utf8(line).unwrap()).collect();
                lines.join(end) + end
            };
            let url = text.replace('+', "-").replace('/', "_");
            for text in [
                text.clone(),
                lines("\n"),
                lines("\r\n"),
                text.trim_end_matches('=').to_owned(),
                url,
                text.clone() + "==",
            ] {
                assert_eq!(decode_base64(&text).unwrap(), bytes, "{text}");
            }
        }
    }

    #[test]
    fn what_is_none_is_told_by_its_place() {
        assert_eq!(decode_base64("AA!A"), Err(Base64Error::Character('!', 3)));
        assert_eq!(decode_base64("Aäöü"), Err(Base64Error::Character('ä', 2)));
        assert_eq!(
            decode_base64("AA==AA"),
            Err(Base64Error::Character('A', 5)),
            "two texts, one behind the other"
        );
        assert_eq!(decode_base64("AAAAA"), Err(Base64Error::Cut));
    }
}
