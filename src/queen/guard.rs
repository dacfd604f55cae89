//! What a web page in somebody's browser may ask of queen: its own page all, and others only what they are allowed.
//!
//! A browser sends to this machine and this network what any page tells it to. It says where a request comes from (`Origin`,
//! `Sec-Fetch-Site`), and a page cannot change that. What it cannot say is that a name of the page's own was pointed at
//! 127.0.0.1 meanwhile: for a queen that anybody on this machine may use, the name that was asked for must be one of this
//! machine, or that of `--public-url`.

use std::{net::IpAddr, sync::Arc};

use axum::{
    extract::{Request, State},
    http::{
        HeaderMap, HeaderName, HeaderValue, Method, StatusCode, Uri,
        header::{
            ACCESS_CONTROL_ALLOW_HEADERS, ACCESS_CONTROL_ALLOW_METHODS, ACCESS_CONTROL_ALLOW_ORIGIN,
            ACCESS_CONTROL_EXPOSE_HEADERS, ACCESS_CONTROL_MAX_AGE, ACCESS_CONTROL_REQUEST_HEADERS,
            ACCESS_CONTROL_REQUEST_METHOD, HOST, ORIGIN, VARY,
        },
    },
    middleware::Next,
    response::{IntoResponse, Response},
};

use crate::{contract::HttpCode, http::ApiError};

/// Where a browser says that a request comes from: `same-origin`, `same-site`, `cross-site`, or `none` for what a person
/// typed. To addresses without TLS it says so for this machine alone.
const SEC_FETCH_SITE: HeaderName = HeaderName::from_static("sec-fetch-site");
/// A page outside asks for an address in a private network.
const PRIVATE_NETWORK_ASKED: HeaderName = HeaderName::from_static("access-control-request-private-network");
const PRIVATE_NETWORK_ALLOWED: HeaderName = HeaderName::from_static("access-control-allow-private-network");
/// Headers of answers that an allowed page may read.
const EXPOSED: &str = "x-job-id, x-ignored-fields, x-should-retry, retry-after";
/// What an allowed page may send.
const METHODS: &str = "GET, POST, PUT, DELETE";
/// How long a browser may remember what is allowed, in seconds.
const REMEMBERED: &str = "600";

/// The rules. Cheap to clone.
#[derive(Debug, Clone)]
pub(super) struct Guard(Arc<Rules>);

#[derive(Debug)]
struct Rules {
    /// `--allow-origin`.
    allowed: Vec<String>,
    /// Of `--public-url`: host, and port if there is one.
    public: Option<String>,
    /// Nothing but the name that was asked for keeps strangers out.
    for_this_machine: bool,
}

impl Guard {
    /// `for_this_machine`: queen listens on a loopback address, and asks for no token.
    pub fn new(allowed: &[String], public_url: Option<&str>, for_this_machine: bool) -> Self {
        let public =
            public_url.and_then(|url| Some(url.parse::<Uri>().ok()?.authority()?.as_str().to_owned()));
        Self(Arc::new(Rules { allowed: allowed.to_vec(), public, for_this_machine }))
    }
}

/// Refuses what another page may not ask for, answers browsers that ask whether it may, and says so in answers to it.
pub(super) async fn guard(State(guard): State<Guard>, request: Request, next: Next) -> Response {
    let rules = &guard.0;
    // Load balancers ask for them by any name, and there is nothing in them.
    if !matches!(request.uri().path(), "/health" | "/ready")
        && let Err(why) = rules.check_host(&request)
    {
        return forbidden(&why);
    }
    let origin = request.headers().get(ORIGIN).cloned();
    let allowed = origin.filter(|origin| rules.is_allowed(origin));
    if let Some(origin) = &allowed
        && request.method() == Method::OPTIONS
        && request.headers().contains_key(ACCESS_CONTROL_REQUEST_METHOD)
    {
        return preflight(origin, request.headers());
    }
    if changes(request.method())
        && allowed.is_none()
        && let Err(why) = rules.check_origin(&request)
    {
        return forbidden(why);
    }
    let mut response = next.run(request).await;
    if let Some(origin) = allowed {
        let headers = response.headers_mut();
        headers.insert(ACCESS_CONTROL_ALLOW_ORIGIN, origin);
        headers.insert(ACCESS_CONTROL_EXPOSE_HEADERS, HeaderValue::from_static(EXPOSED));
        headers.append(VARY, HeaderValue::from_static("origin"));
    }
    response
}

