//! Queen's job endpoints, as far as the command line needs them.

use std::time::Duration;

use bytes::{Bytes, BytesMut};
use reqwest::{Client, Method, RequestBuilder, Response, StatusCode, Url, header};
use serde::Deserialize;

use super::{KeeperError, args::Token};
use crate::contract::{DeadLetters, JobId, JobResponse};

/// The longest wait for a connection.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// The longest silence on a connection. Queen keeps event streams alive by comments far more often.
const READ_TIMEOUT: Duration = Duration::from_secs(90);
/// How often a job is posted again when the connection broke before the answer; its id makes that safe.
const SUBMIT_RETRIES: u32 = 3;
/// The pause before a job is posted again.
const SUBMIT_PAUSE: Duration = Duration::from_millis(500);
/// The most of an error's body that is read, in bytes.
const MAX_ERROR_BODY: usize = 64 << 10;

/// Queen, over HTTP.
#[derive(Debug, Clone)]
pub struct Queen {
    client: Client,
    url: Url,
    token: Option<Token>,
}

#[derive(Deserialize)]
struct ErrorBody {
    error: ErrorDetail,
}

#[derive(Deserialize)]
struct ErrorDetail {
    code: String,
    message: String,
}

impl Queen {
    /// A client for the queen at `url`; proxies of the environment are used unless she is on this machine.
    ///
    /// # Errors
    /// [`KeeperError::Usage`] when the machine's TLS set-up cannot be read.
    pub fn new(url: &Url, token: Option<&Token>) -> Result<Self, KeeperError> {
        let mut builder = Client::builder()
            .user_agent(concat!("rbee-keeper/", env!("CARGO_PKG_VERSION")))
            .connect_timeout(CONNECT_TIMEOUT)
            .read_timeout(READ_TIMEOUT);
        if is_loopback(url) {
            builder = builder.no_proxy();
        }
        let client = builder.build().map_err(|error| KeeperError::Usage(reason(&error)))?;
        Ok(Self { client, url: url.clone(), token: token.cloned() })
    }

    /// Posts a job whose body has an id and a seed, so that it may be posted again when an answer was lost.
    ///
    /// # Errors
    /// [`KeeperError::Unreachable`], [`KeeperError::NoWorker`], [`KeeperError::Refused`].
    pub async fn submit(&self, body: Vec<u8>) -> Result<(), KeeperError> {
        let body = Bytes::from(body);
        let mut retries = 0;
        loop {
            let request = self
                .request(Method::POST, &["v1", "jobs"])
                .header(header::CONTENT_TYPE, "application/json")
                .body(body.clone());
            match request.send().await {
                Ok(response) => {
                    let response = self.checked(response).await?;
                    response
                        .json::<JobResponse>()
                        .await
                        .map_err(|error| KeeperError::Protocol(reason(&error)))?;
                    return Ok(());
                }
                Err(error) if !error.is_connect() && retries < SUBMIT_RETRIES => {
                    retries += 1;
                    tokio::time::sleep(SUBMIT_PAUSE).await;
                }
                Err(error) => return Err(self.unreachable(&error)),
            }
        }
    }

    /// Opens the stream of a job's events, behind the event `after`.
    ///
    /// # Errors
    /// [`KeeperError::Unreachable`], which may pass, and the answers of [`Self::submit`].
    pub async fn events(&self, job: &JobId, after: Option<&str>) -> Result<Response, KeeperError> {
        let mut request = self
            .request(Method::GET, &["v1", "jobs", job.as_str(), "stream"])
            .header(header::ACCEPT, "text/event-stream");
        if let Some(after) = after {
            request = request.header("Last-Event-ID", after);
        }
        let response = request.send().await.map_err(|error| self.unreachable(&error))?;
        self.checked(response).await
    }

    /// Cancels a job.
    ///
    /// # Errors
    /// [`KeeperError::Refused`] when it has ended or is unknown, [`KeeperError::Unreachable`].
    pub async fn cancel(&self, job: &JobId) -> Result<(), KeeperError> {
        let request = self.request(Method::DELETE, &["v1", "jobs", job.as_str()]);
        let response = request.send().await.map_err(|error| self.unreachable(&error))?;
        self.checked(response).await.map(drop)
    }

    /// The bytes of picture `index`; reading stops beyond `limit` bytes.
    ///
    /// # Errors
    /// [`KeeperError::Unreachable`], which may pass, [`KeeperError::Damaged`] beyond the limit, and queen's refusals.
    pub async fn image(&self, job: &JobId, index: usize, limit: u64) -> Result<Bytes, KeeperError> {
        let request = self.request(Method::GET, &["v1", "jobs", job.as_str(), "images", &index.to_string()]);
        let response = request.send().await.map_err(|error| self.unreachable(&error))?;
        let mut response = self.checked(response).await?;
        let mut bytes = BytesMut::new();
        while let Some(chunk) = response.chunk().await.map_err(|error| self.unreachable(&error))? {
            bytes.extend_from_slice(&chunk);
            if bytes.len() as u64 > limit {
                let reason = format!("more than the {limit} bytes that were promised");
                return Err(KeeperError::Damaged { index, reason });
            }
        }
        Ok(bytes.freeze())
    }

