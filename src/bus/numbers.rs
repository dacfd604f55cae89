//! The numbers of the stream of jobs, after a power cut.
//!
//! A server that comes back without its last messages (its disk had not got them) goes on with their numbers. Then a job may
//! get a number that is spoken for: its consumer holds it for delivered, and the job stands still until the queue is swept;
//! or the server itself holds it for removed, and nobody ever sees the job. That is so with nats-server 2.9.10, whose index
//! of a block outlives what was in the block (`rebuildStateLocked` in its filestore.go keeps what the index says of
//! removed numbers). So before a job is sent on a new connection, numbers that were given out once are passed over.
//!
//! nats-server 2.9 also believes that a file has every number between its first and its last (`indexCacheBuf`). A file that
//! lost its end, and with it all messages that were left, may go on with a later number: what is written behind the missing
//! ones cannot be read once the file is loaded anew, and no worker is given it. An empty stream is therefore purged before
//! a job is sent on a new connection to such a server: that begins a new file.

use std::{
    sync::{Mutex, PoisonError},
    time::Duration,
};

use async_nats::jetstream::{
    consumer,
    message::OutboundMessage,
    stream::{Info, Stream},
};
use bytes::Bytes;
use futures::TryStreamExt;

use super::{BusError, Streams, server_line::line_of};
use crate::contract::{Capability, JobId};

/// The model on the subject of a message that only takes a number. No consumer asks for it.
const NOBODYS: &str = "passed-over";
/// The first line of servers that read what is behind a missing number (2.10.25 was tried).
const READS_BEHIND_GAPS: (u32, u32) = (2, 10);
/// The most numbers that are passed over at one time: more than a server gives out between two writes to its disk.
const MAX_PASSED: u64 = 100_000;
/// How long that may take.
const WITHIN: Duration = Duration::from_secs(60);

/// What one process knows of the numbers.
#[derive(Debug, Default)]
pub(super) struct Numbers {
    known: Mutex<Known>,
    /// One look at a time.
    turn: tokio::sync::Mutex<()>,
}

#[derive(Debug, Default, Clone)]
struct Known {
    /// The highest that was given out.
    newest: u64,
    /// The stream that gave it out, by the time at which it was made.
    stream: Option<String>,
    /// The connection on which it was looked at.
    connection: Option<u64>,
}

impl Numbers {
    /// Takes note of a number that a message got.
    pub fn given(&self, number: u64) {
        let mut known = self.lock();
        known.newest = known.newest.max(number);
    }

    /// Up to which number a stream of that name has given them out, which now tells of `spoken_for`.
    fn spoken_for(&self, stream: &str, spoken_for: u64) -> u64 {
        let mut known = self.lock();
        if known.stream.as_deref() != Some(stream) {
            // It was removed and made again, and has given out nothing of what is known.
            *known = Known { newest: 0, stream: Some(stream.to_owned()), ..known.clone() };
        }
        known.newest = known.newest.max(spoken_for);
        known.newest
    }

