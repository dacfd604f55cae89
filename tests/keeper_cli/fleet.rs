//! An operator at the command line: workers and models of a real pool.

use std::{process::Stdio, time::Duration};

use serde_json::Value;
use tokio::{
    io::{AsyncBufReadExt, BufReader},
    time::timeout,
};

use crate::{
    pool::{knows, queen_of},
    stand_in::{PATIENCE, finish, generate, keeper},
    support::worker::Pool,
};

/// What a keeper says that does what it is told.
async fn say(queen: &str, args: &[&str]) -> String {
    let folder = tempfile::tempdir().unwrap();
    let (code, stdout, stderr) = finish(keeper(queen, folder.path(), args)).await;
    assert_eq!(code, 0, "{args:?}: {stdout}{stderr}");
    stdout
}

/// The code of a keeper that does not, and its errors.
async fn fails(queen: &str, args: &[&str]) -> (i32, String) {
    let folder = tempfile::tempdir().unwrap();
    let (code, stdout, stderr) = finish(keeper(queen, folder.path(), args)).await;
    assert_ne!(code, 0, "{args:?}: {stdout}");
    (code, stderr)
}

#[tokio::test]
async fn workers_are_listed_drained_and_resumed() {
    let pool = Pool::new().await;
    let queen = queen_of(&pool, &["--models", "m"]);
    assert!(say(&queen.url, &["worker", "list"]).await.is_empty());
    let _a = pool.worker("a", "m=sim://?step_ms=1&size=64", &[]).await;
    let _b = pool.worker("b", "m=sim://?step_ms=1&size=64", &[]).await;
    knows(&queen, 2).await;

    let table = say(&queen.url, &["worker", "list"]).await;
    let lines: Vec<&str> = table.lines().collect();
    assert!(lines[0].starts_with("WORKER  STATUS  FREE  DEVICE"), "{table}");
    assert!(lines[1].starts_with("a       ready   1/1   cpu"), "{table}");
    assert_eq!(lines.len(), 3);

    assert_eq!(
        say(&queen.url, &["worker", "drain", "a", "b"]).await,
        "a draining, 0 of 1 slots free, in memory: m\nb draining, 0 of 1 slots free, in memory: m\n"
    );
    let listed = say(&queen.url, &["--json", "worker", "list"]).await;
    let statuses: Vec<Value> =
        listed.lines().map(|line| serde_json::from_str::<Value>(line).unwrap()["status"].clone()).collect();
    assert_eq!(statuses, ["draining", "draining"]);
    // Nobody draws now, and it is said.
    let folder = tempfile::tempdir().unwrap();
    let args = generate(&["--model", "m", "--timeout", "4s"]);
    let (code, _, stderr) = finish(keeper(&queen.url, folder.path(), &args)).await;
    assert_eq!(code, 1);
    assert!(stderr.contains("the job waits: every worker that is up is drained"), "{stderr}");
    assert!(stderr.contains("--no-wait"), "what to do next: {stderr}");
    let resumed = say(&queen.url, &["--json", "worker", "resume", "b"]).await;
    assert_eq!(serde_json::from_str::<Value>(&resumed).unwrap()["status"], "ready");
    let (code, _, stderr) = finish(keeper(&queen.url, folder.path(), &generate(&["-o", "a.png"]))).await;
    assert_eq!(code, 0, "{stderr}");
    assert!(stderr.contains("b draws it"), "{stderr}");

    // Who is not there holds up nobody else.
    let (code, stderr) = fails(&queen.url, &["worker", "resume", "z", "a"]).await;
    assert_eq!(code, 1);
    assert!(stderr.contains("no worker `z` is up; there are: a, b"), "{stderr}");
    assert!(stderr.contains("`worker list`"), "what to do next: {stderr}");
    assert!(say(&queen.url, &["worker", "list"]).await.contains("a       ready"));
}

#[tokio::test]
async fn models_are_listed_loaded_and_unloaded() {
    let pool = Pool::new().await;
    let queen = queen_of(&pool, &[]);
    let more = ["--model", "n=sim://?step_ms=1&size=128&memory=6MiB", "--model-memory", "8MiB"];
    let _a = pool.worker("a", "m=sim://?step_ms=1&size=64&memory=6MiB", &more).await;
    let _b = pool.worker("b", "n=sim://?step_ms=1&size=128", &[]).await;
    knows(&queen, 2).await;
    assert_eq!(
        say(&queen.url, &["model", "list"]).await,
        "MODEL  SIZE     WORKERS  IN MEMORY\nm      64x64    a        a\nn      128x128  a, b     b\n"
    );
    assert_eq!(
        say(&queen.url, &["model", "load", "n"]).await,
        "a ready, 1 of 1 slots free, in memory: n\nb ready, 1 of 1 slots free, in memory: n\n"
    );
    assert_eq!(
        say(&queen.url, &["model", "unload", "n", "--worker", "a"]).await,
        "a ready, 1 of 1 slots free, nothing in memory\n"
    );
    let (code, stderr) = fails(&queen.url, &["model", "load", "x"]).await;
    assert_eq!(code, 4);
    assert!(stderr.contains("no worker that is up has the model `x`; there are: m, n"), "{stderr}");
    let (code, stderr) = fails(&queen.url, &["model", "load", "m", "--worker", "b"]).await;
    assert_eq!(code, 1);
    assert!(stderr.contains("this worker has no `m` (unsupported_model)"), "{stderr}");
}

#[tokio::test]
async fn the_fleet_is_watched() {
    let pool = Pool::new().await;
    let queen = queen_of(&pool, &[]);
    let folder = tempfile::tempdir().unwrap();
    let mut child = keeper(&queen.url, folder.path(), &["worker", "watch"]);
    let mut child = child.stdout(Stdio::piped()).spawn().unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    let mut next =
        async || timeout(PATIENCE, lines.next_line()).await.expect("a line in time").unwrap().unwrap();
    assert_eq!(next().await, "no worker is up");
    let mut a = pool.worker("a", "m=sim://?step_ms=1&size=64", &[]).await;
    assert_eq!(next().await, "a ready, 1 of 1 slots free, in memory: m");
    say(&queen.url, &["worker", "drain", "a"]).await;
    assert_eq!(next().await, "a draining, 0 of 1 slots free, in memory: m");
    a.terminate();
    assert!(a.exit().await.success());
    let mut last = next().await;
    while last.contains("shutting down") {
        last = next().await;
    }
    assert_eq!(last, "a is gone");
    // Ctrl-C ends it as it ends any program.
    let pid = child.id().unwrap().to_string();
    assert!(tokio::process::Command::new("kill").args(["-INT", &pid]).status().await.unwrap().success());
    let status = timeout(Duration::from_secs(5), child.wait()).await.expect("it ends").unwrap();
    assert!(!status.success());
}
