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
    _process: Leashed,
    _folder: TempDir,
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
        (0..3).find_map(|_| Self::start_with(free_port(), false)).expect("a nats-server")
    }

    /// A server on this port; `None` when it is taken.
    pub fn start_at(port: u16) -> Option<Self> {
        Self::start_with(port, true)
    }

    fn start_with(port: u16, jetstream: bool) -> Option<Self> {
        let program = program("nats-server", "NATS_SERVER");
        let folder = TempDir::new().expect("a temporary folder");
        let (port_text, data) = (port.to_string(), folder.path().join("js"));
        let mut arguments = vec!["-a", "127.0.0.1", "-p", &port_text];
        if jetstream {
            arguments.extend(["-js", "-sd", data.to_str().expect("a UTF-8 path")]);
        }
        let process = Leashed::start(&program, &arguments, &folder.path().join("log"));
        if listens(port, Duration::from_secs(20)) {
            return Some(Self { _process: process, _folder: folder, port });
        }
        eprintln!("nats-server does not listen:\n{}", process.log());
        None
    }

    pub fn url(&self) -> String {
        format!("nats://127.0.0.1:{}", self.port)
    }
}

/// A subject prefix that no other test of this binary has.
pub fn prefix() -> String {
    format!("t{}", PREFIXES.fetch_add(1, Ordering::Relaxed))
}
