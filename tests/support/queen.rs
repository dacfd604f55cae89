//! A `queen-rbee` process and a client for it.

use std::{
    fs::{self, File},
    path::PathBuf,
    process::{Child, Command, ExitStatus, Stdio},
    time::{Duration, Instant},
};

use serde_json::Value;
use tempfile::TempDir;

/// A queen on a free port.
pub struct QueenProcess {
    child: Child,
    log: PathBuf,
    _folder: TempDir,
    pub url: String,
}

/// One `data:` line of a stream, with its id.
#[derive(Debug, Clone)]
pub struct Line {
    pub id: Option<u64>,
    pub data: String,
}

impl Line {
    pub fn json(&self) -> Value {
        serde_json::from_str(&self.data).unwrap_or_else(|e| panic!("{e}: {}", self.data))
    }
}

impl QueenProcess {
    /// Starts a queen and waits until it listens.
    pub fn start(nats_url: &str, prefix: &str, store_url: &str, arguments: &[&str]) -> Self {
        Self::start_with(nats_url, prefix, store_url, arguments, vec![])
    }

    /// As [`start`](Self::start), with these variables.
    pub fn start_with(
        nats_url: &str,
        prefix: &str,
        store_url: &str,
        arguments: &[&str],
        environment: Vec<(String, String)>,
    ) -> Self {
        let folder = TempDir::new().expect("a temporary folder");
        let log = folder.path().join("queen.log");
        let file = File::create(&log).expect("a log file");
        // SD_QUEEN: another one than cargo has just built, an installed one for example.
        let program = std::env::var("SD_QUEEN").unwrap_or_else(|_| env!("CARGO_BIN_EXE_queen-rbee").into());
        let mut command = Command::new(program);
        // What the shell of whoever runs the tests has set must not decide.
        let set =
            |name: &str| ["SD_", "NATS_", "QUEEN_", "STORE_"].iter().any(|start| name.starts_with(start));
        for (name, _) in std::env::vars().filter(|(name, _)| set(name)) {
            command.env_remove(name);
        }
        let child = command
            .envs(environment)
            .args(["--nats-url", nats_url, "--subject-prefix", prefix, "--store-url", store_url])
            .args(if arguments.contains(&"--listen") { &[][..] } else { &["--listen", "127.0.0.1:0"] })
            .args(arguments)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(file)
            .spawn()
            .expect("queen-rbee");
        let mut queen = Self { child, log, _folder: folder, url: String::new() };
        let until = Instant::now() + Duration::from_secs(30);
        while Instant::now() < until {
            let log = queen.log();
            if let Some((_, rest)) = log.split_once("listening on ") {
                // In JSON the message ends at a quotation mark.
                let ends = |c: char| c.is_whitespace() || c == '"';
                queen.url = rest.split(ends).next().expect("an address").to_owned();
                return queen;
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        panic!("queen does not listen:\n{}", queen.log());
    }

    pub fn log(&self) -> String {
        fs::read_to_string(&self.log).unwrap_or_default()
    }

    /// Waits for a line of the log that has this in it.
    pub async fn wait_for_log(&self, part: &str) {
        let until = Instant::now() + Duration::from_secs(30);
        while !self.log().contains(part) {
            assert!(Instant::now() < until, "queen does not log `{part}`:\n{}", self.log());
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    /// Sends a signal, as `-HUP`.
    pub fn signal(&self, signal: &str) {
        let pid = self.child.id().to_string();
        assert!(Command::new("kill").args([signal, &pid]).status().expect("kill").success());
    }

    /// Sends SIGKILL and waits for the end.
    pub fn kill(&mut self) {
        self.child.kill().expect("kill");
        self.child.wait().expect("a child");
    }

    /// Sends SIGTERM and waits for the end.
    pub fn terminate(&mut self, limit: Duration) -> ExitStatus {
        self.signal("-TERM");
        let until = Instant::now() + limit;
        while Instant::now() < until {
            if let Some(status) = self.child.try_wait().expect("a child") {
                return status;
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        panic!("queen did not end within {limit:?}:\n{}", self.log());
    }

    /// POST /v1/jobs: status and body.
    pub async fn post(&self, body: &Value) -> (u16, Value) {
        self.post_text(body.to_string()).await
    }

    pub async fn post_text(&self, body: String) -> (u16, Value) {
        let request = reqwest::Client::new().post(format!("{}/v1/jobs", self.url));
        let answer = request.header("content-type", "application/json").body(body).send().await;
        let answer = answer.expect("an answer");
        (answer.status().as_u16(), answer.json().await.expect("JSON"))
    }

    /// POST without a body: status and body.
    pub async fn post_to(&self, path: &str) -> (u16, Value) {
        let answer = reqwest::Client::new().post(format!("{}{path}", self.url)).send().await;
        let answer = answer.expect("an answer");
        (answer.status().as_u16(), answer.json().await.expect("JSON"))
    }

    /// Posts what must be taken; its id.
    pub async fn submit(&self, body: &Value) -> String {
        let (status, answer) = self.post(body).await;
        assert_eq!(status, 200, "{answer}\n{}", self.log());
        let id = answer["job_id"].as_str().expect("job_id").to_owned();
        assert_eq!(answer["sse_url"], format!("/v1/jobs/{id}/stream"));
        id
    }

    pub async fn get(&self, path: &str) -> (u16, Value) {
        let answer = reqwest::get(format!("{}{path}", self.url)).await.expect("an answer");
        (answer.status().as_u16(), answer.json().await.expect("JSON"))
    }

    /// The status of an answer whose body is left unread.
    pub async fn get_status(&self, path: &str) -> u16 {
        reqwest::get(format!("{}{path}", self.url)).await.expect("an answer").status().as_u16()
    }

    pub async fn delete(&self, path: &str) -> (u16, Value) {
        let request = reqwest::Client::new().delete(format!("{}{path}", self.url));
        let answer = request.send().await.expect("an answer");
        (answer.status().as_u16(), answer.json().await.expect("JSON"))
    }

    /// The whole stream of a job, to its end.
    pub async fn stream(&self, job: &str) -> Vec<Line> {
        self.stream_after(job, None).await
    }

    pub async fn stream_after(&self, job: &str, after: Option<u64>) -> Vec<Line> {
        let mut request = reqwest::Client::new().get(format!("{}/v1/jobs/{job}/stream", self.url));
        if let Some(after) = after {
            request = request.header("last-event-id", after);
        }
        let read = async {
            let answer = request.send().await.expect("an answer");
            assert_eq!(answer.status(), 200);
            assert_eq!(answer.headers()["content-type"], "text/event-stream");
            answer.text().await.expect("a stream that ends")
        };
        let text =
            tokio::time::timeout(Duration::from_secs(60), read).await.expect("a stream that ends in time");
        lines(&text)
    }
}

impl Drop for QueenProcess {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        if std::thread::panicking() {
            eprintln!("--- queen's log ---\n{}", self.log());
        }
    }
}

/// The lines of what came of a stream, but for those that say where a job stands in line.
pub fn lines(text: &str) -> Vec<Line> {
    text.split("\n\n")
        .filter_map(|block| {
            let field = |name: &str| block.lines().find_map(|line| line.strip_prefix(name));
            let data = field("data: ")?.to_owned();
            if data.starts_with(r#"{"type":"queued""#) {
                return None;
            }
            Some(Line { id: field("id: ").map(|id| id.parse().expect("a number")), data })
        })
        .collect()
}

/// The `type` of each event of a stream, and the last line as it is.
pub fn types(lines: &[Line]) -> Vec<String> {
    lines
        .iter()
        .map(|line| match line {
            // A preview has no id.
            _ if line.data.starts_with('{') => line.json()["type"].as_str().expect("a type").to_owned(),
            _ => line.data.clone(),
        })
        .collect()
}
