//! The id by which a client can come back: its `Idempotency-Key` is the job's id.

use axum::http::{HeaderMap, HeaderName};
use sha2::{Digest, Sha256};

use crate::{
    contract::{ErrorCode, JobId, hex},
    http::ApiError,
};

/// What a client calls its request, however often it sends it.
const IDEMPOTENCY_KEY: HeaderName = HeaderName::from_static("idempotency-key");
/// The longest key, in bytes.
const MAX_KEY: usize = 1024;

/// The job's id that a request names: the key itself where it is one, else made of its hash, as keys may have any character.
/// Quotes around it, as a standard in preparation wants them, are not part of it.
///
/// # Errors
/// `invalid_request` for a key that is longer than 1024 bytes.
pub(super) fn job_id(headers: &HeaderMap) -> Result<Option<JobId>, ApiError> {
    let Some(value) = headers.get(IDEMPOTENCY_KEY) else { return Ok(None) };
    let key = value.as_bytes().trim_ascii();
    let key = key.strip_prefix(b"\"").and_then(|rest| rest.strip_suffix(b"\"")).unwrap_or(key);
    if key.is_empty() {
        return Ok(None);
    }
    if key.len() > MAX_KEY {
        let message = format!("`Idempotency-Key`: {} bytes, at most {MAX_KEY} are taken", key.len());
        return Err(ApiError::new(ErrorCode::InvalidRequest, message));
    }
    if let Some(id) = std::str::from_utf8(key).ok().and_then(|key| JobId::new(key).ok()) {
        return Ok(Some(id));
    }
    Ok(Some(JobId::new(format!("key-{}", hex(&Sha256::digest(key))))?))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn named(key: &[u8]) -> Result<Option<String>, ApiError> {
        let value = axum::http::HeaderValue::from_bytes(key).unwrap();
        let id = job_id(&HeaderMap::from_iter([(IDEMPOTENCY_KEY, value)]))?;
        Ok(id.map(|id| id.to_string()))
    }

    #[test]
    fn a_key_that_may_be_an_id_is_the_id_and_any_other_is_always_the_same_one() {
        assert_eq!(named(b"order-7_b").unwrap().as_deref(), Some("order-7_b"));
        assert_eq!(named(b" \"order-7\" ").unwrap().as_deref(), Some("order-7"));
        let hashed = named(b"order 7/\xe4").unwrap().unwrap();
        assert!(hashed.starts_with("key-") && hashed.len() == 68, "{hashed}");
        assert_eq!(named(b"order 7/\xe4").unwrap().unwrap(), hashed);
        assert_ne!(named(b"order 8/\xe4").unwrap().unwrap(), hashed);
        for none in [&b""[..], b" ", b"\"\""] {
            assert_eq!(named(none).unwrap(), None);
        }
        assert_eq!(job_id(&HeaderMap::new()).unwrap(), None);
    }

    #[test]
    fn a_key_without_end_is_refused() {
        assert!(named(&[b'a'; MAX_KEY]).is_ok());
        let error = named(&[b'a'; MAX_KEY + 1]).unwrap_err();
        assert!(error.status == 400 && error.message.starts_with("`Idempotency-Key`: 1025"), "{error}");
    }
}
