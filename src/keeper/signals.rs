//! The signals that end a program. One that was ignored when keeper was started (`nohup`, `&` in a script) stays so.

use std::future;

use tokio::signal::unix::{Signal, SignalKind, signal};

/// Which signal it was.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stop {
    /// SIGINT, which Ctrl-C sends.
    Interrupt,
    /// SIGTERM, which supervisors, `timeout` and `kill` send.
    Terminate,
    /// SIGHUP, which a terminal sends that is closed.
    HangUp,
}

impl Stop {
    /// What shells say of a program that the signal ended: 128 and its number.
    pub fn exit_code(self) -> u8 {
        match self {
            Self::Interrupt => 130,
            Self::Terminate => 143,
            Self::HangUp => 129,
        }
    }

    /// Its name.
    pub fn name(self) -> &'static str {
        match self {
            Self::Interrupt => "SIGINT",
            Self::Terminate => "SIGTERM",
            Self::HangUp => "SIGHUP",
        }
    }
}

/// Those that are waited for.
pub struct Signals {
    interrupt: Option<Signal>,
    terminate: Option<Signal>,
    hang_up: Option<Signal>,
}

impl Signals {
    /// From here on they do not end the process by themselves.
    pub fn new() -> Self {
        let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
        // A signal that cannot be waited for ends the process, as it does everywhere.
        let wait = |kind: SignalKind| match is_ignored(&status, kind.as_raw_value()) {
            true => None,
            false => signal(kind).ok(),
        };
        Self {
            interrupt: wait(SignalKind::interrupt()),
            terminate: wait(SignalKind::terminate()),
            hang_up: wait(SignalKind::hangup()),
        }
    }

    /// The next one.
    pub async fn next(&mut self) -> Stop {
        tokio::select! {
            () = one(&mut self.interrupt) => Stop::Interrupt,
            () = one(&mut self.terminate) => Stop::Terminate,
            () = one(&mut self.hang_up) => Stop::HangUp,
        }
    }
}

async fn one(signal: &mut Option<Signal>) {
    if let Some(signal) = signal
        && signal.recv().await.is_some()
    {
        return;
    }
    future::pending().await
}

/// Whether a signal is ignored by the process with this `/proc/<pid>/status`; where there is none, it is not.
fn is_ignored(status: &str, signal: i32) -> bool {
    let mask = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
    let mask = mask.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok());
    mask.is_some_and(|mask| mask >> (signal - 1) & 1 == 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_signal_that_was_ignored_is_known_by_its_bit() {
        let status = "SigBlk:\t0000000000000000\nSigIgn:\t0000000000001003\n";
        assert!(is_ignored(status, 1) && is_ignored(status, 2) && is_ignored(status, 13));
        assert!(!is_ignored(status, 15) && !is_ignored("", 1));
    }
}
