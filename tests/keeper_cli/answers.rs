//! Who answers in queen's place, and what is said of it; when a question is asked once more.

use std::time::{Duration, Instant};

use serde_json::Value;

use crate::{
    rude::{Reply, Rude, answer, html, refusal},
    stand_in::{PICTURE, finish, generate, keeper, right_sha256},
};

const JSON: &str = "content-type: application/json";

/// Draws one picture through `queen`: exit code, what was said, and whether the picture is there.
async fn draw(queen: &Rude, more: &[&str]) -> (i32, String, bool) {
    let folder = tempfile::tempdir().unwrap();
    let args = generate(&[&["-o", "a.png"], more].concat());
    let (code, _, stderr) = finish(keeper(&queen.url, folder.path(), &args)).await;
    assert!(!stderr.contains("panicked"), "{stderr}");
    for rust in ["serde", "EOF while", "line 1 column", "expected value", "os error", "hyper", "reqwest"] {
        assert!(!stderr.contains(rust), "{stderr}");
    }
    let picture = std::fs::read(folder.path().join("a.png"));
    (code, stderr, picture.is_ok_and(|bytes| bytes == PICTURE))
}

/// A server whose first answers to what begins with `line` are these, and which is queen for the rest.
async fn first(line: &'static str, answers: Vec<Vec<u8>>) -> Rude {
    Rude::start(move |request, before| match answers.get(before) {
        Some(bytes) if request.line.starts_with(line) => Reply::Bytes(bytes.clone()),
        _ => Reply::AsQueen,
    })
    .await
}

/// As [`first`], for paths that end so.
async fn first_of(end: &'static str, answers: Vec<Vec<u8>>) -> Rude {
    Rude::start(move |request, before| match answers.get(before) {
        Some(bytes) if request.line.ends_with(end) => Reply::Bytes(bytes.clone()),
        _ => Reply::AsQueen,
    })
    .await
}

fn ids(queen: &Rude) -> Vec<String> {
    let id = |body: &str| serde_json::from_str::<Value>(body).unwrap()["job_id"].as_str().unwrap().to_owned();
    queen.seen("POST").iter().map(|request| id(&request.body)).collect()
}

#[tokio::test]
async fn what_is_not_queens_answer_is_said_with_what_it_looks_like() {
    let elsewhere = Rude::start(|_, _| Reply::AsQueen).await;
    let redirect = |status: &str| answer(status, &format!("Location: {}/v1/jobs", elsewhere.url), "");
    for (bytes, said) in [
        (html("200 OK", "Sign in to WiFi"), "an HTML page, \u{201c}Sign in to WiFi\u{201d}"),
        (answer("200 OK", "", "<!doctype html><p>hello"), "an HTML page"),
        (answer("200 OK", JSON, ""), "status 200 OK, with an empty body"),
        (answer("200 OK", JSON, "{\"status\":\"ok\"}"), "JSON of another form: {\"status\":\"ok\"}"),
        (answer("200 OK", "content-type: text/plain", "it works"), "text/plain: it works"),
        (html("404 Not Found", "404 Not Found"), "(from `nginx`)"),
        (html("403 Forbidden", "Blocked"), "status 403 Forbidden, an HTML page"),
        (redirect("302 Found"), "which leads to http://127.0.0.1:"),
        (redirect("308 Permanent Redirect"), "--queen must say so"),
        (
            answer("200 OK", "Content-Encoding: gzip\r\ncontent-type: application/json", b"\x1f\x8b\x08"),
            "packed as `gzip`",
        ),
        (answer("200 OK", JSON, "{\"job_id\":\"another\",\"sse_url\":\"/\"}"), "another job, another"),
        (b"INFO {\"server_id\":\"N\",\"version\":\"2.12\"} \r\n".to_vec(), "does not speak HTTP"),
    ] {
        let queen = first("POST", vec![bytes]).await;
        let (code, stderr, is_there) = draw(&queen, &["--token", "secret"]).await;
        assert_eq!((code, is_there), (3, false), "{said}: {stderr}");
        assert!(
            stderr.contains(said) && stderr.contains("does not answer as queen does"),
            "{said}: {stderr}"
        );
        assert!(stderr.contains(&queen.url), "{stderr}");
        assert_eq!(queen.seen("POST").len(), 1, "{said}: it would be the same again");
    }
    assert!(elsewhere.seen("").is_empty(), "nobody but queen gets the job and the token");
}

#[tokio::test]
async fn an_answer_without_end_is_not_read_to_its_end() {
    let queen = Rude::start(|request, _| match request.line.starts_with("POST") {
        true => Reply::Endless("HTTP/1.1 200 OK\r\ncontent-type: application/json\r\n\r\n"),
        false => Reply::AsQueen,
    })
    .await;
    let (code, stderr, _) = draw(&queen, &[]).await;
    assert_eq!(code, 3, "{stderr}");
    assert!(stderr.contains("more than 1048576 bytes of it"), "{stderr}");
}

