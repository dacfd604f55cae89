//! What every process tells of itself, by the names that other programs have for it.

use std::{
    sync::LazyLock,
    time::{SystemTime, UNIX_EPOCH},
};

use super::Text;

/// When the process began to count.
static STARTED: LazyLock<SystemTime> = LazyLock::new(SystemTime::now);

/// Takes note of the start of the process.
pub fn note_start() {
    LazyLock::force(&STARTED);
}

pub(super) fn write(text: &mut Text) {
    let started = STARTED.duration_since(UNIX_EPOCH).unwrap_or_default();
    text.gauge("process_start_time_seconds", "When the process started, in seconds since 1970.")
        .value(started.as_secs_f64());
    if let Some(bytes) = resident_bytes() {
        text.gauge("process_resident_memory_bytes", "Memory that the process has in RAM.").value(bytes);
    }
}

/// Where the system tells it.
#[cfg(target_os = "linux")]
fn resident_bytes() -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
    let kilobytes: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    Some(kilobytes * 1024)
}

#[cfg(not(target_os = "linux"))]
fn resident_bytes() -> Option<u64> {
    None
}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use super::*;

    #[test]
    fn the_memory_of_this_process_is_known() {
        assert!((1 << 20..1 << 40).contains(&resident_bytes().unwrap()));
    }
}
