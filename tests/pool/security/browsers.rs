//! What web pages in somebody's browser may ask of a queen.

use reqwest::{Method, Response};
use serde_json::Value;
use tempfile::TempDir;

use super::{
    processes::Program,
    queen::{new_token, queen},
};
use crate::support::fake_pool::{Pool, generation};

async fn send(url: &str, method: Method, path: &str, headers: &[(&str, &str)]) -> Response {
    let mut request = reqwest::Client::new().request(method.clone(), format!("{url}{path}"));
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    if method == Method::POST {
        request = request.body(generation().to_string());
    }
    request.send().await.unwrap()
}

async fn status(url: &str, method: Method, path: &str, headers: &[(&str, &str)]) -> u16 {
    send(url, method, path, headers).await.status().as_u16()
}

#[tokio::test]
async fn a_name_that_was_pointed_at_this_machine_reads_and_sends_nothing() {
    let (_queen, url) = queen(&[]).await;
    let port = url.rsplit(':').next().unwrap();
    let rebound = format!("evil.example:{port}");
    let origin = format!("http://{rebound}");
    let evil = [("host", rebound.as_str()), ("origin", origin.as_str())];
    for (method, path) in [
        (Method::GET, "/v1/workers"),
        (Method::GET, "/v1/jobs"),
        (Method::GET, "/v1/jobs/x"),
        (Method::GET, "/v1/events?fleet=1"),
        (Method::POST, "/v1/jobs"),
        (Method::DELETE, "/v1/jobs/x"),
    ] {
        let answer = send(&url, method.clone(), path, &evil).await;
        assert_eq!(answer.status(), 403, "{method} {path}");
        let body: Value = answer.json().await.unwrap();
        assert_eq!(body["error"]["code"], "forbidden");
        assert!(body["error"]["message"].as_str().unwrap().contains("--public-url"), "{body}");
    }
    assert_eq!(status(&url, Method::GET, "/health", &evil).await, 200, "load balancers ask by any name");
    for host in [format!("localhost:{port}"), "127.0.0.1".into(), "[::1]:80".into()] {
        assert_eq!(status(&url, Method::GET, "/v1/workers", &[("host", host.as_str())]).await, 200, "{host}");
    }
    let (_queen, url) = queen(&["--public-url", "https://evil.example/q"]).await;
    assert_eq!(status(&url, Method::GET, "/v1/workers", &evil).await, 200, "it is called so");
    // A token is what such a page does not have.
    let folder = TempDir::new().unwrap();
    let file = folder.path().join("tokens");
    let token = new_token("alice", &file);
    let (_queen, url) = queen(&["--token-file", file.to_str().unwrap()]).await;
    assert_eq!(status(&url, Method::GET, "/v1/workers", &evil).await, 401);
    let bearer = format!("Bearer {token}");
    let with_token = [("host", rebound.as_str()), ("authorization", bearer.as_str())];
    assert_eq!(status(&url, Method::GET, "/v1/workers", &with_token).await, 200);
}

#[tokio::test]
async fn another_page_changes_nothing() {
    let (_queen, url) = queen(&[]).await;
    for headers in [
        &[("sec-fetch-site", "cross-site")][..],
        &[("sec-fetch-site", "same-site"), ("origin", "http://127.0.0.1:1")],
        &[("origin", "http://evil.example")],
        &[("origin", "null")],
    ] {
        for (method, path) in [
            (Method::POST, "/v1/jobs"),
            (Method::DELETE, "/v1/jobs/x"),
            (Method::POST, "/v1/dead-letters/x/retry"),
            (Method::DELETE, "/v1/dead-letters/x"),
        ] {
            assert_eq!(status(&url, method.clone(), path, headers).await, 403, "{method} {path} {headers:?}");
        }
        let answer = send(&url, Method::GET, "/v1/workers", headers).await;
        assert_eq!(answer.status(), 200, "a link may lead here");
        assert!(!answer.headers().contains_key("access-control-allow-origin"), "and is not read there");
    }
    for headers in [
        &[][..],
        &[("sec-fetch-site", "same-origin"), ("origin", url.as_str())],
        &[("sec-fetch-site", "none")],
    ] {
        assert_eq!(status(&url, Method::POST, "/v1/jobs", headers).await, 503, "no worker: {headers:?}");
    }
}

