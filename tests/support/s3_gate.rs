//! A gate in front of the S3 server: lets requests through late, or holds them until the test opens it.

use std::{
    sync::{Arc, Mutex},
    time::Duration,
};

use axum::{
    Router,
    extract::{Request, State},
    http::{HeaderMap, Method, StatusCode},
    response::{IntoResponse, Response},
};
use bytes::Bytes;
use tokio::{net::TcpListener, sync::watch, task::JoinHandle};

use super::{
    forward::Forward,
    s3::{S3Server, SECRET, environment},
    worker::PATIENCE,
};

/// What the gate does to a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Pass {
    Now,
    /// It reaches the server so much later.
    Late(Duration),
    /// It reaches the server when the gate is opened, even if the client has gone by then.
    WhenOpened,
    /// It reaches the server now, and the client has its answer when the gate is opened.
    AnswerWhenOpened,
}

type Rule = Box<dyn Fn(&Method, &str) -> Pass + Send + Sync>;

/// The gate. It ends when it is dropped.
pub struct S3Gate {
    port: u16,
    shared: Arc<Shared>,
    task: JoinHandle<()>,
}

struct Shared {
    server: Forward,
    rule: Rule,
    seen: Mutex<Vec<(Method, String)>>,
    /// Requests that were held.
    held: watch::Sender<usize>,
    /// Held requests that have reached the server since.
    let_through: watch::Sender<usize>,
    open: watch::Sender<bool>,
}

impl S3Gate {
    /// `rule` says what happens to a request, by its method and path (`/bucket/prefix/jobs/j/0.png`).
    pub async fn start(
        server: &S3Server,
        rule: impl Fn(&Method, &str) -> Pass + Send + Sync + 'static,
    ) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let port = listener.local_addr().expect("an address").port();
        let shared = Arc::new(Shared {
            server: Forward::to(server.endpoint()),
            rule: Box::new(rule),
            seen: Mutex::default(),
            held: watch::channel(0).0,
            let_through: watch::channel(0).0,
            open: watch::channel(false).0,
        });
        let router = Router::new().fallback(serve).with_state(shared.clone());
        let task = tokio::spawn(async move {
            axum::serve(listener, router).await.expect("a server");
        });
        Self { port, shared, task }
    }

    /// The variables of a process whose store is behind the gate.
    pub fn environment(&self) -> Vec<(String, String)> {
        environment(&format!("http://127.0.0.1:{}", self.port), SECRET)
    }

    /// Waits until a request is held.
    pub async fn holds(&self) {
        let mut held = self.shared.held.subscribe();
        let held = tokio::time::timeout(PATIENCE, held.wait_for(|&count| count > 0)).await;
        held.expect("a held request in time").expect("a gate");
    }

    /// Opens it for good, and waits until what was held has been served.
    pub async fn open(&self) {
        self.shared.open.send_replace(true);
        let held = *self.shared.held.borrow();
        let mut through = self.shared.let_through.subscribe();
        let served = tokio::time::timeout(PATIENCE, through.wait_for(|&count| count >= held)).await;
        served.expect("held requests are served in time").expect("a gate");
    }

    /// How many requests of this method came for a path that ends so.
    pub fn count(&self, method: &Method, end: &str) -> usize {
        let seen = self.shared.seen.lock().expect("no panic");
        seen.iter().filter(|(was, path)| was == method && path.ends_with(end)).count()
    }
}

impl Drop for S3Gate {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Shared {
    async fn opened(&self) {
        self.held.send_modify(|count| *count += 1);
        // The sender is ours: it cannot be gone.
        let _ = self.open.subscribe().wait_for(|&open| open).await;
    }
}

type Answer = (StatusCode, HeaderMap, Bytes);

async fn serve(State(shared): State<Arc<Shared>>, request: Request) -> Response {
    let (method, path) = (request.method().clone(), request.uri().path().to_owned());
    let pass = (shared.rule)(&method, &path);
    shared.seen.lock().expect("no panic").push((method, path));
    // In a task of its own: a client that goes does not stop what is on its way.
    let served = tokio::spawn(async move { pass_on(&shared, pass, request).await });
    match served.await {
        Ok(answer) => answer.into_response(),
        Err(error) => panic!("{error}"),
    }
}

async fn pass_on(shared: &Shared, pass: Pass, request: Request) -> Answer {
    match pass {
        Pass::Now => shared.server.send(request).await,
        Pass::Late(time) => {
            tokio::time::sleep(time).await;
            shared.server.send(request).await
        }
        Pass::WhenOpened => {
            let request = whole(request).await;
            shared.opened().await;
            let answer = shared.server.send(request).await;
            shared.let_through.send_modify(|count| *count += 1);
            answer
        }
        Pass::AnswerWhenOpened => {
            let answer = shared.server.send(request).await;
            shared.opened().await;
            shared.let_through.send_modify(|count| *count += 1);
            answer
        }
    }
}

/// The request with all of its body here.
async fn whole(request: Request) -> Request {
    let (parts, body) = request.into_parts();
    let body = axum::body::to_bytes(body, usize::MAX).await.expect("a body");
    Request::from_parts(parts, body.into())
}
