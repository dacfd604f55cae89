//! Secrets are in no log, not even with everything logged, and in no `--help`.

use std::process::Command;

use clap::Parser;
use sd_worker_rbee::{queen::QueenOptions, worker::WorkerOptions};
use serde_json::json;
use tempfile::TempDir;

use super::processes::{MODEL, Program, Server};
use crate::support::{
    process::free_port,
    s3::{S3Server, SECRET},
    worker::PATIENCE,
};

const PASSWORD: &str = "pass-word-that-is-never-shown";
const TOKEN: &str = "tok-en-that-is-never-shown";
const SESSION: &str = "sess-ion-that-is-never-shown";
const PROMPT: &str = "a prompt that is nobody else's business";

fn shows_none(what: &str, text: &str, secrets: &[&str]) {
    for secret in secrets {
        if let Some(at) = text.find(secret) {
            let line = text[..at].matches('\n').count();
            panic!("{what} shows `{secret}`:\n{}", text.lines().nth(line).unwrap_or_default());
        }
    }
}

/// The variables of S3, with everything logged.
fn environment<'a>(s3: &'a [(String, String)], more: &[(&'a str, &'a str)]) -> Vec<(&'a str, &'a str)> {
    let mut all: Vec<_> = s3.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
    all.push(("RUST_LOG", "trace"));
    all.extend_from_slice(more);
    all
}

#[tokio::test]
async fn a_pool_that_logs_everything_logs_no_secret() {
    let server = Server::with(&format!("authorization {{ user: alice, password: {PASSWORD} }}"));
    let s3 = S3Server::rclone();
    s3.bucket("pictures");
    let variables = s3.environment();
    let (nats, folder) = (server.url(), TempDir::new().unwrap());
    let issued = sd_worker_rbee::queen::Issued::new("alice").unwrap();
    let file = folder.path().join("tokens");
    std::fs::write(&file, &issued.line).unwrap();
    let flags = ["--nats-url", &nats, "--nats-user", "alice", "--store-url", "s3://pictures/pool"];
    let variables = environment(&variables, &[("NATS_PASSWORD", PASSWORD)]);
    let mut worker = Program::worker(&flags, &variables);
    worker.wait_for_log(" ready ").await;
    let with_tokens = [&flags[..], &["--token-file", file.to_str().unwrap()]].concat();
    let mut queen = Program::queen(&with_tokens, &variables);
    let url = queen.url().await;

    let client = reqwest::Client::new();
    let body =
        json!({"operation": "image_generation", "prompt": PROMPT, "steps": 2, "job_id": "j"}).to_string();
    let drawn = async {
        loop {
            let request = client.post(format!("{url}/v1/jobs")).bearer_auth(&issued.token).body(body.clone());
            if request.send().await.unwrap().status() == 200 {
                break;
            }
            tokio::time::sleep(std::time::Duration::from_millis(50)).await;
        }
        let stream = client.get(format!("{url}/v1/jobs/j/stream")).bearer_auth(&issued.token);
        stream.send().await.unwrap().text().await.unwrap()
    };
    let events = tokio::time::timeout(PATIENCE, drawn).await.unwrap();
    assert!(events.contains("[DONE]"), "{events}");
    let (_, signature) = events.split_once("X-Amz-Signature=").expect("a presigned URL");
    let signature: String = signature.chars().take_while(char::is_ascii_hexdigit).collect();

    // Bodies of other APIs carry passwords of the programs that send them.
    let call = json!({"prompt": PROMPT, "steps": 2, "auth": PASSWORD}).to_string();
    let call = client.post(format!("{url}/v1/images/generations")).body(call);
    assert_eq!(call.basic_auth("alice", Some(&issued.token)).send().await.unwrap().status(), 200);

    let hash = issued.line.rsplit(':').next().unwrap();
    for (what, log) in [("worker", worker.log()), ("queen", queen.log())] {
        assert!(log.contains("TRACE") && log.contains("connected to NATS"), "{what} logs everything");
        shows_none(what, &log, &[PASSWORD, SECRET, &issued.token, hash, &signature, PROMPT]);
    }
}

