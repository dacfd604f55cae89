//! Doors of other APIs at queen, over real workers: what their clients send and read, who leaves, how long and how many
//! wait, and what is refused in which words. `openai` is what its clients see, `rules` what all doors share, `bad_input`
//! what strangers send, `replayed` what known programs send, word for word.

mod a1111;
mod bad_input;
mod openai;
mod replayed;
mod rules;

use std::time::{Duration, Instant};

use reqwest::{Method, RequestBuilder};
use sd_worker_rbee::queen::Issued;
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::support::{
    fake_durable::SMALL,
    nats::{NatsServer, prefix},
    queen::QueenProcess,
    worker::WorkerProcess,
};

pub const FAST: &str = "sim=sim://?step_ms=5&size=64";
pub const GENERATIONS: &str = "/v1/images/generations";
pub const EDITS: &str = "/v1/images/edits";

/// A queen whose jobs are durable, and the store and subjects of its workers.
pub struct Pool {
    pub queen: QueenProcess,
    pub prefix: String,
    pub folder: TempDir,
}

/// What came back.
#[derive(Debug)]
pub struct Answer {
    pub status: u16,
    pub headers: reqwest::header::HeaderMap,
    pub text: String,
}

impl Pool {
    pub fn start(arguments: &[&str]) -> Self {
        let (folder, prefix) = (TempDir::new().unwrap(), prefix());
        let store = folder.path().to_str().unwrap();
        let arguments = [&SMALL, arguments].concat();
        let queen = QueenProcess::start(&NatsServer::shared().url(), &prefix, store, &arguments);
        Self { queen, prefix, folder }
    }

    /// A queen, and a worker that it has heard of.
    pub async fn with_worker(arguments: &[&str], model: &str) -> (Self, WorkerProcess) {
        let pool = Self::start(arguments);
        let url = NatsServer::shared().url();
        let worker = WorkerProcess::start(&url, &pool.prefix, pool.folder.path(), "w", model, &SMALL);
        let until = Instant::now() + Duration::from_secs(30);
        while Instant::now() < until {
            if pool.queen.get("/health").await.1["workers"] == 1 {
                return (pool, worker);
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        panic!("queen hears of no worker:\n{}", worker.log());
    }

    pub async fn post(&self, path: &str, body: &Value) -> Answer {
        sent(request(&self.queen, path).body(body.to_string())).await
    }

    pub async fn generate(&self, body: &Value) -> Answer {
        self.post(GENERATIONS, body).await
    }
}

/// A request with JSON.
pub fn request(queen: &QueenProcess, path: &str) -> RequestBuilder {
    let url = format!("{}{path}", queen.url);
    reqwest::Client::new().request(Method::POST, url).header("content-type", "application/json")
}

pub async fn sent(request: RequestBuilder) -> Answer {
    let read = async {
        let answer = request.send().await.expect("an answer");
        let (status, headers) = (answer.status().as_u16(), answer.headers().clone());
        Answer { status, headers, text: answer.text().await.expect("a body") }
    };
    tokio::time::timeout(Duration::from_secs(60), read).await.expect("an answer in time")
}

impl Answer {
    pub fn json(&self) -> Value {
        serde_json::from_str(&self.text).unwrap_or_else(|error| panic!("{error}: {self:?}"))
    }

    pub fn header(&self, name: &str) -> &str {
        self.headers.get(name).map_or("", |value| value.to_str().expect("ASCII"))
    }

    /// The picture of this index.
    #[track_caller]
    pub fn picture(&self, index: usize) -> image::DynamicImage {
        use base64::{Engine as _, engine::general_purpose::STANDARD};
        let body = self.json();
        let text = body["data"][index]["b64_json"].as_str().unwrap_or_else(|| panic!("{body}"));
        image::load_from_memory(&STANDARD.decode(text).unwrap()).unwrap()
    }

    /// An error in OpenAI's form: its status, code, param and message.
    #[track_caller]
    pub fn refused(&self) -> (u16, String, Value, String) {
        let error = &self.json()["error"];
        let mut members: Vec<_> = error.as_object().expect("an error").keys().map(String::as_str).collect();
        members.sort_unstable();
        assert_eq!(members, ["code", "message", "param", "type"], "{error}");
        assert!(error["type"].is_string(), "{error}");
        assert!(matches!(self.header("x-should-retry"), "true" | "false"), "{:?}", self.headers);
        assert_eq!(self.header("content-type"), "application/json");
        let text = |name: &str| error[name].as_str().unwrap_or_else(|| panic!("{error}")).to_owned();
        (self.status, text("code"), error["param"].clone(), text("message"))
    }
}

/// `{"type", "data"}` of each event of a stream.
pub fn events(text: &str) -> Vec<(String, Value)> {
    let blocks = text.split("\n\n").filter(|block| !block.is_empty() && !block.starts_with(':'));
    blocks
        .map(|block| {
            let (event, data) = block.split_once('\n').unwrap_or_else(|| panic!("{block}"));
            let event = event.strip_prefix("event: ").unwrap_or_else(|| panic!("{block}"));
            let data = data.strip_prefix("data: ").unwrap_or_else(|| panic!("{block}"));
            (event.to_owned(), serde_json::from_str(data).unwrap())
        })
        .collect()
}

/// A file with the token of one client, and the token.
pub fn tokens(folder: &TempDir, name: &str) -> (String, String) {
    let Issued { token, line } = Issued::new(name, false).unwrap();
    let file = folder.path().join("tokens");
    std::fs::write(&file, format!("{line}\n")).unwrap();
    (file.to_str().unwrap().to_owned(), token)
}

/// The boundary of [`form`].
pub const BOUNDARY: &str = "----a-boundary";

/// A part of a form: its name, the name of its file, and what is in it.
pub type Part<'a> = (&'a str, Option<&'a str>, &'a [u8]);

/// A body of several parts.
pub fn form(parts: &[Part<'_>]) -> Vec<u8> {
    let mut body = vec![];
    for (name, file, bytes) in parts {
        let file = file.map_or(String::new(), |file| format!("; filename=\"{file}\""));
        let head = format!("--{BOUNDARY}\r\nContent-Disposition: form-data; name=\"{name}\"{file}\r\n\r\n");
        body.extend_from_slice(head.as_bytes());
        body.extend_from_slice(bytes);
        body.extend_from_slice(b"\r\n");
    }
    body.extend_from_slice(format!("--{BOUNDARY}--\r\n").as_bytes());
    body
}

pub fn form_request(queen: &QueenProcess, path: &str, body: Vec<u8>) -> RequestBuilder {
    let media = format!("multipart/form-data; boundary={BOUNDARY}");
    reqwest::Client::new().post(format!("{}{path}", queen.url)).header("content-type", media).body(body)
}

/// A PNG.
pub fn png(picture: impl Into<image::DynamicImage>) -> Vec<u8> {
    let mut bytes = std::io::Cursor::new(vec![]);
    picture.into().write_to(&mut bytes, image::ImageFormat::Png).unwrap();
    bytes.into_inner()
}

pub fn prompt() -> Value {
    json!({"prompt": "a red circle", "steps": 2})
}
