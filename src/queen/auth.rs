//! Who a request comes from: the client whose token it carries, or, where no token is asked for, an address.
//!
//! A token comes as `Authorization: Bearer <token>`, or, from programs that can only do that, as the password of HTTP Basic.

use std::{
    net::{IpAddr, Ipv6Addr, SocketAddr},
    sync::Arc,
};

use axum::{
    extract::{ConnectInfo, Request, State},
    http::{
        HeaderMap, HeaderValue,
        header::{AUTHORIZATION, WWW_AUTHENTICATE},
    },
    middleware::Next,
    response::{IntoResponse, Response},
};

use base64::{
    Engine as _, alphabet,
    engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig},
};

use super::{Tokens, page, routes, tokens::Holder};
use crate::{contract::HttpCode, http::ApiError};

/// Reads the base64 of Basic with padding and without.
const BASIC: GeneralPurpose = GeneralPurpose::new(
    &alphabet::STANDARD,
    GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent),
);

/// Whoever sent a request.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) enum Client {
    /// By a token of the file.
    Named(Arc<str>),
    /// By one whose holder sees the jobs of all.
    Admin(Arc<str>),
    /// By where it came from. Of an IPv6 address the network of one customer, 64 bits.
    At(IpAddr),
}

impl Client {
    /// Whether it may tell workers what to do.
    pub(super) fn may_administer(&self) -> bool {
        match self {
            // No token is asked for.
            Self::At(_) | Self::Admin(_) => true,
            Self::Named(_) => false,
        }
    }

    fn at(address: IpAddr) -> Self {
        match address.to_canonical() {
            IpAddr::V4(address) => Self::At(address.into()),
            IpAddr::V6(address) => Self::At(Ipv6Addr::from_bits(address.to_bits() >> 64 << 64).into()),
        }
    }
}

/// Notes who sent the request. With `tokens`, refuses one without a good token, but for /health and /ready, which load
/// balancers ask, for the OpenAPI document, and for the files of the page, which asks for the token.
pub(super) async fn identify(
    State(tokens): State<Option<Tokens>>,
    ConnectInfo(peer): ConnectInfo<SocketAddr>,
    mut request: Request,
    next: Next,
) -> Response {
    let client = match &tokens {
        None => Client::at(peer.ip()),
        Some(_) if is_for_all(request.uri().path()) => Client::at(peer.ip()),
        Some(tokens) => match token(request.headers()) {
            None => return unauthorised("this queen asks for a token"),
            Some(token) => match tokens.client(&token) {
                Some(Holder { name, is_admin: false }) => Client::Named(name),
                Some(Holder { name, is_admin: true }) => Client::Admin(name),
                None => return unauthorised("this queen does not know the token"),
            },
        },
    };
    request.extensions_mut().insert(client);
    next.run(request).await
}

fn is_for_all(path: &str) -> bool {
    matches!(path, "/health" | "/ready" | routes::DOCUMENT) || page::is_page(path)
}

/// The token that a request carries.
fn token(headers: &HeaderMap) -> Option<String> {
    let value = headers.get(AUTHORIZATION)?.to_str().ok()?;
    let (scheme, credentials) = value.split_once(' ')?;
    let credentials = credentials.trim();
    if scheme.eq_ignore_ascii_case("bearer") {
        return Some(credentials.to_owned());
    }
    if !scheme.eq_ignore_ascii_case("basic") {
        return None;
    }
    let pair = String::from_utf8(BASIC.decode(credentials).ok()?).ok()?;
    // A token is its client's name and password in one: whatever stands for the user is not looked at, unless it is all
    // there is.
    match pair.split_once(':') {
        Some((user, "")) => Some(user.to_owned()),
        Some((_, password)) => Some(password.to_owned()),
        None => Some(pair),
    }
}

fn unauthorised(why: &str) -> Response {
    let message = format!("{why}: send the header `Authorization: Bearer <token>` (rbee-keeper: --token)");
    let mut response = ApiError::of_request(HttpCode::Unauthorized, message).into_response();
    response.headers_mut().insert(WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
    response
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_comes_as_bearer_or_as_the_password_of_basic() {
        let sent = |value: &str| token(&HeaderMap::from_iter([(AUTHORIZATION, value.parse().unwrap())]));
        let basic = |pair: &str| sent(&format!("Basic {}", BASIC.encode(pair)));
        let is = |found: Option<String>| assert_eq!(found.as_deref(), Some("rbee_x-_"));
        for value in ["Bearer rbee_x-_", "bearer  rbee_x-_ ", "BASIC OnJiZWVfeC1f", "Basic cmJlZV94LV8"] {
            is(sent(value));
        }
        for pair in ["alice:rbee_x-_", ":rbee_x-_", "rbee_x-_:", "rbee_x-_"] {
            is(basic(pair));
        }
        assert_eq!(basic("alice:a:b").as_deref(), Some("a:b"), "a password may have colons");
        for value in ["", "Basic", "Basic ", "Basic !!", "Basic /w==", "Digest x", "rbee_x-_"] {
            assert!(sent(value).is_none_or(|token| token.is_empty()), "{value}");
        }
    }

    #[test]
    fn an_address_is_who_it_belongs_to() {
        let at = |text: &str| Client::at(text.parse().unwrap());
        assert_eq!(at("::ffff:10.0.0.1"), at("10.0.0.1"));
        assert_ne!(at("10.0.0.1"), at("10.0.0.2"));
        assert_eq!(at("2001:db8:0:1::1"), at("2001:db8:0:1:ffff::2"));
        assert_ne!(at("2001:db8:0:1::1"), at("2001:db8:0:2::1"));
    }
}
