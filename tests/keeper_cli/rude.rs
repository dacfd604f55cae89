//! A server that answers byte by byte as a test says, and otherwise as queen would.

use std::sync::{Arc, Mutex};

use serde_json::{Value, json};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
};

use crate::stand_in::{PICTURE, right_sha256};

/// A request that came.
#[derive(Debug, Clone, Default)]
pub struct Request {
    /// As in `POST /v1/jobs`; behind a proxy with the whole address.
    pub line: String,
    /// In lower case.
    pub headers: String,
    pub body: String,
}

/// What is done with a request.
pub enum Reply {
    /// These bytes, and the connection is closed.
    Bytes(Vec<u8>),
    /// As queen would.
    AsQueen,
    /// Nothing, for ever.
    Silence,
    /// A head, and then zeros until nobody takes them.
    Endless(&'static str),
}

/// The server.
pub struct Rude {
    pub url: String,
    seen: Arc<Mutex<Vec<Request>>>,
}

impl Rude {
    /// `answer` gets the request and how many of that line came before.
    pub async fn start(answer: impl Fn(&Request, usize) -> Reply + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let seen: Arc<Mutex<Vec<Request>>> = Arc::default();
        let (all, answer) = (seen.clone(), Arc::new(answer));
        tokio::spawn(async move {
            while let Ok((connection, _)) = listener.accept().await {
                let (all, answer) = (all.clone(), answer.clone());
                tokio::spawn(async move { serve(connection, &all, &*answer).await });
            }
        });
        Self { url, seen }
    }

    /// The requests whose line begins so.
    pub fn seen(&self, start: &str) -> Vec<Request> {
        self.seen.lock().unwrap().iter().filter(|request| request.line.starts_with(start)).cloned().collect()
    }
}

async fn serve(
    mut connection: TcpStream,
    seen: &Mutex<Vec<Request>>,
    answer: &(dyn Fn(&Request, usize) -> Reply + Send + Sync),
) -> Option<()> {
    let request = read(&mut connection).await?;
    let before = {
        let mut seen = seen.lock().unwrap();
        let before = seen.iter().filter(|earlier| earlier.line == request.line).count();
        seen.push(request.clone());
        before
    };
    let bytes = match answer(&request, before) {
        Reply::Bytes(bytes) => bytes,
        Reply::AsQueen => as_queen(&request),
        Reply::Silence => std::future::pending().await,
        Reply::Endless(head) => {
            connection.write_all(head.as_bytes()).await.ok()?;
            loop {
                connection.write_all(&[b'0'; 1 << 16]).await.ok()?;
            }
        }
    };
    connection.write_all(&bytes).await.ok()?;
    connection.shutdown().await.ok()
}

async fn read(connection: &mut TcpStream) -> Option<Request> {
    let mut bytes = Vec::new();
    let head = loop {
        if let Some(end) = bytes.windows(4).position(|four| four == b"\r\n\r\n") {
            break end + 4;
        }
        if connection.read_buf(&mut bytes).await.ok()? == 0 {
            return None;
        }
    };
    let text = String::from_utf8_lossy(&bytes[..head]).into_owned();
    let (line, headers) = text.split_once("\r\n")?;
    let headers = headers.to_ascii_lowercase();
    let length = headers.lines().find_map(|line| line.strip_prefix("content-length: "));
    let length: usize = length.map_or(0, |length| length.trim().parse().unwrap());
    while bytes.len() < head + length {
        connection.read_buf(&mut bytes).await.ok()?;
    }
    let line = line.trim_end_matches(" HTTP/1.1").to_owned();
    Some(Request { line, headers, body: String::from_utf8_lossy(&bytes[head..]).into_owned() })
}

/// An answer with a body.
pub fn answer(status: &str, headers: &str, body: impl AsRef<[u8]>) -> Vec<u8> {
    let body = body.as_ref();
    let headers = if headers.is_empty() { String::new() } else { format!("{headers}\r\n") };
    let head =
        format!("HTTP/1.1 {status}\r\n{headers}content-length: {}\r\nconnection: close\r\n\r\n", body.len());
    [head.as_bytes(), body].concat()
}

/// What a proxy answers when the server behind it is away.
pub fn html(status: &str, title: &str) -> Vec<u8> {
    let page = format!("<html>\r\n<head><title>{title}</title></head>\r\n<body></body></html>\r\n");
    answer(status, "Server: nginx\r\nContent-Type: text/html", page)
}

/// An error in queen's form.
pub fn refusal(status: &str, headers: &str, code: &str, message: &str) -> Vec<u8> {
    let error = json!({"error": {"code": code, "message": message, "retryable": true}});
    let headers = format!("content-type: application/json\r\n{headers}");
    answer(status, headers.trim_end(), error.to_string())
}

/// An event stream of these events; the job's id is filled in.
pub fn events(job: &str, events: &[Value]) -> Vec<u8> {
    let lines = events.iter().enumerate().map(|(seq, event)| {
        let mut whole = json!({"job_id": job, "worker_id": "w1", "attempt": 1, "seq": seq});
        whole.as_object_mut().unwrap().extend(event.as_object().unwrap().clone());
        format!("id: {seq}\ndata: {whole}\n\n")
    });
    answer("200 OK", "content-type: text/event-stream", lines.collect::<String>())
}

/// The event of a job that has one picture.
pub fn completed() -> Value {
    json!({"type": "complete", "model": "tiny", "warnings": [],
        "images": [{"key": "k", "url": "u", "format": "png", "width": 8, "height": 8, "bytes": PICTURE.len(),
            "sha256": right_sha256(), "seed": 7}],
        "timings_ms": {"queue": 0, "load": 0, "text": 0, "denoise": 0, "decode": 0, "upload": 0, "total": 0}})
}

/// The job that a path is about.
pub fn job_of(line: &str) -> &str {
    let rest = line.split_once("/v1/jobs/").expect("a job's path").1;
    rest.split('/').next().unwrap()
}

/// What queen answers about a job that one worker draws at once.
pub fn as_queen(request: &Request) -> Vec<u8> {
    let json_type = "content-type: application/json";
    let line = request.line.as_str();
    if line.ends_with("/v1/jobs") {
        let body: Value = serde_json::from_str(&request.body).unwrap();
        let job = body["job_id"].as_str().unwrap();
        let taken = json!({"job_id": job, "sse_url": format!("/v1/jobs/{job}/stream")});
        return answer("200 OK", json_type, taken.to_string());
    }
    if line.ends_with("/stream") {
        let accepted = json!({"type": "accepted", "model": "tiny", "seed": 7, "position": 0});
        return events(job_of(line), &[accepted, completed()]);
    }
    if line.contains("/images/") {
        return answer("200 OK", "content-type: image/png", PICTURE);
    }
    if line.starts_with("DELETE ") {
        return answer("202 Accepted", json_type, json!({"job_id": job_of(line)}).to_string());
    }
    refusal("404 Not Found", "", "invalid_request", "there is no such endpoint")
}