    fn is_looked_at(&self, connection: u64) -> bool {
        self.lock().connection == Some(connection)
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Known> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Streams {
    /// Sees to it that the next job gets a number which was never given out, once for each connection.
    ///
    /// # Errors
    /// When JetStream does not answer.
    pub(super) async fn number_anew(&self) -> Result<(), BusError> {
        let connection = self.connection();
        if self.numbers.is_looked_at(connection) {
            return Ok(());
        }
        let _turn = self.numbers.turn.lock().await;
        if self.numbers.is_looked_at(connection) {
            return Ok(());
        }
        let doing = || format!("reading the numbers of {}", self.jobs);
        let stream = self.context.get_stream_no_info(&self.jobs).await;
        let stream = stream.map_err(|error| BusError::jetstream(doing(), error))?;
        self.remove_passed_over(&stream).await?;
        let consumers: Vec<consumer::Info> =
            stream.consumers().try_collect().await.map_err(|error| BusError::jetstream(doing(), error))?;
        // After the consumers: what is delivered meanwhile is no news.
        let info = stream.get_info().await.map_err(|error| BusError::jetstream(doing(), error))?;
        let delivered = consumers.iter().map(|consumer| consumer.delivered.stream_sequence).max();
        let removed = info.state.first_sequence.saturating_sub(1);
        let spoken_for = delivered.unwrap_or(0).max(removed).max(info.state.last_sequence);
        let until = self.numbers.spoken_for(&info.created.to_string(), spoken_for);
        self.begin_file(&stream, &info).await;
        if until > info.state.last_sequence {
            self.pass_over(info.state.last_sequence, until).await?;
        }
        self.numbers.lock().connection = Some(connection);
        Ok(())
    }

    /// Removes what is left of numbers whose passing over ended in its middle: it would be counted as jobs that wait.
    async fn remove_passed_over<I>(&self, stream: &Stream<I>) -> Result<(), BusError> {
        let (subject, mut from) = (self.subjects.jobs_of(Capability::Generate, NOBODYS), 1);
        while let Some(message) = self.next_of(stream, from, &subject).await? {
            self.remove_job(message.sequence).await?;
            from = message.sequence + 1;
        }
        Ok(())
    }

    /// Lets an empty stream go on in a new file, where the server needs that. What is stored meanwhile has a number that is
    /// not purged. A queen that may not purge goes on without: then a power cut can hide jobs, and its log says so.
    async fn begin_file<I>(&self, stream: &Stream<I>, info: &Info) {
        let (line, state) = (line_of(&self.context.client().server_info().version), &info.state);
        if line.is_none_or(|line| line >= READS_BEHIND_GAPS) || state.messages > 0 || state.last_sequence == 0
        {
            return;
        }
        match stream.purge().sequence(state.last_sequence + 1).await {
            Ok(purged) if purged.purged == 0 => {
                tracing::debug!(stream = %self.jobs, "the empty stream goes on in a new file");
            }
            Ok(purged) => tracing::error!(
                stream = %self.jobs,
                jobs = purged.purged,
                "jobs that came in the same moment were purged: whoever sent them may send them again"
            ),
            Err(error) => tracing::warn!(
                stream = %self.jobs,
                %error,
                "nats-server 2.9 may hide jobs after a power cut: an empty stream of jobs must be purged, which needs \
                 the right to publish on $JS.API.STREAM.PURGE.{}",
                self.jobs
            ),
        }
    }

    /// Stores messages for nobody until the stream has given out `until`, and removes them.
    async fn pass_over(&self, last: u64, until: u64) -> Result<(), BusError> {
        tracing::warn!(
            stream = %self.jobs,
            last,
            until,
            "the server has lost messages that it had acknowledged; their numbers are passed over"
        );
        let pass = async {
            for _ in 0..MAX_PASSED.min(until - last) {
                let subject = self.subjects.jobs(Capability::Generate, NOBODYS, &JobId::generate());
                let stored = self.publish(OutboundMessage::new(subject.into(), Bytes::new(), None)).await;
                let stored =
                    stored.map_err(|error| BusError::jetstream("passing over a number of a job", error))?;
                // One that the server holds for removed cannot be, and needs not.
                self.remove_job(stored.sequence).await?;
                if stored.sequence >= until {
                    break;
                }
            }
            Ok(())
        };
        let timed_out = |_| {
            BusError::jetstream("passing over numbers of jobs", std::io::Error::other("it takes too long"))
        };
        tokio::time::timeout(WITHIN, pass).await.map_err(timed_out)?
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_highest_number_is_known_until_the_stream_is_another() {
        let numbers = Numbers::default();
        assert_eq!(numbers.spoken_for("monday", 3), 3);
        numbers.given(17);
        numbers.given(16);
        assert_eq!(numbers.spoken_for("monday", 4), 17, "it went back");
        assert_eq!(numbers.spoken_for("tuesday", 4), 4);
    }
}
