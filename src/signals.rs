//! The signals that end a process: SIGTERM, SIGINT and SIGHUP. What is done about them is not said here.

use std::io;

/// SIGTERM, SIGINT and SIGHUP, heard from now on. They no longer end the process by themselves.
#[cfg(unix)]
pub struct Signals {
    terminate: tokio::signal::unix::Signal,
    interrupt: tokio::signal::unix::Signal,
    /// None where it means something else, or nothing.
    hangup: Option<tokio::signal::unix::Signal>,
}

#[cfg(unix)]
impl Signals {
    /// All three; SIGHUP unless the process was started to outlive its terminal (`nohup`, which Linux tells).
    ///
    /// # Errors
    /// What the system says.
    pub fn listen() -> io::Result<Self> {
        use tokio::signal::unix::{SignalKind, signal};
        let mut signals = Self::without_hangup()?;
        if !ignored()(SignalKind::hangup().as_raw_value()) {
            signals.hangup = Some(signal(SignalKind::hangup())?);
        }
        Ok(signals)
    }

    /// SIGTERM and SIGINT, for a process to which SIGHUP means something else.
    ///
    /// # Errors
    /// What the system says.
    pub fn without_hangup() -> io::Result<Self> {
        use tokio::signal::unix::{SignalKind, signal};
        let (terminate, interrupt) = (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
        Ok(Self { terminate, interrupt, hangup: None })
    }

    /// The name of the next signal.
    pub async fn recv(&mut self) -> &'static str {
        let hangup = async {
            match &mut self.hangup {
                Some(hangup) => hangup.recv().await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            _ = self.terminate.recv() => "SIGTERM",
            _ = self.interrupt.recv() => "SIGINT",
            _ = hangup => "SIGHUP",
        }
    }
}

/// Ctrl-C, which is what there is.
#[cfg(not(unix))]
pub struct Signals;

#[cfg(not(unix))]
impl Signals {
    /// Ctrl-C.
    ///
    /// # Errors
    /// None here.
    pub fn listen() -> io::Result<Self> {
        Ok(Self)
    }

    /// As [`Self::listen`].
    ///
    /// # Errors
    /// None here.
    pub fn without_hangup() -> io::Result<Self> {
        Self::listen()
    }

    /// The name of the next signal.
    pub async fn recv(&mut self) -> &'static str {
        match tokio::signal::ctrl_c().await {
            Ok(()) => "Ctrl-C",
            Err(error) => {
                tracing::error!(%error, "Ctrl-C is not heard");
                std::future::pending().await
            }
        }
    }
}

impl Signals {
    /// From now on a signal ends the process at once, with the code that shells give to a killed one.
    pub fn exit_at_the_next(mut self) {
        tokio::spawn(async move {
            let signal = self.recv().await;
            tracing::warn!(signal, "stopping at once");
            crate::logging::flush();
            std::process::exit(match signal {
                "SIGHUP" => 129,
                "SIGTERM" => 143,
                _ => 130,
            });
        });
    }
}

/// Which signals, by their numbers, whoever started this process has it ignore; none where the system does not tell.
#[cfg(unix)]
pub fn ignored() -> impl Fn(i32) -> bool {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    move |signal| is_ignored(&status, signal)
}

/// Whether a signal is ignored by the process with this `/proc/<pid>/status`.
#[cfg(unix)]
fn is_ignored(status: &str, signal: i32) -> bool {
    let mask = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
    let mask = mask.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok());
    mask.is_some_and(|mask| mask >> (signal - 1) & 1 == 1)
}

#[cfg(all(test, unix))]
mod tests {
    use super::*;

    #[test]
    fn a_process_that_outlives_its_terminal_is_told_by_the_signals_that_it_ignores() {
        let status = |mask: &str| format!("Name:\tworker\nSigBlk:\tffff\nSigIgn:\t{mask}\nSigCgt:\t0001\n");
        assert!(is_ignored(&status("0000000000000001"), 1));
        assert!(is_ignored(&status("0000000000001003"), 1));
        assert!(!is_ignored(&status("0000000000001002"), 1));
        assert!(!is_ignored("", 1));
    }
}
