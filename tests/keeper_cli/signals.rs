//! The signals that end programs cancel the job, whatever keeper is waiting for.

use std::{process::Stdio, time::Duration};

use tokio::{
    process::{Child, Command},
    time::timeout,
};

use crate::{
    rude::{Reply, Rude, answer, refusal},
    stand_in::{GENERATE, PATIENCE, StandIn, Stream, accepted, generate, in_shell, keeper, progress, until},
};

async fn send(signal: &str, child: &Child) {
    let pid = child.id().unwrap().to_string();
    assert!(Command::new("kill").args([signal, &pid]).status().await.unwrap().success());
}

async fn end(child: Child) -> (Option<i32>, String) {
    let output = timeout(PATIENCE, child.wait_with_output()).await.expect("keeper ends").unwrap();
    (output.status.code(), String::from_utf8_lossy(&output.stderr).into_owned())
}

async fn followed(queen: &StandIn) {
    until("keeper follows the job", || !queen.seen.lock().unwrap().after.is_empty()).await;
}

#[tokio::test]
async fn a_signal_that_ends_programs_cancels_the_job() {
    for (signal, code) in [("-INT", 130), ("-TERM", 143), ("-HUP", 129)] {
        for json in [&[][..], &["--json"]] {
            let queen = StandIn::start([Stream::Hang(vec![accepted()])]).await;
            let folder = tempfile::tempdir().unwrap();
            let child = queen.keeper(folder.path(), &generate(json)).spawn().unwrap();
            followed(&queen).await;
            send(signal, &child).await;
            let (ended, stderr) = end(child).await;
            assert_eq!(ended, Some(code), "{signal}: {stderr}");
            assert!(stderr.contains(&format!("stopped by SIG{}", &signal[1..])), "{stderr}");
            let seen = queen.seen.lock().unwrap();
            assert_eq!(seen.deleted, [seen.posted[0]["job_id"].as_str().unwrap()]);
        }
    }
}

#[tokio::test]
async fn a_signal_that_was_ignored_at_the_start_stays_so() {
    let queen = StandIn::start([Stream::Hang(vec![accepted()])]).await;
    let folder = tempfile::tempdir().unwrap();
    let script = "trap '' HUP INT; exec \"$0\" \"$@\"";
    let child = in_shell(script, &queen.url, folder.path(), &GENERATE).spawn().unwrap();
    followed(&queen).await;
    send("-HUP", &child).await;
    send("-INT", &child).await;
    tokio::time::sleep(Duration::from_millis(300)).await;
    assert!(queen.seen.lock().unwrap().deleted.is_empty(), "the job goes on");
    send("-TERM", &child).await;
    assert_eq!(end(child).await.0, Some(143));
}

#[tokio::test]
async fn a_reader_that_does_not_read_does_not_hold_off_a_signal() {
    let events = std::iter::repeat_with(|| progress(1)).take(20_000).collect();
    let queen = StandIn::start([Stream::Hang(events)]).await;
    let folder = tempfile::tempdir().unwrap();
    let child = queen.keeper(folder.path(), &generate(&["--json"])).stdout(Stdio::piped()).spawn().unwrap();
    followed(&queen).await;
    tokio::time::sleep(Duration::from_millis(500)).await;
    send("-TERM", &child).await;
    until("the job is cancelled", || !queen.seen.lock().unwrap().deleted.is_empty()).await;
    let mut child = child;
    let status = timeout(PATIENCE, child.wait()).await.expect("keeper ends").unwrap();
    assert_eq!(status.code(), Some(143));
}

#[tokio::test]
async fn a_job_that_is_on_its_way_is_cancelled_when_it_has_arrived() {
    let queen = Rude::start(|request, before| match request.line.split(' ').next() {
        Some("POST") => Reply::Silence,
        Some("DELETE") if before < 2 => {
            Reply::Bytes(refusal("404 Not Found", "", "invalid_request", "there is no such job here"))
        }
        _ => Reply::Bytes(answer("202 Accepted", "", "{}")),
    })
    .await;
    let folder = tempfile::tempdir().unwrap();
    let child = keeper(&queen.url, folder.path(), &GENERATE).spawn().unwrap();
    until("the job is sent", || !queen.seen("POST").is_empty()).await;
    send("-TERM", &child).await;
    let (code, stderr) = end(child).await;
    assert_eq!(code, Some(143), "{stderr}");
    assert_eq!(queen.seen("DELETE").len(), 3);
    assert!(stderr.contains("cancelled "), "{stderr}");
}

#[tokio::test]
async fn a_queen_that_does_not_answer_does_not_hold_off_the_end() {
    let queen = Rude::start(|request, _| match request.line.starts_with("POST") {
        true => Reply::AsQueen,
        false => Reply::Silence,
    })
    .await;
    let folder = tempfile::tempdir().unwrap();
    let child = keeper(&queen.url, folder.path(), &GENERATE).spawn().unwrap();
    until("the job is followed", || !queen.seen("GET").is_empty()).await;
    let start = std::time::Instant::now();
    send("-TERM", &child).await;
    let (code, stderr) = end(child).await;
    assert_eq!(code, Some(143), "{stderr}");
    assert!(stderr.contains("was not cancelled: queen does not answer"), "{stderr}");
    assert!(start.elapsed() < Duration::from_secs(15), "{:?}", start.elapsed());
}

#[tokio::test]
async fn a_second_signal_ends_it_at_once() {
    let queen = Rude::start(|request, _| match request.line.starts_with("POST") {
        true => Reply::AsQueen,
        false => Reply::Silence,
    })
    .await;
    let folder = tempfile::tempdir().unwrap();
    let child = keeper(&queen.url, folder.path(), &GENERATE).spawn().unwrap();
    until("the job is followed", || !queen.seen("GET").is_empty()).await;
    let start = std::time::Instant::now();
    send("-INT", &child).await;
    until("the cancel is sent", || !queen.seen("DELETE").is_empty()).await;
    send("-INT", &child).await;
    assert_eq!(end(child).await.0, Some(130));
    assert!(start.elapsed() < Duration::from_secs(4), "{:?}", start.elapsed());
}
