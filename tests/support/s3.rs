//! S3 servers over HTTP: rclone, which checks signatures, and moto, which checks that a bucket exists.

use std::{fs, path::PathBuf, sync::OnceLock, time::Duration};

use sd_worker_rbee::storage::{Store, StoreOptions};
use tempfile::TempDir;

use super::process::{Leashed, free_port, listens, program};

const KEY: &str = "test-key";
pub const SECRET: &str = "test-secret-that-is-never-printed";

/// A server in a folder of its own.
pub struct S3Server {
    _process: Leashed,
    folder: TempDir,
    pub port: u16,
}

static SHARED: OnceLock<S3Server> = OnceLock::new();

impl S3Server {
    /// rclone, one for a test binary: each test has a bucket of its own.
    pub fn shared() -> &'static Self {
        SHARED.get_or_init(Self::rclone)
    }

    /// rclone: a bucket is a folder, an object a file. It looks again at what it knew of a folder a millisecond ago.
    pub fn rclone() -> Self {
        Self::start(rclone)
    }

    /// rclone on this port; `None` when it is taken.
    pub fn rclone_at(port: u16) -> Option<Self> {
        Self::start_at(port, rclone)
    }

    /// moto: any credentials will do, a bucket must be made first.
    pub fn moto() -> Self {
        let program = program("moto_server", "MOTO_SERVER");
        Self::start(|port, _| {
            let arguments = ["-H", "127.0.0.1", "-p", &port.to_string()];
            (program.clone(), arguments.map(str::to_owned).to_vec())
        })
    }

    fn start(command: impl Fn(u16, &str) -> (String, Vec<String>)) -> Self {
        // Another process may take the port in between.
        (0..3).find_map(|_| Self::start_at(free_port(), &command)).expect("an S3 server")
    }

    fn start_at(port: u16, command: impl Fn(u16, &str) -> (String, Vec<String>)) -> Option<Self> {
        let folder = TempDir::new().expect("a temporary folder");
        let data = folder.path().join("data");
        fs::create_dir(&data).expect("a folder");
        let (program, arguments) = command(port, data.to_str().expect("a UTF-8 path"));
        let arguments: Vec<_> = arguments.iter().map(String::as_str).collect();
        let process = Leashed::start(&program, &arguments, &folder.path().join("log"));
        if listens(port, Duration::from_secs(60)) {
            return Some(Self { _process: process, folder, port });
        }
        eprintln!("{program} does not listen:\n{}", process.log());
        None
    }

    /// Where rclone keeps its buckets.
    pub fn data(&self) -> PathBuf {
        self.folder.path().join("data")
    }

    /// Makes a bucket of rclone.
    pub fn bucket(&self, name: &str) {
        fs::create_dir_all(self.data().join(name)).expect("a bucket");
    }

    pub fn endpoint(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }

    /// The variables that AWS tools read.
    pub fn environment(&self) -> Vec<(String, String)> {
        environment(&self.endpoint(), SECRET)
    }

    /// A store in this server.
    pub fn store(&self, url: &str) -> Store {
        Store::open_with(&StoreOptions::new(url), self.environment()).expect("a store")
    }
}

fn rclone(port: u16, data: &str) -> (String, Vec<String>) {
    let (address, keys) = (format!("127.0.0.1:{port}"), format!("{KEY},{SECRET}"));
    let arguments = ["serve", "s3", "--addr", &address, "--auth-key", &keys, "--dir-cache-time", "1ms"];
    let arguments = arguments.into_iter().chain(["--config", "", data]);
    (program("rclone", "RCLONE"), arguments.map(str::to_owned).collect())
}

/// The variables for a server at `endpoint`.
pub fn environment(endpoint: &str, secret: &str) -> Vec<(String, String)> {
    [
        ("AWS_ACCESS_KEY_ID", KEY),
        ("AWS_SECRET_ACCESS_KEY", secret),
        ("AWS_REGION", "us-east-1"),
        ("AWS_ENDPOINT_URL", endpoint),
    ]
    .map(|(name, value)| (name.to_owned(), value.to_owned()))
    .to_vec()
}
