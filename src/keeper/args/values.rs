//! How the values of flags are read, and what is said of those that cannot be.

use std::{convert::Infallible, ffi::OsStr};

use clap::{
    Arg, Command, Error,
    builder::{StringValueParser, TypedValueParser},
    error::ErrorKind,
};
use reqwest::Url;
use serde_json::{Map, Value};

use crate::contract::{GuidanceInterval, Lora, OutputFormat, PromptSyntax, SchedulerOptions};

/// The fewest letters in which an abbreviated flag is seen.
const SHORTEST_ABBREVIATION: usize = 3;

/// A secret that is not shown by `Debug`.
#[derive(Clone)]
pub struct Token(String);

impl Token {
    /// The secret itself, without white space around it; may be empty.
    pub fn secret(&self) -> &str {
        self.0.trim()
    }
}

impl std::str::FromStr for Token {
    type Err = std::convert::Infallible;
    /// Takes any text: clap would print one that is refused.
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Ok(Self(text.to_owned()))
    }
}

impl From<&str> for Token {
    fn from(text: &str) -> Self {
        Self(text.to_owned())
    }
}

impl std::fmt::Debug for Token {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Token(..)")
    }
}

/// A seed; none for -1, which draws one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Seed(pub Option<u64>);

impl std::str::FromStr for Seed {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text.trim() {
            "-1" => Ok(Self(None)),
            text => text
                .parse()
                .map(|seed| Self(Some(seed)))
                .map_err(|_| format!("a whole number from 0 to {}, or -1 for any, is expected", u64::MAX)),
        }
    }
}

/// So many whole numbers of pixels, with commas between them.
pub fn pixels<const N: usize>(text: &str) -> Result<[u32; N], String> {
    let expected = || format!("{N} whole numbers of pixels are expected, with commas between them");
    let numbers: Result<Vec<u32>, _> = text.split(',').map(|number| number.trim().parse()).collect();
    numbers.ok().and_then(|numbers| numbers.try_into().ok()).ok_or_else(expected)
}

/// Text, which may begin with a dash. What is a flag of the command, or begins as one, is taken for a flag whose text before
/// it was forgotten.
#[derive(Debug, Clone, Copy)]
pub struct Text;

impl TypedValueParser for Text {
    type Value = String;

    fn parse_ref(&self, command: &Command, arg: Option<&Arg>, value: &OsStr) -> Result<String, Error> {
        let text = StringValueParser::new().parse_ref(command, arg, value)?;
        if !is_a_flag(command, &text) {
            return Ok(text);
        }
        let name = arg.and_then(Arg::get_long).unwrap_or("prompt");
        Err(Error::raw(
            ErrorKind::InvalidValue,
            format!("--{name} needs a text, and `{text}` is a flag; as text, write a space before it\n"),
        )
        .with_cmd(command))
    }
}

/// What stands where no argument belongs. It is an argument of its own for the order of what is told: a text that was
/// forgotten before a flag comes first.
#[derive(Debug, Clone, Copy)]
pub struct Stray;

impl TypedValueParser for Stray {
    type Value = Infallible;

    fn parse_ref(&self, command: &Command, _: Option<&Arg>, value: &OsStr) -> Result<Infallible, Error> {
        let text = format!(
            "unexpected argument `{}`; a text of several words needs quotes\n",
            value.to_string_lossy()
        );
        Err(Error::raw(ErrorKind::UnknownArgument, text).with_cmd(command))
    }
}

fn is_a_flag(command: &Command, text: &str) -> bool {
    let is_short = |c: char| command.get_arguments().any(|arg| arg.get_short() == Some(c));
    let is_long = |word: &str| {
        let mut longs = command.get_arguments().flat_map(|arg| {
            arg.get_long().into_iter().chain(arg.get_all_aliases().unwrap_or_default()).collect::<Vec<_>>()
        });
        longs.any(|long| long == word || word.len() >= SHORTEST_ABBREVIATION && long.starts_with(word))
    };
    match text.strip_prefix("--") {
        Some(long) => is_long(long.split('=').next().unwrap_or_default()),
        None => {
            let mut letters = text.strip_prefix('-').unwrap_or_default().chars();
            letters.next().is_some_and(is_short) && letters.next().is_none()
        }
    }
}

/// A whole number from `LEAST` to `MOST`.
///
/// # Errors
/// A sentence that says what is allowed, for clap. So it is with all functions here.
pub fn whole<const LEAST: u32, const MOST: u32>(text: &str) -> Result<u32, String> {
    match text.trim().parse::<u32>() {
        Ok(number) if (LEAST..=MOST).contains(&number) => Ok(number),
        _ => Err(format!("a whole number from {LEAST} to {MOST} is expected")),
    }
}

/// A side of a picture in pixels.
pub fn side(text: &str) -> Result<u32, String> {
    match whole::<64, 2048>(text) {
        Ok(side) if side.is_multiple_of(8) => Ok(side),
        _ => Err("a multiple of 8 from 64 to 2048 is expected".into()),
    }
}

