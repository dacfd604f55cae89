//! The parameters of a picture as EXIF, for JPEG and WebP: in `UserComment`, where A1111 writes its infotext and its readers
//! look for it. The bytes are those that piexif, which A1111 uses, makes of the same text.

/// TIFF, big-endian, whose first directory begins at byte 8.
const HEADER: &[u8] = b"MM\0*\0\0\0\x08";
/// Bytes of a directory with one entry.
const DIRECTORY: u32 = 2 + 12 + 4;
/// What stands before a text in UTF-16.
const UNICODE: &[u8] = b"UNICODE\0";
/// The most bytes that a JPEG has room for: a segment of 65,535 with its length and its mark.
const MAX_IN_JPEG: usize = 65_535 - 2 - b"Exif\0\0".len();

/// The text as EXIF (TIFF, without the mark that JPEG puts before it).
pub fn user_comment(text: &str) -> Vec<u8> {
    let mut comment = UNICODE.to_vec();
    comment.extend(text.encode_utf16().flat_map(u16::to_be_bytes));
    let exif_at = HEADER.len() as u32 + DIRECTORY;
    let mut exif = HEADER.to_vec();
    // A pointer (one number of 32 bits) to the directory of EXIF, and there the comment (bytes of no type).
    entry(&mut exif, 0x8769, 4, 1, exif_at);
    entry(&mut exif, 0x9286, 7, comment.len() as u32, exif_at + DIRECTORY);
    exif.extend(comment);
    exif
}

/// The same, where it fits into a JPEG: texts of up to 32,737 UTF-16 units do. The longest prompts with the most LoRAs
/// have fewer; what does not fit is left out, since half of a text would be read as other parameters.
pub fn user_comment_of_jpeg(text: &str) -> Option<Vec<u8>> {
    let exif = user_comment(text);
    (exif.len() <= MAX_IN_JPEG).then_some(exif)
}

/// A directory with one entry, and none after it.
fn entry(exif: &mut Vec<u8>, tag: u16, kind: u16, count: u32, value: u32) {
    exif.extend(1u16.to_be_bytes());
    exif.extend(tag.to_be_bytes());
    exif.extend(kind.to_be_bytes());
    exif.extend(count.to_be_bytes());
    exif.extend(value.to_be_bytes());
    exif.extend(0u32.to_be_bytes());
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_text_is_what_piexif_makes_of_it() {
        let made = b"MM\0*\0\0\0\x08\
            \0\x01\x87\x69\0\x04\0\0\0\x01\0\0\0\x1a\0\0\0\0\
            \0\x01\x92\x86\0\x07\0\0\0\x10\0\0\0\x2c\0\0\0\0\
            UNICODE\0\0a\x51\x86\xd8\x3d\xdd\x34";
        assert_eq!(user_comment("a円🔴"), made);
    }

    #[test]
    fn a_jpeg_has_room_for_so_much_and_no_more() {
        assert_eq!(user_comment_of_jpeg(&"a".repeat(32_737)).map(|exif| exif.len()), Some(65_526));
        assert_eq!(user_comment_of_jpeg(&"a".repeat(32_738)), None);
    }
}
