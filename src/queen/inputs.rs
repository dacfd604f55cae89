//! Large inputs leave the message: they are named by their content, stored, and travel as a reference.

use bytes::Bytes;

use crate::{
    contract::{ErrorCode, Operation, decode_base64},
    http::ApiError,
    storage::{Key, StorageError, Store},
};

/// Replaces every inline input of more than `max_inline` bytes by `object:inputs/<sha256>`, and gives what is to be
/// stored. An input above `max_input` is left as it is, for the check that refuses it by its size.
///
/// # Errors
/// `image_invalid`, naming the field, when it is no base64.
pub fn extract(
    operation: &mut Operation,
    max_inline: u64,
    max_input: u64,
) -> Result<Vec<(Key, Bytes)>, ApiError> {
    let mut extracted = vec![];
    for (field, image) in operation.images_mut() {
        let base64 = match image.strip_prefix("data:") {
            Some(url) => url.split_once(";base64,").map(|(_, data)| data),
            None => (!image.starts_with("object:")).then_some(image.as_str()),
        };
        let Some(base64) = base64 else { continue };
        let about = base64.len() as u64 / 4 * 3;
        if about <= max_inline || about > max_input {
            continue;
        }
        let bytes = decode_base64(base64).map_err(|error| {
            ApiError::new(
                ErrorCode::ImageInvalid,
                format!("`{field}`: no base64, and no `object:<key>`: {error}"),
            )
        })?;
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
        for text in [image.clone(), format!("data:image/png;base64,{image}")] {
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
        let error = extract(&mut transform(&"!".repeat(400)), 100, 1000).unwrap_err();
        assert_eq!(error.code, ErrorCode::ImageInvalid);
        assert!(error.message.starts_with("`init_image`"), "{error}");
    }
}