#[tokio::test]
async fn a_page_that_is_allowed_is_told_so_before_and_with_every_answer() {
    let page = "https://pages.example";
    let (_queen, url) = queen(&["--allow-origin", page]).await;
    let asked = |origin| {
        [
            ("origin", origin),
            ("access-control-request-method", "POST"),
            ("access-control-request-headers", "authorization,content-type"),
            ("access-control-request-private-network", "true"),
        ]
    };
    let preflight = send(&url, Method::OPTIONS, "/v1/jobs", &asked(page)).await;
    let header = |answer: &Response, name: &str| {
        answer.headers().get(name).map(|value| value.to_str().unwrap().to_owned())
    };
    assert_eq!(preflight.status(), 204);
    for (name, value) in [
        ("access-control-allow-origin", page),
        ("access-control-allow-headers", "authorization,content-type"),
        ("access-control-allow-private-network", "true"),
        ("vary", "origin"),
    ] {
        assert_eq!(header(&preflight, name).as_deref(), Some(value), "{name}");
    }
    let from_page = [("origin", page), ("sec-fetch-site", "cross-site")];
    let answer = send(&url, Method::POST, "/v1/jobs", &from_page).await;
    assert_eq!(
        (answer.status().as_u16(), header(&answer, "access-control-allow-origin")),
        (503, Some(page.into()))
    );
    assert!(header(&answer, "access-control-expose-headers").unwrap().contains("x-job-id"));
    let other = "https://other.example";
    let preflight = send(&url, Method::OPTIONS, "/v1/jobs", &asked(other)).await;
    assert!(preflight.status() != 204 && header(&preflight, "access-control-allow-origin").is_none());
    assert_eq!(status(&url, Method::POST, "/v1/jobs", &[("origin", other)]).await, 403);
    // Who is not let in is told so where the page can read it.
    let folder = TempDir::new().unwrap();
    let file = folder.path().join("tokens");
    new_token("alice", &file);
    let (_queen, url) = queen(&["--allow-origin", page, "--token-file", file.to_str().unwrap()]).await;
    assert_eq!(send(&url, Method::OPTIONS, "/v1/jobs", &asked(page)).await.status(), 204);
    let refused = send(&url, Method::GET, "/v1/workers", &[("origin", page)]).await;
    assert_eq!(
        (refused.status().as_u16(), header(&refused, "access-control-allow-origin")),
        (401, Some(page.into()))
    );
}

#[tokio::test]
async fn an_origin_that_no_browser_sends_is_refused_at_start() {
    for (flag, value) in
        [("--allow-origin", "*"), ("--allow-origin", "https://a/b"), ("--public-url", "here")]
    {
        let mut queen = Program::queen(&[flag, value], &[]);
        assert_eq!(queen.exit().await.code(), Some(2), "{flag} {value}: {}", queen.log());
        assert!(queen.log().contains(flag), "{}", queen.log());
    }
}

#[tokio::test]
async fn a_picture_is_nothing_but_a_picture_to_a_browser() {
    let pool = Pool::start(&[]).await;
    let mut worker = pool.worker("w", &["m"]).await;
    let id = pool.queen.submit(&generation()).await;
    let mut job = worker.job().await;
    pool.store_picture(&job).await;
    job.accept().await;
    job.complete().await;
    pool.queen.stream(&id).await;
    let answer = send(&pool.queen.url, Method::GET, &format!("/v1/jobs/{id}/images/0"), &[]).await;
    for (name, value) in [
        ("content-type", "image/png"),
        ("x-content-type-options", "nosniff"),
        ("content-disposition", "inline"),
        ("content-security-policy", "sandbox; default-src 'none'"),
        ("cross-origin-resource-policy", "same-origin"),
    ] {
        assert_eq!(answer.headers()[name], value, "{name}");
    }
    assert_eq!(answer.bytes().await.unwrap(), "png");
}
