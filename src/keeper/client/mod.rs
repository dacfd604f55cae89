//! Queen's endpoints, as far as the command line needs them. `connect` is the way to it and through which proxy, `answer`
//! whether queen answers, `again` when a question is asked once more.

mod again;
mod answer;
mod connect;

use std::time::Duration;

use bytes::{Bytes, BytesMut};
use reqwest::{Client, Method, RequestBuilder, Response, Url, header};

use super::{KeeperError, args::Token, profile::Way};
use crate::contract::{
    Command, DeadLetters, Health, JobId, JobList, JobResponse, JobView, TraceContext, WorkerId, WorkerInfo,
    Workers, headers,
};

pub use again::Again;
use answer::Asked;

/// The most of an answer about one thing that is read, in bytes.
const MAX_ANSWER: usize = 1 << 20;
/// The most of a list that is read, in bytes.
const MAX_LIST: usize = 64 << 20;
/// The longest silence on a connection. Queen keeps event streams alive by comments far more often.
const SILENCE: Duration = Duration::from_secs(90);
/// The longest wait for a worker that brings a model into memory: queen waits as long as its --load-timeout says.
const PATIENCE: Duration = Duration::from_secs(3600);
/// The largest picture that is read, in bytes, whatever was promised.
const MAX_PICTURE: u64 = 256 << 20;

/// Queen, over HTTP.
#[derive(Debug, Clone)]
pub struct Queen {
    client: Client,
    url: Url,
    /// How queen is called in messages.
    shown: String,
    token: Option<Token>,
    retry_for: Duration,
}

impl Queen {
    /// A client for this queen.
    ///
    /// # Errors
    /// [`KeeperError::Usage`]: a token that no header can carry, a proxy that cannot be used, TLS that cannot be set up.
    pub fn new(way: &Way) -> Result<Self, KeeperError> {
        Self::with_patience(way, SILENCE)
    }

    /// As [`Self::new`], for questions whose answer takes as long as it takes to bring a model into memory.
    ///
    /// # Errors
    /// As [`Self::new`].
    pub fn patient(way: &Way) -> Result<Self, KeeperError> {
        Self::with_patience(way, PATIENCE)
    }

    fn with_patience(way: &Way, silence: Duration) -> Result<Self, KeeperError> {
        let token = way.token.clone().filter(|token| !token.secret().is_empty());
        if let Some(token) = &token
            && !token.secret().bytes().all(|byte| byte.is_ascii_graphic())
        {
            return Err(KeeperError::Usage("--token: a token has visible ASCII characters only".into()));
        }
        let has_user = !way.queen.username().is_empty() || way.queen.password().is_some();
        if token.is_some() && has_user {
            let message =
                "--queen has a user and a password, and --token is set: a request carries one of them";
            return Err(KeeperError::Usage(message.into()));
        }
        let (client, via) = connect::client(&way.queen, way.proxy.as_ref(), silence)?;
        let shown = match via {
            None => connect::without_password(&way.queen),
            Some(proxy) => format!("{} through {proxy}", connect::without_password(&way.queen)),
        };
        Ok(Self { client, url: way.queen.clone(), shown, token, retry_for: way.retry_for })
    }

    /// How long a question may be asked again, from now on.
    pub fn again(&self) -> Again {
        Again::new(self.retry_for)
    }

    /// Posts a job whose body has an id and a seed, so that it may be posted again when an answer was lost. `told` hears of
    /// every failure that is not the last.
    ///
    /// # Errors
    /// [`KeeperError::Unreachable`], [`KeeperError::Foreign`], [`KeeperError::NoWorker`], [`KeeperError::Refused`].
    pub async fn submit(
        &self,
        job: &JobId,
        body: Vec<u8>,
        told: impl Fn(&KeeperError),
    ) -> Result<(), KeeperError> {
        let body = Bytes::from(body);
        let mut again = self.again();
        let mut is_first = true;
        loop {
            let error = match self.submit_once(job, body.clone()).await {
                Ok(()) => return Ok(()),
                Err(error) => error,
            };
            let passes = match &error {
                // Nobody there from the first: an address that is wrong, or a queen that was not started.
                KeeperError::Unreachable { never_connected, .. } => !(*never_connected && is_first),
                KeeperError::Foreign { passing, .. } => *passing,
                KeeperError::Refused { status, after, .. } => {
                    matches!(*status, 429 | 502 | 504) || after.is_some()
                }
                KeeperError::NoWorker { after, .. } => after.is_some(),
                _ => false,
            };
            if !passes {
                return Err(error);
            }
            again.wait(error, &told).await?;
            is_first = false;
        }
    }

    async fn submit_once(&self, job: &JobId, body: Bytes) -> Result<(), KeeperError> {
        let mut request = self
            .request(Method::POST, &["v1", "jobs"])
            .header(header::CONTENT_TYPE, "application/json")
            .body(body);
        if let Some(trace) = trace_of_the_environment() {
            request = request.header(headers::TRACEPARENT, trace.to_string());
        }
        let response = self.checked(request, Asked::ToDraw).await?;
        let answer: JobResponse = answer::json(&self.shown, response, MAX_ANSWER).await?;
        if answer.job_id != *job {
            return Err(self.foreign(format!("it speaks of another job, {}", answer.job_id)));
        }
        Ok(())
    }

