//! A server on this machine that speaks the hub's protocol: revision, list of files, redirect to the large files' own
//! address. It serves one repository, and fails where a test says so.

use std::{
    collections::{BTreeMap, HashMap, VecDeque},
    path::Path,
    sync::{Arc, Mutex},
    time::Duration,
};

use axum::{
    body::{Body, Bytes},
    extract::{Request, State},
    http::{HeaderMap, Method, StatusCode, header},
    response::{IntoResponse, Response},
};
use futures::{StreamExt, stream};
use sd_worker_rbee::models::HubRepo;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

/// The repository's one commit.
pub const COMMIT: &str = "0123456789abcdef0123456789abcdef01234567";
/// The weights of the UNet.
pub const UNET: &str = "unet/diffusion_pytorch_model.safetensors";

/// What goes wrong with an answer to GET.
#[derive(Debug, Clone, Copy)]
pub enum Fault {
    /// The connection is dropped after half of the file.
    Dropped,
    /// A byte is another one.
    Altered,
    /// Nothing comes after half of the file.
    Stalled,
    /// An answer with this status.
    Status(u16),
}

/// A running server; it ends with the test.
pub struct HubStub {
    pub endpoint: String,
    shared: Arc<Shared>,
    server: tokio::task::JoinHandle<()>,
}

struct Shared {
    endpoint: String,
    files: BTreeMap<String, Bytes>,
    token: Option<&'static str>,
    faults: Mutex<HashMap<String, VecDeque<Fault>>>,
    asked: Mutex<Vec<String>>,
}

impl HubStub {
    /// `org/tiny`: a small checkpoint, and files beside it that no checkpoint is read from.
    pub async fn start(token: Option<&'static str>) -> Self {
        let mut files = BTreeMap::new();
        let folder = Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/data/parity/text"));
        collect(folder, folder, &mut files);
        for path in ["README.md", "tiny.ckpt", "unet/diffusion_pytorch_model.bin", "vae/model.onnx"] {
            files.insert(path.into(), Bytes::from_static(b"not for us"));
        }
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let endpoint = format!("http://{}", listener.local_addr().unwrap());
        let shared = Arc::new(Shared {
            endpoint: endpoint.clone(),
            files,
            token,
            faults: Mutex::default(),
            asked: Mutex::default(),
        });
        let routes = axum::Router::new().fallback(answer).with_state(shared.clone());
        let server = tokio::spawn(async move { axum::serve(listener, routes).await.unwrap() });
        Self { endpoint, shared, server }
    }

    /// The next answers to GET of this file go wrong.
    pub fn fail(&self, path: &str, faults: &[Fault]) {
        self.shared.faults.lock().unwrap().insert(path.into(), faults.iter().copied().collect());
    }

    /// The files that were downloaded, or begun to be, since the last look.
    pub fn downloaded(&self) -> Vec<String> {
        let mut asked = std::mem::take(&mut *self.shared.asked.lock().unwrap());
        asked.sort();
        asked
    }

    /// Stops answering.
    pub fn stop(&self) {
        self.server.abort();
    }
}

impl Drop for HubStub {
    fn drop(&mut self) {
        self.server.abort();
    }
}

pub fn repo(text: &str) -> HubRepo {
    HubRepo::parse(text).unwrap()
}

fn collect(root: &Path, folder: &Path, files: &mut BTreeMap<String, Bytes>) {
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            collect(root, &path, files);
        } else {
            let name = path.strip_prefix(root).unwrap().to_str().unwrap().to_owned();
            files.insert(name, std::fs::read(&path).unwrap().into());
        }
    }
}

fn is_large(path: &str) -> bool {
    path.ends_with(".safetensors") || path.ends_with(".bin")
}

fn sha256(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect()
}

/// What names a file: of a large one the SHA-256, as on the hub.
fn id_of(path: &str, bytes: &[u8]) -> String {
    if is_large(path) { sha256(bytes) } else { sha256(bytes)[..40].to_owned() }
}