/// JSON has no NaN and no infinity: they are refused here rather than sent as null.
pub fn number(text: &str) -> Result<f64, String> {
    match text.trim().parse::<f64>() {
        Ok(number) if number.is_finite() => Ok(number),
        Ok(_) => Err("a finite number is expected".into()),
        Err(_) => Err("a number is expected, for example 0.8".into()),
    }
}

/// An interval as the contract allows it: what is refused here was not sent.
pub fn interval(text: &str) -> Result<[f64; 2], String> {
    let (from, to) = text.split_once(',').ok_or("two fractions are expected, for example 0.1,0.8")?;
    let bounds = [number(from)?, number(to)?];
    GuidanceInterval::new(bounds).map_err(|error| error.to_string())?;
    Ok(bounds)
}

/// A LoRA: its name, or `name=strength`.
pub fn lora(text: &str) -> Result<Lora, String> {
    let (path, strength) = match text.rsplit_once('=') {
        None => (text, None),
        Some((path, strength)) => (path, Some(number(strength)?)),
    };
    Ok(Lora { path: path.to_owned(), strength })
}

/// One of `plain` and `a1111`, which clap has seen to.
pub fn syntax(name: String) -> PromptSyntax {
    if name == "a1111" { PromptSyntax::A1111 } else { PromptSyntax::Plain }
}

/// An option of a scheduler. Its value is JSON, or else a text.
pub fn scheduler_option(text: &str) -> Result<(String, Value), String> {
    let (name, value) = text.split_once('=').ok_or("NAME=VALUE, for example timestep_spacing=trailing")?;
    let value = serde_json::from_str(value).unwrap_or_else(|_| Value::from(value));
    scheduler_options(&[(name.to_owned(), value.clone())]).map_err(|error| error.to_string())?;
    Ok((name.to_owned(), value))
}

/// All of them as the body's field; none: it is left out.
pub fn scheduler_options(options: &[(String, Value)]) -> Result<Option<SchedulerOptions>, serde_json::Error> {
    let options: Map<String, Value> = options.iter().cloned().collect();
    match options.is_empty() {
        true => Ok(None),
        false => serde_json::from_value(options.into()).map(Some),
    }
}

/// One of `png`, `jpeg` and `webp`, which clap has seen to.
pub fn format(name: String) -> OutputFormat {
    match name.as_str() {
        "jpeg" => OutputFormat::Jpeg,
        "webp" => OutputFormat::Webp,
        _ => OutputFormat::Png,
    }
}

/// Where queen is; `host:port` means http, as with curl.
pub fn queen(text: &str) -> Result<Url, String> {
    let url = address(text)?;
    if url.query().is_some() || url.fragment().is_some() {
        return Err("an address is expected, without anything behind `?` or `#`".into());
    }
    Ok(url)
}

/// A proxy that is spoken to over HTTP; `host:port` means http.
pub fn proxy(text: &str) -> Result<Url, String> {
    address(text)
}

fn address(text: &str) -> Result<Url, String> {
    let text = text.trim();
    let full = if text.contains("://") { text.to_owned() } else { format!("http://{text}") };
    let url = Url::parse(&full)
        .map_err(|error| format!("it is no address ({error}); write it as http://127.0.0.1:7833"))?;
    match url.scheme() {
        "http" | "https" => Ok(url),
        other => Err(format!("`{other}` is no scheme that can be used here; http and https are")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_that_json_cannot_carry_are_refused() {
        for text in ["NaN", "inf", "-inf", "many"] {
            assert!(number(text).is_err(), "{text}");
        }
        assert_eq!(number("7.5"), Ok(7.5));
    }

    #[test]
    fn an_interval_is_two_fractions_in_order() {
        for text in ["", "0.1", "0.8,0.1", "0.5,1.5", "-0.1,1", "0,1,1", "a,1", "0,NaN"] {
            assert!(interval(text).is_err(), "{text}");
        }
        assert_eq!(interval("0.1, 0.8"), Ok([0.1, 0.8]));
    }

    #[test]
    fn an_address_may_leave_out_http() {
        for (text, url) in [
            ("localhost:7833", "http://localhost:7833/"),
            ("10.0.0.7", "http://10.0.0.7/"),
            (" https://queen.example/pool ", "https://queen.example/pool"),
            ("[::1]:7833", "http://[::1]:7833/"),
        ] {
            assert_eq!(queen(text).unwrap().as_str(), url);
        }
        for bad in ["", "ftp://x", "http://", "http://h/?q", "http://h/#a", "nats://127.0.0.1:4222"] {
            assert!(queen(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn a_seed_of_minus_one_is_any() {
        assert_eq!("-1".parse(), Ok(Seed(None)));
        assert_eq!("7".parse(), Ok(Seed(Some(7))));
        assert!("-2".parse::<Seed>().is_err());
    }
}
