//! The flags of webhooks.

use std::{path::PathBuf, time::Duration};

use super::network::Network;
use crate::{bus::OUTBOX_ACK_WAIT, units::parse_duration};

/// Whether webhooks are posted, where to, and how many at one time.
#[derive(Debug, Clone, clap::Args)]
#[command(next_help_heading = "Webhooks")]
pub struct WebhookOptions {
    /// File with the secrets that webhooks are signed with: whsec_ and base64, one a line, as
    /// `echo "whsec_$(openssl rand -base64 32)"` makes them; each signs. NAME:whsec_... is for the jobs of that client
    /// alone. SIGHUP reads it again. None: jobs that name a webhook are refused
    #[arg(long, env = "QUEEN_WEBHOOK_SECRET_FILE", value_name = "FILE")]
    pub webhook_secret_file: Option<PathBuf>,
    /// Addresses that webhooks may go to although they are not public, also without TLS: 192.168.1.0/24 (repeat, or
    /// separate by commas)
    #[arg(long, env = "QUEEN_WEBHOOK_ALLOW", value_name = "CIDR", value_delimiter = ',')]
    pub webhook_allow: Vec<Network>,
    /// Webhooks that may be under way at one time
    #[arg(long, env = "QUEEN_WEBHOOK_CONCURRENCY", default_value = "64", value_parser = parse_places)]
    pub webhook_concurrency: usize,
    /// Webhooks that may be under way to one host at one time; to one that failed last, one
    #[arg(long, env = "QUEEN_WEBHOOK_PER_HOST", default_value = "8", value_parser = parse_places)]
    pub webhook_per_host: usize,
    /// How long a receiver has for its answer
    #[arg(long, env = "QUEEN_WEBHOOK_TIMEOUT", default_value = "15s", value_parser = parse_timeout, value_name = "TIME")]
    pub webhook_timeout: Duration,
    /// How long a webhook is posted again and again until it is taken: after 5 s, and then after as long again as it has
    /// been since the event, at most an hour
    #[arg(long, env = "QUEEN_WEBHOOK_RETRY_FOR", default_value = "24h", value_parser = parse_duration, value_name = "TIME")]
    pub webhook_retry_for: Duration,
}

fn parse_places(text: &str) -> Result<usize, String> {
    match text.parse() {
        Ok(places @ 1..=1024) => Ok(places),
        _ => Err("1 to 1024 are allowed".into()),
    }
}

/// An attempt ends, with what is asked of NATS around it, before its event is given to another queen.
fn parse_timeout(text: &str) -> Result<Duration, String> {
    let timeout = parse_duration(text)?;
    let most = OUTBOX_ACK_WAIT * 2 / 3;
    match (Duration::from_millis(100)..=most).contains(&timeout) {
        true => Ok(timeout),
        false => Err(format!("100ms to {}s are allowed", most.as_secs())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_attempt_ends_before_another_queen_makes_one() {
        for (text, timeout) in [("20s", Some(20_000)), ("100ms", Some(100)), ("21s", None), ("0s", None)] {
            assert_eq!(parse_timeout(text).ok(), timeout.map(Duration::from_millis), "{text}");
        }
        assert!(parse_places("0").is_err() && parse_places("1025").is_err() && parse_places("8").is_ok());
    }
}
