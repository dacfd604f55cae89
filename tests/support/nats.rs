//! One nats-server for a test binary; each test has its own subject prefix. And servers of their own, and clusters, for
//! tests that stop them.
//!
//! NATS_SERVER names another program than the nats-server on PATH: the tests are run with several versions.
//! NATS_SYNC_INTERVAL, which a server of 2.10 or newer knows, says how often it brings what it has to the disk.

use std::{
    path::{Path, PathBuf},
    sync::{
        OnceLock,
        atomic::{AtomicU32, Ordering},
    },
    time::{Duration, Instant},
};

use tempfile::TempDir;

use super::process::{Leashed, free_port, listens, program};

static SERVER: OnceLock<NatsServer> = OnceLock::new();
static PREFIXES: AtomicU32 = AtomicU32::new(0);

/// A nats-server with JetStream.
pub struct NatsServer {
    /// `None` while it is stopped.
    process: Option<Leashed>,
    folder: TempDir,
    pub port: u16,
    /// What its command line has besides.
    more: Vec<String>,
    /// Where it tells of its health.
    monitor: u16,
}

/// How long a server that shuts down lets its clients stay, in all, and before the first is sent away.
const LAME_DUCK: &str = "lame_duck_duration: \"30s\"\nlame_duck_grace_period: \"1s\"\n";

/// Streams ask for room before they use any, those of hundreds of tests for more than a small disk has: the server is told
/// that it has plenty. In bytes.
const MAX_FILE_STORE: u64 = 100 << 40;

/// The line of the servers that the tests run with, as in (2, 9).
pub fn line() -> (u32, u32) {
    let output = std::process::Command::new(program("nats-server", "NATS_SERVER")).arg("--version").output();
    let text = String::from_utf8(output.expect("nats-server").stdout).expect("UTF-8");
    let version = text.trim().rsplit('v').next().expect("a version");
    let mut numbers = version.split('.').map(|number| number.parse().expect("a number"));
    (numbers.next().expect("a major number"), numbers.next().expect("a minor number"))
}