#[tokio::test]
async fn what_cannot_be_reached_is_said_without_secrets() {
    let server = Server::with(&format!("authorization {{ token: {TOKEN}-right }}"));
    let s3 = S3Server::rclone();
    s3.bucket("pictures");
    let (right, nats) = (s3.environment(), server.url());
    let mut wrong = right.clone();
    wrong
        .iter_mut()
        .filter(|(name, _)| name == "AWS_SECRET_ACCESS_KEY")
        .for_each(|(_, value)| value.push_str("-wrong"));
    let nowhere = crate::support::s3::environment(&format!("http://127.0.0.1:{}", free_port()), SECRET);
    let secrets = [SECRET, PASSWORD, TOKEN, SESSION];
    let store = ["--store-url", "s3://pictures", "--store-timeout", "1s", "--nats-url", nats.as_str()];
    let session = [("AWS_SESSION_TOKEN", SESSION)];
    // The store and NATS are looked at beside each other: one is wrong at a time.
    let good = format!("{TOKEN}-right");
    for (variables, flags, message) in [
        (environment(&wrong, &session), ["--nats-token", &good], "check AWS_ACCESS_KEY_ID"),
        (environment(&nowhere, &session), ["--nats-token", &good], "check AWS_ENDPOINT_URL"),
        (environment(&right, &[]), ["--nats-token", TOKEN], "check the credentials"),
        (
            environment(&right, &[("NATS_USER", "alice")]),
            ["--nats-password", PASSWORD],
            "check the credentials",
        ),
    ] {
        let all = [&store[..], &flags].concat();
        for mut program in [Program::worker(&all, &variables), Program::queen(&all, &variables)] {
            assert_eq!(program.exit().await.code(), Some(1), "{}", program.log());
            let log = program.log();
            assert!(log.contains(message), "{message}: {}", log.lines().last().unwrap_or_default());
            shows_none(message, &log, &secrets);
        }
    }
}

#[tokio::test]
async fn a_hub_that_is_away_is_said_without_the_token() {
    let endpoint = format!("http://127.0.0.1:{}", free_port());
    let cache = TempDir::new().unwrap();
    let variables = [
        ("HF_ENDPOINT", endpoint.as_str()),
        ("HF_TOKEN", TOKEN),
        ("HF_HOME", cache.path().to_str().unwrap()),
        ("RUST_LOG", "trace"),
    ];
    let mut worker = Program::worker(&["--model", "nobody/nothing"], &variables);
    assert_eq!(worker.exit().await.code(), Some(1));
    shows_none("worker", &worker.log(), &[TOKEN]);
}

#[test]
fn options_that_are_debugged_or_explained_show_no_secret() {
    let secrets = [PASSWORD, TOKEN];
    let url = format!("nats://alice:{PASSWORD}@localhost");
    let store = format!("s3://key:{PASSWORD}@bucket");
    let public = format!("https://key:{PASSWORD}@host");
    let flags = [
        "--nats-url",
        &url,
        "--nats-user",
        "alice",
        "--nats-password",
        PASSWORD,
        "--nats-token",
        TOKEN,
        "--store-url",
        &store,
        "--store-public-url",
        &public,
    ];
    let queen = QueenOptions::parse_from([&["queen-rbee"][..], &flags].concat());
    let worker = WorkerOptions::parse_from([&["sd-worker-cpu", "--model", MODEL][..], &flags].concat());
    for shown in [format!("{queen:?}"), format!("{worker:?}")] {
        assert!(shown.contains("alice"), "{shown}");
        shows_none("Debug", &shown, &secrets);
    }

    let variables = [
        ("NATS_URL", url.as_str()),
        ("NATS_USER", "alice"),
        ("NATS_PASSWORD", PASSWORD),
        ("NATS_TOKEN", TOKEN),
        ("STORE_URL", &store),
        ("STORE_PUBLIC_URL", &public),
        ("RBEE_TOKEN", TOKEN),
    ];
    for program in [
        env!("CARGO_BIN_EXE_queen-rbee"),
        env!("CARGO_BIN_EXE_sd-worker-cpu"),
        env!("CARGO_BIN_EXE_rbee-keeper"),
    ] {
        let output = Command::new(program).arg("--help").envs(variables).output().unwrap();
        let shown = String::from_utf8(output.stdout).unwrap();
        assert!(shown.contains("Usage"), "{shown}");
        shows_none(program, &shown, &secrets);
    }
}
