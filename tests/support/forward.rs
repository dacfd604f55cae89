//! Hands HTTP requests on to the server behind a test's proxy.
//!
//! They go on as they came, with the client's own `Host`, so that signatures stay good.

use std::time::Duration;

use axum::{
    body::to_bytes,
    extract::Request,
    http::{
        HeaderMap, Method, StatusCode,
        header::{CONNECTION, CONTENT_LENGTH, TRANSFER_ENCODING},
    },
};
use bytes::Bytes;

/// More than any object of a test.
const MAX_BODY: usize = 64 << 20;

/// The server behind a proxy.
pub struct Forward {
    upstream: String,
    client: reqwest::Client,
}

impl Forward {
    /// `upstream`: `http://127.0.0.1:9000`.
    pub fn to(upstream: String) -> Self {
        let client = reqwest::Client::builder()
            .no_proxy()
            .redirect(reqwest::redirect::Policy::none())
            .timeout(Duration::from_secs(60))
            .build()
            .expect("a client");
        Self { upstream, client }
    }

    /// The server's own answer; 502 when it has none.
    pub async fn send(&self, request: Request) -> (StatusCode, HeaderMap, Bytes) {
        let (parts, body) = request.into_parts();
        let path = parts.uri.path_and_query().map_or("/", |path| path.as_str());
        let answered = async {
            // A client that is gone in the middle of its request has asked for nothing.
            let body = to_bytes(body, MAX_BODY).await.ok()?;
            let mut headers = parts.headers;
            for hop in [CONNECTION, TRANSFER_ENCODING, CONTENT_LENGTH] {
                headers.remove(hop);
            }
            let url = format!("{}{path}", self.upstream);
            let mut request = self.client.request(parts.method.clone(), url).headers(headers);
            if !body.is_empty() || parts.method == Method::PUT || parts.method == Method::POST {
                request = request.body(body);
            }
            let answer = request.send().await.ok()?;
            let (status, mut headers) = (answer.status(), answer.headers().clone());
            for hop in [CONNECTION, TRANSFER_ENCODING] {
                headers.remove(hop);
            }
            Some((status, headers, answer.bytes().await.ok()?))
        };
        answered.await.unwrap_or((StatusCode::BAD_GATEWAY, HeaderMap::new(), Bytes::new()))
    }
}
