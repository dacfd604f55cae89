//! A client of GET /v1/events.

use std::time::Duration;

use bytes::Bytes;
use futures::{StreamExt, stream::BoxStream};
use reqwest::{RequestBuilder, Response};
use serde_json::Value;

/// One message of the stream.
#[derive(Debug, Clone, PartialEq)]
pub struct Message {
    /// The name of the event, `message` if it has none.
    pub event: String,
    pub id: Option<String>,
    pub data: Value,
}

/// A client that can be asked what comes next.
pub struct Watcher {
    chunks: BoxStream<'static, reqwest::Result<Bytes>>,
    text: String,
    /// The id of the last message that had one.
    pub cursor: String,
}

impl Watcher {
    /// Opens `/v1/events?<query>`.
    pub async fn open(url: &str, query: &str) -> Self {
        Self::send(reqwest::Client::new().get(format!("{url}/v1/events?{query}"))).await
    }

    pub async fn send(request: RequestBuilder) -> Self {
        let answer = request.send().await.expect("an answer");
        assert_eq!(answer.status(), 200, "{}", answer.text().await.unwrap_or_default());
        Self::of(answer)
    }

    pub fn of(answer: Response) -> Self {
        assert_eq!(answer.headers()["content-type"], "text/event-stream");
        Self { chunks: answer.bytes_stream().boxed(), text: String::new(), cursor: String::new() }
    }

    /// The next message, which must come soon; `None` at the end.
    pub async fn next(&mut self) -> Option<Message> {
        tokio::time::timeout(Duration::from_secs(20), self.read()).await.expect("a message in time")
    }

    /// Whether nothing comes for a while.
    pub async fn is_quiet(&mut self, while_waiting: Duration) -> bool {
        tokio::time::timeout(while_waiting, self.read()).await.is_err()
    }

    /// The next messages, `JOB TYPE` of each.
    pub async fn told(&mut self, number: usize) -> Vec<String> {
        let mut told = vec![];
        while told.len() < number {
            let data = self.next().await.expect("a message").data;
            let text = |name: &str| data[name].as_str().unwrap_or("?").to_owned();
            told.push(format!("{} {}", text("job_id"), text("type")));
        }
        told
    }

    async fn read(&mut self) -> Option<Message> {
        loop {
            while let Some((block, rest)) = self.text.split_once("\n\n") {
                let field = |name: &str| block.lines().find_map(|line| line.strip_prefix(name));
                let (event, id) = (field("event: ").unwrap_or("message"), field("id: "));
                let data = field("data: ").map(|data| serde_json::from_str(data).expect("JSON"));
                let message =
                    data.map(|data| Message { event: event.to_owned(), id: id.map(str::to_owned), data });
                self.text = rest.to_owned();
                if let Some(message) = message {
                    self.cursor = message.id.clone().unwrap_or(std::mem::take(&mut self.cursor));
                    return Some(message);
                }
            }
            let chunk = self.chunks.next().await?.ok()?;
            self.text.push_str(std::str::from_utf8(&chunk).expect("UTF-8"));
        }
    }
}
