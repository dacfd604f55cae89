//! What a process that lacks a right says, so that somebody knows what to do.

use std::time::Duration;

use tempfile::TempDir;

use super::{
    processes::Program,
    users::{password, process_of, server},
};

#[tokio::test]
async fn a_worker_that_comes_before_queen_says_once_who_makes_the_streams_and_goes_on() {
    let server = server();
    let store = TempDir::new().unwrap();
    let mut worker = process_of(&server, "worker", &store, &["--worker-id", "w"]);
    worker.wait_for_log(" ready ").await;
    worker.wait_for_log("stream JOBS is not there").await;
    // It looks every 2 s, and a refused request takes 5 s to be given up.
    tokio::time::sleep(Duration::from_secs(9)).await;
    let log = worker.log();
    let lines = |part: &str| log.lines().filter(|line| line.contains(part)).count();
    assert_eq!(lines("stream JOBS is not there"), 1, "{log}");
    assert!(log.contains("queen makes it when it starts"), "{log}");
    assert!(lines("the server reports an error") <= 1, "{log}");
    assert_eq!(lines("async_nats"), 0, "{log}");

    let mut queen = process_of(&server, "queen", &store, &[]);
    queen.url().await;
    worker.wait_for_log("durable jobs are taken").await;
}

#[tokio::test]
async fn a_user_without_its_inboxes_is_told_of_the_flag_that_names_them() {
    let server = server();
    let (url, secret) = (server.url(), password("worker"));
    let arguments = ["--nats-url", &url, "--nats-user", "worker"];
    let environment = [("NATS_PASSWORD", secret.as_str())];
    let mut worker = Program::worker(&arguments, &environment);
    worker.wait_for_log("give the name that its rights have to --nats-inbox-prefix").await;
    let mut queen = Program::queen(
        &[&arguments[..2], &["--nats-user", "queen", "--nats-inbox-prefix", "_INBOX.worker"]].concat(),
        &[("NATS_PASSWORD", password("queen").as_str())],
    );
    queen.wait_for_log("--nats-inbox-prefix (NATS_INBOX_PREFIX) is another than").await;
}
