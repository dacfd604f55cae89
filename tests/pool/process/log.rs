//! A log that is closed, full or not read: lines may be lost, nothing else.

use std::{
    fs::OpenOptions,
    io::{BufRead, BufReader, Read},
    process::{Child, Stdio},
    time::Duration,
};

use super::*;
use crate::support::process::free_port;

/// How standard error goes wrong.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Log {
    /// Closed by its reader when the program is up.
    Closed,
    /// A pipe that is full, and that nobody reads.
    NotRead,
    /// Every write fails.
    Full,
}

const ALL: [Log; 3] = [Log::Closed, Log::NotRead, Log::Full];

struct Started {
    child: Child,
    /// Keeps a pipe open that nobody reads.
    unread: Option<std::process::ChildStderr>,
}

impl Drop for Started {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Starts a program that says `up` when it is up.
fn start(log: Log, program: &str, arguments: &[&str], up: &str) -> Started {
    // A pipe of 64 KiB, the usual size, takes nothing more then.
    let shell = if log == Log::NotRead { "head -c 65536 /dev/zero >&2" } else { ":" };
    let mut command = command(shell, program, arguments, &[("RUST_LOG", "warn,sd_worker_rbee=debug")]);
    command.stdout(Stdio::null());
    match log {
        Log::Full => command.stderr(OpenOptions::new().write(true).open("/dev/full").expect("/dev/full")),
        Log::Closed | Log::NotRead => command.stderr(Stdio::piped()),
    };
    let mut child = command.spawn().expect("sh");
    let mut unread = child.stderr.take();
    if log == Log::Closed {
        let mut lines = BufReader::new(unread.take().expect("a pipe"));
        let mut line = String::new();
        while !line.contains(up) {
            line.clear();
            assert!(lines.read_line(&mut line).expect("a line") > 0, "it ended before it said `{up}`");
        }
    }
    Started { child, unread }
}

#[tokio::test]
async fn a_worker_whose_log_cannot_be_written_draws_and_drains() {
    for log in ALL {
        let pool = Pool::new().await;
        let arguments = [&["--model", MODEL, "--threads", "1"], &of(&pool)[..]].concat();
        let mut worker = start(log, &worker_program(), &arguments, " ready ");
        for number in 0..20 {
            let body = format!(r#"{{"prompt":"a","steps":5,"seed":{number}}}"#);
            // The first is sent until there is a worker.
            let drawn = tokio::time::timeout(PATIENCE, async {
                loop {
                    match pool.generate(&body).await.end().await {
                        crate::support::worker::End::NoResponders => {
                            tokio::time::sleep(Duration::from_millis(50)).await;
                        }
                        end => return end,
                    }
                }
            });
            drawn.await.unwrap_or_else(|_| panic!("{log:?}: no worker takes job {number}")).done();
        }
        kill(&worker.child, "-TERM");
        let status = exit_within(&mut worker.child, Duration::from_secs(10)).await;
        assert_eq!(status.and_then(|status| status.code()), Some(0), "{log:?}");
    }
}

#[tokio::test]
async fn a_queen_whose_log_cannot_be_written_serves_and_stops() {
    for log in ALL {
        let pool = Pool::new().await;
        let _worker = pool.worker("a", MODEL, &[]).await;
        let address = format!("127.0.0.1:{}", free_port());
        let arguments = [&["--listen", &address, "--core"], &of(&pool)[..]].concat();
        let mut queen = start(log, &queen_program(), &arguments, "listening on ");
        let url = format!("http://{address}");
        let until = Instant::now() + PATIENCE;
        while !reqwest::get(format!("{url}/ready")).await.is_ok_and(|answer| answer.status() == 200) {
            assert!(Instant::now() < until, "{log:?}: queen does not listen");
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        for number in 0..20 {
            let body =
                format!(r#"{{"operation":"image_generation","prompt":"a","steps":2,"seed":{number}}}"#);
            let sent = reqwest::Client::new().post(format!("{url}/v1/jobs")).body(body);
            let answer: serde_json::Value =
                sent.header("content-type", "application/json").send().await.unwrap().json().await.unwrap();
            let job = answer["job_id"].as_str().unwrap_or_else(|| panic!("{log:?}: {answer}"));
            let events =
                reqwest::get(format!("{url}/v1/jobs/{job}/stream")).await.unwrap().text().await.unwrap();
            assert!(events.contains(r#""type":"complete""#), "{log:?}: {events}");
        }
        kill(&queen.child, "-TERM");
        let status = exit_within(&mut queen.child, Duration::from_secs(10)).await;
        assert_eq!(status.and_then(|status| status.code()), Some(0), "{log:?}");
    }
}

#[tokio::test]
async fn a_log_that_is_read_late_is_whole() {
    let pool = Pool::new().await;
    let arguments = [&["--model", MODEL, "--threads", "1"], &of(&pool)[..]].concat();
    let mut worker = start(Log::NotRead, &worker_program(), &arguments, " ready ");
    let until = Instant::now() + PATIENCE;
    while pool.generate(r#"{"prompt":"a","steps":1}"#).await.end().await
        == crate::support::worker::End::NoResponders
    {
        assert!(Instant::now() < until, "no worker");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    let mut unread = worker.unread.take().expect("a pipe");
    let reader = std::thread::spawn(move || {
        let mut bytes = vec![];
        unread.read_to_end(&mut bytes).map(|_| String::from_utf8_lossy(&bytes).into_owned())
    });
    kill(&worker.child, "-TERM");
    let status = exit_within(&mut worker.child, Duration::from_secs(10)).await;
    assert_eq!(status.and_then(|status| status.code()), Some(0));
    let text = reader.join().expect("a reader").expect("a pipe");
    for line in [" ready ", "a job ended", "draining", "drained"] {
        assert!(text.contains(line), "`{line}` is missing");
    }
}

#[tokio::test]
async fn a_panic_is_a_line_of_the_log_and_hides_from_no_filter() {
    for (filter, format) in [("warn", "json"), ("off", "text")] {
        let pool = Pool::new().await;
        let flags =
            [&["--model", "sim://?step_ms=1&size=64&fail=panic", "--log-format", format], &of(&pool)[..]]
                .concat();
        let mut worker = Program::worker(&flags, &[("RUST_LOG", filter)]);
        let until = Instant::now() + PATIENCE;
        while pool.generate(r#"{"prompt":"a","steps":1}"#).await.end().await
            == crate::support::worker::End::NoResponders
        {
            assert!(Instant::now() < until, "no worker");
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        worker.wait_for_log("the simulation panicked").await;
        let log = worker.log();
        let line = log.lines().find(|line| line.contains("the simulation panicked")).unwrap_or_default();
        assert!(line.contains("sim.rs"), "{log}");
        if format == "json" {
            let line: serde_json::Value = serde_json::from_str(line).expect("JSON");
            assert_eq!(line["level"], "ERROR", "{line}");
        }
    }
}

#[test]
fn a_filter_that_cannot_be_read_is_said() {
    let mut program = Program::worker(&["--model", "sim://", "--device", "9"], &[("RUST_LOG", "a=b=c")]);
    assert_eq!(program.child.wait().expect("a child").code(), Some(1));
    assert!(program.log().contains("RUST_LOG: `a=b=c`"), "{}", program.log());
    let mut program = Program::worker(&["--model", "sim://", "--device", "9"], &[("RUST_LOG", "")]);
    assert_eq!(program.child.wait().expect("a child").code(), Some(1));
    assert!(!program.log().contains("RUST_LOG"), "{}", program.log());
}
