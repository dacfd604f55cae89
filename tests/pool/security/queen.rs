//! Queen's door: tokens by their hashes, limits by client, bodies by their size.

use std::{path::Path, process::Command, time::Duration};

use bytes::Bytes;
use futures::stream;
use serde_json::{Value, json};
use tempfile::TempDir;

use super::processes::Program;
use crate::support::nats::{NatsServer, prefix};

/// A queen without workers: 503 is what a job gets that is let in.
pub async fn queen(arguments: &[&str]) -> (Program, String) {
    let (url, prefix) = (NatsServer::shared().url(), prefix());
    let mut all = vec!["--nats-url", &url, "--subject-prefix", &prefix];
    all.extend_from_slice(arguments);
    let mut queen = Program::queen(&all, &[]);
    let url = queen.url().await;
    (queen, url)
}

/// `queen-rbee new-token NAME >> FILE`; the token.
pub fn new_token(name: &str, file: &Path) -> String {
    issue(&["new-token", name], name, file)
}

/// As [`new_token`], of one who sees all jobs.
pub fn new_admin_token(name: &str, file: &Path) -> String {
    issue(&["new-token", "--admin", name], name, file)
}

fn issue(arguments: &[&str], name: &str, file: &Path) -> String {
    let output = Command::new(env!("CARGO_BIN_EXE_queen-rbee")).args(arguments).output().unwrap();
    assert!(output.status.success());
    let line = String::from_utf8(output.stdout).unwrap();
    let mut text = std::fs::read_to_string(file).unwrap_or_default();
    assert!(line.starts_with(&format!("{name}:sha256:")) && line.ends_with('\n'), "{line}");
    text.push_str(&line);
    std::fs::write(file, text).unwrap();
    String::from_utf8(output.stderr).unwrap().trim().to_owned()
}

async fn post(url: &str, token: Option<&str>) -> reqwest::Response {
    let body = json!({"operation": "image_generation", "prompt": "a"}).to_string();
    let request = reqwest::Client::new().post(format!("{url}/v1/jobs")).body(body);
    let request = token.iter().fold(request, |request, token| request.bearer_auth(token));
    request.send().await.unwrap()
}

async fn get(url: &str, path: &str, token: Option<&str>) -> u16 {
    let request = reqwest::Client::new().get(format!("{url}{path}"));
    let request = token.iter().fold(request, |request, token| request.bearer_auth(token));
    request.send().await.unwrap().status().as_u16()
}

#[tokio::test]
async fn only_a_client_of_the_file_is_let_in() {
    let folder = TempDir::new().unwrap();
    let file = folder.path().join("tokens");
    std::fs::write(&file, "# who may send jobs\n").unwrap();
    let [alice, bob] = ["alice", "bob"].map(|name| new_token(name, &file));
    let text = std::fs::read_to_string(&file).unwrap();
    assert!(!text.contains(&alice) && !text.contains(&bob), "hashes alone are in the file");
    let (mut queen, url) = queen(&["--token-file", file.to_str().unwrap()]).await;

    assert_eq!(get(&url, "/health", None).await, 200);
    let hash = text.lines().nth(1).unwrap().rsplit(':').next().unwrap();
    for bad in [None, Some(""), Some("sesame"), Some(hash), Some(&alice[..alice.len() - 1])] {
        for path in ["/v1/workers", "/v1/jobs/x", "/v1/jobs/x/stream", "/v1/jobs/x/images/0", "/nowhere"] {
            assert_eq!(get(&url, path, bad).await, 401, "{path} {bad:?}");
        }
        let answer = post(&url, bad).await;
        assert_eq!(
            (answer.status().as_u16(), &answer.headers()["www-authenticate"] == "Bearer"),
            (401, true)
        );
        let body: Value = answer.json().await.unwrap();
        assert_eq!(body["error"]["code"], "unauthorized");
    }
    for good in [&alice, &bob] {
        assert_eq!(get(&url, "/v1/workers", Some(good)).await, 200);
        assert_eq!(post(&url, Some(good)).await.status(), 503, "let in, and there is no worker");
    }

    // Bob goes, Carol comes.
    std::fs::write(
        &file,
        text.lines().filter(|line| !line.starts_with("bob")).collect::<Vec<_>>().join("\n") + "\n",
    )
    .unwrap();
    let carol = new_token("carol", &file);
    queen.signal("-HUP");
    queen.wait_for_log("read the file of tokens again").await;
    let seen = [&alice, &bob, &carol].map(|token| get(&url, "/v1/workers", Some(token)));
    assert_eq!(futures::future::join_all(seen).await, [200, 401, 200]);
    std::fs::write(&file, "hunter2\n").unwrap();
    queen.signal("-HUP");
    queen.wait_for_log("those of before stay good").await;
    assert_eq!(get(&url, "/v1/workers", Some(&carol)).await, 200);
    assert!(!queen.log().contains("hunter2"));
}

