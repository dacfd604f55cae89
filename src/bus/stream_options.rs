//! The flags of the streams that durable jobs go through.

use std::time::Duration;

use crate::units::{parse_duration, parse_size};

/// What the streams are made with when they are not there yet, and whether they are used at all.
#[derive(Debug, Clone, PartialEq, Eq, clap::Args)]
#[command(next_help_heading = "Durable jobs")]
pub struct StreamOptions {
    /// Use no streams: a job is gone with the process that has it
    #[arg(long, env = "SD_CORE")]
    pub core: bool,
    /// Bytes of jobs that may wait; beyond them a job is refused. For a stream that is made, as are the next four
    #[arg(long, env = "SD_JOBS_MAX_BYTES", default_value = "1GiB", value_parser = parse_size, value_name = "SIZE")]
    pub jobs_max_bytes: u64,
    /// Bytes of events that are kept; beyond them the oldest are forgotten
    #[arg(long, env = "SD_EVENTS_MAX_BYTES", default_value = "1GiB", value_parser = parse_size, value_name = "SIZE")]
    pub events_max_bytes: u64,
    /// How long events can be read again
    #[arg(long, env = "SD_EVENTS_MAX_AGE", default_value = "7d", value_parser = parse_duration, value_name = "TIME")]
    pub events_max_age: Duration,
    /// Bytes of dead letters that are kept; beyond them the oldest are forgotten
    #[arg(long, env = "SD_DLQ_MAX_BYTES", default_value = "256MiB", value_parser = parse_size, value_name = "SIZE")]
    pub dlq_max_bytes: u64,
    /// Servers of a NATS cluster that each keep the streams: 1, 3 or 5
    #[arg(long, env = "SD_STREAM_REPLICAS", default_value = "1", value_parser = parse_replicas)]
    pub stream_replicas: usize,
    /// How long after the last sign of life of its worker a job is given to another; every worker's must be the same
    #[arg(long, env = "SD_ACK_WAIT", default_value = "30s", value_parser = parse_ack_wait, value_name = "TIME")]
    pub ack_wait: Duration,
}

impl Default for StreamOptions {
    fn default() -> Self {
        Self {
            core: false,
            jobs_max_bytes: 1 << 30,
            events_max_bytes: 1 << 30,
            events_max_age: Duration::from_secs(7 * 24 * 3600),
            dlq_max_bytes: 256 << 20,
            stream_replicas: 1,
            ack_wait: Duration::from_secs(30),
        }
    }
}

fn parse_replicas(text: &str) -> Result<usize, String> {
    match text.parse() {
        Ok(replicas @ (1 | 3 | 5)) => Ok(replicas),
        _ => Err("1, 3 or 5 are allowed".into()),
    }
}

fn parse_ack_wait(text: &str) -> Result<Duration, String> {
    let wait = parse_duration(text)?;
    if (Duration::from_secs(1)..=Duration::from_secs(600)).contains(&wait) {
        Ok(wait)
    } else {
        Err("1s to 10m are allowed".into())
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Parser)]
    struct Only {
        #[command(flatten)]
        options: StreamOptions,
    }

    #[test]
    fn the_default_is_what_no_flag_gives() {
        assert_eq!(Only::parse_from(["x"]).options, StreamOptions::default());
        for bad in [["--stream-replicas", "2"], ["--ack-wait", "500ms"], ["--jobs-max-bytes", "much"]] {
            assert!(Only::try_parse_from([&["x"][..], &bad].concat()).is_err(), "{bad:?}");
        }
    }
}
