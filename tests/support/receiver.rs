//! Whoever webhooks are posted to: it writes down what comes, and answers as it is told.

use std::{
    collections::VecDeque,
    net::SocketAddr,
    sync::{Arc, Mutex},
    time::Duration,
};

use axum::{
    Router,
    body::Bytes,
    extract::State,
    http::{HeaderMap, StatusCode, Uri},
    response::{IntoResponse, Response},
};
use serde_json::Value;
use tokio::{net::TcpListener, task::JoinHandle, time::Instant};

/// What is answered.
#[derive(Debug, Clone)]
pub enum Answer {
    Status(u16),
    /// A status with `Retry-After`, in seconds.
    RetryAfter(u16, u64),
    /// 302 to that URL.
    Redirect(String),
    /// Nothing, for a long time.
    Silence,
}

/// A webhook that came.
#[derive(Debug, Clone)]
pub struct Got {
    pub id: String,
    pub timestamp: u64,
    pub signature: String,
    pub headers: HeaderMap,
    pub path: String,
    pub body: Value,
    pub bytes: usize,
}

impl Got {
    /// The `type`.
    pub fn kind(&self) -> &str {
        self.body["type"].as_str().expect("a type")
    }

    pub fn job(&self) -> &str {
        self.body["data"]["job_id"].as_str().expect("a job")
    }
}

#[derive(Default)]
struct Shared {
    got: Vec<Got>,
    answers: VecDeque<Answer>,
}

/// A receiver.
pub struct Receiver {
    pub port: u16,
    shared: Arc<Mutex<Shared>>,
    server: JoinHandle<()>,
}

impl Receiver {
    /// On a free port of 127.0.0.1. It gives these answers, and then 200.
    pub async fn start(answers: &[Answer]) -> Self {
        Self::at([127, 0, 0, 1], answers).await
    }

    /// As [`Self::start`], at another address of this machine.
    pub async fn at(address: [u8; 4], answers: &[Answer]) -> Self {
        let listener = TcpListener::bind(SocketAddr::from((address, 0))).await.expect("a port");
        let port = listener.local_addr().expect("an address").port();
        let shared = Arc::new(Mutex::new(Shared { got: vec![], answers: answers.to_vec().into() }));
        let app = Router::new().fallback(take).with_state(shared.clone());
        let server = tokio::spawn(async move { axum::serve(listener, app).await.expect("a server") });
        Self { port, shared, server }
    }

    pub fn url(&self, host: &str) -> String {
        format!("http://{host}:{}/hook?token=hunter2", self.port)
    }

    pub fn got(&self) -> Vec<Got> {
        self.shared.lock().expect("no panic").got.clone()
    }

    /// Waits until so many came.
    pub async fn wait_for(&self, number: usize, limit: Duration) -> Vec<Got> {
        let until = Instant::now() + limit;
        loop {
            let got = self.got();
            if got.len() >= number {
                return got;
            }
            assert!(Instant::now() < until, "{number} webhooks within {limit:?}: {got:?}");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }
}

impl Drop for Receiver {
    fn drop(&mut self) {
        self.server.abort();
    }
}

async fn take(
    State(shared): State<Arc<Mutex<Shared>>>,
    uri: Uri,
    headers: HeaderMap,
    body: Bytes,
) -> Response {
    let header = |name: &str| headers.get(name).map_or("", |value| value.to_str().expect("text")).to_owned();
    let got = Got {
        id: header("webhook-id"),
        timestamp: header("webhook-timestamp").parse().unwrap_or(0),
        signature: header("webhook-signature"),
        path: uri.to_string(),
        body: serde_json::from_slice(&body).unwrap_or_default(),
        bytes: body.len(),
        headers,
    };
    let answer = {
        let mut shared = shared.lock().expect("no panic");
        shared.got.push(got);
        shared.answers.pop_front().unwrap_or(Answer::Status(200))
    };
    let status = |status| StatusCode::from_u16(status).expect("a status");
    match answer {
        // More than anybody should read.
        Answer::Status(code) => (status(code), "x".repeat(1 << 20)).into_response(),
        Answer::RetryAfter(code, seconds) => {
            (status(code), [("retry-after", seconds.to_string())]).into_response()
        }
        Answer::Redirect(url) => (StatusCode::FOUND, [("location", url)]).into_response(),
        Answer::Silence => {
            tokio::time::sleep(Duration::from_secs(600)).await;
            StatusCode::OK.into_response()
        }
    }
}