impl NatsServer {
    /// The server of this test binary.
    pub fn shared() -> &'static Self {
        SERVER.get_or_init(Self::start)
    }

    /// A server of its own, for a test that stops it.
    pub fn start() -> Self {
        (0..3).find_map(|_| Self::start_at(free_port())).expect("a nats-server")
    }

    /// A server of its own, without JetStream.
    pub fn start_plain() -> Self {
        let start = |port| Self::start_with(port, false, vec![]);
        (0..3).find_map(|_| start(free_port())).expect("a nats-server")
    }

    /// A server on this port; `None` when it is taken.
    pub fn start_at(port: u16) -> Option<Self> {
        Self::start_with(port, true, vec![])
    }

    fn start_with(port: u16, jetstream: bool, more: Vec<String>) -> Option<Self> {
        let folder = TempDir::new().expect("a temporary folder");
        let mut server = Self { process: None, folder, port, more, monitor: free_port() };
        server.launch(jetstream).then_some(server)
    }

    /// A cluster of three, each with JetStream. A request may be refused until they have chosen a leader.
    pub fn cluster() -> [Self; 3] {
        (0..3).find_map(|_| Self::try_cluster()).expect("a cluster")
    }

    fn try_cluster() -> Option<[Self; 3]> {
        let routes = [free_port(), free_port(), free_port()];
        let every: Vec<_> = routes.iter().map(|port| format!("nats://127.0.0.1:{port}")).collect();
        let start = |index: usize| {
            let arguments =
                ["-n", &format!("n{index}"), "--cluster_name", "pool", "--cluster", &every[index]];
            let mut arguments: Vec<String> = arguments.map(str::to_owned).into();
            arguments.extend(["--routes".into(), every.join(",")]);
            Self::start_with(free_port(), true, arguments)
        };
        Some([start(0)?, start(1)?, start(2)?])
    }

    fn launch(&mut self, jetstream: bool) -> bool {
        let program = program("nats-server", "NATS_SERVER");
        let port_text = self.port.to_string();
        let pid = self.folder.path().join("pid");
        let pid = pid.to_str().expect("a UTF-8 path");
        let monitor = self.monitor.to_string();
        let configuration = self.folder.path().join("nats.conf");
        std::fs::write(&configuration, self.configuration(jetstream)).expect("a file");
        let configuration = configuration.to_str().expect("a UTF-8 path");
        let mut arguments = vec!["-c", configuration, "-a", "127.0.0.1", "-p", &port_text];
        arguments.extend(["-m", &monitor, "-P", pid]);
        arguments.extend(self.more.iter().map(String::as_str));
        let process = Leashed::start(&program, &arguments, &self.folder.path().join("log"));
        if listens(self.port, Duration::from_secs(20)) {
            self.process = Some(process);
            return true;
        }
        eprintln!("nats-server does not listen:\n{}", process.log());
        false
    }

    fn configuration(&self, jetstream: bool) -> String {
        if !jetstream {
            return LAME_DUCK.into();
        }
        let sync = std::env::var("NATS_SYNC_INTERVAL").map(|time| format!(", sync_interval: {time}"));
        format!(
            "{LAME_DUCK}jetstream {{ store_dir: {:?}, max_file_store: {MAX_FILE_STORE}{} }}\n",
            self.data(),
            sync.unwrap_or_default()
        )
    }

    /// Where it is asked how it is and what it has.
    pub fn monitoring(&self) -> String {
        format!("http://127.0.0.1:{}", self.monitor)
    }

    /// Where it writes what it keeps.
    pub fn data(&self) -> PathBuf {
        self.folder.path().join("js")
    }

    /// Starts it again with this folder in place of what it has written.
    pub fn restart_with(&mut self, data: &Path) {
        self.stop();
        std::fs::remove_dir_all(self.data()).expect("its folder");
        std::fs::rename(data, self.data()).expect("a folder on the same file system");
        assert!(self.launch(true), "the port is free again");
    }

    /// Has it send its clients elsewhere, a while before it ends.
    pub fn lame_duck(&self) {
        self.signal("-USR2");
    }

    /// Waits until it has what the other servers of its cluster have.
    pub async fn is_in_step(&self) {
        let url = format!("{}/healthz", self.monitoring());
        let until = Instant::now() + Duration::from_secs(30);
        loop {
            let answer = reqwest::get(&url).await;
            if answer.as_ref().is_ok_and(|answer| answer.status() == 200) {
                return;
            }
            assert!(Instant::now() < until, "{answer:?}");
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    }

    /// Whether it runs. One that has ended is waited for when the test ends, and has no command line until then.
    pub fn is_running(&self) -> bool {
        std::fs::read(format!("/proc/{}/cmdline", self.pid())).is_ok_and(|line| !line.is_empty())
    }

    /// Kills it. What it has written stays.
    pub fn stop(&mut self) {
        self.process = None;
    }

    /// Starts it again with what it had written, on the same port.
    pub fn restart(&mut self) {
        self.stop();
        assert!(self.launch(true), "the port is free again");
    }

    /// As [`restart`](Self::restart), without JetStream.
    pub fn restart_plain(&mut self) {
        self.stop();
        assert!(self.launch(false), "the port is free again");
    }

    /// Halts it: connections stay, and nothing is answered.
    pub fn pause(&self) {
        self.signal("-STOP");
        // The signal is on its way to each of its threads.
        while !self.is_halted() {
            std::thread::sleep(Duration::from_millis(1));
        }
    }

    fn is_halted(&self) -> bool {
        let threads = std::fs::read_dir(format!("/proc/{}/task", self.pid())).expect("Linux");
        threads.flatten().all(|thread| {
            let status = std::fs::read_to_string(thread.path().join("stat")).unwrap_or_default();
            // The state follows the program's name, which is in parentheses.
            status.rsplit_once(") ").is_none_or(|(_, rest)| rest.starts_with('T'))
        })
    }

    fn pid(&self) -> String {
        let pid = std::fs::read_to_string(self.folder.path().join("pid")).expect("a file with its pid");
        pid.trim().to_owned()
    }

    /// Lets it go on, with all that came meanwhile.
    pub fn resume(&self) {
        self.signal("-CONT");
    }

    fn signal(&self, signal: &str) {
        let sent = std::process::Command::new("kill").args([signal, &self.pid()]).status();
        assert!(sent.expect("kill").success());
    }

    pub fn url(&self) -> String {
        format!("nats://127.0.0.1:{}", self.port)
    }
}

/// A subject prefix that no other test of this binary has.
pub fn prefix() -> String {
    format!("t{}", PREFIXES.fetch_add(1, Ordering::Relaxed))
}