async fn answer(State(hub): State<Arc<Shared>>, request: Request) -> Response {
    let path = request.uri().path().to_owned();
    if let Some(file) = path.strip_prefix("/cdn/") {
        return hub.body(file);
    }
    let expected = hub.token.map(|token| format!("Bearer {token}"));
    let sent = request.headers().get(header::AUTHORIZATION).and_then(|value| value.to_str().ok());
    if expected.is_some() && expected.as_deref() != sent {
        return refusal(401, "Invalid username or password.");
    }
    if let Some(revision) = path.strip_prefix("/api/models/org/tiny/revision/") {
        return match revision {
            "main" | "v1.0" | COMMIT => axum::Json(json!({"id": "org/tiny", "sha": COMMIT})).into_response(),
            _ => refusal(404, "Invalid rev id"),
        };
    }
    if path.starts_with("/api/models/org/gated/") {
        return refusal(403, "Access to model org/gated is restricted");
    }
    if path == format!("/api/models/org/tiny/tree/{COMMIT}") {
        return axum::Json(hub.list()).into_response();
    }
    match path.strip_prefix(&format!("/org/tiny/resolve/{COMMIT}/")) {
        Some(file) if hub.files.contains_key(file) => hub.resolve(file, request.method()),
        _ => refusal(404, "Repository not found"),
    }
}

fn refusal(status: u16, message: &str) -> Response {
    (StatusCode::from_u16(status).unwrap(), axum::Json(json!({"error": message}))).into_response()
}

impl Shared {
    fn list(&self) -> Vec<Value> {
        let entry = |(path, bytes): (&String, &Bytes)| {
            let mut entry = json!({"type": "file", "path": path, "size": bytes.len(), "oid": "0".repeat(40)});
            if is_large(path) {
                entry["lfs"] = json!({"oid": sha256(bytes), "size": bytes.len(), "pointerSize": 130});
            }
            entry
        };
        let folder = json!({"type": "directory", "path": "unet", "oid": "0".repeat(40), "size": 0});
        self.files.iter().map(entry).chain([folder]).collect()
    }

    fn resolve(&self, path: &str, method: &Method) -> Response {
        let bytes = &self.files[path];
        let mut headers = HeaderMap::new();
        headers.insert("x-repo-commit", COMMIT.parse().unwrap());
        let id = format!("\"{}\"", id_of(path, bytes)).parse().unwrap();
        if is_large(path) {
            headers.insert("x-linked-etag", id);
            headers.insert("x-linked-size", bytes.len().into());
            headers.insert(header::LOCATION, format!("{}/cdn/{path}", self.endpoint).parse().unwrap());
            return (StatusCode::FOUND, headers).into_response();
        }
        headers.insert(header::ETAG, id);
        if method == Method::HEAD {
            headers.insert(header::CONTENT_LENGTH, bytes.len().into());
            return (headers, Body::empty()).into_response();
        }
        (headers, self.body(path)).into_response()
    }

    fn body(&self, path: &str) -> Response {
        let bytes = self.files[path].clone();
        self.asked.lock().unwrap().push(path.to_owned());
        let fault = self.faults.lock().unwrap().get_mut(path).and_then(VecDeque::pop_front);
        let half = bytes.slice(..bytes.len() / 2);
        match fault {
            None => bytes.into_response(),
            Some(Fault::Altered) => {
                let mut bytes = bytes.to_vec();
                let last = bytes.len() - 1;
                bytes[last] ^= 1;
                bytes.into_response()
            }
            Some(Fault::Status(status)) => {
                (StatusCode::from_u16(status).unwrap(), "the store says no").into_response()
            }
            Some(Fault::Dropped) => {
                // By then the half is on its way: the client has an answer, and loses it.
                let broken = stream::once(async {
                    tokio::time::sleep(Duration::from_millis(50)).await;
                    Err(std::io::Error::from(std::io::ErrorKind::ConnectionReset))
                });
                Body::from_stream(stream::iter([Ok(half)]).chain(broken)).into_response()
            }
            Some(Fault::Stalled) => {
                Body::from_stream(stream::iter([Ok::<_, std::io::Error>(half)]).chain(stream::pending()))
                    .into_response()
            }
        }
    }
}