    /// Opens the stream of a job's events, behind the event `after`.
    ///
    /// # Errors
    /// [`KeeperError::Unreachable`], which may pass, and the answers of [`Self::submit`].
    pub async fn events(&self, job: &JobId, after: Option<&str>) -> Result<Response, KeeperError> {
        let mut request = self
            .request(Method::GET, &["v1", "jobs", job.as_str(), "stream"])
            .header(header::ACCEPT, "text/event-stream")
            .header(header::CACHE_CONTROL, "no-cache");
        if let Some(after) = after {
            request = request.header("Last-Event-ID", after);
        }
        let response = self.checked(request, Asked::Otherwise).await?;
        match answer::media_type(&response) == "text/event-stream" {
            true => Ok(response),
            false => Err(answer::foreign(&self.shown, response).await),
        }
    }

    /// Where a job is.
    ///
    /// # Errors
    /// As [`Self::events`].
    pub async fn job(&self, job: &JobId) -> Result<JobView, KeeperError> {
        self.get(&["v1", "jobs", job.as_str()], MAX_ANSWER).await
    }

    /// The workers that are up.
    ///
    /// # Errors
    /// As [`Self::events`].
    pub async fn workers(&self) -> Result<Workers, KeeperError> {
        self.get(&["v1", "workers"], MAX_LIST).await
    }

    /// Tells a worker what to do; how it is after that.
    ///
    /// # Errors
    /// [`KeeperError::Refused`], [`KeeperError::Unreachable`].
    pub async fn command(&self, worker: &WorkerId, command: &Command) -> Result<WorkerInfo, KeeperError> {
        let mut path = vec!["v1", "workers", worker.as_str()];
        match command {
            Command::Load { model } | Command::Unload { model } => path.extend(["models", model]),
            Command::Drain | Command::Resume | Command::Status => {}
        }
        path.push(command.name());
        let request = self.request(Method::POST, &path);
        let response = self.checked(request, Asked::Otherwise).await?;
        answer::json(&self.shown, response, MAX_ANSWER).await
    }

    /// The newest `limit` jobs of whoever asks, behind `before`.
    ///
    /// # Errors
    /// [`KeeperError::Unreachable`], and queen's refusals.
    pub async fn jobs(&self, limit: u32, before: Option<&str>) -> Result<JobList, KeeperError> {
        let mut url = self.endpoint(&["v1", "jobs"]);
        url.query_pairs_mut().append_pair("limit", &limit.to_string());
        if let Some(before) = before {
            url.query_pairs_mut().append_pair("before", before);
        }
        let response = self.checked(self.request_to(Method::GET, url), Asked::Otherwise).await?;
        answer::json(&self.shown, response, MAX_LIST).await
    }

    /// Opens the stream of what changes in the fleet.
    ///
    /// # Errors
    /// As [`Self::events`].
    pub async fn fleet(&self) -> Result<Response, KeeperError> {
        let mut url = self.endpoint(&["v1", "events"]);
        url.query_pairs_mut().append_pair("fleet", "1");
        let request = self.request_to(Method::GET, url).header(header::ACCEPT, "text/event-stream");
        let response = self.checked(request, Asked::Otherwise).await?;
        match answer::media_type(&response) == "text/event-stream" {
            true => Ok(response),
            false => Err(answer::foreign(&self.shown, response).await),
        }
    }

    /// Queen's health.
    ///
    /// # Errors
    /// As [`Self::events`].
    pub async fn health(&self) -> Result<Health, KeeperError> {
        self.get(&["health"], MAX_ANSWER).await
    }

    /// Cancels a job.
    ///
    /// # Errors
    /// [`KeeperError::Refused`] when it has ended or is unknown, [`KeeperError::Unreachable`].
    pub async fn cancel(&self, job: &JobId) -> Result<(), KeeperError> {
        let request = self.request(Method::DELETE, &["v1", "jobs", job.as_str()]);
        self.checked(request, Asked::Otherwise).await.map(drop)
    }

    /// The bytes of picture `index`; reading stops beyond `limit` bytes. `fresh`: whoever stands between is to ask queen.
    ///
    /// # Errors
    /// [`KeeperError::Unreachable`], which may pass, [`KeeperError::Damaged`] beyond the limit, and queen's refusals.
    pub async fn image(
        &self,
        job: &JobId,
        index: usize,
        limit: u64,
        fresh: bool,
    ) -> Result<Bytes, KeeperError> {
        let limit = limit.min(MAX_PICTURE);
        let mut request =
            self.request(Method::GET, &["v1", "jobs", job.as_str(), "images", &index.to_string()]);
        if fresh {
            request = request.header(header::CACHE_CONTROL, "no-cache");
        }
        let mut response = self.checked(request, Asked::Otherwise).await?;
        if answer::media_type(&response) == "text/html" {
            return Err(answer::foreign(&self.shown, response).await);
        }
        let mut bytes = BytesMut::new();
        while let Some(chunk) = response.chunk().await.map_err(|error| self.unreachable(&error))? {
            bytes.extend_from_slice(&chunk);
            if bytes.len() as u64 > limit {
                let reason = format!("more than the {limit} bytes that are expected");
                return Err(KeeperError::Damaged { index, reason });
            }
        }
        Ok(bytes.freeze())
    }