impl Rules {
    fn is_allowed(&self, origin: &HeaderValue) -> bool {
        self.allowed.iter().any(|allowed| allowed.as_bytes() == origin.as_bytes())
    }

    /// Whether the name that was asked for may be.
    fn check_host(&self, request: &Request) -> Result<(), String> {
        let host = host(request);
        let name = without_port(host);
        let is_here = name.is_empty()
            || name.eq_ignore_ascii_case("localhost")
            || name.parse::<IpAddr>().is_ok_and(|address| address.is_loopback());
        let is_public = |public: &str| without_port(public).eq_ignore_ascii_case(name);
        if !self.for_this_machine || is_here || self.public.as_deref().is_some_and(is_public) {
            return Ok(());
        }
        let shown: String = host.chars().take(100).collect();
        Err(format!(
            "`Host`: this queen is for its own machine, and is not called `{shown}`; ask 127.0.0.1, or start it with \
             --public-url http://{shown} or with --token-file"
        ))
    }

    /// Whether a request that changes something comes from our own page, or from no page.
    fn check_origin(&self, request: &Request) -> Result<(), &'static str> {
        let headers = request.headers();
        let site = headers.get(SEC_FETCH_SITE).map(HeaderValue::as_bytes);
        if !matches!(site, None | Some(b"same-origin" | b"none")) {
            return Err(
                "`Sec-Fetch-Site`: another web page sent this; queen's --allow-origin says which may",
            );
        }
        let Some(origin) = headers.get(ORIGIN) else { return Ok(()) };
        let from = origin.to_str().ok().and_then(|origin| origin.parse::<Uri>().ok());
        let from = from.as_ref().and_then(Uri::authority).map(|authority| authority.as_str());
        let is_ours = from.is_some_and(|from| {
            from.eq_ignore_ascii_case(host(request))
                || self.public.as_deref().is_some_and(|public| public.eq_ignore_ascii_case(from))
        });
        match is_ours {
            true => Ok(()),
            false => Err("`Origin`: another web page sent this; queen's --allow-origin says which may"),
        }
    }
}

fn changes(method: &Method) -> bool {
    !matches!(*method, Method::GET | Method::HEAD | Method::OPTIONS)
}

/// The name and port that were asked for.
fn host(request: &Request) -> &str {
    let header = request.headers().get(HOST).and_then(|host| host.to_str().ok());
    header.or(request.uri().authority().map(|authority| authority.as_str())).unwrap_or_default().trim()
}

/// A name, or an address without the brackets of IPv6.
fn without_port(host: &str) -> &str {
    match host.strip_prefix('[') {
        Some(rest) => rest.split(']').next().unwrap_or_default(),
        None => host.split(':').next().unwrap_or_default(),
    }
}

/// What a browser is told that asks what an allowed page may do.
fn preflight(origin: &HeaderValue, asked: &HeaderMap) -> Response {
    let mut response = StatusCode::NO_CONTENT.into_response();
    let headers = response.headers_mut();
    headers.insert(ACCESS_CONTROL_ALLOW_ORIGIN, origin.clone());
    headers.insert(ACCESS_CONTROL_ALLOW_METHODS, HeaderValue::from_static(METHODS));
    headers.insert(ACCESS_CONTROL_MAX_AGE, HeaderValue::from_static(REMEMBERED));
    // Clients send headers of their own beside Authorization; the page is allowed, so they are.
    if let Some(names) = asked.get(ACCESS_CONTROL_REQUEST_HEADERS) {
        headers.insert(ACCESS_CONTROL_ALLOW_HEADERS, names.clone());
    }
    if asked.contains_key(PRIVATE_NETWORK_ASKED) {
        headers.insert(PRIVATE_NETWORK_ALLOWED, HeaderValue::from_static("true"));
    }
    headers.insert(VARY, HeaderValue::from_static("origin"));
    response
}

