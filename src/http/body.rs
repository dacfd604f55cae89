//! A body in JSON: what is wrong with its form and not with what it says.

use axum::{
    extract::rejection::BytesRejection,
    http::{
        HeaderMap, HeaderName, StatusCode,
        header::{CONTENT_ENCODING, CONTENT_TYPE},
    },
};
use bytes::Bytes;
#[cfg(feature = "queen")]
use serde_json::{Map, Value};

use super::ApiError;
#[cfg(feature = "queen")]
use crate::contract;
use crate::contract::{ContractError, ErrorCode, HttpCode, Operation};

/// A body of at most so many bytes is parsed where it arrives: that takes no time that another request would notice.
const SMALL_BODY: usize = 64 << 10;
/// Encodings of which UTF-8 is one, or which it contains.
const UTF8: [&str; 4] = ["utf-8", "utf8", "us-ascii", "ascii"];

/// Reads an operation. Whatever the media type says, JSON is read: `curl -d` calls everything a form.
pub(super) async fn read(
    headers: &HeaderMap,
    body: Result<Bytes, BytesRejection>,
    max_body: usize,
) -> Result<Operation, ApiError> {
    parse(whole(headers, body, max_body)?, |body| Operation::parse(None, body)).await
}

/// Reads an object, whatever fields it has.
#[cfg(feature = "queen")]
pub(crate) async fn read_object(
    headers: &HeaderMap,
    body: Result<Bytes, BytesRejection>,
    max_body: usize,
) -> Result<Map<String, Value>, ApiError> {
    parse(whole(headers, body, max_body)?, contract::object).await
}

fn whole(
    headers: &HeaderMap,
    body: Result<Bytes, BytesRejection>,
    max_body: usize,
) -> Result<Bytes, ApiError> {
    let body = body.map_err(|rejection| match rejection.status() {
        StatusCode::PAYLOAD_TOO_LARGE => {
            ApiError::new(ErrorCode::PayloadTooLarge, format!("`body`: at most {max_body} bytes are taken"))
        }
        _ => ApiError::new(ErrorCode::InvalidRequest, "`body`: it broke off before its end"),
    })?;
    check(headers, &body)?;
    Ok(body)
}

/// Refuses a form that is not read, by its name.
fn check(headers: &HeaderMap, body: &[u8]) -> Result<(), ApiError> {
    let refuse = |message: String| Err(ApiError::of_request(HttpCode::UnsupportedMediaType, message));
    let encoding = value(headers, &CONTENT_ENCODING);
    if !matches!(encoding.as_str(), "" | "identity") {
        return refuse(format!("`body`: the content encoding `{encoding}` is not read; send it as it is"));
    }
    let media = value(headers, &CONTENT_TYPE);
    if media.starts_with("multipart/") {
        return refuse("`body`: a form of several parts is not read; send JSON".to_owned());
    }
    let charset = media.split(';').skip(1).find_map(|part| part.trim().strip_prefix("charset="));
    let charset = charset.unwrap_or_default().trim_matches('"');
    // What is of ASCII alone is the same in the encodings that are named by mistake.
    if !(charset.is_empty() || UTF8.contains(&charset) || body.is_ascii() && !body.contains(&0)) {
        return refuse(format!("`body`: the charset `{charset}` is not read; send it in UTF-8"));
    }
    Ok(())
}

fn value(headers: &HeaderMap, name: &HeaderName) -> String {
    let value = headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or_default();
    value.trim().to_ascii_lowercase()
}

/// Tens of megabytes are parsed where they hold up nobody.
async fn parse<T: Send + 'static>(
    body: Bytes,
    read: fn(&[u8]) -> Result<T, ContractError>,
) -> Result<T, ApiError> {
    if body.len() <= SMALL_BODY {
        return Ok(read(&body)?);
    }
    let parsed = tokio::task::spawn_blocking(move || read(&body)).await;
    Ok(parsed.map_err(|error| ApiError::new(ErrorCode::Internal, error.to_string()))??)
}

#[cfg(test)]
mod tests {
    use futures::FutureExt;

    use super::*;

    #[tokio::test]
    async fn a_large_body_is_parsed_where_it_holds_up_nobody() {
        let body = |size| Bytes::from(vec![b'{'; size]);
        let parse = |body| parse(body, |body| Operation::parse(None, body));
        assert_eq!(parse(body(SMALL_BODY)).now_or_never().unwrap().unwrap_err().status, 400);
        let mut parsing = Box::pin(parse(body(1 << 20)));
        assert!((&mut parsing).now_or_never().is_none(), "this thread goes on with other work");
        assert_eq!(parsing.await.unwrap_err().status, 400);
    }

    #[test]
    fn a_form_that_is_not_read_is_refused_by_its_name() {
        let checked = |name: HeaderName, text: &str, body: &[u8]| {
            let headers = HeaderMap::from_iter([(name, text.parse().unwrap())]);
            check(&headers, body).map_err(|error| (error.status, error.message))
        };
        for (text, body) in [
            ("application/json", "caf\u{e9}"),
            ("application/json; charset=UTF-8", "caf\u{e9}"),
            ("application/json;charset=\"utf-8\"", "caf\u{e9}"),
            ("application/json; charset=iso-8859-1", "cafe"),
            ("application/x-www-form-urlencoded", "{}"),
            ("", "{}"),
        ] {
            assert_eq!(checked(CONTENT_TYPE, text, body.as_bytes()), Ok(()), "{text}");
        }
        for (name, text, body, named) in [
            (CONTENT_TYPE, "application/json; charset=ISO-8859-1", &b"caf\xe9"[..], "`iso-8859-1`"),
            (CONTENT_TYPE, "application/json; charset=utf-16", b"{\0}\0", "`utf-16`"),
            (CONTENT_TYPE, "multipart/form-data; boundary=x", b"--x", "several parts"),
            (CONTENT_ENCODING, "gzip", b"\x1f\x8b", "`gzip`"),
        ] {
            let (status, message) = checked(name, text, body).unwrap_err();
            assert!(status == 415 && message.contains(named), "{text}: {status} {message}");
        }
        assert_eq!(checked(CONTENT_ENCODING, "identity", b"{}"), Ok(()));
    }
}
