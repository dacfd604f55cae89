//! Pictures in a terminal that shows them, by what its environment says of it: nothing is asked of the terminal, whose answer
//! would come as if it were typed.
//!
//! Two protocols: iTerm2's, which takes any encoded picture (<https://iterm2.com/documentation-images.html>), and kitty's,
//! which takes PNG and pixels (<https://sw.kovidgoyal.net/kitty/graphics-protocol/>).

use base64::{Engine, engine::general_purpose::STANDARD};

/// The height of a picture, in lines of the terminal.
pub const LINES: u16 = 12;
/// Characters of a part of a picture: kitty takes no more at one time.
const PART: usize = 4096;
/// The first bytes of a PNG.
const PNG: &[u8] = b"\x89PNG";

/// Which protocol a terminal speaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Terminal {
    /// iTerm2's.
    Iterm2,
    /// Kitty's.
    Kitty,
}

impl Terminal {
    /// The terminal that keeper runs in.
    ///
    /// # Errors
    /// Why it shows no pictures, in words.
    pub fn of_environment() -> Result<Self, &'static str> {
        match Self::of(|name| std::env::var(name).ok()) {
            Some(Self::Kitty) if !cfg!(feature = "terminal") => {
                Err("this build has not the feature `terminal`, which this kind of terminal needs")
            }
            Some(terminal) => Ok(terminal),
            None => Err("this terminal is none of those that are known to show pictures"),
        }
    }

    fn of(variable: impl Fn(&str) -> Option<String>) -> Option<Self> {
        let is = |name: &str, values: &[&str]| {
            variable(name).is_some_and(|value| values.iter().any(|known| value.eq_ignore_ascii_case(known)))
        };
        // What stands between, and keeps pictures for itself.
        if variable("TMUX").is_some() || variable("STY").is_some() {
            return None;
        }
        if variable("KITTY_WINDOW_ID").is_some()
            || is("TERM", &["xterm-kitty", "xterm-ghostty"])
            || is("TERM_PROGRAM", &["ghostty"])
        {
            return Some(Self::Kitty);
        }
        let speaks_iterm2 = is("TERM_PROGRAM", &["iTerm.app", "WezTerm", "mintty", "rio", "WarpTerminal"])
            || is("LC_TERMINAL", &["iTerm2"])
            || variable("KONSOLE_VERSION").is_some();
        speaks_iterm2.then_some(Self::Iterm2)
    }

    /// What is written to show a picture at the beginning of a line, with the cursor behind it on a line of its own. `over`:
    /// over the one that was shown last. `None` for an encoding that this terminal does not take.
    pub fn show(self, picture: &[u8], over: bool) -> Option<String> {
        let picture = match self {
            Self::Iterm2 => iterm2(picture),
            Self::Kitty => kitty(picture)?,
        };
        // Room first: at the end of the screen it scrolls before the picture is there.
        let room = "\n".repeat(LINES.into());
        let up = if over { LINES } else { 0 };
        let above = if up == 0 { String::new() } else { format!("\x1b[{up}A\r") };
        Some(format!("{above}{room}\x1b[{LINES}A\r\x1b7{picture}\x1b8\x1b[{LINES}B\r"))
    }
}

fn iterm2(picture: &[u8]) -> String {
    let (size, text) = (picture.len(), STANDARD.encode(picture));
    format!("\x1b]1337;File=inline=1;size={size};height={LINES};preserveAspectRatio=1:{text}\x07")
}

fn kitty(picture: &[u8]) -> Option<String> {
    let (form, bytes) = match picture.starts_with(PNG) {
        true => ("f=100".to_owned(), picture.to_vec()),
        false => pixels(picture).map(|(width, height, rgb)| (format!("f=24,s={width},v={height}"), rgb))?,
    };
    let text = STANDARD.encode(bytes);
    let parts = text.as_bytes().chunks(PART).collect::<Vec<_>>();
    let last = parts.len().saturating_sub(1);
    // A picture of the same number takes the place of the one before, which is forgotten.
    let id = std::process::id();
    let mut sequences = String::with_capacity(text.len() + 16 * parts.len());
    for (index, part) in parts.into_iter().enumerate() {
        // q=2: it answers nothing.
        let keys = if index == 0 { format!("a=T,{form},i={id},r={LINES},C=1,q=2,") } else { String::new() };
        let more = u8::from(index < last);
        let part = String::from_utf8_lossy(part);
        sequences.push_str(&format!("\x1b_G{keys}m={more};{part}\x1b\\"));
    }
    Some(sequences)
}

