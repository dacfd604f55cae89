//! An input picture in a request: base64, a `data:` URL, or a key in the store.

use super::{ContractError, Limits, base64::check_base64};

/// Where an input picture is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ImageInput {
    /// Base64 text, without a `data:` prefix, as [`check_base64`](super::check_base64) takes it.
    Inline(String),
    /// A key in the pool's store, unchecked (the store's key type checks it).
    Object(String),
}

impl ImageInput {
    /// Reads what a request has; its size is looked at before anything else.
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
        let base64 = match value.strip_prefix("data:") {
            Some(url) => {
                url.split_once(";base64,")
                    .ok_or_else(|| ContractError::field(field, "a data: URL must be base64"))?
                    .1
            }
            None => value,
        };
        let bytes = base64.len() as u64 / 4 * 3;
        if bytes > limits.max_input {
            return Err(ContractError::TooLarge { field: field.into(), bytes, limit: limits.max_input });
        }
        check_base64(base64).map_err(|error| ContractError::Image {
            field: field.into(),
            reason: format!("no base64, and no `object:<key>`: {error}"),
        })?;
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
        assert!(read("data:image/png,AAAA").is_err());
        let error = read("https://example.org/a.png").unwrap_err();
        assert_eq!(error.code(), crate::contract::ErrorCode::ImageInvalid);
        assert!(error.to_string().starts_with("`init_image`: no base64"), "{error}");
    }
}
