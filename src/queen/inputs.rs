//! Large inputs leave the message: they are named by their content, stored, and travel as a reference.

use bytes::Bytes;

use crate::{
    contract::{ContractError, Operation, inline},
    http::ApiError,
    storage::{Key, StorageError, Store},
};

/// Replaces every inline input of more than `max_inline` bytes by `object:inputs/<sha256>`, and gives what is to be
/// stored. An input above `max_input` is left as it is, for the check that refuses it by its size.
///
/// # Errors
/// `image_invalid`, naming the field, when it is no base64, or a file of a kind that is not read.
pub fn extract(
    operation: &mut Operation,
    max_inline: u64,
    max_input: u64,
) -> Result<Vec<(Key, Bytes)>, ApiError> {
    let mut extracted = vec![];
    for (field, image) in operation.images_mut() {
        if image.is_empty() || image.starts_with("object:") {
            continue;
        }
        let unreadable = |source| ContractError::Image { field: field.into(), source };
        let base64 = inline::base64_of(image).map_err(unreadable)?;
        let size = inline::check(base64).map_err(unreadable)?;
        if size <= max_inline || size > max_input {
            continue;
        }
        let bytes = inline::decode(base64).map_err(unreadable)?;
        let key = Key::input(&bytes);
        *image = format!("object:{key}");
        extracted.push((key, Bytes::from(bytes)));
    }
    Ok(extracted)
}

/// Stores them. An input that is there already is written again: a store that expires objects counts from then.
pub async fn store(store: &Store, inputs: Vec<(Key, Bytes)>) -> Result<(), StorageError> {
    for (key, bytes) in inputs {
        store.put(&key, bytes, "application/octet-stream").await?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use base64::{Engine as _, engine::general_purpose::STANDARD};

    use super::*;
    use crate::contract::ErrorCode;

    fn transform(image: &str) -> Operation {
        let body = serde_json::json!({"operation": "image_transform", "prompt": "a", "init_image": image});
        Operation::parse(None, body.to_string().as_bytes()).unwrap()
    }

    fn init_image(operation: &mut Operation) -> String {
        operation.images_mut()[0].1.clone()
    }

    #[test]
    fn a_large_input_becomes_a_reference_to_its_content() {
        let image = STANDARD.encode(vec![7; 300]);
        let lines: Vec<_> = image.as_bytes().chunks(76).map(String::from_utf8_lossy).collect();
        for text in [image.clone(), format!("data:image/png;base64,{image}"), lines.join("\r\n")] {
            let mut operation = transform(&text);
            let extracted = extract(&mut operation, 100, 1000).unwrap();
            assert_eq!(extracted.len(), 1);
            assert_eq!(extracted[0].1, vec![7; 300]);
            assert_eq!(init_image(&mut operation), format!("object:{}", extracted[0].0));
        }
    }

    #[test]
    fn what_is_small_or_a_reference_or_too_large_stays() {
        let large = STANDARD.encode(vec![7; 3000]);
        for text in ["AAAA", "object:inputs/x", large.as_str()] {
            let mut operation = transform(text);
            assert!(extract(&mut operation, 100, 1000).unwrap().is_empty());
            assert_eq!(init_image(&mut operation), text);
        }
    }

    #[test]
    fn what_is_no_base64_names_its_field() {
        for length in [4, 400] {
            let error = extract(&mut transform(&"!".repeat(length)), 100, 1000).unwrap_err();
            assert_eq!((error.code, error.status), (ErrorCode::ImageInvalid, 400));
            assert!(error.message.starts_with("`init_image`: it is not base64: character 1"), "{error}");
        }
    }
}
