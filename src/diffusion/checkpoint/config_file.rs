//! One JSON configuration file, read key by key so that every error names file, key, expected and found.

use std::{
    borrow::Cow,
    fs::File,
    io::Read,
    path::{Path, PathBuf},
};

use serde_json::{Map, Value};

use super::limits::{MAX_CONFIG_BYTES, MAX_SCALING};
use crate::diffusion::{
    error::{BEGINNING, DiffusionError, FileKind, what_is},
    ops::Activation,
};

/// The largest integer that a configuration may hold: more is damage, not a model.
const MAX_INTEGER: u64 = 1 << 20;

/// What some editors write before UTF-8.
const BYTE_ORDER_MARK: &[u8] = b"\xef\xbb\xbf";

/// A JSON object and where it is from.
#[derive(Debug, Clone)]
pub struct ConfigFile {
    path: PathBuf,
    values: Map<String, Value>,
}

impl ConfigFile {
    /// Reads a file that holds one JSON object.
    ///
    /// # Errors
    /// It cannot be read, is too long, or is something else.
    pub fn read(path: &Path) -> Result<Self, DiffusionError> {
        Self::parse(path, &read_limited(path, MAX_CONFIG_BYTES)?)
    }

    /// The one JSON object that a file of this name holds.
    ///
    /// # Errors
    /// It is something else.
    pub fn parse(path: &Path, bytes: &[u8]) -> Result<Self, DiffusionError> {
        let json = |reason: String| DiffusionError::Json { file: path.to_owned(), reason };
        let other = |reason: String| match what_is(&bytes[..bytes.len().min(BEGINNING)]) {
            // What begins as JSON, or is any text, is told better by where it is wrong.
            None | Some(FileKind::Json | FileKind::Text) => json(reason),
            Some(kind) => json(kind.to_string()),
        };
        let text = bytes.strip_prefix(BYTE_ORDER_MARK).unwrap_or(bytes);
        let text = std::str::from_utf8(text).map_err(|error| other(error.to_string()))?;
        // Only what is no JSON is changed: words of a tokenizer may be called as Python's numbers are.
        match serde_json::from_str(text).or_else(|error| match finite_json(text) {
            Cow::Owned(text) => serde_json::from_str(&text),
            Cow::Borrowed(_) => Err(error),
        }) {
            Ok(Value::Object(values)) => Ok(Self { path: path.to_owned(), values }),
            Ok(_) => Err(json("it holds another JSON value".into())),
            Err(error) => Err(other(error.to_string())),
        }
    }

    /// A configuration that is in no file of its own; `label` stands for the file's name in errors.
    pub fn from_value(label: impl Into<PathBuf>, value: Value) -> Result<Self, DiffusionError> {
        let path = label.into();
        match value {
            Value::Object(values) => Ok(Self { path, values }),
            _ => Err(DiffusionError::Json { file: path, reason: "it holds another JSON value".into() }),
        }
    }

    /// The value of a key; none when it is missing or null.
    pub fn value(&self, key: &str) -> Option<&Value> {
        self.values.get(key).filter(|value| !value.is_null())
    }

    /// Sets a key.
    pub fn set(&mut self, key: &str, value: Value) {
        self.values.insert(key.to_owned(), value);
    }

    /// All of it, as one value.
    pub fn json(&self) -> Value {
        self.values.clone().into()
    }

    /// Every key with its value.
    pub fn entries(&self) -> impl Iterator<Item = (&String, &Value)> {
        self.values.iter()
    }

    /// The error that a key's value cannot be used.
    pub fn unusable(&self, key: &str, expected: &str, found: impl ToString) -> DiffusionError {
        DiffusionError::Config {
            file: self.path.clone(),
            key: key.to_owned(),
            expected: expected.to_owned(),
            found: found.to_string(),
        }
    }

    fn wrong(&self, key: &str, expected: &str) -> DiffusionError {
        self.unusable(key, expected, self.value(key).map_or("none".to_owned(), Value::to_string))
    }

    /// A text that must be there.
    pub fn text(&self, key: &str) -> Result<&str, DiffusionError> {
        self.value(key).and_then(Value::as_str).ok_or_else(|| self.wrong(key, "a text"))
    }

    /// A text, or what is meant when it is missing.
    pub fn text_or<'a>(&'a self, key: &str, default: &'a str) -> Result<&'a str, DiffusionError> {
        if self.value(key).is_none() { Ok(default) } else { self.text(key) }
    }

    /// A positive integer that must be there.
    pub fn integer(&self, key: &str) -> Result<usize, DiffusionError> {
        self.value(key).and_then(positive).ok_or_else(|| self.wrong(key, "a positive integer"))
    }

    /// A positive integer, or what is meant when it is missing.
    pub fn integer_or(&self, key: &str, default: usize) -> Result<usize, DiffusionError> {
        if self.value(key).is_none() { Ok(default) } else { self.integer(key) }
    }

