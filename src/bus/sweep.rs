//! What a server that was killed leaves behind in the stream of jobs.
//!
//! A nats-server that is killed may have forgotten that a message was removed and not that it was acknowledged: it is in
//! the stream then, and is delivered to nobody. Or it takes a message for one that somebody is working on, for very long
//! (both were seen with 2.9.10). The log says what is true: a message whose job has ended is removed, and one whose job
//! has stood still for long, although workers ask for jobs, is sent again. Neither can do harm, for the log also decides
//! what a worker may do with a message.
//!
//! No clock is compared with another: a job stands still when its log has ended with the same event for so long here.

use std::{
    collections::HashMap,
    time::{Duration, Instant, SystemTime},
};

use async_nats::jetstream::{
    consumer::{self, PullConsumer},
    message::{OutboundMessage, StreamMessage},
    stream::Stream,
};
use futures::TryStreamExt;

use super::{
    BusError, Streams,
    delivery::{header, own_headers},
    event_log::read_or_stood_in,
    job_store::is_there_already,
};
use crate::contract::{Capability, ErrorCode, JobId, Ticket, headers};

/// What was found and put right.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Swept {
    /// Messages of jobs that have ended.
    pub ended: u64,
    /// Jobs that stood still.
    pub sent_again: u64,
    /// Consumers that somebody had edited.
    pub mended: u64,
}

/// The jobs of a capability and model, as a sweep saw them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Line {
    /// What they ask for.
    pub capability: Capability,
    /// The model, as it is in subjects.
    pub model: String,
    /// Jobs that no worker has got.
    pub waiting: u64,
    /// Jobs that were given out and have not ended.
    pub in_hand: u64,
    /// When the stream took the first of those that wait, by the server's clock.
    pub oldest: Option<SystemTime>,
}

/// Sweeps again and again, and remembers since when each job has stood still.
#[derive(Debug)]
pub struct Sweeper {
    streams: Streams,
    still_after: Duration,
    seen: HashMap<JobId, Seen>,
    /// The connection on which the limits of consumers were looked at.
    limits_of: Option<u64>,
    /// The models whose consumers are made when they are missing.
    models: Vec<String>,
    lines: Vec<Line>,
}

/// The last event of a job, and since when it has been the last.
#[derive(Debug, Clone, Copy)]
struct Seen {
    /// The message of the job.
    message: u64,
    /// Its last event; 0 stands for none.
    last: u64,
    since: Instant,
    /// The sweep that saw it last: what a sweep does not see is forgotten.
    sweep: Instant,
}

impl Sweeper {
    /// A job whose log does not grow for `still_after` stands still.
    pub fn new(streams: Streams, still_after: Duration) -> Self {
        let (seen, models, lines) = (HashMap::new(), vec![], vec![]);
        Self { streams, still_after, seen, limits_of: None, models, lines }
    }

    /// The consumers of these models are made when they are missing, also while nobody serves or asks for one: who scales a
    /// pool from nothing reads from them how many jobs wait, and takes one that is missing for an error.
    #[must_use]
    pub fn making_consumers_of(mut self, models: Vec<String>) -> Self {
        self.models = models;
        self
    }

    /// What the last sweep that went through saw of each line.
    pub fn lines(&self) -> &[Line] {
        &self.lines
    }