#[tokio::test]
async fn a_proxy_that_has_lost_queen_for_a_while_costs_no_job() {
    let queen = first(
        "POST",
        vec![
            html("502 Bad Gateway", "502 Bad Gateway"),
            answer("503 Service Unavailable", "", ""),
            html("504 Gateway Time-out", "504"),
            // Cut off: the length says more.
            b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: 99\r\n\r\n{\"job".to_vec(),
            // Closed without an answer.
            vec![],
        ],
    )
    .await;
    let (code, stderr, is_there) = draw(&queen, &[]).await;
    assert_eq!((code, is_there), (0, true), "{stderr}");
    assert!(
        stderr.contains("status 502 Bad Gateway, an HTML page") && stderr.contains("trying again"),
        "{stderr}"
    );
    let ids = ids(&queen);
    assert_eq!(ids.len(), 6);
    assert!(ids.iter().all(|id| *id == ids[0]), "the same job: {ids:?}");
}

#[tokio::test]
async fn a_proxy_that_has_lost_queen_for_good_exits_3() {
    let queen = first("POST", vec![html("502 Bad Gateway", "502"); 100]).await;
    let (code, stderr, _) = draw(&queen, &["--retry-for", "1s"]).await;
    assert_eq!(code, 3, "{stderr}");
    assert!(stderr.contains("status 502 Bad Gateway"), "{stderr}");
    let times = queen.seen("POST").len();
    assert!((3..12).contains(&times), "{times}");
    let queen = first("POST", vec![html("502 Bad Gateway", "502"); 100]).await;
    assert_eq!(draw(&queen, &["--retry-for", "0s"]).await.0, 3);
    assert_eq!(queen.seen("POST").len(), 1);
}

#[tokio::test]
async fn who_says_when_to_come_back_is_heard() {
    for busy in [
        refusal("429 Too Many Requests", "retry-after: 1", "busy", "too many requests"),
        refusal("503 Service Unavailable", "retry-after: 1", "busy", "JetStream does not answer"),
        answer("503 Service Unavailable", "Retry-After: 1\r\ncontent-type: text/html", "<html>"),
    ] {
        let queen = first("POST", vec![busy]).await;
        let start = Instant::now();
        let (code, stderr, _) = draw(&queen, &[]).await;
        assert_eq!(code, 0, "{stderr}");
        assert!(start.elapsed() >= Duration::from_secs(1), "{:?}", start.elapsed());
        assert_eq!(queen.seen("POST").len(), 2);
    }
    for (busy, code) in [
        (refusal("503 Service Unavailable", "retry-after: 3600", "busy", "no worker"), 4),
        (refusal("429 Too Many Requests", "retry-after: 3600", "busy", "too many"), 1),
        (refusal("503 Service Unavailable", "", "busy", "no worker took it"), 4),
    ] {
        let queen = first("POST", vec![busy]).await;
        let start = Instant::now();
        assert_eq!(draw(&queen, &[]).await.0, code);
        assert!(start.elapsed() < Duration::from_secs(20), "it is not waited for");
        assert_eq!(queen.seen("POST").len(), 1);
    }
}

#[tokio::test]
async fn a_queen_who_asks_for_a_token_names_the_flag() {
    let asks =
        refusal("401 Unauthorized", "www-authenticate: Bearer", "invalid_request", "the header is missing");
    let (code, stderr, _) = draw(&first("POST", vec![asks]).await, &[]).await;
    assert_eq!(code, 1, "{stderr}");
    assert!(stderr.contains("--token or RBEE_TOKEN"), "{stderr}");
}

#[tokio::test]
async fn a_picture_with_other_bytes_is_fetched_once_more_from_queen_herself() {
    let wrong = || answer("200 OK", "content-type: image/png", b"\x89PNG another ");
    for stale in [
        wrong(),
        answer("200 OK", "", [0; 4096]),
        html("200 OK", "Please wait"),
        html("502 Bad Gateway", "502"),
    ] {
        let queen = first_of("/images/0", vec![stale]).await;
        let (code, stderr, is_there) = draw(&queen, &[]).await;
        assert_eq!((code, is_there), (0, true), "{stderr}");
    }
    let queen = first_of("/images/0", vec![wrong(); 9]).await;
    let (code, stderr, is_there) = draw(&queen, &[]).await;
    assert_eq!((code, is_there), (1, false), "{stderr}");
    assert!(stderr.contains(&format!("{} was promised", right_sha256())), "{stderr}");
    let asked: Vec<_> =
        queen.seen("GET").into_iter().filter(|request| request.line.ends_with("/images/0")).collect();
    assert_eq!(asked.len(), 2);
    assert!(!asked[0].headers.contains("no-cache") && asked[1].headers.contains("cache-control: no-cache"));
}
