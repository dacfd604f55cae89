//! From bytes to an [`Operation`]: what is not one is refused with the path of the field that is wrong.

use serde_json::{Map, Value};

use super::{Capability, ContractError, Operation, values};

/// What a body in UTF-8 may begin with, although nothing has to.
const BYTE_ORDER_MARK: &[u8] = b"\xef\xbb\xbf";
/// The bytes of a body that are looked at to tell its encoding.
const LOOKED_AT: usize = 64;

impl Operation {
    /// Reads a body. `implied` is the capability of the subject that it came on; with it the tag may be left out,
    /// and a tag that disagrees is refused.
    ///
    /// `null` and an empty text are the same as a field that is left out, -1 is the same as no seed, and a whole number
    /// may be written as `20.0`. A byte order mark is passed over.
    ///
    /// # Errors
    /// [`ContractError::NotJson`], or [`ContractError::Field`] with the path of the field that is wrong.
    pub fn parse(implied: Option<Capability>, body: &[u8]) -> Result<Self, ContractError> {
        let mut fields = object(body)?;
        let capability = tagged_capability(implied, fields.remove("operation"))?;
        Self::of_fields(capability, fields)
    }

    /// Reads the fields of a body, without its tag.
    ///
    /// # Errors
    /// [`ContractError::Field`] with the path of the field that is wrong.
    pub fn of_fields(capability: Capability, fields: Map<String, Value>) -> Result<Self, ContractError> {
        match capability {
            Capability::Generate => values::read(fields).map(Self::ImageGeneration),
            Capability::Transform => values::read(fields).map(Self::ImageTransform),
            Capability::Inpaint => values::read(fields).map(Self::ImageInpaint),
        }
    }
}

/// A body that is a JSON object, whatever is in it. A byte order mark is passed over.
///
/// # Errors
/// [`ContractError::NotJson`], or [`ContractError::Field`] naming `body` for JSON of another shape.
pub fn object(body: &[u8]) -> Result<Map<String, Value>, ContractError> {
    let body = unmarked(body);
    if body.trim_ascii().is_empty() {
        return Err(ContractError::NotJson("it is empty".into()));
    }
    let text = in_utf8(body).map_err(ContractError::NotJson)?;
    let value = serde_json::from_str(text).map_err(|e| ContractError::NotJson(e.to_string()))?;
    match value {
        Value::Object(fields) => Ok(fields),
        _ => Err(ContractError::field("body", "must be a JSON object")),
    }
}

/// A body without a byte order mark.
pub fn unmarked(body: &[u8]) -> &[u8] {
    body.strip_prefix(BYTE_ORDER_MARK).unwrap_or(body)
}

/// A body as text; else which encoding it is in, as far as that can be seen.
fn in_utf8(body: &[u8]) -> Result<&str, String> {
    let wide = match body {
        [0xff, 0xfe, 0, 0, ..] | [0, 0, 0xfe, 0xff, ..] => Some("UTF-32"),
        [0xff, 0xfe, ..] | [0xfe, 0xff, ..] => Some("UTF-16"),
        // Without a mark: JSON has no zero bytes, and begins with a character of ASCII.
        _ => match body[..body.len().min(LOOKED_AT)].iter().filter(|byte| **byte == 0).count() {
            0 => None,
            zeros if zeros * 3 > body.len().min(LOOKED_AT) * 2 => Some("UTF-32"),
            _ => Some("UTF-16, or has zero bytes"),
        },
    };
    if let Some(encoding) = wide {
        return Err(format!("it is in {encoding}; send it in UTF-8"));
    }
    std::str::from_utf8(body).map_err(|error| {
        let at = error.valid_up_to();
        let byte = body.get(at).copied().unwrap_or_default();
        format!("byte {byte:#04x} at position {at} is not UTF-8: it may be in Latin-1 or Windows-1252; send it in UTF-8")
    })
}

