//! What a service of `Type=notify` tells systemd: that it is ready, that it ends, and again and again that it lives.
//!
//! Each is a line of text in a datagram to the socket that `NOTIFY_SOCKET` names; without the variable nothing is sent. When
//! a process lives is not decided here. Source: sd_notify(3) and sd_watchdog_enabled(3), a protocol that systemd keeps.

use std::env;
#[cfg(unix)]
use std::{io, os::unix::net::UnixDatagram, sync::Arc, time::Duration};

/// How long systemd may take to receive a line. It reads at once; a socket that is full belongs to one that hangs.
#[cfg(unix)]
const RECEIVED_WITHIN: Duration = Duration::from_secs(1);

/// systemd, if it has started this process and wants to hear of it. Cheap to clone.
#[derive(Debug, Clone, Default)]
pub struct Systemd {
    #[cfg(unix)]
    socket: Option<Arc<UnixDatagram>>,
    watches: bool,
}

impl Systemd {
    /// As the variables say that systemd sets: `NOTIFY_SOCKET`, and `WATCHDOG_USEC` and `WATCHDOG_PID` where it has a
    /// watchdog.
    pub fn from_environment() -> Self {
        let value = |name| env::var(name).ok();
        Self::of(value, std::process::id())
    }

    #[cfg(unix)]
    fn of(value: impl Fn(&'static str) -> Option<String>, process: u32) -> Self {
        let Some(name) = value("NOTIFY_SOCKET").filter(|name| !name.is_empty()) else {
            return Self::default();
        };
        let socket = match connect(&name) {
            Ok(socket) => Some(Arc::new(socket)),
            Err(error) => {
                tracing::warn!(%error, "systemd is not told how this service is: NOTIFY_SOCKET is `{name}`");
                None
            }
        };
        // A watchdog of another process was inherited.
        let is_ours = value("WATCHDOG_PID").is_none_or(|pid| pid.parse() == Ok(process));
        let limit = value("WATCHDOG_USEC").and_then(|limit| limit.parse::<u64>().ok()).unwrap_or(0);
        Self { socket, watches: is_ours && limit > 0 }
    }

    #[cfg(not(unix))]
    fn of(_: impl Fn(&'static str) -> Option<String>, _: u32) -> Self {
        Self::default()
    }

    /// The service does what it is for, from now on.
    pub fn ready(&self) {
        self.send("READY=1");
    }

    /// The service has begun to end.
    pub fn stopping(&self) {
        self.send("STOPPING=1");
    }

    /// The service lives. To be said well within the watchdog's time (`WatchdogSec=`), every second for example; systemd
    /// ends the process when it is not.
    pub fn alive(&self) {
        if self.watches {
            self.send("WATCHDOG=1");
        }
    }

    #[cfg(unix)]
    fn send(&self, line: &str) {
        let Some(socket) = &self.socket else { return };
        if let Err(error) = socket.send(line.as_bytes()) {
            tracing::warn!(%error, "systemd does not hear `{line}`");
        }
    }

    #[cfg(not(unix))]
    fn send(&self, _: &str) {}
}

/// The socket of that name: a path, or a name of Linux' own that is written with `@`.
#[cfg(unix)]
fn connect(name: &str) -> io::Result<UnixDatagram> {
    let socket = UnixDatagram::unbound()?;
    socket.set_write_timeout(Some(RECEIVED_WITHIN))?;
    match name.strip_prefix('@') {
        None => socket.connect(name)?,
        #[cfg(target_os = "linux")]
        Some(abstract_name) => {
            use std::os::{linux::net::SocketAddrExt, unix::net::SocketAddr};
            socket.connect_addr(&SocketAddr::from_abstract_name(abstract_name)?)?;
        }
        #[cfg(not(target_os = "linux"))]
        Some(_) => return Err(io::ErrorKind::Unsupported.into()),
    }
    Ok(socket)
}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use std::os::{linux::net::SocketAddrExt, unix::net::SocketAddr};

    use super::*;

    const US: u32 = 7;

    fn systemd(variables: &[(&str, &str)]) -> Systemd {
        let value =
            |name| variables.iter().find(|(other, _)| *other == name).map(|(_, value)| (*value).to_owned());
        Systemd::of(value, US)
    }

    fn heard(socket: &UnixDatagram) -> Option<String> {
        let mut line = [0; 64];
        socket.set_nonblocking(true).unwrap();
        let length = socket.recv(&mut line).ok()?;
        Some(String::from_utf8(line[..length].to_vec()).unwrap())
    }

    #[test]
    fn systemd_is_told_over_a_path_and_over_a_name_without_one() {
        let folder = tempfile::TempDir::new().unwrap();
        let path = folder.path().join("notify");
        let name = format!("rbee-{}-{:p}", std::process::id(), &path);
        let address = SocketAddr::from_abstract_name(&name).unwrap();
        for (socket, variable) in [
            (UnixDatagram::bind(&path).unwrap(), path.to_str().unwrap().to_owned()),
            (UnixDatagram::bind_addr(&address).unwrap(), format!("@{name}")),
        ] {
            let systemd = systemd(&[("NOTIFY_SOCKET", &variable), ("WATCHDOG_USEC", "60000000")]);
            systemd.ready();
            systemd.alive();
            systemd.stopping();
            let lines: Vec<_> = std::iter::from_fn(|| heard(&socket)).collect();
            assert_eq!(lines, ["READY=1", "WATCHDOG=1", "STOPPING=1"], "{variable}");
        }
    }

    #[test]
    fn a_watchdog_is_fed_only_where_there_is_one_of_this_process() {
        let folder = tempfile::TempDir::new().unwrap();
        let path = folder.path().join("notify");
        let socket = UnixDatagram::bind(&path).unwrap();
        let notify = ("NOTIFY_SOCKET", path.to_str().unwrap());
        for (more, expected) in [
            (&[][..], None),
            (&[("WATCHDOG_USEC", "0")], None),
            (&[("WATCHDOG_USEC", "soon")], None),
            (&[("WATCHDOG_USEC", "1000000"), ("WATCHDOG_PID", "8")], None),
            (&[("WATCHDOG_USEC", "1000000"), ("WATCHDOG_PID", "7")], Some("WATCHDOG=1")),
        ] {
            systemd(&[&[notify], more].concat()).alive();
            assert_eq!(heard(&socket).as_deref(), expected, "{more:?}");
        }
    }

    #[test]
    fn a_socket_that_is_not_there_ends_nothing() {
        for name in ["", "/no/such/socket", "@rbee-nobody-listens", "relative/path"] {
            let systemd = systemd(&[("NOTIFY_SOCKET", name), ("WATCHDOG_USEC", "1000000")]);
            systemd.ready();
            systemd.alive();
        }
    }
}
