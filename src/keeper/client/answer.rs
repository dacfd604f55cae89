//! Whether it is queen who answers. Between it and keeper there may be proxies, portals, caches, or it is not there at all
//! and somebody else is: an answer counts by its own form, never by its status alone.

use std::{error::Error, time::Duration};

use bytes::BytesMut;
use reqwest::{Response, StatusCode, header};
use serde::{Deserialize, de::DeserializeOwned};

use super::KeeperError;
use crate::keeper::console::printable;

/// The most of a body that is read to say what it looks like, in bytes.
const MAX_FOREIGN_BODY: usize = 64 << 10;
/// The longest wait for the rest of it.
const FOREIGN_BODY_TIMEOUT: Duration = Duration::from_secs(5);
/// The most of somebody else's words that is shown, in characters.
const MAX_QUOTE: usize = 120;

/// What a question was for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Asked {
    /// For a job: 503 means that no worker takes it.
    ToDraw,
    /// For anything else.
    Otherwise,
}

/// Queen's errors.
#[derive(Deserialize)]
struct ErrorBody {
    error: ErrorDetail,
}

#[derive(Deserialize)]
struct ErrorDetail {
    code: String,
    message: String,
}

/// A good answer, or the error that it is.
///
/// # Errors
/// Queen's own ([`KeeperError::NoWorker`], [`KeeperError::Refused`]), or [`KeeperError::Foreign`].
pub async fn checked(url: &str, mut response: Response, asked: Asked) -> Result<Response, KeeperError> {
    let status = response.status();
    if let Some(encoding) = header_text(&response, header::CONTENT_ENCODING).filter(|name| name != "identity")
    {
        let what =
            format!("{}, packed as `{}`, which was not asked for", status_text(status), quote(&encoding));
        return Err(KeeperError::Foreign { url: url.to_owned(), what, passing: false, after: None });
    }
    if status.is_success() {
        return Ok(response);
    }
    let after = retry_after(&response);
    let body = beginning(&mut response).await;
    let Ok(ErrorBody { error: ErrorDetail { code, message } }) = serde_json::from_slice(&body) else {
        let passing = matches!(status.as_u16(), 429 | 502..=504);
        return Err(KeeperError::Foreign {
            url: url.to_owned(),
            what: look(&response, &body),
            passing,
            after,
        });
    };
    let hint = if status == StatusCode::UNAUTHORIZED { "; --token or RBEE_TOKEN gives it" } else { "" };
    let message = format!("{message} ({code}){hint}");
    Err(match status {
        StatusCode::SERVICE_UNAVAILABLE if asked == Asked::ToDraw => KeeperError::NoWorker { message, after },
        status => KeeperError::Refused { status: status.as_u16(), message, after },
    })
}

/// A body of queen's, of at most `most` bytes.
///
/// # Errors
/// [`KeeperError::Unreachable`] where it broke off, [`KeeperError::Foreign`] where it is none of its own.
pub async fn json<T: DeserializeOwned>(
    url: &str,
    mut response: Response,
    most: usize,
) -> Result<T, KeeperError> {
    let mut body = BytesMut::new();
    while let Some(chunk) = response.chunk().await.map_err(|error| unreachable(url, &error))? {
        body.extend_from_slice(&chunk);
        if body.len() > most {
            let what = format!("{}, and more than {most} bytes of it", look(&response, &body));
            return Err(KeeperError::Foreign { url: url.to_owned(), what, passing: false, after: None });
        }
    }
    serde_json::from_slice(&body).map_err(|_| KeeperError::Foreign {
        url: url.to_owned(),
        what: look(&response, &body),
        passing: false,
        after: None,
    })
}

/// The error for a good status with a body that is none of queen's.
pub async fn foreign(url: &str, mut response: Response) -> KeeperError {
    let body = beginning(&mut response).await;
    KeeperError::Foreign { url: url.to_owned(), what: look(&response, &body), passing: false, after: None }
}

/// The media type, without parameters, in lower case; empty where there is none.
pub fn media_type(response: &Response) -> String {
    let text = header_text(response, header::CONTENT_TYPE).unwrap_or_default();
    text.split(';').next().unwrap_or_default().trim().to_ascii_lowercase()
}

/// The error for a connection that could not be made, or broke.
pub fn unreachable(url: &str, error: &reqwest::Error) -> KeeperError {
    let chain = chain(error);
    let last = chain.last().map(String::as_str).unwrap_or_default();
    let url = url.to_owned();
    let foreign = |what: &str| KeeperError::Foreign {
        url: url.clone(),
        what: what.to_owned(),
        passing: false,
        after: None,
    };
    if chain.iter().any(|cause| cause.ends_with(" parsed") || cause.contains("message head is too large")) {
        return foreign("what is there does not speak HTTP");
    }
    if chain.iter().any(|cause| cause.contains("InvalidContentType")) {
        return foreign("it does not speak TLS; http:// in place of https:// may be meant");
    }
    let reason = match last {
        _ if error.is_timeout() && error.is_connect() => "there was no connection in time".to_owned(),
        _ if error.is_timeout() => "nothing was heard for too long".to_owned(),
        "tunnel error: unsuccessful" => "the proxy does not let it through".to_owned(),
        "tunnel error: proxy authorization required" => "the proxy asks for a user and a password".to_owned(),
        "tunnel error: unexpected end of file" => "the proxy closed the connection".to_owned(),
        _ if chain.iter().any(|cause| cause == "connection closed before message completed") => {
            "the connection was closed before an answer".to_owned()
        }
        _ if error.is_body() || error.is_decode() => format!("the answer broke off ({last})"),
        last => last.to_owned(),
    };
    KeeperError::Unreachable { url, reason, never_connected: error.is_connect() }
}