    /// Looks at the messages that were delivered and are still there, which are no more than workers have in their hands,
    /// and at the consumers. A message that cannot be looked at is left to the next sweep.
    ///
    /// # Errors
    /// When JetStream does not answer; what was put right by then stays so.
    pub async fn sweep(&mut self) -> Result<Swept, BusError> {
        let connection = self.streams.connection();
        if self.limits_of != Some(connection) {
            self.streams.lift_consumer_limits().await;
            self.limits_of = Some(connection);
        }
        if let Err(error) = self.streams.number_anew().await {
            tracing::warn!(%error, "the numbers of the queue cannot be looked at");
        }
        let failed = |error| BusError::jetstream("sweeping the queue", error);
        let stream = self.streams.context.get_stream_no_info(&self.streams.jobs).await;
        let stream = stream.map_err(|error| BusError::jetstream("sweeping the queue", error))?;
        let consumers: Vec<consumer::Info> = match stream.consumers().try_collect().await {
            Ok(consumers) => consumers,
            Err(error) => {
                // Deleted, perhaps.
                self.streams.mend();
                return Err(failed(error));
            }
        };
        self.make_missing(&consumers).await;
        let (mut swept, begun, mut lines) = (Swept::default(), Instant::now(), vec![]);
        for consumer in consumers {
            match self.streams.mend_consumer(&stream, &consumer).await {
                Ok(mended) => swept.mended += u64::from(mended),
                // What cannot be edited must be removed by hand; the queue is swept all the same.
                Err(error) => tracing::warn!(%error, "a consumer is not as it must be"),
            }
            // Workers ask for jobs at present, and get none.
            let wanted = consumer.num_waiting > 0;
            let (mut from, mut oldest) = (1, None);
            while from <= consumer.delivered.stream_sequence || consumer.num_pending > 0 {
                let next = self.streams.next_of(&stream, from, &consumer.config.filter_subject).await?;
                let Some(message) = next else { break };
                from = message.sequence + 1;
                if message.sequence > consumer.delivered.stream_sequence {
                    oldest = Some(SystemTime::from(message.time));
                    break;
                }
                let sequence = message.sequence;
                if let Err(error) = self.look_at(message, wanted, begun, &mut swept).await {
                    tracing::warn!(sequence, %error, "a message of the queue cannot be looked at");
                }
            }
            if let Some((capability, model)) = served_by(&consumer.name) {
                let (waiting, in_hand) = (consumer.num_pending, consumer.num_ack_pending as u64);
                lines.push(Line { capability, model: model.to_owned(), waiting, in_hand, oldest });
            }
        }
        self.seen.retain(|_, seen| seen.sweep == begun);
        self.lines = lines;
        Ok(swept)
    }

    /// A consumer that cannot be made is left to the next sweep.
    async fn make_missing(&self, there: &[consumer::Info]) {
        for model in &self.models {
            for capability in Capability::ALL {
                let name = Streams::consumer_name(capability, model);
                if there.iter().any(|consumer| consumer.name == name) {
                    continue;
                }
                match self.streams.ensure_consumer(capability, model).await {
                    Ok(()) => tracing::info!(consumer = %name, "made the consumer of a model of --models"),
                    Err(error) => {
                        tracing::warn!(%error, "the consumer of a model of --models could not be made")
                    }
                }
            }
        }
    }

    /// `wanted`: workers ask for jobs of its consumer.
    async fn look_at(
        &mut self,
        message: StreamMessage,
        wanted: bool,
        sweep: Instant,
        swept: &mut Swept,
    ) -> Result<(), BusError> {
        // One whose subject names no job is for the workers to set aside.
        let (_, _, Some(id)) = self.streams.subjects.parse_job(&message.subject) else { return Ok(()) };
        let last = self.streams.last_on(&self.streams.subjects.events(&id)).await?;
        let last = last.map(|last| read_or_stood_in(&last, &id));
        if let Some(last) = &last {
            let after =
                header(Some(&message.headers), headers::JOB_AFTER).and_then(|seq| seq.parse::<u64>().ok());
            let event = &last.event;
            if event.kind.is_terminal() && after.is_none_or(|after| event.seq > after) {
                tracing::info!(job_id = %id, sequence = message.sequence, "the message of a job that has ended is removed");
                self.streams.remove_job(message.sequence).await?;
                swept.ended += 1;
                return Ok(());
            }
        }
        let now = Seen {
            message: message.sequence,
            last: last.map_or(0, |last| last.sequence),
            since: sweep,
            sweep,
        };
        let seen = self.seen.entry(id.clone()).or_insert(now);
        if (seen.message, seen.last) != (now.message, now.last) {
            *seen = now;
        }
        seen.sweep = sweep;
        let quiet = sweep.duration_since(seen.since);
        if wanted && quiet > self.still_after {
            tracing::warn!(job_id = %id, sequence = message.sequence, ?quiet, "a job that stands still is sent again");
            self.streams.send_again(&id, message).await?;
            swept.sent_again += 1;
        }
        Ok(())
    }
}