    /// Where whoever has the token finds picture `index`.
    pub fn image_url(&self, job: &JobId, index: usize) -> String {
        connect::without_password(&self.endpoint(&["v1", "jobs", job.as_str(), "images", &index.to_string()]))
    }

    /// The newest `limit` dead letters.
    ///
    /// # Errors
    /// [`KeeperError::Unreachable`], and queen's refusals.
    pub async fn dead_letters(&self, limit: u32) -> Result<DeadLetters, KeeperError> {
        let mut url = self.endpoint(&["v1", "dead-letters"]);
        url.query_pairs_mut().append_pair("limit", &limit.to_string());
        let response = self.checked(self.request_to(Method::GET, url), Asked::Otherwise).await?;
        answer::json(&self.shown, response, MAX_LIST).await
    }

    /// Sends the job of a dead letter again.
    ///
    /// # Errors
    /// [`KeeperError::Refused`] when there is no such letter, [`KeeperError::Unreachable`].
    pub async fn retry_dead_letter(&self, job: &JobId) -> Result<(), KeeperError> {
        let request = self.request(Method::POST, &["v1", "dead-letters", job.as_str(), "retry"]);
        self.checked(request, Asked::Otherwise).await.map(drop)
    }

    /// Removes a dead letter.
    ///
    /// # Errors
    /// [`KeeperError::Refused`] when there is no such letter, [`KeeperError::Unreachable`].
    pub async fn drop_dead_letter(&self, job: &JobId) -> Result<(), KeeperError> {
        let request = self.request(Method::DELETE, &["v1", "dead-letters", job.as_str()]);
        self.checked(request, Asked::Otherwise).await.map(drop)
    }

    /// The error for a connection that could not be made, or broke.
    pub fn unreachable(&self, error: &reqwest::Error) -> KeeperError {
        answer::unreachable(&self.shown, error)
    }

    /// The error for an answer that is not queen's.
    pub fn foreign(&self, what: String) -> KeeperError {
        KeeperError::Foreign { url: self.shown.clone(), what, passing: false, after: None }
    }

    async fn get<T: serde::de::DeserializeOwned>(
        &self,
        path: &[&str],
        most: usize,
    ) -> Result<T, KeeperError> {
        let response = self.checked(self.request(Method::GET, path), Asked::Otherwise).await?;
        answer::json(&self.shown, response, most).await
    }

    async fn checked(&self, request: RequestBuilder, asked: Asked) -> Result<Response, KeeperError> {
        let response = request.send().await.map_err(|error| self.unreachable(&error))?;
        answer::checked(&self.shown, response, asked).await
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
}

/// The trace that whoever started this program says it is a part of, by the variable that such programs pass on.
fn trace_of_the_environment() -> Option<TraceContext> {
    TraceContext::parse(&std::env::var("TRACEPARENT").ok()?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser;

    fn queen(flags: &[&str]) -> Result<Queen, KeeperError> {
        let args = [&["rbee-keeper"], flags, &["dlq", "list"]].concat();
        Queen::new(&Way::new(&super::super::Cli::parse_from(args).connection)?)
    }

    #[test]
    fn queen_may_live_below_a_path() {
        for base in ["http://host/pool", "http://host/pool/"] {
            let queen = queen(&["--queen", base]).unwrap();
            let request = queen.request(Method::GET, &["v1", "jobs"]).build().unwrap();
            assert_eq!(request.url().as_str(), "http://host/pool/v1/jobs");
        }
    }

    #[test]
    fn a_token_that_no_header_can_carry_is_not_shown() {
        let Err(error) = queen(&["--token", "hunter2\u{1}"]) else { panic!("a control character") };
        assert!(matches!(&error, KeeperError::Usage(text) if !text.contains("hunter2")), "{error}");
        for token in ["", " ", "\n"] {
            assert!(queen(&["--token", token]).unwrap().token.is_none(), "an empty token is none");
        }
        let sent = queen(&["--token", "a-token\n"]).unwrap().request(Method::GET, &[]).build().unwrap();
        assert_eq!(sent.headers()["authorization"], "Bearer a-token");
    }

    #[test]
    fn a_password_in_the_address_is_not_shown() {
        let queen = queen(&["--queen", "http://me:hunter2@host/"]).unwrap();
        let shown = queen.foreign("x".into()).to_string() + &queen.image_url(&JobId::new("j").unwrap(), 0);
        assert!(!shown.contains("hunter2") && shown.contains("http://host/v1/jobs/j/images/0"), "{shown}");
    }
}
