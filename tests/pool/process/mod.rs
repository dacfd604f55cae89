//! The programs as processes: what they do with their log, their variables, signals, limits, and what they say at start.

mod environment;
mod limits;
mod log;
mod signals;
mod start;
#[cfg(target_os = "linux")]
mod systemd;

use std::{
    fs::{self, File},
    path::PathBuf,
    process::{Child, Command, ExitStatus, Stdio},
    time::{Duration, Instant},
};

use tempfile::TempDir;

use crate::support::worker::{PATIENCE, Pool};

/// A model that only takes time.
const MODEL: &str = "sim://?step_ms=1&size=64";

fn worker_program() -> String {
    std::env::var("SD_WORKER").unwrap_or_else(|_| env!("CARGO_BIN_EXE_sd-worker-cpu").into())
}

fn queen_program() -> String {
    std::env::var("SD_QUEEN").unwrap_or_else(|_| env!("CARGO_BIN_EXE_queen-rbee").into())
}

/// A program with the variables that a test gives it alone, and none of whoever runs the tests.
struct Program {
    child: Child,
    log: PathBuf,
    _folder: TempDir,
}

impl Program {
    /// `shell`: what a shell does before it becomes the program, such as `ulimit -n 64`.
    fn start(shell: &str, program: &str, arguments: &[&str], environment: &[(&str, &str)]) -> Self {
        let folder = TempDir::new().expect("a folder");
        let log = folder.path().join("log");
        let file = File::create(&log).expect("a log file");
        let mut command = command(shell, program, arguments, environment);
        let child = command.stdout(file.try_clone().expect("a second handle")).stderr(file).spawn();
        Self { child: child.expect("sh"), log, _folder: folder }
    }

    fn worker(arguments: &[&str], environment: &[(&str, &str)]) -> Self {
        Self::start(":", &worker_program(), &[&["--threads", "1"], arguments].concat(), environment)
    }

    fn queen(arguments: &[&str], environment: &[(&str, &str)]) -> Self {
        Self::start(":", &queen_program(), &[&["--listen", "127.0.0.1:0"], arguments].concat(), environment)
    }

    fn log(&self) -> String {
        fs::read_to_string(&self.log).unwrap_or_default()
    }

    async fn wait_for_log(&mut self, text: &str) {
        let until = Instant::now() + PATIENCE;
        while !self.log().contains(text) {
            let ended = self.child.try_wait().expect("a child");
            assert!(ended.is_none() || self.log().contains(text), "it has ended:\n{}", self.log());
            assert!(Instant::now() < until, "no `{text}` in the log:\n{}", self.log());
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    fn signal(&self, signal: &str) {
        kill(&self.child, signal);
    }

    /// How it ends, within this time.
    async fn exit_within(&mut self, limit: Duration) -> ExitStatus {
        match exit_within(&mut self.child, limit).await {
            Some(status) => status,
            None => panic!("still running after {limit:?}:\n{}", self.log()),
        }
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        if std::thread::panicking() {
            eprintln!("--- log:\n{}", self.log());
        }
    }
}

fn command(shell: &str, program: &str, arguments: &[&str], environment: &[(&str, &str)]) -> Command {
    let mut command = Command::new("sh");
    command.args(["-c", &format!("{shell}; exec \"$@\""), "sh", program]).args(arguments);
    command.env_clear().env("PATH", std::env::var_os("PATH").unwrap_or_default());
    // What a stream may have is reserved on the server.
    command.envs([
        ("SD_JOBS_MAX_BYTES", "16MiB"),
        ("SD_EVENTS_MAX_BYTES", "16MiB"),
        ("SD_DLQ_MAX_BYTES", "4MiB"),
    ]);
    command.envs(environment.iter().copied()).stdin(Stdio::null());
    command
}

fn kill(child: &Child, signal: &str) {
    let sent = Command::new("kill").args([signal, &child.id().to_string()]).status();
    assert!(sent.expect("kill").success());
}

async fn exit_within(child: &mut Child, limit: Duration) -> Option<ExitStatus> {
    let until = Instant::now() + limit;
    loop {
        match child.try_wait().expect("a child") {
            Some(status) => return Some(status),
            None if Instant::now() > until => return None,
            None => tokio::time::sleep(Duration::from_millis(10)).await,
        }
    }
}

/// The flags with which a program joins a pool.
fn of(pool: &Pool) -> [&str; 6] {
    let store = pool.store.path().to_str().expect("a UTF-8 path");
    ["--nats-url", &pool.url, "--subject-prefix", &pool.prefix, "--store-url", store]
}
