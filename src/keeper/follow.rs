//! A job's events, from the first to the terminal one, across dropped connections.

use std::time::{Duration, Instant};

use super::{KeeperError, client::Queen, report::Reporter, sse::SseParser};
use crate::contract::{Event, JobId};

/// How long a lost queen is looked for before the job is given up here (it goes on there).
const RECONNECT_FOR: Duration = Duration::from_secs(60);
/// The first pause before connecting again; it doubles.
const FIRST_PAUSE: Duration = Duration::from_millis(200);
/// The longest pause before connecting again.
const LONGEST_PAUSE: Duration = Duration::from_secs(2);

/// Reports every event but the terminal one, which it returns.
///
/// # Errors
/// [`KeeperError::Unreachable`] when queen stayed away, or her refusal.
pub async fn to_the_end(queen: &Queen, job: &JobId, reporter: &Reporter) -> Result<Event, KeeperError> {
    let mut follower = Follower { queen, job, reporter, last_id: None, heard: Instant::now() };
    let mut pause = FIRST_PAUSE;
    loop {
        let before = follower.last_id.clone();
        let lost = match follower.listen().await {
            Ok(Some(event)) => return Ok(event),
            Ok(None) => None,
            Err(error @ KeeperError::Unreachable { .. }) => Some(error),
            // 429: more requests than one client may send; its job runs all the same.
            Err(KeeperError::Refused { status, message }) if status >= 500 || status == 429 => {
                Some(KeeperError::Refused { status, message })
            }
            // 503 for a job that she has taken: she is starting or stopping.
            Err(KeeperError::NoWorker { message }) => Some(KeeperError::Refused { status: 503, message }),
            Err(error) => return Err(error),
        };
        if follower.heard.elapsed() > RECONNECT_FOR {
            return Err(
                lost.unwrap_or_else(|| KeeperError::Protocol(format!("the events of {job} broke off")))
            );
        }
        if follower.last_id != before {
            pause = FIRST_PAUSE;
        }
        reporter.reconnecting();
        tokio::time::sleep(pause).await;
        pause = (pause * 2).min(LONGEST_PAUSE);
    }
}

struct Follower<'a> {
    queen: &'a Queen,
    job: &'a JobId,
    reporter: &'a Reporter,
    /// The id of the last event, for `Last-Event-ID`.
    last_id: Option<String>,
    /// When queen was last heard, if only by a comment that keeps the connection alive.
    heard: Instant,
}

impl Follower<'_> {
    /// One connection: the terminal event, or `None` when it ended before.
    async fn listen(&mut self) -> Result<Option<Event>, KeeperError> {
        let mut response = self.queen.events(self.job, self.last_id.as_deref()).await?;
        let mut parser = SseParser::default();
        while let Some(chunk) = response.chunk().await.map_err(|error| self.queen.unreachable(&error))? {
            self.heard = Instant::now();
            for message in parser.feed(&chunk).map_err(|error| KeeperError::Protocol(error.to_string()))? {
                // `[DONE]`, `[ERROR] ...`, `[CANCELLED]`: the terminal event came before them.
                if !message.data.starts_with('{') {
                    continue;
                }
                let event: Event = serde_json::from_str(&message.data)
                    .map_err(|error| KeeperError::Protocol(format!("an event: {error}")))?;
                self.last_id = message.id.or(self.last_id.take());
                if event.kind.is_terminal() {
                    return Ok(Some(event));
                }
                self.reporter.event(&event);
            }
        }
        Ok(None)
    }
}
