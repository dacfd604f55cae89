//! The fields of a request of another API, taken one by one. What is left is not known here, changes nothing, and is named
//! in a header.

use axum::http::{HeaderName, HeaderValue};
use serde_json::{Map, Value};

use super::refusal::field;
use crate::http::ApiError;

/// Fields of the request that changed nothing, as they are not known.
pub(super) const IGNORED: HeaderName = HeaderName::from_static("x-ignored-fields");
/// Fields that the header names at most.
const MAX_NAMED: usize = 20;
/// The most of a name that it has, in characters.
const MAX_NAME: usize = 40;

/// Fields that nobody has taken yet.
#[derive(Debug, Default)]
pub(super) struct Fields {
    left: Map<String, Value>,
    /// All values came as texts, in a form: `true` is true there, and `7` is 7.
    is_form: bool,
}

impl Fields {
    /// Of a body in JSON.
    pub fn of_json(left: Map<String, Value>) -> Self {
        Self { left, is_form: false }
    }

    /// Of a form.
    pub fn of_form(left: Map<String, Value>) -> Self {
        Self { left, is_form: true }
    }

    /// Takes a field; `None`: it is not there, null, or an empty text.
    pub fn take(&mut self, name: &str) -> Option<Value> {
        let value = self.take_text(name)?;
        match &value {
            // What is no JSON is a text.
            Value::String(text) if self.is_form => Some(serde_json::from_str(text).unwrap_or(value)),
            _ => Some(value),
        }
    }

    /// Takes a field that is a text, also where it looks like a number.
    pub fn take_text(&mut self, name: &str) -> Option<Value> {
        self.left.remove(name).filter(|value| !matches!(value, Value::Null) && value != "")
    }

    /// Takes a text.
    ///
    /// # Errors
    /// It is something else.
    pub fn text(&mut self, name: &str) -> Result<Option<String>, ApiError> {
        match self.take_text(name) {
            None => Ok(None),
            Some(Value::String(text)) => Ok(Some(text)),
            Some(_) => Err(field(name, "must be a text")),
        }
    }

    /// Takes a whole number of `least` to `most`.
    ///
    /// # Errors
    /// It is something else.
    pub fn whole(&mut self, name: &str, least: u64, most: u64) -> Result<Option<u64>, ApiError> {
        let Some(value) = self.take(name) else { return Ok(None) };
        // `5.0` is how some write 5.
        let number = value.as_u64().or_else(|| {
            value
                .as_f64()
                .filter(|number| number.fract() == 0.0 && *number >= 0.0)
                .map(|number| number as u64)
        });
        match number.filter(|number| (least..=most).contains(number)) {
            None => Err(field(name, format!("must be a whole number, {least} to {most}"))),
            number => Ok(number),
        }
    }

    /// Takes what is true or false; false if it is not there.
    ///
    /// # Errors
    /// It is something else.
    pub fn is_set(&mut self, name: &str) -> Result<bool, ApiError> {
        match self.take(name) {
            None => Ok(false),
            Some(Value::Bool(value)) => Ok(value),
            Some(_) => Err(field(name, "must be true or false")),
        }
    }

    /// Takes fields that are known and change nothing.
    pub fn pass_over(&mut self, names: &[&str]) {
        for name in names {
            self.left.remove(*name);
        }
    }

    /// Moves a field to those of the contract, under its name there; the first of its `names` that is there counts.
    pub fn hand_on(&mut self, names: &[&str], ours: &str, to: &mut Map<String, Value>) {
        for name in names {
            if let Some(value) = self.take(name) {
                to.entry(ours).or_insert(value);
            }
        }
    }

    /// As [`Self::hand_on`], of a text.
    pub fn hand_on_text(&mut self, name: &str, ours: &str, to: &mut Map<String, Value>) {
        if let Some(value) = self.take_text(name) {
            to.entry(ours).or_insert(value);
        }
    }

