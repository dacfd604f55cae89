//! From JSON to the contract's types, as people write it: what is absent in one form or another is absent, a whole number
//! may be written `20.0`, and what is wrong is said with the path of its field and without a word of Rust.

use std::fmt;

use serde::{
    Deserializer,
    de::{self, DeserializeOwned, DeserializeSeed, IntoDeserializer, MapAccess, SeqAccess, Visitor},
    forward_to_deserialize_any,
};
use serde_json::{Map, Number, Value};

use super::{ContractError, nearest::nearest};

/// Fields whose empty text is a text: the rule that refuses it has better words than "is missing", and an empty negative
/// prompt is part of what earlier versions know a request by.
const MAY_BE_EMPTY: [&str; 6] =
    ["prompt", "negative_prompt", "init_image", "input_image", "mask_image", "path"];
/// The field of which -1 says: draw one.
const SEED: &str = "seed";
/// The most of a text that a message repeats, in characters.
const MAX_SHOWN: usize = 40;

/// Reads an object.
///
/// # Errors
/// [`ContractError::Field`] with the path of the first field that is wrong.
pub(super) fn read<T: DeserializeOwned>(fields: Map<String, Value>) -> Result<T, ContractError> {
    T::deserialize(Written(Value::Object(fields))).map_err(|Wrong { path, reason }| {
        let field = if path.is_empty() { "body".to_owned() } else { path };
        ContractError::field(field, reason)
    })
}

/// A value as it was written.
struct Written(Value);

/// What is wrong, and where.
#[derive(Debug)]
struct Wrong {
    /// `loras[0].path`; empty: the object itself.
    path: String,
    reason: String,
}

impl Wrong {
    fn here(reason: String) -> Self {
        Self { path: String::new(), reason }
    }

    /// In what is called `name`: a field, or `[0]`.
    fn inside(self, name: &str) -> Self {
        let path = match self.path.as_str() {
            "" => name.to_owned(),
            path if path.starts_with('[') => format!("{name}{path}"),
            path => format!("{name}.{path}"),
        };
        Self { path, ..self }
    }
}

impl fmt::Display for Wrong {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.path, self.reason)
    }
}

impl std::error::Error for Wrong {}

impl de::Error for Wrong {
    fn custom<T: fmt::Display>(reason: T) -> Self {
        Self::here(reason.to_string())
    }

    fn missing_field(field: &'static str) -> Self {
        Self { path: field.to_owned(), reason: "is missing".to_owned() }
    }

    fn duplicate_field(field: &'static str) -> Self {
        let reason = match field {
            "init_image" => "is there twice: `input_image` is another name of it".to_owned(),
            _ => "is there twice".to_owned(),
        };
        Self { path: field.to_owned(), reason }
    }

    fn unknown_field(field: &str, expected: &'static [&'static str]) -> Self {
        let reason = match nearest(field, expected.iter().copied()) {
            Some(name) => format!("unknown field; did you mean `{name}`?"),
            None => format!("unknown field; there are: {}", expected.join(", ")),
        };
        Self { path: shown(field), reason }
    }

    fn unknown_variant(variant: &str, expected: &'static [&'static str]) -> Self {
        Self::here(format!("there is no `{}`; there are: {}", shown(variant), expected.join(", ")))
    }
}

impl Written {
    fn must_be<T>(&self, what: &str) -> Result<T, Wrong> {
        let hint = match &self.0 {
            Value::String(text) if what.contains("number") && text.trim().parse::<f64>().is_ok() => {
                ": write it without quotes"
            }
            _ => "",
        };
        Err(Wrong::here(format!("must be {what}, and is {}{hint}", named(&self.0))))
    }

    /// A whole number from 0 to `most`.
    fn whole(&self, most: u64) -> Result<u64, Wrong> {
        let Value::Number(number) = &self.0 else { return self.must_be("a whole number") };
        if let Some(number) = number.as_u64().or_else(|| whole(number)).filter(|number| *number <= most) {
            return Ok(number);
        }
        match number.as_f64() {
            Some(value) if value.fract() != 0.0 => self.must_be("a whole number"),
            Some(value) if value < 0.0 => self.must_be("a whole number that is not below 0"),
            _ => self.must_be(&format!("a whole number of at most {most}")),
        }
    }
}

/// The whole number that is written as `20.0` or `2e1`.
fn whole(number: &Number) -> Option<u64> {
    let value = number.as_f64()?;
    // 2^64 itself is the first that is too large, and is what the largest u64 is rounded to.
    (value.fract() == 0.0 && value >= 0.0 && value < u64::MAX as f64).then_some(value as u64)
}

/// A value in words.
fn named(value: &Value) -> String {
    match value {
        Value::Null => "null".to_owned(),
        Value::Bool(value) => value.to_string(),
        Value::Number(number) => number.to_string(),
        Value::String(text) => format!("the text {:?}", shown(text)),
        Value::Array(_) => "a list".to_owned(),
        Value::Object(_) => "an object".to_owned(),
    }
}

fn shown(text: &str) -> String {
    match text.char_indices().nth(MAX_SHOWN) {
        Some((end, _)) => format!("{}...", &text[..end]),
        None => text.to_owned(),
    }
}