fn tagged_capability(implied: Option<Capability>, tag: Option<Value>) -> Result<Capability, ContractError> {
    let known = "image_generation, image_transform, image_inpaint";
    let tagged = match tag {
        None | Some(Value::Null) => None,
        Some(Value::String(tag)) if tag.is_empty() => None,
        Some(Value::String(tag)) => Some(Capability::from_operation(&tag).ok_or_else(|| {
            ContractError::UnsupportedOperation(format!("`{tag}` is none; there are {known}"))
        })?),
        Some(_) => return Err(ContractError::field("operation", format!("must be one of {known}"))),
    };
    match (implied, tagged) {
        (Some(subject), Some(tag)) if subject != tag => Err(ContractError::field(
            "operation",
            format!("`{}` came on the subject for `{}`", tag.operation(), subject.operation()),
        )),
        (Some(capability), _) | (None, Some(capability)) => Ok(capability),
        (None, None) => Err(ContractError::field("operation", format!("is missing; it is one of {known}"))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn error(body: &str) -> ContractError {
        Operation::parse(Some(Capability::Generate), body.as_bytes()).unwrap_err()
    }

    #[test]
    fn a_typing_mistake_is_refused_by_name() {
        let message = error(r#"{"prompt":"a","guidence_scale":3}"#).to_string();
        assert!(message.starts_with("`guidence_scale`: unknown field"), "{message}");
    }

    #[test]
    fn what_is_wrong_is_said_of_its_field_in_words_of_people() {
        for (body, says) in [
            (
                r#"{"prompt":"a","steps":"many"}"#,
                r#"`steps`: must be a whole number, and is the text "many""#,
            ),
            (
                r#"{"prompt":"a","steps":"20"}"#,
                r#"`steps`: must be a whole number, and is the text "20": write it without quotes"#,
            ),
            (
                r#"{"prompt":"a","steps":-1}"#,
                "`steps`: must be a whole number that is not below 0, and is -1",
            ),
            (r#"{"prompt":"a","steps":1.5}"#, "`steps`: must be a whole number, and is 1.5"),
            (r#"{"prompt":"a","steps":true}"#, "`steps`: must be a whole number, and is true"),
            (r#"{"prompt":"a","steps":5000000000}"#, "`steps`: must be a whole number of at most 4294967295"),
            (r#"{"prompt":"a","seed":18446744073709551616}"#, "`seed`: must be a whole number of at most"),
            (r#"{"prompt":"a","seed":-2}"#, "`seed`: must be a whole number that is not below 0, and is -2"),
            (r#"{"prompt":"a","guidance_scale":[7]}"#, "`guidance_scale`: must be a number, and is a list"),
            (r#"{"prompt":"a","stream":"no"}"#, r#"`stream`: must be true or false, and is the text "no""#),
            (r#"{"prompt":["a"]}"#, "`prompt`: must be a text, and is a list"),
            (r#"{"prompt":null}"#, "`prompt`: is missing"),
            (r#"{"prompt":"a","loras":"ink"}"#, r#"`loras`: must be a list, and is the text "ink""#),
            (
                r#"{"prompt":"a","loras":["ink"]}"#,
                r#"`loras[0]`: must be an object with the fields path, strength, and is the text "ink""#,
            ),
            (r#"{"prompt":"a","loras":[null]}"#, "`loras[0]`: must be an object"),
            (r#"{"prompt":"a","loras":[{"path":3}]}"#, "`loras[0].path`: must be a text, and is 3"),
            (r#"{"prompt":"a","loras":[{}]}"#, "`loras[0].path`: is missing"),
            (r#"{"prompt":"a","loras":[{"name":"x"}]}"#, "`loras[0].name`: unknown field"),
            (
                r#"{"prompt":"a","output":{"qualty":3}}"#,
                "`output.qualty`: unknown field; did you mean `quality`?",
            ),
            (
                r#"{"prompt":"a","guidance_interval":[0.5]}"#,
                "`guidance_interval`: must be a list of 2, and is one of 1",
            ),
            (
                r#"{"prompt":"a","guidance_interval":[0,"x"]}"#,
                r#"`guidance_interval[1]`: must be a number, and is the text "x""#,
            ),
            (r#"{"steps":3}"#, "`prompt`: is missing"),
            (
                r#"{"prompt":"a","output":{"format":"gif"}}"#,
                "`output.format`: there is no `gif`; there are: png, jpeg, webp",
            ),
            (r#"{"prompt":"a","prompt_syntax":7}"#, "`prompt_syntax`: must be one of plain, a1111, and is 7"),
            (r"[]", "`body`: must be a JSON object"),
            (r#"{"prompt":"a","operation":7}"#, "`operation`"),
            (r#"{"prompt":"a","operation":"image_transform"}"#, "`operation`"),
            (r#"{"prompt":"a","nosuch":null}"#, "`nosuch`: unknown field; there are: "),
        ] {
            let message = error(body).to_string();
            assert!(message.starts_with(says), "{body}: {message}");
        }
        let long = error(&format!(r#"{{"prompt":"a","steps":"{}"}}"#, "x".repeat(9000))).to_string();
        assert!(long.len() < 200, "{long}");
        for body in ["", " ", "{", "nonsense", r#"{"prompt":"a","guidance_scale":NaN}"#] {
            assert!(matches!(error(body), ContractError::NotJson(_)), "{body}");
        }
        let body = br#"{"prompt":"a","init_image":"AAAA","input_image":"AAAA"}"#;
        let twice = Operation::parse(Some(Capability::Transform), body).unwrap_err().to_string();
        assert!(twice.starts_with("`init_image`: is there twice"), "{twice}");
    }

    /// A body with every optional field, each of which has this value.
    fn all_fields(value: &Value) -> Value {
        let schema = serde_json::to_value(schemars::schema_for!(crate::contract::GenerationBody)).unwrap();
        let fields =
            schema["properties"].as_object().unwrap().keys().map(|name| (name.clone(), value.clone()));
        let mut body: Value = Value::Object(fields.collect());
        assert!(body.as_object().unwrap().len() > 15, "{body}");
        body["prompt"] = "a".into();
        body
    }

    #[test]
    fn null_and_an_empty_text_are_the_same_as_nothing_in_every_field() {
        let read = |body: &Value| Operation::parse(Some(Capability::Generate), body.to_string().as_bytes());
        let plain = read(&serde_json::json!({"prompt": "a"})).unwrap();
        assert_eq!(read(&all_fields(&Value::Null)).unwrap(), plain);
        let mut empty = read(&all_fields(&"".into())).unwrap();
        // An empty text is what an empty negative prompt is; the picture is the same.
        empty.leave_out_defaults();
        assert_eq!(empty, plain);
        for (nested, without) in [
            (r#"{"prompt":"a","output":{"format":null,"quality":""}}"#, r#"{"prompt":"a","output":{}}"#),
            (
                r#"{"prompt":"a","loras":[{"path":"x","strength":null}]}"#,
                r#"{"prompt":"a","loras":[{"path":"x"}]}"#,
            ),
            (r#"{"prompt":"a","operation":null}"#, r#"{"prompt":"a"}"#),
            (r#"{"prompt":"a","operation":""}"#, r#"{"prompt":"a"}"#),
        ] {
            let parse = |body: &str| Operation::parse(Some(Capability::Generate), body.as_bytes()).unwrap();
            assert_eq!(parse(nested), parse(without), "{nested}");
        }
        let image = br#"{"prompt":"a","init_image":null,"input_image":"AAAA","strength":""}"#;
        assert!(Operation::parse(Some(Capability::Transform), image).is_ok());
        let refused = Operation::parse(None, br#"{"operation":null,"prompt":"a"}"#).unwrap_err().to_string();
        assert!(refused.starts_with("`operation`: is missing"), "{refused}");
    }

    #[test]
    fn numbers_are_read_as_people_write_them() {
        let read = |body: &str| {
            let operation = Operation::parse(Some(Capability::Generate), body.as_bytes()).unwrap();
            let Operation::ImageGeneration(body) = operation else { panic!("{operation:?}") };
            body
        };
        let body = read(r#"{"prompt":"a","steps":20.0,"n":2e0,"width":64.0,"guidance_scale":7,"seed":1e15}"#);
        assert_eq!((body.steps, body.n, body.width), (Some(20), Some(2), Some(64)));
        assert_eq!((body.guidance_scale, body.seed), (Some(7.0), Some(1_000_000_000_000_000)));
        for drawn in ["-1", "-1.0", "null", "\"\""] {
            assert_eq!(read(&format!(r#"{{"prompt":"a","seed":{drawn}}}"#)).seed, None, "{drawn}");
        }
        assert_eq!(read(r#"{"prompt":"a","seed":18446744073709551615}"#).seed, Some(u64::MAX));
    }

    #[test]
    fn a_byte_order_mark_is_passed_over_and_another_encoding_is_named() {
        let text = r#"{"prompt":"café"}"#;
        let read = |body: &[u8]| Operation::parse(Some(Capability::Generate), body);
        assert_eq!(read(&[BYTE_ORDER_MARK, text.as_bytes()].concat()), read(text.as_bytes()));
        let wide = |order: fn(u16) -> [u8; 2], mark: &str| -> Vec<u8> {
            mark.encode_utf16().chain(text.encode_utf16()).flat_map(order).collect()
        };
        let latin: Vec<u8> = text.chars().map(|c| c as u8).collect();
        let wider: Vec<u8> = text.chars().flat_map(|c| (c as u32).to_le_bytes()).collect();
        for (body, encoding) in [
            (wide(u16::to_le_bytes, "\u{feff}"), "UTF-16"),
            (wide(u16::to_be_bytes, "\u{feff}"), "UTF-16"),
            (wide(u16::to_le_bytes, ""), "UTF-16"),
            (wide(u16::to_be_bytes, ""), "UTF-16"),
            (wider, "UTF-32"),
            (latin, "Latin-1"),
        ] {
            let message = read(&body).unwrap_err().to_string();
            assert!(message.contains(encoding) && message.ends_with("send it in UTF-8"), "{message}");
        }
    }

    #[test]
    fn the_subject_implies_the_tag() {
        let body = br#"{"prompt":"a"}"#;
        assert!(Operation::parse(Some(Capability::Generate), body).is_ok());
        assert!(Operation::parse(None, body).is_err());
        let tagged = br#"{"operation":"image_generation","prompt":"a"}"#;
        assert!(Operation::parse(None, tagged).is_ok());
    }

    #[test]
    fn the_alias_of_the_upstream_contract_is_read() {
        let body = br#"{"prompt":"a","input_image":"object:inputs/x"}"#;
        let operation = Operation::parse(Some(Capability::Transform), body).unwrap();
        let Operation::ImageTransform(body) = operation else { panic!("{operation:?}") };
        assert_eq!(body.init_image, "object:inputs/x");
    }
}