#[tokio::test]
async fn a_file_with_a_plain_token_is_refused_with_what_to_do() {
    let folder = TempDir::new().unwrap();
    let file = folder.path().join("tokens");
    std::fs::write(&file, "hunter2\n").unwrap();
    let mut queen = Program::queen(&["--token-file", file.to_str().unwrap()], &[]);
    assert_eq!(queen.exit().await.code(), Some(1));
    let log = queen.log();
    assert!(
        log.contains("line 1") && log.contains("queen-rbee new-token NAME") && log.contains("sha256sum"),
        "{log}"
    );
    assert!(!log.contains("hunter2"), "{log}");
}

#[tokio::test]
async fn a_client_that_sends_too_many_jobs_is_told_when_to_come_again() {
    let folder = TempDir::new().unwrap();
    let file = folder.path().join("tokens");
    let [alice, bob] = ["alice", "bob"].map(|name| new_token(name, &file));
    let slow = ["--rate-limit", "0.01", "--rate-burst", "3", "--token-file", file.to_str().unwrap()];
    let (_queen, url) = queen(&slow).await;
    for _ in 0..3 {
        assert_eq!(post(&url, Some(&alice)).await.status(), 503);
    }
    let refused = post(&url, Some(&alice)).await;
    assert_eq!(refused.status(), 429);
    let wait: u64 = refused.headers()["retry-after"].to_str().unwrap().parse().unwrap();
    assert!((90..=100).contains(&wait), "{wait} s");
    let body: Value = refused.json().await.unwrap();
    assert_eq!((&body["error"]["code"], &body["error"]["retryable"]), (&json!("rate_limited"), &json!(true)));
    assert_eq!(get(&url, "/v1/workers", Some(&alice)).await, 200, "reading is not limited");
    assert_eq!(post(&url, Some(&bob)).await.status(), 503, "another client has its own");

    // Without tokens an address is a client.
    let (_queen, url) = queen(&slow[..4]).await;
    let mut statuses = vec![];
    for _ in 0..4 {
        statuses.push(post(&url, None).await.status().as_u16());
    }
    assert_eq!(statuses, [503, 503, 503, 429]);
}

#[tokio::test]
async fn a_client_that_asks_too_often_is_told_when_to_come_again() {
    let (_queen, url) = queen(&["--request-limit", "0.01", "--request-burst", "6"]).await;
    let delete = async || {
        let answer = reqwest::Client::new().delete(format!("{url}/v1/jobs/nobody")).send().await.unwrap();
        (answer.status().as_u16(), answer.headers().contains_key("retry-after"))
    };
    // Each of these asks every worker.
    for _ in 0..3 {
        assert_eq!(delete().await, (404, false));
    }
    for path in ["/v1/workers", "/v1/jobs/nobody", "/v1/jobs/nobody/stream"] {
        assert_ne!(get(&url, path, None).await, 429, "{path}");
    }
    assert_eq!(delete().await, (429, true));
    for path in ["/v1/workers", "/v1/jobs/nobody", "/v1/jobs/nobody/images/0", "/nowhere"] {
        assert_eq!(get(&url, path, None).await, 429, "{path}");
    }
    assert_eq!(get(&url, "/health", None).await, 200, "load balancers go on");
    assert_eq!(post(&url, None).await.status(), 503, "jobs have their own limit");
}

#[tokio::test]
async fn a_body_without_a_length_is_bounded_too() {
    let (_queen, url) = queen(&["--max-body", "100KiB"]).await;
    let chunks = |number: usize| {
        let chunk = Bytes::from(vec![b'a'; 10 << 10]);
        reqwest::Body::wrap_stream(stream::iter(vec![chunk; number].into_iter().map(Ok::<_, std::io::Error>)))
    };
    let send = |number| {
        let request = reqwest::Client::new().post(format!("{url}/v1/jobs")).timeout(Duration::from_secs(20));
        async move {
            let answer = request.body(chunks(number)).send().await.unwrap();
            (answer.status().as_u16(), answer.json::<Value>().await.unwrap()["error"]["code"].clone())
        }
    };
    assert_eq!(send(9).await, (400, json!("invalid_request")), "it is read, and is no JSON");
    assert_eq!(send(11).await, (413, json!("payload_too_large")));
}