/// What the consumer of that name is for; none: it is none of ours.
fn served_by(consumer: &str) -> Option<(Capability, &str)> {
    let (capability, model) = consumer.split_once('-')?;
    Some((capability.parse().ok()?, model))
}

impl Streams {
    /// Puts right what somebody edited of a consumer; whether it was needed. Its name says what it must be like.
    async fn mend_consumer(&self, stream: &Stream<()>, found: &consumer::Info) -> Result<bool, BusError> {
        let Some((capability, model)) = served_by(&found.name) else { return Ok(false) };
        let wanted = self.consumer_config(&found.name, self.subjects.jobs_of(capability, model));
        let config = &found.config;
        let is_ours = config.filter_subject == wanted.filter_subject
            && config.max_deliver == wanted.max_deliver
            && config.ack_policy == wanted.ack_policy
            && config.ack_wait == wanted.ack_wait
            && config.backoff.is_empty();
        if is_ours {
            return Ok(false);
        }
        let made: Result<PullConsumer, _> = stream.create_consumer(wanted).await;
        made.map_err(|error| BusError::jetstream(format!("mending consumer {}", found.name), error))?;
        tracing::warn!(consumer = %found.name, "a consumer was edited, and is as it must be again");
        Ok(true)
    }

    /// Sends the message of a job again. The queue has one place for a job: while it is empty, a dead letter keeps the job.
    async fn send_again(&self, id: &JobId, message: StreamMessage) -> Result<(), BusError> {
        self.number_anew().await?;
        let mut map = own_headers(&message.headers);
        map.insert(headers::JOB_ID, id.as_str());
        let mut kept = map.clone();
        kept.insert(headers::MESSAGE_ID, format!("{id}:kept:{}", message.sequence));
        kept.insert(headers::JOB_SUBJECT, message.subject.as_str());
        kept.insert(headers::JOB_ERROR_CODE, ErrorCode::Internal.code());
        kept.insert(headers::JOB_ERROR, "queen was stopped while it sent the job again");
        map.insert(headers::MESSAGE_ID, format!("{id}:s{}", message.sequence));
        let failed = |doing: &str, error| BusError::jetstream(format!("{doing} job {id}"), error);
        let subject = self.subjects.dead_letter_of(&message.subject, id);
        let letter = OutboundMessage::new(subject.into(), message.payload.clone(), Some(kept));
        let letter = self.publish(letter).await.map_err(|error| failed("keeping", error))?;
        if !self.remove_job(message.sequence).await? {
            // Somebody settled it a moment ago.
            return self.drop_letter(letter.sequence).await;
        }
        let copy = OutboundMessage::new(message.subject.clone(), message.payload.clone(), Some(map));
        let stored = match self.publish(copy).await {
            Ok(stored) => stored,
            // Its sender was quicker, who found its place empty.
            Err(error) if is_there_already(&error) => return self.drop_letter(letter.sequence).await,
            Err(error) => return Err(failed("sending", error)),
        };
        self.drop_letter(letter.sequence).await?;
        if let Some(old) = self.stored_ticket(id).await?.filter(|old| old.ticket.sequence == message.sequence)
        {
            // Who wrote another one meanwhile knows better.
            self.put_ticket_after(&Ticket { sequence: stored.sequence, ..old.ticket }, old.sequence).await?;
        }
        Ok(())
    }
}