fn forbidden(why: &str) -> Response {
    ApiError::of_request(HttpCode::Forbidden, why).into_response()
}

/// An origin as a browser sends it.
pub(super) fn parse_origin(text: &str) -> Result<String, String> {
    let wrong = || "an origin is read as a browser sends it: http(s)://host, with a port where it is not the usual one";
    let uri: Uri = text.parse().map_err(|_| wrong())?;
    let is_web = matches!(uri.scheme_str(), Some("http" | "https"));
    let authority = uri.authority().filter(|authority| is_web && !authority.as_str().contains('@'));
    let authority = authority.ok_or_else(wrong)?;
    let origin = format!("{}://{authority}", uri.scheme_str().unwrap_or_default());
    match text.strip_suffix('/').unwrap_or(text) == origin {
        true => Ok(origin.to_ascii_lowercase()),
        false => Err(wrong().to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use axum::body::Body;

    use super::*;

    fn rules(allowed: &[&str], public_url: Option<&str>, for_this_machine: bool) -> Guard {
        let allowed: Vec<_> = allowed.iter().map(|&origin| origin.to_owned()).collect();
        Guard::new(&allowed, public_url, for_this_machine)
    }

    fn request(headers: &[(&str, &str)]) -> Request {
        let mut request = axum::http::Request::post("/v1/jobs");
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        request.body(Body::empty()).unwrap()
    }

    #[test]
    fn a_queen_of_this_machine_goes_by_its_names_alone() {
        let here = rules(&[], Some("https://draw.example:8443/q"), true);
        for good in
            ["localhost", "LOCALHOST:7833", "127.0.0.1:7833", "127.1.2.3", "[::1]:1", "draw.example", ""]
        {
            assert_eq!(here.0.check_host(&request(&[("host", good)])), Ok(()), "{good}");
        }
        for bad in
            ["evil.example", "localhost.evil.example:7833", "10.0.0.1", "[::2]", "127.0.0.1.evil.example"]
        {
            let why = here.0.check_host(&request(&[("host", bad)])).unwrap_err();
            assert!(why.contains(bad) && why.contains("--public-url"), "{why}");
            assert_eq!(rules(&[], None, false).0.check_host(&request(&[("host", bad)])), Ok(()));
        }
    }

    #[test]
    fn what_changes_something_comes_from_our_own_page_or_from_none() {
        let here = rules(&[], Some("https://draw.example"), true);
        let check = |headers: &[(&str, &str)]| {
            let all = [&[("host", "127.0.0.1:7833")], headers].concat();
            here.0.check_origin(&request(&all))
        };
        for good in [
            &[][..],
            &[("sec-fetch-site", "none")],
            &[("sec-fetch-site", "same-origin"), ("origin", "http://127.0.0.1:7833")],
            &[("origin", "https://127.0.0.1:7833")],
            &[("origin", "https://draw.example")],
        ] {
            assert_eq!(check(good), Ok(()), "{good:?}");
        }
        for bad in [
            &[("origin", "http://evil.example")][..],
            &[("origin", "null")],
            &[("origin", "")],
            &[("origin", "http://127.0.0.1:8000")],
            &[("origin", "http://127.0.0.1")],
            &[("sec-fetch-site", "cross-site")],
            &[("sec-fetch-site", "same-site"), ("origin", "http://127.0.0.1:7833")],
            &[("sec-fetch-site", "later")],
        ] {
            assert!(check(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn an_origin_is_what_a_browser_sends() {
        for good in ["http://localhost:3000", "https://a.example", "https://a.example/"] {
            assert_eq!(parse_origin(good).unwrap(), good.trim_end_matches('/'));
        }
        assert_eq!(parse_origin("https://A.Example").unwrap(), "https://a.example");
        for bad in ["*", "a.example", "ftp://a", "https://a/b", "https://a?b", "https://u@a", "null", ""] {
            assert!(parse_origin(bad).is_err(), "{bad}");
        }
    }
}
