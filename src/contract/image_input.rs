//! An input picture in a request: base64, a `data:` URL, or a key in the store.

use super::{ContractError, Limits, inline};

/// Where an input picture is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ImageInput {
    /// Base64 text, without a `data:` prefix, as [`inline::check`] takes it.
    Inline(String),
    /// A key in the pool's store, unchecked (the store's key type checks it).
    Object(String),
}

impl ImageInput {
    /// Reads what a request has.
    ///
    /// # Errors
    /// `field`, with what is expected.
    pub(super) fn read(field: &str, value: &str, limits: &Limits) -> Result<Self, ContractError> {
        if value.is_empty() {
            return Err(ContractError::field(field, "is empty; base64 or object:<key> is expected"));
        }
        if let Some(key) = value.strip_prefix("object:") {
            return Ok(Self::Object(key.to_owned()));
        }
        let unreadable = |source| ContractError::Image { field: field.into(), source };
        let base64 = inline::base64_of(value).map_err(unreadable)?;
        let bytes = inline::check(base64).map_err(unreadable)?;
        if bytes > limits.max_input {
            return Err(ContractError::TooLarge { field: field.into(), bytes, limit: limits.max_input });
        }
        Ok(Self::Inline(base64.to_owned()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_image_is_inline_a_data_url_or_an_object() {
        let read = |text: &str| ImageInput::read("init_image", text, &Limits::default());
        assert_eq!(read("AAAA").unwrap(), ImageInput::Inline("AAAA".into()));
        assert_eq!(read("data:image/png;base64,AAAA").unwrap(), ImageInput::Inline("AAAA".into()));
        assert_eq!(read("object:inputs/x").unwrap(), ImageInput::Object("inputs/x".into()));
        assert_eq!(read("data:image/png;base64,AA\nAA").unwrap(), ImageInput::Inline("AA\nAA".into()));
        for text in ["data:image/png,AAAA", "AAA!", "R0lGODlhAQABAAAAADs=", "https://example.org/a.png"] {
            let error = read(text).unwrap_err();
            assert_eq!(error.code(), crate::contract::ErrorCode::ImageInvalid, "{text}");
            assert!(error.to_string().starts_with("`init_image`: "), "{error}");
        }
    }
}
