//! How many files and connections this process may have open: the soft limit is raised to the hard one.
//!
//! The soft limit is 1,024 on many systems, for programs that `select` from fewer; nothing here does.

/// The limit is not raised beyond this: some containers have a hard limit of a billion, and whoever closes all that may be
/// open, as some children of a process do, would not come to an end.
#[cfg(unix)]
const MOST: u64 = 1 << 20;

/// Raises the limit as far as this process may; what it is then, `None` where it is not known.
#[cfg(unix)]
pub fn raise_limit() -> Option<u64> {
    use nix::sys::resource::{Resource, getrlimit, setrlimit};

    let (soft, hard) = match getrlimit(Resource::RLIMIT_NOFILE) {
        Ok(limits) => limits,
        Err(error) => {
            tracing::warn!(%error, "the limit of open files is not known");
            return None;
        }
    };
    let wanted = hard.min(MOST);
    if soft >= wanted {
        tracing::debug!(limit = soft, "open files");
        return Some(soft);
    }
    match setrlimit(Resource::RLIMIT_NOFILE, wanted, hard) {
        Ok(()) => {
            tracing::debug!(limit = wanted, before = soft, "open files: the limit is raised");
            Some(wanted)
        }
        Err(error) => {
            tracing::warn!(%error, limit = soft, "the limit of open files cannot be raised");
            Some(soft)
        }
    }
}

/// There is none.
#[cfg(not(unix))]
pub fn raise_limit() -> Option<u64> {
    None
}