/// Width, height and RGB of a JPEG.
#[cfg(feature = "terminal")]
fn pixels(jpeg: &[u8]) -> Option<(usize, usize, Vec<u8>)> {
    use zune_jpeg::{
        JpegDecoder,
        zune_core::{bytestream::ZCursor, colorspace::ColorSpace, options::DecoderOptions},
    };

    /// The longest side that is decoded, in pixels: a preview has at most 256, a picture 2048.
    const MAX_SIDE: usize = 4096;
    let options = DecoderOptions::default()
        .set_max_width(MAX_SIDE)
        .set_max_height(MAX_SIDE)
        .jpeg_set_out_colorspace(ColorSpace::RGB);
    let mut decoder = JpegDecoder::new_with_options(ZCursor::new(jpeg), options);
    let rgb = decoder.decode().ok()?;
    let (width, height) = decoder.dimensions()?;
    (rgb.len() == width * height * 3).then_some((width, height, rgb))
}

/// Without a decoder.
#[cfg(not(feature = "terminal"))]
fn pixels(_: &[u8]) -> Option<(usize, usize, Vec<u8>)> {
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(set: &[(&str, &str)]) -> Option<Terminal> {
        Terminal::of(|name| set.iter().find(|(key, _)| *key == name).map(|(_, value)| (*value).to_owned()))
    }

    #[test]
    fn a_terminal_is_known_by_its_environment() {
        for (set, terminal) in [
            (&[("TERM", "xterm-kitty")][..], Some(Terminal::Kitty)),
            (&[("KITTY_WINDOW_ID", "1"), ("TERM", "xterm-256color")], Some(Terminal::Kitty)),
            (&[("TERM_PROGRAM", "ghostty")], Some(Terminal::Kitty)),
            (&[("TERM_PROGRAM", "iTerm.app")], Some(Terminal::Iterm2)),
            (&[("TERM_PROGRAM", "WezTerm")], Some(Terminal::Iterm2)),
            (&[("KONSOLE_VERSION", "230804")], Some(Terminal::Iterm2)),
            (&[("TERM_PROGRAM", "Apple_Terminal")], None),
            (&[("TERM", "xterm-256color")], None),
            (&[("TERM", "xterm-kitty"), ("TMUX", "/tmp/tmux-0/default,1,0")], None),
            (&[("TERM_PROGRAM", "WezTerm"), ("STY", "1.pts")], None),
        ] {
            assert_eq!(of(set), terminal, "{set:?}");
        }
    }

    #[test]
    fn iterm2_is_given_the_file_and_kitty_a_png_in_parts() {
        let shown = Terminal::Iterm2.show(b"\xff\xd8jpeg", false).unwrap();
        assert!(
            shown.contains("\x1b]1337;File=inline=1;size=6;height=12;") && shown.contains(":/9hqcGVn\x07")
        );
        let png = [PNG, &[7; 9000]].concat();
        let shown = Terminal::Kitty.show(&png, true).unwrap();
        assert!(shown.starts_with("\x1b[12A\r"), "over the one before");
        let parts: Vec<&str> = shown.split("\x1b_G").skip(1).collect();
        assert_eq!(parts.len(), 3);
        assert!(
            parts[0].starts_with("a=T,f=100,i=") && parts[0].contains(",r=12,C=1,q=2,m=1;"),
            "{}",
            parts[0]
        );
        assert!(parts[1].starts_with("m=1;") && parts[2].starts_with("m=0;"));
        let text: String =
            parts.iter().map(|part| part.split_once(';').unwrap().1.split('\x1b').next().unwrap()).collect();
        assert_eq!(STANDARD.decode(text).unwrap(), png);
        assert_eq!(Terminal::Kitty.show(b"RIFF....WEBP", false), None);
    }

    #[cfg(all(feature = "terminal", feature = "worker"))]
    #[test]
    fn kitty_is_given_the_pixels_of_a_jpeg() {
        let red = image::RgbImage::from_pixel(16, 8, image::Rgb([200, 10, 10]));
        let mut jpeg = vec![];
        red.write_to(&mut std::io::Cursor::new(&mut jpeg), image::ImageFormat::Jpeg).unwrap();
        let (width, height, rgb) = pixels(&jpeg).unwrap();
        assert_eq!((width, height), (16, 8));
        assert!(rgb.chunks(3).all(|pixel| pixel[0] > 180 && pixel[1] < 40), "{:?}", &rgb[..3]);
        assert!(Terminal::Kitty.show(&jpeg, false).unwrap().contains("f=24,s=16,v=8,"));
        assert!(pixels(&jpeg[..20]).is_none());
    }
}
