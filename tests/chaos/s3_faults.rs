//! A server in front of the S3 server that answers wrong, late, in part or not at all.
//!
//! What it lets through is forwarded as it came, with the client's own `Host`, so that signatures stay good.

use std::{
    collections::BTreeMap,
    convert::Infallible,
    net::{Ipv4Addr, SocketAddr},
    sync::Arc,
    sync::Mutex,
    time::Duration,
};

use axum::{
    Router,
    body::Body,
    extract::{ConnectInfo, Request, State},
    http::{StatusCode, header::CONTENT_TYPE},
    response::{IntoResponse, Response},
};
use bytes::Bytes;
use futures::{StreamExt, stream};
use tokio::{net::TcpListener, sync::watch, task::JoinHandle};

use super::{
    cuttable::{Cut, CuttableListener},
    random::Random,
    support::forward::Forward,
};

/// What is done to a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum S3Fault {
    /// 500 InternalError; nothing was done.
    InternalError,
    /// 503 SlowDown; nothing was done.
    SlowDown,
    /// No answer as long as the fault lasts; then the request is served.
    Hang,
    /// It was served, and the connection is cut in the middle of the answer's body (before an answer without one).
    CutBody,
    /// It was served, and the connection is cut without an answer.
    ServeAndDrop,
    /// The connection is cut, and nothing was done.
    Drop,
    /// It is served, late ([`LATE`]) and a few bytes at a time ([`BYTES_PER_SECOND`]): longer than the time after which a
    /// silent worker's job is another's, and shorter than the store has.
    Slow,
}

/// How late a slow server begins with a request.
pub const LATE: Duration = Duration::from_millis(2500);
/// How fast it takes a body.
pub const BYTES_PER_SECOND: usize = 64 << 10;
/// Bytes that a slow server takes at one time.
const LOT: usize = 8 << 10;

impl S3Fault {
    pub const ALL: [Self; 7] = [
        Self::InternalError,
        Self::SlowDown,
        Self::Hang,
        Self::CutBody,
        Self::ServeAndDrop,
        Self::Drop,
        Self::Slow,
    ];

    pub fn name(self) -> &'static str {
        match self {
            Self::InternalError => "S3 500",
            Self::SlowDown => "S3 503 SlowDown",
            Self::Hang => "S3 hangs",
            Self::CutBody => "S3 cuts a body",
            Self::ServeAndDrop => "S3 serves and drops",
            Self::Drop => "S3 drops",
            Self::Slow => "S3 slow",
        }
    }
}

/// The server. It ends when it is dropped.
pub struct S3Faults {
    address: SocketAddr,
    shared: Arc<Shared>,
    task: JoinHandle<()>,
}

struct Shared {
    server: Forward,
    /// The fault of now, and how many requests in a hundred it strikes.
    fault: watch::Sender<Option<(S3Fault, u64)>>,
    struck: Mutex<BTreeMap<S3Fault, u64>>,
    random: Mutex<Random>,
}

impl S3Faults {
    /// Listens on a free port of this address, in front of a server at `upstream` (`http://127.0.0.1:9000`).
    pub async fn start(at: Ipv4Addr, upstream: String, random: Random) -> Self {
        let listener = TcpListener::bind((at, 0)).await.expect("a free port");
        let address = listener.local_addr().expect("an address");
        let shared = Arc::new(Shared {
            server: Forward::to(upstream),
            fault: watch::channel(None).0,
            struck: Mutex::default(),
            random: Mutex::new(random),
        });
        let router = Router::new().fallback(serve).with_state(shared.clone());
        let service = router.into_make_service_with_connect_info::<Cut>();
        let task = tokio::spawn(async move {
            axum::serve(CuttableListener(listener), service).await.expect("a server");
        });
        Self { address, shared, task }
    }

    pub fn endpoint(&self) -> String {
        format!("http://{}", self.address)
    }

    /// From now on this fault strikes `percent` requests in a hundred; `None`: all is well.
    pub fn set(&self, fault: Option<(S3Fault, u64)>) {
        self.shared.fault.send_replace(fault);
    }

    /// Requests that were struck, by fault.
    pub fn struck(&self) -> BTreeMap<S3Fault, u64> {
        self.shared.struck.lock().expect("no panic").clone()
    }
}

impl Drop for S3Faults {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Shared {
    fn draw(&self) -> Option<S3Fault> {
        let (fault, percent) = (*self.fault.borrow())?;
        if !self.random.lock().expect("no panic").chance(percent) {
            return None;
        }
        *self.struck.lock().expect("no panic").entry(fault).or_default() += 1;
        Some(fault)
    }
}

async fn serve(
    State(shared): State<Arc<Shared>>,
    ConnectInfo(cut): ConnectInfo<Cut>,
    request: Request,
) -> Response {
    match shared.draw() {
        None => shared.server.send(request).await.into_response(),
        Some(S3Fault::InternalError) => refusal(StatusCode::INTERNAL_SERVER_ERROR, "InternalError"),
        Some(S3Fault::SlowDown) => refusal(StatusCode::SERVICE_UNAVAILABLE, "SlowDown"),
        Some(S3Fault::Hang) => {
            let mut fault = shared.fault.subscribe();
            let _ = fault.wait_for(|now| now.is_none_or(|(fault, _)| fault != S3Fault::Hang)).await;
            shared.server.send(request).await.into_response()
        }
        Some(S3Fault::CutBody) => {
            let (status, headers, body) = shared.server.send(request).await;
            if body.is_empty() {
                cut.now();
            }
            (status, headers, first_half(body, cut)).into_response()
        }
        Some(S3Fault::ServeAndDrop) => {
            let answer = shared.server.send(request).await;
            cut.now();
            answer.into_response()
        }
        Some(S3Fault::Drop) => {
            cut.now();
            StatusCode::OK.into_response()
        }
        Some(S3Fault::Slow) => {
            tokio::time::sleep(LATE).await;
            let (parts, body) = request.into_parts();
            let (status, headers, body) =
                shared.server.send(Request::from_parts(parts, slow(body.into_data_stream()))).await;
            let lots = stream::iter(
                (0..body.len())
                    .step_by(LOT)
                    .map(move |at| Ok::<_, Infallible>(body.slice(at..body.len().min(at + LOT)))),
            );
            (status, headers, slow(lots)).into_response()
        }
    }
}

/// The body, at the pace of a slow server.
fn slow<E: Into<axum::BoxError> + Send + 'static>(
    body: impl futures::Stream<Item = Result<Bytes, E>> + Send + 'static,
) -> Body {
    Body::from_stream(body.then(|bytes| async move {
        let bytes = bytes?;
        let seconds = bytes.len() as f64 / BYTES_PER_SECOND as f64;
        tokio::time::sleep(Duration::from_secs_f64(seconds)).await;
        Ok::<_, E>(bytes)
    }))
}

fn refusal(status: StatusCode, code: &str) -> Response {
    let body = format!(
        "<?xml version=\"1.0\" encoding=\"UTF-8\"?><Error><Code>{code}</Code><Message>no</Message></Error>"
    );
    (status, [(CONTENT_TYPE, "application/xml")], body).into_response()
}

/// Half of the bytes reach the client; the connection is cut in place of the others.
fn first_half(body: Bytes, cut: Cut) -> Body {
    let half = body.slice(..body.len() / 2);
    let rest = stream::once(async move {
        // The first half is written by now, or at least on its way.
        tokio::time::sleep(Duration::from_millis(20)).await;
        cut.now();
        Ok::<_, Infallible>(body.slice(body.len() / 2..))
    });
    Body::from_stream(stream::iter([Ok(half)]).chain(rest))
}