    /// Those of these fields that are there, as they came.
    pub fn copied(&self, names: &[&str]) -> Map<String, Value> {
        let found = names.iter().filter_map(|name| self.left.get_key_value(*name));
        found.map(|(name, value)| (name.clone(), value.clone())).collect()
    }

    /// A field that is there and was left out, as its part of a form was not read.
    pub fn note(&mut self, name: &str) {
        self.left.insert(name.to_owned(), Value::Null);
    }

    /// The names of those that are left, as the value of [`IGNORED`]; `None`: all were taken.
    pub fn ignored(&self) -> Option<HeaderValue> {
        let names: Vec<_> = self.left.keys().take(MAX_NAMED).map(|name| printable(name)).collect();
        if names.is_empty() {
            return None;
        }
        HeaderValue::from_str(&names.join(", ")).ok()
    }
}

/// A name without what a header cannot have, or what separates names in it.
fn printable(name: &str) -> String {
    let plain = |c: char| if c.is_ascii_graphic() && c != ',' { c } else { '?' };
    name.chars().take(MAX_NAME).map(plain).collect()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn map(value: Value) -> Map<String, Value> {
        let Value::Object(map) = value else { panic!("{value}") };
        map
    }

    #[test]
    fn a_form_says_the_same_as_json() {
        let said = json!({"n": 2, "stream": true, "partial_images": 0, "model": "7", "loras": [{"path": "a"}], "x": 1.5});
        let form = json!({"n": "2", "stream": "true", "partial_images": "0.0", "model": "7",
            "loras": r#"[{"path": "a"}]"#, "x": "1.5"});
        for mut fields in [Fields::of_json(map(said)), Fields::of_form(map(form))] {
            let mut ours = Map::new();
            fields.hand_on(&["count", "n"], "n", &mut ours);
            fields.hand_on(&["loras"], "loras", &mut ours);
            fields.hand_on_text("model", "model", &mut ours);
            assert_eq!(Value::from(ours), json!({"n": 2, "loras": [{"path": "a"}], "model": "7"}));
            assert_eq!(fields.is_set("stream"), Ok(true));
            assert_eq!(fields.is_set("stream"), Ok(false), "it is taken");
            assert_eq!(fields.whole("partial_images", 0, 3), Ok(Some(0)));
            assert_eq!(fields.ignored().unwrap(), "x");
        }
    }

    #[test]
    fn what_is_empty_is_not_there_and_what_is_wrong_names_its_field() {
        let mut fields = Fields::of_json(map(json!({"a": null, "b": "", "c": 7, "d": "no", "e": 1.5})));
        assert_eq!((fields.text("a"), fields.text("b")), (Ok(None), Ok(None)));
        assert!(fields.text("c").unwrap_err().message.starts_with("`c`: must be a text"));
        assert!(fields.is_set("d").unwrap_err().message.starts_with("`d`: must be true"));
        assert!(
            fields.whole("e", 0, 3).unwrap_err().message.starts_with("`e`: must be a whole number, 0 to 3")
        );
        assert_eq!(fields.ignored(), None);
    }

    #[test]
    fn names_that_are_left_cannot_write_a_header_of_their_own() {
        let mut left = Map::new();
        left.insert("a\r\nset-cookie: x".into(), Value::Null);
        left.insert("b,\u{e9}".into(), Value::Null);
        assert_eq!(Fields::of_json(left).ignored().unwrap(), "a??set-cookie:?x, b??");
        let many = (0..500).map(|n| (format!("{n:03}{}", "y".repeat(900)), Value::Null)).collect();
        assert!(Fields::of_json(many).ignored().unwrap().len() < MAX_NAMED * (MAX_NAME + 2));
    }

    #[test]
    fn the_first_of_several_names_counts() {
        let mut fields = Fields::of_json(map(json!({"num_inference_steps": 9, "steps": 5})));
        let mut ours = Map::new();
        fields.hand_on(&["steps", "num_inference_steps"], "steps", &mut ours);
        assert_eq!(Value::from(ours), json!({"steps": 5}));
        assert_eq!(fields.ignored(), None);
    }
}