    /// As [`Self::integer_or`], refused above `most`.
    pub fn integer_up_to(&self, key: &str, default: usize, most: usize) -> Result<usize, DiffusionError> {
        let found = self.integer_or(key, default)?;
        self.up_to(key, &[found], most)?;
        Ok(found)
    }

    /// Refuses values of a key above `most`.
    pub fn up_to(&self, key: &str, found: &[usize], most: usize) -> Result<(), DiffusionError> {
        match found.iter().find(|found| **found > most) {
            Some(found) => Err(self.unusable(key, &format!("at most {most}"), found)),
            None => Ok(()),
        }
    }

    /// An integer from 0, or what is meant when it is missing.
    pub fn natural_or(&self, key: &str, default: usize) -> Result<usize, DiffusionError> {
        match self.value(key) {
            None => Ok(default),
            Some(value) if value.as_u64() == Some(0) => Ok(0),
            Some(_) => self.integer(key),
        }
    }

    /// A finite number, or what is meant when it is missing.
    pub fn number_or(&self, key: &str, default: f64) -> Result<f64, DiffusionError> {
        match self.value(key) {
            None => Ok(default),
            Some(value) => {
                value.as_f64().filter(|number| number.is_finite()).ok_or_else(|| self.wrong(key, "a number"))
            }
        }
    }

    /// The epsilon of a norm: above 0, and 1 at most.
    pub fn epsilon_or(&self, key: &str, default: f64) -> Result<f64, DiffusionError> {
        let found = self.number_or(key, default)?;
        match (f64::from(f32::MIN_POSITIVE)..=1.0).contains(&found) {
            true => Ok(found),
            false => Err(self.wrong(key, "a number above 0 and up to 1")),
        }
    }

    /// `scaling_factor` and `shift_factor` of latents.
    pub fn latent_scaling(&self, default: f64) -> Result<(f64, f64), DiffusionError> {
        let scale = self.number_or("scaling_factor", default)?;
        if !(1.0 / MAX_SCALING..=MAX_SCALING).contains(&scale) {
            let expected = format!("a positive number, {} to {MAX_SCALING}", 1.0 / MAX_SCALING);
            return Err(self.unusable("scaling_factor", &expected, scale));
        }
        let shift = self.number_or("shift_factor", 0.0)?;
        if shift.abs() > MAX_SCALING {
            return Err(self.unusable("shift_factor", &format!("at most {MAX_SCALING}"), shift));
        }
        Ok((scale, shift))
    }

    /// A truth value, or what is meant when it is missing.
    pub fn flag_or(&self, key: &str, default: bool) -> Result<bool, DiffusionError> {
        match self.value(key) {
            None => Ok(default),
            Some(value) => value.as_bool().ok_or_else(|| self.wrong(key, "true or false")),
        }
    }

    /// A list of positive integers, not empty.
    pub fn integers(&self, key: &str) -> Result<Vec<usize>, DiffusionError> {
        let list: Option<Vec<usize>> =
            self.value(key).and_then(Value::as_array).and_then(|list| list.iter().map(positive).collect());
        list.filter(|list| !list.is_empty()).ok_or_else(|| self.wrong(key, "a list of positive integers"))
    }

    /// One positive integer for all of `blocks`, or a list with one for each.
    pub fn per_block(&self, key: &str, default: usize, blocks: usize) -> Result<Vec<usize>, DiffusionError> {
        match self.value(key) {
            Some(Value::Array(_)) => {
                let list = self.integers(key)?;
                if list.len() == blocks {
                    Ok(list)
                } else {
                    Err(self.wrong(key, &format!("one number for each of the {blocks} blocks")))
                }
            }
            _ => Ok(vec![self.integer_or(key, default)?; blocks]),
        }
    }

    /// A list of names out of `known`, as positions in `known`.
    pub fn names(&self, key: &str, known: &[&str]) -> Result<Vec<usize>, DiffusionError> {
        let expected = || format!("names out of {}", known.join(", "));
        let list = self.value(key).and_then(Value::as_array).ok_or_else(|| self.wrong(key, &expected()))?;
        let position = |value: &Value| {
            let name = value.as_str();
            known
                .iter()
                .position(|known| Some(*known) == name)
                .ok_or_else(|| self.unusable(key, &expected(), value))
        };
        list.iter().map(position).collect()
    }

    /// One name out of `known`, as a position in `known`, or that of `default` when it is missing.
    pub fn name_or(&self, key: &str, known: &[&str], default: usize) -> Result<usize, DiffusionError> {
        if self.value(key).is_none() {
            return Ok(default);
        }
        let name = self.text(key)?;
        known
            .iter()
            .position(|known| *known == name)
            .ok_or_else(|| self.unusable(key, &format!("one of {}", known.join(", ")), name))
    }

