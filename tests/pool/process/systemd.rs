//! What systemd is told of a worker and a queen that it has started: a socket in its place hears it.

use std::os::unix::net::UnixDatagram;

use super::*;

/// The socket of a service, and its folder.
struct Notified {
    socket: UnixDatagram,
    path: String,
    _folder: TempDir,
    heard: Vec<(Instant, String)>,
}

impl Notified {
    fn new() -> Self {
        let folder = TempDir::new().expect("a folder");
        let path = folder.path().join("notify");
        let socket = UnixDatagram::bind(&path).expect("a socket");
        socket.set_nonblocking(true).expect("a socket that does not block");
        let path = path.to_str().expect("a UTF-8 path").to_owned();
        Self { socket, path, _folder: folder, heard: vec![] }
    }

    fn variables(&self) -> [(&str, &str); 2] {
        [("NOTIFY_SOCKET", &self.path), ("WATCHDOG_USEC", "60000000")]
    }

    fn listen(&mut self) {
        let mut line = [0; 256];
        while let Ok(length) = self.socket.recv(&mut line) {
            let line = String::from_utf8_lossy(&line[..length]).into_owned();
            self.heard.push((Instant::now(), line));
        }
    }

    fn times(&mut self, line: &str) -> usize {
        self.listen();
        self.heard.iter().filter(|(_, heard)| heard == line).count()
    }

    async fn wait_for(&mut self, line: &str, times: usize) {
        let until = Instant::now() + PATIENCE;
        while self.times(line) < times {
            assert!(Instant::now() < until, "no `{line}` in {:?}", self.heard);
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }
}

#[tokio::test]
async fn systemd_hears_when_a_service_is_ready_that_it_lives_and_that_it_stops() {
    let pool = Pool::new().await;
    for is_queen in [false, true] {
        let mut systemd = Notified::new();
        let model = ["--model", "sim://?step_ms=1&size=64&load_ms=700"];
        let started = Instant::now();
        let mut program = match is_queen {
            false => Program::worker(&[&model, &of(&pool)[..]].concat(), &systemd.variables()),
            true => Program::queen(&of(&pool), &systemd.variables()),
        };
        systemd.wait_for("READY=1", 1).await;
        assert!(is_queen || started.elapsed() > Duration::from_millis(700), "the model was loaded before");
        program.wait_for_log(if is_queen { "listening on " } else { " ready " }).await;
        systemd.wait_for("WATCHDOG=1", 3).await;
        program.signal("-TERM");
        systemd.wait_for("STOPPING=1", 1).await;
        assert_eq!(program.exit_within(Duration::from_secs(10)).await.code(), Some(0), "{}", program.log());
        assert_eq!((systemd.times("READY=1"), systemd.times("STOPPING=1")), (1, 1));
    }
}

#[tokio::test]
async fn a_worker_whose_device_is_stuck_says_no_more_that_it_lives() {
    let pool = Pool::new().await;
    let mut systemd = Notified::new();
    let model = ["--model", "sim://?step_ms=0&size=64&fail=hang&fail_step=2", "--step-limit", "500ms"];
    let mut worker = Program::worker(&[&model, &of(&pool)[..]].concat(), &systemd.variables());
    worker.wait_for_log(" ready ").await;
    systemd.wait_for("WATCHDOG=1", 1).await;
    let mut replies = pool.generate(r#"{"prompt":"a","steps":4}"#).await;
    replies.wait_for("accepted").await;
    worker.wait_for_log("the device is stuck").await;
    systemd.listen();
    let stuck = systemd.heard.len();
    assert_eq!(worker.exit_within(Duration::from_secs(20)).await.code(), Some(70), "{}", worker.log());
    let after = systemd.times("WATCHDOG=1") + systemd.times("READY=1");
    // One may be on its way when the log says it.
    assert!(after <= stuck + 1, "{:?}", systemd.heard);
}
