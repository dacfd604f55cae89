//! A program under a supervisor: whatever ends it, it is started again after a short random time, as a pool would do.
//!
//! Signals reach the program itself, and it ends with the test, however the test ends.

use std::{
    fs::{self, OpenOptions},
    path::{Path, PathBuf},
    process::{Command, Stdio},
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use tokio::{sync::watch, task::JoinHandle};

use super::random::Random;

/// Runs its arguments, writes down which process they are, ends as they end, and kills them when its input is closed.
const LEASH: &str = r#"exec 3<&0
"$@" 3<&- </dev/null & pid=$!
{ read -r _ <&3; kill -9 $pid; } 2>/dev/null & guard=$!
exec 3<&-
echo $pid >"$LEASH_PID"
wait $pid; code=$?
kill $guard 2>/dev/null
exit $code"#;
/// How soon a program that has ended is started again, in milliseconds.
const RESTART_MS: (u64, u64) = (20, 600);

/// What is run.
#[derive(Debug, Clone)]
pub struct Spec {
    pub name: String,
    pub program: String,
    pub arguments: Vec<String>,
    pub environment: Vec<(String, String)>,
}

pub struct Supervised {
    pub name: String,
    log: PathBuf,
    /// The process that runs now; 0 between two.
    pid: watch::Receiver<u32>,
    exits: watch::Receiver<Vec<i32>>,
    again: Arc<AtomicBool>,
    between: Between,
    task: JoinHandle<()>,
}

/// What is done once between an end and the next start.
type Between = Arc<Mutex<Option<Box<dyn FnOnce() + Send>>>>;

impl Supervised {
    /// Starts it, and starts it again until [`leave`](Self::leave).
    pub fn start(spec: Spec, folder: &Path, random: Random) -> Self {
        let log = folder.join(format!("{}.log", spec.name));
        let (pid_tx, pid) = watch::channel(0);
        let (exits_tx, exits) = watch::channel(vec![]);
        let again = Arc::new(AtomicBool::new(true));
        let (name, between) = (spec.name.clone(), Between::default());
        let told = Told { pid: pid_tx, exits: exits_tx, again: again.clone(), between: between.clone() };
        let task = tokio::spawn(supervise(spec, log.clone(), told, random));
        Self { name, log, pid, exits, again, between, task }
    }

    /// From now on an end is the end.
    pub fn leave(&self) {
        self.again.store(false, Ordering::Relaxed);
    }

    pub fn pid(&self) -> Option<u32> {
        Some(*self.pid.borrow()).filter(|pid| *pid != 0)
    }

    /// Sends a signal (`-KILL`) to the process that runs now; which one got it.
    pub fn signal(&self, signal: &str) -> Option<u32> {
        let pid = self.pid()?;
        send(signal, pid).then_some(pid)
    }

    /// Kills the process that runs now, and does something before it is started again; whether one ran.
    pub fn kill_and(&self, work: impl FnOnce() + Send + 'static) -> bool {
        // Before it is killed: the end may be seen at once.
        *self.between.lock().expect("no panic") = Some(Box::new(work));
        let killed = self.signal("-KILL").is_some();
        if !killed {
            self.between.lock().expect("no panic").take();
        }
        killed
    }

    /// The exit codes so far; 137 is a SIGKILL.
    pub fn exits(&self) -> Vec<i32> {
        self.exits.borrow().clone()
    }

    /// Waits for an end after the first `known`; its exit code.
    pub async fn exit_after(&self, known: usize) -> i32 {
        let mut exits = self.exits.clone();
        let found = exits.wait_for(|exits| exits.len() > known).await;
        found.expect("the supervisor runs")[known]
    }

    /// Waits until a process runs.
    pub async fn runs(&self) -> u32 {
        let mut pid = self.pid.clone();
        *pid.wait_for(|pid| *pid != 0).await.expect("the supervisor runs")
    }

    /// Everything that it has written, through all its lives.
    pub fn log(&self) -> String {
        fs::read(&self.log).map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).unwrap_or_default()
    }

    /// Resident memory of the process that runs now, in KiB.
    pub fn memory_kib(&self) -> Option<(u32, u64)> {
        let pid = self.pid()?;
        let status = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
        Some((pid, line.split_whitespace().next()?.parse().ok()?))
    }
}

impl Drop for Supervised {
    fn drop(&mut self) {
        self.leave();
        self.task.abort();
        self.signal("-KILL");
    }
}

/// Whether the signal was sent. A process that is gone gets none.
pub fn send(signal: &str, pid: u32) -> bool {
    let sent = Command::new("kill").args([signal, &pid.to_string()]).stderr(Stdio::null()).status();
    sent.expect("kill").success()
}

