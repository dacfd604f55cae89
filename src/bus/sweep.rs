//! What a server that was killed leaves behind in the stream of jobs.
//!
//! A nats-server that is killed may have forgotten that a message was removed and not that it was acknowledged: it is in
//! the stream then, and is delivered to nobody. Or it takes a message for one that somebody is working on, for very long
//! (both were seen with 2.9.10). The log says what is true: a message whose job has ended is removed, and one whose job
//! has stood still for long, although workers ask for jobs, is sent again. Neither can do harm, for the log also decides
//! what a worker may do with a message.

use std::time::{Duration, SystemTime};

use async_nats::{
    HeaderMap,
    jetstream::{
        consumer,
        message::{OutboundMessage, StreamMessage},
        stream::RawMessageErrorKind,
    },
};
use futures::TryStreamExt;

use super::{BusError, Streams, delivery::header, event_log::logged};
use crate::contract::{JobId, Ticket, headers};

/// What was found and put right.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Swept {
    /// Messages of jobs that have ended.
    pub ended: u64,
    /// Jobs that stood still.
    pub sent_again: u64,
}

/// The id of the job in a message of the queue. Whoever gave none gets the same one each time.
pub(super) fn job_of(map: Option<&HeaderMap>, accepted_at: SystemTime, sequence: u64) -> Option<JobId> {
    let id = |name| header(map, name).and_then(|id| JobId::new(id).ok());
    let own = || {
        let since = accepted_at.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        JobId::new(format!("queued-{}-{sequence}", since.as_millis())).ok()
    };
    id(headers::JOB_ID).or_else(|| id(headers::MESSAGE_ID)).or_else(own)
}

impl Streams {
    /// Looks at the messages that were delivered and are still there, which are no more than workers have in their hands.
    /// A job of which nothing was heard for `still_after` stands still.
    ///
    /// # Errors
    /// When JetStream does not answer; what was put right by then stays so.
    pub async fn sweep(&self, still_after: Duration) -> Result<Swept, BusError> {
        let failed = |error| BusError::jetstream("sweeping the queue", error);
        let stream = self.context.get_stream_no_info(&self.jobs).await;
        let stream = stream.map_err(|error| BusError::jetstream("sweeping the queue", error))?;
        let consumers: Vec<consumer::Info> = stream.consumers().try_collect().await.map_err(failed)?;
        let mut swept = Swept::default();
        for consumer in consumers {
            // Workers ask for jobs at present, and get none.
            let wanted = consumer.num_waiting > 0;
            let mut from = 1;
            while from <= consumer.delivered.stream_sequence {
                let next = stream
                    .raw_message_builder()
                    .sequence(from)
                    .next_by_subject(&consumer.config.filter_subject);
                let message = match next.send().await {
                    Ok(message) => message,
                    Err(error) if error.kind() == RawMessageErrorKind::NoMessageFound => break,
                    Err(error) => return Err(BusError::jetstream("sweeping the queue", error)),
                };
                from = message.sequence + 1;
                if message.sequence <= consumer.delivered.stream_sequence {
                    self.sweep_one(message, wanted.then_some(still_after), &mut swept).await?;
                }
            }
        }
        Ok(swept)
    }

    /// `still_after`: how long a job may stand still; none: for ever.
    async fn sweep_one(
        &self,
        message: StreamMessage,
        still_after: Option<Duration>,
        swept: &mut Swept,
    ) -> Result<(), BusError> {
        let accepted_at = SystemTime::from(message.time);
        let Some(id) = job_of(Some(&message.headers), accepted_at, message.sequence) else { return Ok(()) };
        let last = self.last_on(&self.subjects.events(&id)).await?;
        let heard_at = last.as_ref().map_or(accepted_at, |last| SystemTime::from(last.time)).max(accepted_at);
        if let Some(last) = last {
            let event = logged(&last)?.event;
            let after =
                header(Some(&message.headers), headers::JOB_AFTER).and_then(|seq| seq.parse::<u64>().ok());
            if event.kind.is_terminal() && after.is_none_or(|after| event.seq > after) {
                tracing::info!(job = %id, sequence = message.sequence, "the message of a job that has ended is removed");
                self.remove_job(message.sequence).await?;
                swept.ended += 1;
                return Ok(());
            }
        }
        let quiet = SystemTime::now().duration_since(heard_at).unwrap_or_default();
        if still_after.is_some_and(|still_after| quiet > still_after) {
            tracing::warn!(job = %id, sequence = message.sequence, ?quiet, "a job that stands still is sent again");
            self.send_again(&id, message).await?;
            swept.sent_again += 1;
        }
        Ok(())
    }

    async fn send_again(&self, id: &JobId, message: StreamMessage) -> Result<(), BusError> {
        let mut map = HeaderMap::new();
        for (name, values) in
            message.headers.iter().filter(|(name, _)| !name.to_string().starts_with("Nats-"))
        {
            values.iter().for_each(|value| map.append(name.clone(), value.clone()));
        }
        map.insert(headers::JOB_ID, id.as_str());
        map.insert(headers::MESSAGE_ID, format!("{id}:s{}", message.sequence));
        let copy = OutboundMessage::new(message.subject.clone(), message.payload.clone(), Some(map));
        let stored = self.publish(copy).await;
        let stored =
            stored.map_err(|error| BusError::jetstream(format!("sending on {}", message.subject), error))?;
        if let Some(old) = self.stored_ticket(id).await?.filter(|old| old.ticket.sequence == message.sequence)
        {
            // Who wrote another one meanwhile knows better.
            self.put_ticket_after(&Ticket { sequence: stored.sequence, ..old.ticket }, old.sequence).await?;
        }
        self.remove_job(message.sequence).await.map(drop)
    }
}
