//! One nats-server for a test binary; each test has its own subject prefix.

use std::{
    sync::{
        OnceLock,
        atomic::{AtomicU32, Ordering},
    },
    time::Duration,
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
        let start = |port| Self::start_with(port, TempDir::new().expect("a temporary folder"), false);
        (0..3).find_map(|_| start(free_port())).expect("a nats-server")
    }

    /// A server on this port; `None` when it is taken.
    pub fn start_at(port: u16) -> Option<Self> {
        Self::start_with(port, TempDir::new().expect("a temporary folder"), true)
    }

    fn start_with(port: u16, folder: TempDir, jetstream: bool) -> Option<Self> {
        let mut server = Self { process: None, folder, port };
        server.launch(jetstream).then_some(server)
    }

    fn launch(&mut self, jetstream: bool) -> bool {
        let program = program("nats-server", "NATS_SERVER");
        let (port_text, data) = (self.port.to_string(), self.folder.path().join("js"));
        let pid = self.folder.path().join("pid");
        let pid = pid.to_str().expect("a UTF-8 path");
        let mut arguments = vec!["-a", "127.0.0.1", "-p", &port_text, "-P", pid];
        if jetstream {
            arguments.extend(["-js", "-sd", data.to_str().expect("a UTF-8 path")]);
        }
        let process = Leashed::start(&program, &arguments, &self.folder.path().join("log"));
        if listens(self.port, Duration::from_secs(20)) {
            self.process = Some(process);
            return true;
        }
        eprintln!("nats-server does not listen:\n{}", process.log());
        false
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
