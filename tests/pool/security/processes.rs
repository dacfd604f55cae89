//! A nats-server with a configuration of its own, and programs with the variables that a test gives them alone.

use std::{
    fs::{self, File},
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus, Stdio},
    time::{Duration, Instant},
};

use tempfile::TempDir;

use crate::support::{
    process::{Leashed, free_port, listens, program},
    worker::PATIENCE,
};

/// A model that only takes time.
pub const MODEL: &str = "sim://?step_ms=1&size=64";

/// A nats-server with JetStream and this configuration.
pub struct Server {
    /// `None` while it is started again.
    process: Option<Leashed>,
    folder: TempDir,
    pub port: u16,
    variables: Vec<String>,
}

/// A configuration with JetStream, for a server in this folder.
fn write(folder: &TempDir, configuration: &str) {
    let store = folder.path().join("js");
    let text = format!("{configuration}\njetstream {{ store_dir: {store:?} }}\n");
    fs::write(folder.path().join("nats.conf"), text).expect("a file");
}

impl Server {
    /// A server whose configuration is this text. JetStream is on.
    pub fn with(configuration: &str) -> Self {
        let folder = TempDir::new().expect("a folder");
        write(&folder, configuration);
        Self::start(folder, &[])
    }

    /// A server as `deploy/nats.conf` makes it, with more of a configuration behind it, and with these variables.
    pub fn deployed_with(more: &str, environment: &[(&str, &str)]) -> Self {
        let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("deploy/nats.conf");
        let deployed = fs::read_to_string(file).expect("deploy/nats.conf");
        let folder = TempDir::new().expect("a folder");
        fs::write(folder.path().join("nats.conf"), format!("{deployed}\n{more}\n")).expect("a file");
        Self::start(folder, environment)
    }

    fn start(folder: TempDir, environment: &[(&str, &str)]) -> Self {
        let variables = environment.iter().map(|(name, value)| format!("{name}={value}")).collect();
        let mut server = Self { process: None, folder, port: 0, variables };
        // Another process may take a port in between.
        for _ in 0..3 {
            server.port = free_port();
            if server.launch() {
                return server;
            }
        }
        panic!("no nats-server could be started");
    }

    fn launch(&mut self) -> bool {
        let path = |name: &str| self.folder.path().join(name).to_str().expect("a UTF-8 path").to_owned();
        let [store, configuration, pid] = ["js", "nats.conf", "pid"].map(path);
        let (port, monitor) = (self.port.to_string(), free_port().to_string());
        let (store, program) = (format!("NATS_STORE={store}"), program("nats-server", "NATS_SERVER"));
        let mut arguments = vec![store.as_str()];
        arguments.extend(self.variables.iter().map(String::as_str));
        arguments.extend([program.as_str(), "-c", &configuration, "-a", "127.0.0.1"]);
        arguments.extend(["-p", &port, "-m", &monitor, "-P", &pid]);
        let process = Leashed::start("env", &arguments, &self.folder.path().join("log"));
        if listens(self.port, Duration::from_secs(20)) {
            self.process = Some(process);
            return true;
        }
        eprintln!("nats-server does not listen:\n{}", process.log());
        false
    }

    pub fn url(&self) -> String {
        format!("nats://127.0.0.1:{}", self.port)
    }

    /// Has it read another configuration of [`with`](Self::with): whoever may not stay is sent away.
    pub fn reload(&self, configuration: &str) {
        write(&self.folder, configuration);
        let pid = fs::read_to_string(self.folder.path().join("pid")).expect("a file with its pid");
        assert!(Command::new("kill").args(["-HUP", pid.trim()]).status().expect("kill").success());
    }

    /// Starts it again, on the same port, with another configuration of [`with`](Self::with).
    pub fn restart_with(&mut self, configuration: &str) {
        self.process = None;
        write(&self.folder, configuration);
        assert!(self.launch(), "the port is free again");
    }

    pub fn log(&self) -> String {
        fs::read_to_string(self.folder.path().join("log")).unwrap_or_default()
    }
}

/// A worker or a queen, killed at the end of the test.
pub struct Program {
    child: Child,
    log: PathBuf,
    _folder: TempDir,
}

impl Program {
    /// A worker on one thread, with its store in memory unless told.
    pub fn worker(arguments: &[&str], environment: &[(&str, &str)]) -> Self {
        let mut all = vec!["--model", MODEL, "--threads", "1"];
        all.extend_from_slice(arguments);
        Self::start(env!("CARGO_BIN_EXE_sd-worker-cpu"), &all, environment)
    }

    /// A queen on a free port, with its store in memory unless told.
    pub fn queen(arguments: &[&str], environment: &[(&str, &str)]) -> Self {
        let mut all = vec!["--listen", "127.0.0.1:0"];
        all.extend_from_slice(arguments);
        Self::start(env!("CARGO_BIN_EXE_queen-rbee"), &all, environment)
    }

    fn start(program: &str, arguments: &[&str], environment: &[(&str, &str)]) -> Self {
        let folder = TempDir::new().expect("a folder");
        let log = folder.path().join("log");
        let file = File::create(&log).expect("a log file");
        let mut command = Command::new(program);
        // What the shell of whoever runs the tests has set must not decide.
        let set = |name: &str| {
            ["SD_", "NATS_", "QUEEN_", "STORE_", "AWS_", "RUST_LOG"]
                .iter()
                .any(|start| name.starts_with(start))
        };
        for (name, _) in std::env::vars().filter(|(name, _)| set(name)) {
            command.env_remove(name);
        }
        let child = command
            .args(arguments)
            .env("STORE_URL", "memory://")
            // What a stream may have is reserved on the server.
            .envs([
                ("SD_JOBS_MAX_BYTES", "16MiB"),
                ("SD_EVENTS_MAX_BYTES", "16MiB"),
                ("SD_DLQ_MAX_BYTES", "4MiB"),
            ])
            .envs(environment.iter().copied())
            .stdin(Stdio::null())
            .stdout(file.try_clone().expect("a second handle"))
            .stderr(file)
            .spawn()
            .expect("the program");
        Self { child, log, _folder: folder }
    }

    /// Everything that it has written to its standard output and error.
    pub fn log(&self) -> String {
        fs::read_to_string(&self.log).unwrap_or_default()
    }

    /// Waits for this text in the log.
    pub async fn wait_for_log(&mut self, text: &str) {
        let until = Instant::now() + PATIENCE;
        while !self.log().contains(text) {
            let ended = self.child.try_wait().expect("a child");
            assert!(Instant::now() < until, "no `{text}` in the log:\n{}", self.log());
            assert!(ended.is_none() || self.log().contains(text), "it has ended:\n{}", self.log());
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    /// Waits until queen listens; its URL.
    pub async fn url(&mut self) -> String {
        self.wait_for_log("listening on http://").await;
        let log = self.log();
        let (_, rest) = log.split_once("listening on ").expect("it is there");
        rest.split_whitespace().next().expect("an address").to_owned()
    }

    /// Waits for the process to end.
    pub async fn exit(&mut self) -> ExitStatus {
        let until = Instant::now() + PATIENCE;
        loop {
            if let Some(status) = self.child.try_wait().expect("a child") {
                return status;
            }
            assert!(Instant::now() < until, "still running:\n{}", self.log());
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }

    pub fn signal(&self, signal: &str) {
        let sent = Command::new("kill").args([signal, &self.child.id().to_string()]).status();
        assert!(sent.expect("kill").success());
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
