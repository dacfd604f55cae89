//! The signals that end a program. One that was ignored when keeper was started (`nohup`, `&` in a script) stays so.

use std::future;

use tokio::signal::unix::{Signal, SignalKind, signal};

use crate::signals::ignored;

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
        let ignored = ignored();
        // A signal that cannot be waited for ends the process, as it does everywhere.
        let wait = |kind: SignalKind| match ignored(kind.as_raw_value()) {
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
