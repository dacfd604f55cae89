//! Who a request comes from: the client whose bearer token it carries, or, where no token is asked for, an address.

use std::{
    net::{IpAddr, Ipv6Addr, SocketAddr},
    sync::Arc,
};

use axum::{
    extract::{ConnectInfo, Request, State},
    http::{
        HeaderValue,
        header::{AUTHORIZATION, WWW_AUTHENTICATE},
    },
    middleware::Next,
    response::{IntoResponse, Response},
};

use super::{Tokens, page, tokens::Holder};
use crate::{contract::HttpCode, http::ApiError};

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

/// Notes who sent the request. With `tokens`, refuses one without a good token, but for /health, which load balancers
/// ask, and for the files of the page, which asks for the token.
pub(super) async fn identify(
    State(tokens): State<Option<Tokens>>,
    ConnectInfo(peer): ConnectInfo<SocketAddr>,
    mut request: Request,
    next: Next,
) -> Response {
    let client = match &tokens {
        None => Client::at(peer.ip()),
        Some(_) if is_for_all(request.uri().path()) => Client::at(peer.ip()),
        Some(tokens) => match bearer(&request) {
            None => return unauthorised("this queen asks for a token"),
            Some(token) => match tokens.client(token) {
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
    path == "/health" || page::is_page(path)
}

fn bearer(request: &Request) -> Option<&str> {
    let value = request.headers().get(AUTHORIZATION)?.to_str().ok()?;
    let (scheme, token) = value.split_once(' ')?;
    scheme.eq_ignore_ascii_case("bearer").then_some(token.trim())
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
    fn an_address_is_who_it_belongs_to() {
        let at = |text: &str| Client::at(text.parse().unwrap());
        assert_eq!(at("::ffff:10.0.0.1"), at("10.0.0.1"));
        assert_ne!(at("10.0.0.1"), at("10.0.0.2"));
        assert_eq!(at("2001:db8:0:1::1"), at("2001:db8:0:1:ffff::2"));
        assert_ne!(at("2001:db8:0:1::1"), at("2001:db8:0:2::1"));
    }
}