/// What reqwest says, and every cause of it, the operating system's words last and without their number.
fn chain(error: &reqwest::Error) -> Vec<String> {
    let mut texts = vec![];
    let mut cause: Option<&dyn Error> = Some(error);
    while let Some(error) = cause {
        texts.push(error.to_string().split(" (os error").next().unwrap_or_default().to_owned());
        cause = error.source();
    }
    texts
}

/// The first bytes of a body, as far as they come soon.
async fn beginning(response: &mut Response) -> BytesMut {
    let mut body = BytesMut::new();
    let read = async {
        while let Ok(Some(chunk)) = response.chunk().await {
            body.extend_from_slice(&chunk);
            if body.len() >= MAX_FOREIGN_BODY {
                break;
            }
        }
    };
    // What did not come is not shown.
    let _ = tokio::time::timeout(FOREIGN_BODY_TIMEOUT, read).await;
    body
}

/// When to ask again, in seconds. A date is left alone: no clock of another machine counts.
fn retry_after(response: &Response) -> Option<Duration> {
    header_text(response, header::RETRY_AFTER)?.trim().parse().ok().map(Duration::from_secs)
}

/// What an answer looks like to people.
fn look(response: &Response, body: &[u8]) -> String {
    let text = String::from_utf8_lossy(&body[..body.len().min(MAX_FOREIGN_BODY)]);
    let mut said = status_text(response.status());
    if let Some(to) = header_text(response, header::LOCATION).filter(|_| response.status().is_redirection()) {
        said.push_str(&format!(", which leads to {}; if queen is there, --queen must say so", quote(&to)));
    } else {
        said.push_str(&format!(", {}", content(&media_type(response), text.trim())));
    }
    if let Some(server) = header_text(response, header::SERVER) {
        said.push_str(&format!(" (from `{}`)", quote(&server)));
    }
    said
}

fn content(media_type: &str, text: &str) -> String {
    let start: String = text.chars().take(256).collect::<String>().to_ascii_lowercase();
    if media_type == "text/html" || start.starts_with("<!doctype html") || start.starts_with("<html") {
        return match title(text) {
            Some(title) => format!("an HTML page, \u{201c}{}\u{201d}", quote(title)),
            None => "an HTML page".to_owned(),
        };
    }
    if text.is_empty() {
        return "with an empty body".to_owned();
    }
    if text.starts_with(['{', '[']) && serde_json::from_str::<serde::de::IgnoredAny>(text).is_ok() {
        return format!("JSON of another form: {}", quote(text));
    }
    match media_type {
        "" => format!("a body of no type: {}", quote(text)),
        media_type => format!("a body of the type {}: {}", quote(media_type), quote(text)),
    }
}

fn title(html: &str) -> Option<&str> {
    let lower = html.to_ascii_lowercase();
    let open = lower.find("<title")?;
    let from = open + lower[open..].find('>')? + 1;
    let to = from + lower[from..].find('<')?;
    Some(html[from..to].trim()).filter(|title| !title.is_empty())
}

fn status_text(status: StatusCode) -> String {
    format!("status {} {}", status.as_u16(), status.canonical_reason().unwrap_or_default()).trim().to_owned()
}

/// The first line of somebody else's words, not too many, and none that moves the cursor.
fn quote(text: &str) -> String {
    let line = text.lines().next().unwrap_or_default();
    let mut quote: String = printable(line).chars().take(MAX_QUOTE).collect();
    if line.chars().nth(MAX_QUOTE).is_some() {
        quote.push('\u{2026}');
    }
    quote
}

fn header_text(response: &Response, name: header::HeaderName) -> Option<String> {
    response.headers().get(name).map(|value| String::from_utf8_lossy(value.as_bytes()).into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_queens_is_described() {
        let page = "<!DOCTYPE html>\n<html><head><TITLE>\nSign in </TITLE></head>";
        for (media_type, body, said) in [
            ("text/html", page, "an HTML page, \u{201c}Sign in\u{201d}"),
            ("application/json", page, "an HTML page, \u{201c}Sign in\u{201d}"),
            ("text/html", "hello", "an HTML page"),
            ("application/json", "", "with an empty body"),
            ("application/json", "{\"ok\":1}", "JSON of another form: {\"ok\":1}"),
            ("text/plain", "hello\nworld", "a body of the type text/plain: hello"),
            ("", "\u{1b}[2Jhello", "a body of no type:  [2Jhello"),
        ] {
            assert_eq!(content(media_type, body), said);
        }
        assert_eq!(quote(&"x".repeat(500)).chars().count(), MAX_QUOTE + 1);
    }
}
