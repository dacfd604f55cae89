//! Processes that end with the test, however it ends.

use std::{
    fs::{self, File},
    net::{SocketAddr, TcpListener, TcpStream},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

/// Runs its arguments, and kills what it runs when its standard input is closed: a test that is killed leaves nothing.
const LEASH: &str = r#""$@" & pid=$!; read -r _; kill -9 $pid 2>/dev/null; wait $pid"#;

/// A program on a leash, with its output in a file.
pub struct Leashed {
    child: Child,
    log: PathBuf,
}

impl Leashed {
    /// Starts `command` (its program and arguments count) with its output in `log`.
    pub fn start(program: &str, arguments: &[&str], log: &Path) -> Self {
        let file = File::create(log).expect("a log file");
        let child = Command::new("sh")
            .args(["-c", LEASH, "leash", program])
            .args(arguments)
            .stdin(Stdio::piped())
            .stdout(file.try_clone().expect("a second handle"))
            .stderr(file)
            .spawn()
            .expect("sh");
        Self { child, log: log.to_owned() }
    }

    pub fn log(&self) -> String {
        fs::read_to_string(&self.log).unwrap_or_default()
    }
}

impl Drop for Leashed {
    fn drop(&mut self) {
        drop(self.child.stdin.take());
        let _ = self.child.wait();
    }
}

/// A port that was free a moment ago.
pub fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").and_then(|l| l.local_addr()).expect("a free port").port()
}

/// Waits until something listens on the port; whether it does within `limit`.
pub fn listens(port: u16, limit: Duration) -> bool {
    let address = SocketAddr::from(([127, 0, 0, 1], port));
    let until = Instant::now() + limit;
    while Instant::now() < until {
        if TcpStream::connect_timeout(&address, Duration::from_millis(200)).is_ok() {
            return true;
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    false
}

/// The path of a program that the tests need.
///
/// # Panics
/// Says what to do when it is missing: a test that is left out shows nothing.
pub fn program(name: &str, variable: &str) -> String {
    if let Ok(path) = std::env::var(variable) {
        return path;
    }
    let there = std::env::var_os("PATH")
        .is_some_and(|path| std::env::split_paths(&path).any(|folder| folder.join(name).is_file()));
    assert!(there, "`{name}` is not on PATH: run scripts/test, which brings it (or set {variable})");
    name.to_owned()
}