/// What a supervisor tells, and is told.
struct Told {
    pid: watch::Sender<u32>,
    exits: watch::Sender<Vec<i32>>,
    again: Arc<AtomicBool>,
    between: Between,
}

async fn supervise(spec: Spec, log: PathBuf, told: Told, mut random: Random) {
    let Told { pid, exits, again, between } = told;
    let pid_file = log.with_extension("pid");
    loop {
        let _ = fs::remove_file(&pid_file);
        let mut child = leashed(&spec, &log, &pid_file);
        // Held here: a wait would close it.
        let _leash = child.stdin.take();
        pid.send_replace(written(&pid_file).await);
        let status = child.wait().await.expect("a child");
        pid.send_replace(0);
        let work = between.lock().expect("no panic").take();
        if let Some(work) = work {
            work();
        }
        exits.send_modify(|exits| exits.push(status.code().unwrap_or(-1)));
        if !again.load(Ordering::Relaxed) {
            return;
        }
        tokio::time::sleep(random.millis(RESTART_MS.0, RESTART_MS.1)).await;
    }
}

fn leashed(spec: &Spec, log: &Path, pid_file: &Path) -> tokio::process::Child {
    let file = OpenOptions::new().create(true).append(true).open(log).expect("a log file");
    let mut command = tokio::process::Command::new("sh");
    // What the shell of whoever runs the tests has set must not decide.
    let ours = ["SD_", "NATS_", "QUEEN_", "STORE_", "AWS_"];
    for (name, _) in std::env::vars().filter(|(name, _)| ours.iter().any(|start| name.starts_with(start))) {
        command.env_remove(name);
    }
    command
        .args(["-c", LEASH, "leash", &spec.program])
        .args(&spec.arguments)
        .envs(spec.environment.iter().map(|(name, value)| (name, value)))
        // A panic that prints its stack keeps hundreds of megabytes of symbols in memory.
        .env_remove("RUST_BACKTRACE")
        .env("LEASH_PID", pid_file)
        .stdin(Stdio::piped())
        .stdout(file.try_clone().expect("a second handle"))
        .stderr(file)
        .spawn()
        .expect("sh")
}

async fn written(pid_file: &Path) -> u32 {
    loop {
        if let Ok(text) = fs::read_to_string(pid_file)
            && let Some(pid) = text.strip_suffix('\n')
        {
            return pid.parse().expect("the number of a process");
        }
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
}

#[tokio::test]
async fn what_is_killed_is_started_again_and_ends_with_its_owner() {
    let folder = tempfile::TempDir::new().unwrap();
    let spec = Spec {
        name: "sleeper".into(),
        program: "sleep".into(),
        arguments: vec!["600".into()],
        environment: vec![],
    };
    let sleeper = Supervised::start(spec, folder.path(), Random::new(1));
    let first = sleeper.runs().await;
    assert!(sleeper.memory_kib().is_some_and(|(pid, kib)| pid == first && kib > 0));
    sleeper.signal("-STOP").unwrap();
    sleeper.signal("-KILL").unwrap();
    assert_eq!(sleeper.exit_after(0).await, 137);
    let second = sleeper.runs().await;
    assert_ne!(first, second);
    let (noted, seen) = (folder.path().join("noted"), sleeper.pid.clone());
    let note = noted.clone();
    assert!(sleeper.kill_and(move || fs::write(note, seen.borrow().to_string()).unwrap()));
    assert_eq!(sleeper.exit_after(1).await, 137);
    sleeper.runs().await;
    assert_eq!(fs::read_to_string(noted).unwrap(), "0", "nothing runs while it is done");
    sleeper.leave();
    sleeper.signal("-TERM").unwrap();
    assert_eq!(sleeper.exit_after(2).await, 143);
    assert_eq!((sleeper.exits(), sleeper.pid()), (vec![137, 137, 143], None));
    assert!(!sleeper.kill_and(|| panic!("nobody runs")));
}

#[tokio::test]
async fn a_program_whose_owner_is_gone_is_killed() {
    let folder = tempfile::TempDir::new().unwrap();
    let spec = Spec {
        name: "s".into(),
        program: "sleep".into(),
        arguments: vec!["600".into()],
        environment: vec![],
    };
    let sleeper = Supervised::start(spec, folder.path(), Random::new(1));
    let pid = sleeper.runs().await;
    // As when the test is killed: nobody says anything, the pipe is closed.
    sleeper.task.abort();
    for _ in 0..500 {
        let state = fs::read_to_string(format!("/proc/{pid}/stat"));
        if state.is_err() || state.is_ok_and(|stat| stat.contains(") Z ")) {
            return;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    panic!("process {pid} still runs");
}