    /// An activation function, or `default` when it is missing.
    pub fn activation_or(&self, key: &str, default: &str) -> Result<Activation, DiffusionError> {
        match self.text_or(key, default)?.to_ascii_lowercase().as_str() {
            "silu" | "swish" => Ok(Activation::Silu),
            "gelu" => Ok(Activation::GeluErf),
            "gelu_new" | "gelu_pytorch_tanh" => Ok(Activation::GeluTanh),
            "quick_gelu" => Ok(Activation::QuickGelu),
            _ => Err(self.wrong(key, "one of silu, swish, gelu, gelu_new, gelu_pytorch_tanh, quick_gelu")),
        }
    }

    /// Refuses a key that is set to anything but `allowed`: it names a variant that is not computed here.
    pub fn only(&self, key: &str, allowed: &[Value]) -> Result<(), DiffusionError> {
        match self.value(key) {
            Some(value) if !allowed.contains(value) => {
                let mut expected: Vec<String> = allowed.iter().map(Value::to_string).collect();
                expected.push("null".into());
                Err(self.wrong(key, &expected.join(" or ")))
            }
            _ => Ok(()),
        }
    }
}

/// A file of at most `most` bytes.
///
/// # Errors
/// It cannot be read, or is longer.
pub fn read_limited(path: &Path, most: u64) -> Result<Vec<u8>, DiffusionError> {
    let read = |source| DiffusionError::Read { file: path.to_owned(), source };
    let mut bytes = Vec::new();
    File::open(path).map_err(read)?.take(most + 1).read_to_end(&mut bytes).map_err(read)?;
    if bytes.len() as u64 > most {
        let reason = format!("it is longer than {most} bytes");
        return Err(DiffusionError::Json { file: path.to_owned(), reason });
    }
    Ok(bytes)
}

/// Python writes infinite numbers where JSON has none, as diffusers does for `lambda_min_clipped`: they are read as
/// texts, so that only who reads the key has to know.
fn finite_json(text: &str) -> Cow<'_, str> {
    if !text.contains("Infinity") && !text.contains("NaN") {
        return text.into();
    }
    // Even parts are outside of strings, where configurations have no escaped quotes.
    let parts = text.split('"').enumerate().map(|(i, part)| match i % 2 {
        0 => part
            .replace("-Infinity", "\"-\u{1}\"")
            .replace("Infinity", "\"Infinity\"")
            .replace("NaN", "\"NaN\"")
            .replace('\u{1}', "Infinity"),
        _ => part.to_owned(),
    });
    parts.collect::<Vec<_>>().join("\"").into()
}

fn positive(value: &Value) -> Option<usize> {
    let number = value.as_u64().filter(|number| (1..=MAX_INTEGER).contains(number))?;
    usize::try_from(number).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_infinite_number_of_python_s_is_read_as_its_text() {
        let text = r#"{"a": -Infinity, "b": "Infinity, not NaN", "c": [Infinity, 1]}"#;
        let file = ConfigFile::parse(Path::new("scheduler_config.json"), text.as_bytes()).unwrap();
        assert_eq!(file.value("a"), Some(&"-Infinity".into()));
        assert_eq!(file.value("b"), Some(&"Infinity, not NaN".into()));
        assert_eq!(file.value("c"), Some(&serde_json::json!(["Infinity", 1])));
        assert!(file.number_or("a", 0.0).unwrap_err().to_string().contains("`a`: expected a number"));
    }

    #[test]
    fn a_configuration_of_another_kind_is_called_what_it_is() {
        let error =
            |bytes: &[u8]| ConfigFile::parse(Path::new("config.json"), bytes).unwrap_err().to_string();
        for (bytes, expected) in [
            (&b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n"[..], "Git LFS pointer"),
            (b"<!DOCTYPE html><html></html>", "web page"),
            (b"", "it is empty"),
            (b"{", "EOF"),
            (b"[]", "another JSON value"),
            (b"\xff\xfe{\0", "invalid utf-8"),
        ] {
            let text = error(bytes);
            assert!(text.starts_with("config.json: not a JSON object") && text.contains(expected), "{text}");
        }
        assert!(ConfigFile::parse(Path::new("config.json"), b"\xef\xbb\xbf{}").is_ok());
        let words =
            ConfigFile::parse(Path::new("vocab.json"), br#"{"\"": 1, "NaN": 2, "\"Infinity": 3}"#).unwrap();
        assert_eq!(words.value("\"Infinity"), Some(&3.into()));
    }

    #[test]
    fn a_longer_configuration_is_not_read() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("config.json");
        File::create(&path).unwrap().set_len(MAX_CONFIG_BYTES + 1).unwrap();
        let text = ConfigFile::read(&path).unwrap_err().to_string();
        assert!(text.contains("longer than 16777216 bytes"), "{text}");
    }
}
