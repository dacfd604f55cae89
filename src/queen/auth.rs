//! The bearer token that clients must know, if there is one.

use std::{io, path::Path, sync::Arc};

use axum::{
    extract::{Request, State},
    http::header::AUTHORIZATION,
    middleware::Next,
    response::{IntoResponse, Response},
};
use sha2::{Digest, Sha256};

use crate::{contract::ErrorCode, http::ApiError};

/// The hash of a token. Hashes are compared, so that the time it takes says nothing of the token.
#[derive(Clone)]
pub struct Token(Arc<[u8; 32]>);

impl Token {
    /// Reads the token from a file, without the white space around it.
    ///
    /// # Errors
    /// What the system says, or that the file is empty.
    pub fn read(path: &Path) -> io::Result<Self> {
        let text = std::fs::read_to_string(path)?;
        match text.trim() {
            "" => Err(io::Error::new(io::ErrorKind::InvalidData, "it is empty")),
            token => Ok(Self(Arc::new(Sha256::digest(token).into()))),
        }
    }

    /// Whether a request carries it.
    fn is_in(&self, request: &Request) -> bool {
        let value = request.headers().get(AUTHORIZATION).and_then(|value| value.to_str().ok());
        let sent = value.and_then(|value| value.split_once(' '));
        sent.is_some_and(|(scheme, token)| {
            scheme.eq_ignore_ascii_case("bearer") && <[u8; 32]>::from(Sha256::digest(token.trim())) == *self.0
        })
    }
}

/// Refuses requests without the token, but for /health, which load balancers ask.
pub(super) async fn require(State(token): State<Token>, request: Request, next: Next) -> Response {
    if request.uri().path() == "/health" || token.is_in(&request) {
        return next.run(request).await;
    }
    let message = "the header `Authorization: Bearer <token>` is missing or wrong";
    ApiError::new(ErrorCode::InvalidRequest, message).with_status(401).into_response()
}