    /// The newest `limit` dead letters.
    ///
    /// # Errors
    /// [`KeeperError::Unreachable`], and queen's refusals.
    pub async fn dead_letters(&self, limit: u32) -> Result<DeadLetters, KeeperError> {
        let mut url = self.endpoint(&["v1", "dead-letters"]);
        url.query_pairs_mut().append_pair("limit", &limit.to_string());
        let request = self.request_to(Method::GET, url);
        let response = request.send().await.map_err(|error| self.unreachable(&error))?;
        let response = self.checked(response).await?;
        response.json().await.map_err(|error| KeeperError::Protocol(reason(&error)))
    }

    /// Sends the job of a dead letter again.
    ///
    /// # Errors
    /// [`KeeperError::Refused`] when there is no such letter, [`KeeperError::Unreachable`].
    pub async fn retry_dead_letter(&self, job: &JobId) -> Result<(), KeeperError> {
        let request = self.request(Method::POST, &["v1", "dead-letters", job.as_str(), "retry"]);
        let response = request.send().await.map_err(|error| self.unreachable(&error))?;
        self.checked(response).await.map(drop)
    }

    /// Removes a dead letter.
    ///
    /// # Errors
    /// [`KeeperError::Refused`] when there is no such letter, [`KeeperError::Unreachable`].
    pub async fn drop_dead_letter(&self, job: &JobId) -> Result<(), KeeperError> {
        let request = self.request(Method::DELETE, &["v1", "dead-letters", job.as_str()]);
        let response = request.send().await.map_err(|error| self.unreachable(&error))?;
        self.checked(response).await.map(drop)
    }

    /// The error for a connection that could not be made, or broke.
    pub fn unreachable(&self, error: &reqwest::Error) -> KeeperError {
        KeeperError::Unreachable { url: self.url.to_string(), reason: reason(error) }
    }

    fn endpoint(&self, path: &[&str]) -> Url {
        let mut url = self.url.clone();
        if let Ok(mut segments) = url.path_segments_mut() {
            segments.pop_if_empty().extend(path);
        }
        url
    }

    fn request(&self, method: Method, path: &[&str]) -> RequestBuilder {
        self.request_to(method, self.endpoint(path))
    }

    fn request_to(&self, method: Method, url: Url) -> RequestBuilder {
        let request = self.client.request(method, url);
        match &self.token {
            Some(token) => request.bearer_auth(token.secret()),
            None => request,
        }
    }

    /// A good answer, or the error that its body names.
    async fn checked(&self, mut response: Response) -> Result<Response, KeeperError> {
        let status = response.status();
        if status.is_success() {
            return Ok(response);
        }
        let mut body = BytesMut::new();
        while let Ok(Some(chunk)) = response.chunk().await {
            body.extend_from_slice(&chunk);
            if body.len() > MAX_ERROR_BODY {
                break;
            }
        }
        let message = match serde_json::from_slice::<ErrorBody>(&body) {
            Ok(ErrorBody { error }) => format!("{} ({})", error.message, error.code),
            Err(_) => status.canonical_reason().unwrap_or("no reason given").to_owned(),
        };
        Err(match status {
            StatusCode::SERVICE_UNAVAILABLE => KeeperError::NoWorker { message },
            status => KeeperError::Refused { status: status.as_u16(), message },
        })
    }
}

fn is_loopback(url: &Url) -> bool {
    match url.host_str() {
        Some("localhost") => true,
        Some(host) => host
            .trim_matches(['[', ']'])
            .parse::<std::net::IpAddr>()
            .is_ok_and(|address| address.is_loopback()),
        None => false,
    }
}

/// The whole chain: reqwest's own message leaves out the operating system's.
fn reason(error: &reqwest::Error) -> String {
    let mut text = error.to_string();
    let mut source = std::error::Error::source(error);
    while let Some(cause) = source {
        let cause_text = cause.to_string();
        if !text.contains(&cause_text) {
            text.push_str(": ");
            text.push_str(&cause_text);
        }
        source = cause.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_queen_on_this_machine_needs_no_proxy() {
        for (url, here) in [
            ("http://localhost:1", true),
            ("http://127.0.0.1:7833", true),
            ("http://[::1]:7833", true),
            ("http://queen.example", false),
            ("http://10.0.0.1", false),
        ] {
            assert_eq!(is_loopback(&Url::parse(url).unwrap()), here, "{url}");
        }
    }

    #[test]
    fn queen_may_live_below_a_path() {
        for base in ["http://host/pool", "http://host/pool/"] {
            let queen = Queen::new(&Url::parse(base).unwrap(), None).unwrap();
            let request = queen.request(Method::GET, &["v1", "jobs"]).build().unwrap();
            assert_eq!(request.url().as_str(), "http://host/pool/v1/jobs");
        }
    }
}
