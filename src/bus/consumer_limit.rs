//! Streams that an earlier version made say nothing of how many consumers they may have, and a server from 2.15 on takes
//! that for 1,000. They are given a number of their own where the server and the user's rights let it be edited.

use std::sync::atomic::Ordering;

use serde_json::{Value, json};

use super::{BusError, Streams, server_line::line_of, streams::MAX_CONSUMERS};

/// The first line of servers that have a limit where a stream has none.
const LIMITED_FROM: (u32, u32) = (2, 15);

impl Streams {
    /// Which connection this is: the server may be another one after the next.
    pub(super) fn connection(&self) -> u64 {
        self.context.client().statistics().connects.load(Ordering::Relaxed)
    }

    /// Gives each stream that has no number of consumers one, where the server needs that. What cannot be edited is left
    /// as it is, and the log says so.
    pub(super) async fn lift_consumer_limits(&self) {
        if !is_limited(&self.context.client().server_info().version) {
            return;
        }
        for stream in [&self.jobs, &self.events, &self.dead_letters] {
            match self.lift_consumer_limit(stream).await {
                Ok(false) => {}
                Ok(true) => {
                    tracing::info!(%stream, consumers = MAX_CONSUMERS, "the stream may have more consumers")
                }
                Err(error) => tracing::warn!(
                    %stream, %error,
                    "the stream may have 1,000 consumers: whoever may edit it gives it more with \
                     `nats stream edit {stream} --max-consumers {MAX_CONSUMERS}`"
                ),
            }
        }
    }

    /// Whether it was edited. The configuration goes back as it came, with what this version does not know.
    async fn lift_consumer_limit(&self, stream: &str) -> Result<bool, BusError> {
        let failed = |doing: &str, error| BusError::jetstream(format!("{doing} stream {stream}"), error);
        let info: Value = self
            .context
            .request(format!("STREAM.INFO.{stream}"), &json!({}))
            .await
            .map_err(|error| failed("reading", error))?;
        let mut config = info["config"].clone();
        if !config.is_object() || config["max_consumers"].as_i64().is_some_and(|number| number > 0) {
            return Ok(false);
        }
        config["max_consumers"] = MAX_CONSUMERS.into();
        let edited: Value = self
            .context
            .request(format!("STREAM.UPDATE.{stream}"), &config)
            .await
            .map_err(|error| failed("editing", error))?;
        match edited["error"]["description"].as_str() {
            None => Ok(true),
            Some(reason) => {
                let doing = format!("editing stream {stream}");
                Err(BusError::JetStream { doing, reason: reason.to_owned() })
            }
        }
    }
}

fn is_limited(version: &str) -> bool {
    line_of(version).is_some_and(|line| line >= LIMITED_FROM)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn servers_from_2_15_on_have_a_limit() {
        for limited in ["2.15.0", "2.15.1-RC.2", "2.16.0", "3.0.0"] {
            assert!(is_limited(limited), "{limited}");
        }
        for other in ["2.9.10", "2.14.6", "2.12.8-beta", "", "main"] {
            assert!(!is_limited(other), "{other}");
        }
    }
}
