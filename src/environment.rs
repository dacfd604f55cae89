//! The variables of the process, made fit before anything reads them: flags, S3, the hub, proxies, certificates.
//!
//! An empty variable is one that is not set: compose files write `${X:-}` for what may be left out.

use std::{collections::BTreeSet, env};

use clap::Parser;

/// Variables that count as not set when they are empty, beside those of flags. Not all: an empty CUDA_VISIBLE_DEVICES, for
/// one, says something.
const OURS: [&str; 6] =
    ["RUST_LOG", "RUST_BACKTRACE", "SSL_CERT_FILE", "SSL_CERT_DIR", "HOME", "XDG_CACHE_HOME"];
/// As [`OURS`], whatever follows.
const OURS_BEGIN_WITH: [&str; 6] = ["AWS_", "HF_", "NATS_", "SD_", "QUEEN_", "STORE_"];

/// Proxies of HTTP clients; each also in small letters.
const PROXIES: [&str; 3] = ["ALL_PROXY", "HTTP_PROXY", "HTTPS_PROXY"];
/// What no proxy can reach in our place: this machine, and the services that give credentials to a machine or a container.
const NEVER_BY_PROXY: &str = "localhost,127.0.0.0/8,::1,169.254.169.254,169.254.170.2";

/// Parses the command line, with empty variables not set, and this machine reached without a proxy. The first thing that
/// `main` does: once there are other threads the variables stay as they are.
pub fn parse<T: Parser>() -> T {
    if is_single_threaded() {
        let flags = flags(&T::command());
        let set: Vec<(String, String)> = env::vars_os()
            .filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)))
            .collect();
        for (name, value) in changes(&flags, &set) {
            // SAFETY: this is the only thread, so nothing reads the variables at this moment.
            unsafe {
                match value {
                    Some(value) => env::set_var(name, value),
                    None => env::remove_var(name),
                }
            }
        }
    }
    T::parse()
}

/// Told by Linux; elsewhere it is as [`parse`] asks for.
fn is_single_threaded() -> bool {
    std::fs::read_dir("/proc/self/task").map_or(true, |threads| threads.count() == 1)
}

/// The variables of all flags.
fn flags(command: &clap::Command) -> BTreeSet<String> {
    let own = command.get_arguments().filter_map(|flag| flag.get_env()?.to_str().map(str::to_owned));
    own.chain(command.get_subcommands().flat_map(flags)).collect()
}

/// What to set, and what to remove (`None`).
fn changes(flags: &BTreeSet<String>, set: &[(String, String)]) -> Vec<(String, Option<String>)> {
    let is_proxy = |name: &str| PROXIES.iter().any(|proxy| proxy.eq_ignore_ascii_case(name));
    let is_ours = |name: &str| {
        flags.contains(name)
            || OURS.contains(&name)
            || OURS_BEGIN_WITH.iter().any(|start| name.starts_with(start))
            || is_proxy(name)
            || name.eq_ignore_ascii_case("NO_PROXY")
    };
    let mut changes: Vec<_> = set
        .iter()
        .filter(|(name, value)| value.is_empty() && is_ours(name))
        .map(|(name, _)| (name.clone(), None))
        .collect();
    if set.iter().any(|(name, value)| is_proxy(name) && !value.is_empty()) {
        let value = |wanted: &str| set.iter().find(|(name, value)| name == wanted && !value.is_empty());
        let listed = value("NO_PROXY").or_else(|| value("no_proxy")).map(|(_, value)| format!("{value},"));
        changes.push(("NO_PROXY".into(), Some(format!("{}{NEVER_BY_PROXY}", listed.unwrap_or_default()))));
    }
    changes
}

#[cfg(test)]
mod tests {
    use super::*;

    fn changed(set: &[(&str, &str)]) -> Vec<(String, Option<String>)> {
        let set: Vec<_> = set.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
        changes(&BTreeSet::from(["RBEE_TOKEN".to_owned()]), &set)
    }

    #[test]
    fn what_is_empty_and_ours_is_not_set() {
        let removed = changed(&[
            ("RBEE_TOKEN", ""),
            ("AWS_SESSION_TOKEN", ""),
            ("SSL_CERT_FILE", ""),
            ("https_proxy", ""),
            ("CUDA_VISIBLE_DEVICES", ""),
            ("SD_MODELS", "sim://"),
        ]);
        let names: Vec<_> = removed.iter().map(|(name, _)| name.as_str()).collect();
        assert_eq!(names, ["RBEE_TOKEN", "AWS_SESSION_TOKEN", "SSL_CERT_FILE", "https_proxy"]);
        assert!(removed.iter().all(|(_, value)| value.is_none()));
    }

    #[test]
    fn this_machine_is_reached_without_a_proxy_and_what_is_listed_too() {
        assert!(changed(&[("NO_PROXY", "a.example")]).is_empty(), "without a proxy nothing is to be done");
        let proxy = ("http_proxy", "http://proxy:3128");
        for (set, expected) in [
            (&[proxy][..], NEVER_BY_PROXY.to_owned()),
            (&[proxy, ("no_proxy", "a.example")], format!("a.example,{NEVER_BY_PROXY}")),
            (&[proxy, ("no_proxy", "b"), ("NO_PROXY", "a.example")], format!("a.example,{NEVER_BY_PROXY}")),
        ] {
            assert_eq!(changed(set), [("NO_PROXY".to_owned(), Some(expected))], "{set:?}");
        }
    }

    #[test]
    fn variables_of_flags_are_found_in_subcommands_too() {
        let command = clap::Command::new("a")
            .arg(clap::Arg::new("one").long("one").env("ONE"))
            .subcommand(clap::Command::new("b").arg(clap::Arg::new("two").long("two").env("TWO")));
        assert_eq!(flags(&command), BTreeSet::from(["ONE".to_owned(), "TWO".to_owned()]));
    }

    #[test]
    fn variables_stay_as_they_are_where_others_may_read_them() {
        std::thread::scope(|scope| {
            scope.spawn(|| assert!(!cfg!(target_os = "linux") || !is_single_threaded()));
        });
    }
}