/// Whether a field that has this value is as good as left out.
fn is_absent(field: &str, value: &Value) -> bool {
    match value {
        Value::Null => true,
        Value::String(text) => text.is_empty() && !MAY_BE_EMPTY.contains(&field),
        Value::Number(number) => field == SEED && number.as_f64() == Some(-1.0),
        Value::Bool(_) | Value::Array(_) | Value::Object(_) => false,
    }
}

macro_rules! whole_numbers {
    ($($name:ident $visit:ident $kind:ty),*) => {$(
        fn $name<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Wrong> {
            // Not above the most that the type holds.
            visitor.$visit(self.whole(<$kind>::MAX.into())? as $kind)
        }
    )*};
}

impl<'de> Deserializer<'de> for Written {
    type Error = Wrong;

    whole_numbers!(deserialize_u8 visit_u8 u8, deserialize_u32 visit_u32 u32, deserialize_u64 visit_u64 u64);

    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Wrong> {
        self.0.deserialize_any(visitor).map_err(de::Error::custom)
    }

    fn deserialize_bool<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Wrong> {
        match self.0 {
            Value::Bool(value) => visitor.visit_bool(value),
            _ => self.must_be("true or false"),
        }
    }

    fn deserialize_f64<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Wrong> {
        match self.0.as_f64() {
            Some(value) => visitor.visit_f64(value),
            None => self.must_be("a number"),
        }
    }

    fn deserialize_str<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Wrong> {
        self.deserialize_string(visitor)
    }

    fn deserialize_string<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Wrong> {
        match self.0 {
            Value::String(text) => visitor.visit_string(text),
            _ => self.must_be("a text"),
        }
    }

    fn deserialize_option<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Wrong> {
        match self.0 {
            Value::Null => visitor.visit_none(),
            _ => visitor.visit_some(self),
        }
    }

    fn deserialize_seq<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Wrong> {
        match self.0 {
            Value::Array(items) => visitor.visit_seq(Items { items: items.into_iter(), next: 0 }),
            _ => self.must_be("a list"),
        }
    }

    fn deserialize_tuple<V: Visitor<'de>>(self, length: usize, visitor: V) -> Result<V::Value, Wrong> {
        match &self.0 {
            Value::Array(items) if items.len() == length => self.deserialize_seq(visitor),
            Value::Array(items) => {
                Err(Wrong::here(format!("must be a list of {length}, and is one of {}", items.len())))
            }
            _ => self.must_be(&format!("a list of {length}")),
        }
    }

    fn deserialize_struct<V: Visitor<'de>>(
        self,
        _: &'static str,
        known: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Wrong> {
        match self.0 {
            Value::Object(fields) => {
                visitor.visit_map(Fields { fields: fields.into_iter(), known, value: None })
            }
            _ => self.must_be(&format!("an object with the fields {}", known.join(", "))),
        }
    }

    fn deserialize_enum<V: Visitor<'de>>(
        self,
        _: &'static str,
        variants: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Wrong> {
        match self.0 {
            Value::String(name) => visitor.visit_enum(name.into_deserializer()),
            _ => self.must_be(&format!("one of {}", variants.join(", "))),
        }
    }

    forward_to_deserialize_any! {
        i8 i16 i32 i64 i128 u16 u128 f32 char bytes byte_buf unit unit_struct newtype_struct tuple_struct map identifier
        ignored_any
    }
}

/// The fields of an object that are there.
struct Fields {
    fields: serde_json::map::IntoIter,
    known: &'static [&'static str],
    value: Option<(String, Value)>,
}

impl<'de> MapAccess<'de> for Fields {
    type Error = Wrong;

    fn next_key_seed<K: DeserializeSeed<'de>>(&mut self, seed: K) -> Result<Option<K::Value>, Wrong> {
        let known = self.known;
        // A field that there is not is refused whatever it has: it is a typing mistake.
        let is_there =
            |(name, value): &(String, Value)| !(known.contains(&name.as_str()) && is_absent(name, value));
        let Some((name, value)) = self.fields.find(is_there) else { return Ok(None) };
        let key = seed.deserialize(name.as_str().into_deserializer())?;
        self.value = Some((name, value));
        Ok(Some(key))
    }

    fn next_value_seed<S: DeserializeSeed<'de>>(&mut self, seed: S) -> Result<S::Value, Wrong> {
        let (name, value) = self.value.take().expect("a key comes before its value");
        seed.deserialize(Written(value)).map_err(|wrong| wrong.inside(&name))
    }
}

/// The items of a list.
struct Items {
    items: std::vec::IntoIter<Value>,
    next: usize,
}

impl<'de> SeqAccess<'de> for Items {
    type Error = Wrong;

    fn next_element_seed<S: DeserializeSeed<'de>>(&mut self, seed: S) -> Result<Option<S::Value>, Wrong> {
        let Some(item) = self.items.next() else { return Ok(None) };
        let at = self.next;
        self.next += 1;
        seed.deserialize(Written(item)).map(Some).map_err(|wrong| wrong.inside(&format!("[{at}]")))
    }
}
