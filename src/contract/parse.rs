//! From bytes to an [`Operation`]: what is not one is refused with the path of the field that is wrong.

use serde::de::DeserializeOwned;
use serde_json::{Map, Value};

use super::{Capability, ContractError, Operation};

impl Operation {
    /// Reads a body. `implied` is the capability of the subject that it came on; with it the tag may be left out,
    /// and a tag that disagrees is refused.
    ///
    /// # Errors
    /// [`ContractError::NotJson`], or [`ContractError::Field`] with the path of the field that is wrong.
    pub fn parse(implied: Option<Capability>, body: &[u8]) -> Result<Self, ContractError> {
        if body.is_empty() {
            return Err(ContractError::NotJson("it is empty".into()));
        }
        let value = serde_json::from_slice(body).map_err(|e| ContractError::NotJson(e.to_string()))?;
        let Value::Object(mut fields) = value else {
            return Err(ContractError::field("body", "must be a JSON object"));
        };
        match tagged_capability(implied, fields.remove("operation"))? {
            Capability::Generate => read_fields(fields).map(Self::ImageGeneration),
            Capability::Transform => read_fields(fields).map(Self::ImageTransform),
            Capability::Inpaint => read_fields(fields).map(Self::ImageInpaint),
        }
    }
}

fn tagged_capability(implied: Option<Capability>, tag: Option<Value>) -> Result<Capability, ContractError> {
    let known = "image_generation, image_transform, image_inpaint";
    let tagged = match tag {
        None => None,
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

fn read_fields<T: DeserializeOwned>(fields: Map<String, Value>) -> Result<T, ContractError> {
    serde_path_to_error::deserialize(Value::Object(fields)).map_err(|error| {
        let path = error.path().to_string();
        let reason = error.inner().to_string();
        // serde names a missing or unknown field in its message and gives the path of the struct around it.
        let named = ["missing field `", "unknown field `", "duplicate field `"]
            .iter()
            .find_map(|start| reason.strip_prefix(start)?.split('`').next())
            .map(str::to_owned);
        let field = match (path.as_str(), named) {
            (".", Some(name)) => name,
            (".", None) => "body".into(),
            (path, Some(name)) if !path.ends_with(name.as_str()) => format!("{path}.{name}"),
            (path, _) => path.into(),
        };
        ContractError::field(field, reason)
    })
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
    fn a_wrong_type_names_its_field() {
        for (body, field) in [
            (r#"{"prompt":"a","steps":"many"}"#, "`steps`"),
            (r#"{"prompt":"a","steps":-1}"#, "`steps`"),
            (r#"{"prompt":"a","loras":[{"path":3}]}"#, "`loras[0].path`"),
            (r#"{"prompt":"a","loras":[{}]}"#, "`loras[0].path`"),
            (r#"{"steps":3}"#, "`prompt`"),
            (r#"{"prompt":"a","output":{"format":"gif"}}"#, "`output.format`"),
            (r"[]", "`body`"),
            (r#"{"prompt":"a","operation":7}"#, "`operation`"),
            (r#"{"prompt":"a","operation":"image_transform"}"#, "`operation`"),
        ] {
            let message = error(body).to_string();
            assert!(message.starts_with(field), "{body}: {message}");
        }
        for body in ["", "{", "nonsense", r#"{"prompt":"a","guidance_scale":NaN}"#] {
            assert!(matches!(error(body), ContractError::NotJson(_)), "{body}");
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
