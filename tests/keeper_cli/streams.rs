//! Event streams of other forms, cut, repeated, held back, and of later versions.

use std::time::Duration;

use serde_json::{Value, json};

use crate::{
    rude::{Reply, Rude, answer, completed, events, html, job_of},
    stand_in::{finish, generate, keeper},
};

const SSE: &str = "content-type: text/event-stream";

async fn draw(queen: &Rude, more: &[&str]) -> (i32, String, String) {
    let folder = tempfile::tempdir().unwrap();
    finish(keeper(&queen.url, folder.path(), &generate(&[&["-o", "a.png"], more].concat()))).await
}

/// A queen whose first streams are these.
async fn streams(make: impl Fn(&str, usize) -> Option<Vec<u8>> + Send + Sync + 'static) -> Rude {
    Rude::start(move |request, before| match request.line.ends_with("/stream") {
        true => make(job_of(&request.line), before).map_or(Reply::AsQueen, Reply::Bytes),
        false => Reply::AsQueen,
    })
    .await
}

fn types(stdout: &str) -> Vec<String> {
    let line = |line: &str| serde_json::from_str::<Value>(line).unwrap()["type"].as_str().unwrap().to_owned();
    stdout.lines().map(line).collect()
}

#[tokio::test]
async fn who_answers_in_queens_place_for_a_while_costs_no_job() {
    for other in [
        html("200 OK", "We are back soon"),
        answer("200 OK", "content-type: application/json", "{}"),
        answer("200 OK", SSE, "data: hello\n\n"),
        answer("200 OK", SSE, "data: {\"ok\":true}\n\n"),
        answer("200 OK", SSE, ""),
        html("503 Service Unavailable", "503"),
        b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ncontent-length: 999\r\n\r\ndata: {\"jo"
            .to_vec(),
    ] {
        let said = String::from_utf8_lossy(&other).into_owned();
        let queen = streams(move |_, before| (before == 0).then(|| other.clone())).await;
        let (code, _, stderr) = draw(&queen, &[]).await;
        assert_eq!(code, 0, "{said}: {stderr}");
        assert!(stderr.contains("trying again"), "{said}: {stderr}");
    }
}

#[tokio::test]
async fn who_answers_in_queens_place_for_good_exits_3_and_says_how_to_go_on() {
    for (other, said) in [
        (html("200 OK", "Sign in"), "an HTML page, \u{201c}Sign in\u{201d}"),
        (answer("200 OK", SSE, "data: hello\n\n"), "messages that are no events"),
        (html("502 Bad Gateway", "502"), "status 502"),
    ] {
        let queen = streams(move |_, _| Some(other.clone())).await;
        let (code, _, stderr) = draw(&queen, &["--retry-for", "500ms", "--job-id", "my-job"]).await;
        assert_eq!(code, 3, "{stderr}");
        assert!(stderr.contains(said) && stderr.contains("--job-id my-job"), "{stderr}");
    }
}

#[tokio::test]
async fn the_events_of_another_job_are_not_taken_for_this_ones() {
    let queen = streams(|_, before| (before == 0).then(|| events("another", &[completed()]))).await;
    let (code, _, stderr) = draw(&queen, &[]).await;
    assert_eq!(code, 0, "{stderr}");
    assert!(stderr.contains("that of another job, another"), "{stderr}");
}

#[tokio::test]
async fn what_a_later_version_sends_is_passed_over() {
    let queen = streams(|job, _| {
        let all = [
            json!({"type": "accepted", "model": "tiny", "seed": 7, "position": 0, "priority": "high"}),
            json!({"type": "paused", "for": [1, 2]}),
            completed(),
        ];
        Some(events(job, &all))
    })
    .await;
    let (code, stdout, stderr) = draw(&queen, &["--json"]).await;
    assert_eq!(code, 0, "{stderr}");
    assert_eq!(types(&stdout), ["accepted", "complete"]);

    let queen = streams(|job, _| {
        let failed = json!({"type": "error", "code": "too_hot", "message": "89 degrees", "retryable": true});
        Some(events(job, &[failed]))
    })
    .await;
    let (code, stdout, stderr) = draw(&queen, &["--json"]).await;
    assert_eq!(code, 1);
    assert_eq!(types(&stdout), ["error"]);
    assert!(stderr.contains("the job failed (too_hot): 89 degrees; it may succeed later"), "{stderr}");
}

#[tokio::test]
async fn an_event_that_comes_twice_is_told_once() {
    let accepted = || json!({"type": "accepted", "model": "tiny", "seed": 7, "position": 0});
    let progress = || json!({"type": "progress", "step": 1, "total": 2, "percent": 50.0, "eta_ms": 1});
    let queen = streams(move |job, before| match before {
        0 => Some(events(job, &[accepted(), progress()])),
        _ => Some(events(job, &[accepted(), progress(), completed()])),
    })
    .await;
    let (code, stdout, stderr) = draw(&queen, &["--json"]).await;
    assert_eq!(code, 0, "{stderr}");
    assert_eq!(types(&stdout), ["accepted", "progress", "complete"]);
}

#[tokio::test]
async fn a_proxy_that_holds_events_back_costs_no_picture() {
    let queen = Rude::start(|request, _| {
        let line = &request.line;
        if line.ends_with("/stream") {
            return Reply::Silence;
        }
        if line.starts_with("GET") && line.contains("/v1/jobs/") && !line.contains("/images/") {
            let mut event = json!({"job_id": job_of(line), "worker_id": "w1", "attempt": 1, "seq": 1});
            event.as_object_mut().unwrap().extend(completed().as_object().unwrap().clone());
            let view = json!({"job_id": job_of(line), "status": "completed", "event": event});
            return Reply::Bytes(answer("200 OK", "content-type: application/json", view.to_string()));
        }
        Reply::AsQueen
    })
    .await;
    let start = std::time::Instant::now();
    let (code, stdout, stderr) = draw(&queen, &[]).await;
    assert_eq!((code, stdout.as_str()), (0, "a.png\n"), "{stderr}");
    assert!(stderr.contains("holds them back"), "{stderr}");
    assert!(start.elapsed() < Duration::from_secs(40), "{:?}", start.elapsed());
}

#[tokio::test]
async fn previews_are_written_to_their_file_while_the_picture_is_drawn() {
    let queen = streams(|job, _| {
        let preview = |image: &str| json!({"type": "preview", "step": 1, "total": 2, "percent": 50.0, "image": image, "format": "jpeg"});
        Some(events(job, &[preview("Zmlyc3Q="), preview("c2Vjb25k"), completed()]))
    })
    .await;
    let folder = tempfile::tempdir().unwrap();
    let args = generate(&["-o", "a.png", "--preview", "now.jpg"]);
    let (code, _, stderr) = finish(keeper(&queen.url, folder.path(), &args)).await;
    assert_eq!(code, 0, "{stderr}");
    assert_eq!(std::fs::read(folder.path().join("now.jpg")).unwrap(), b"second");
    let posted: Value = serde_json::from_str(&queen.seen("POST")[0].body).unwrap();
    assert_eq!(posted["preview_every"], 5);
}
