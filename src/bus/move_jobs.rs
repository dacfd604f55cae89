//! What an earlier version left in its streams is moved, once: there a job's subject did not name the job, and a queue could
//! have a job twice.
//!
//! Each message is stored under its new subject before the old one is removed, so that whatever ends in between, the next
//! run goes on. Neither a queen nor a worker may run meanwhile: they would find streams of two kinds.

use std::time::SystemTime;

use async_nats::{
    HeaderMap,
    jetstream::{
        consumer,
        message::{OutboundMessage, StreamMessage},
        stream::{Config, Stream},
    },
};
use futures::TryStreamExt;

use super::{
    BusError, Streams,
    delivery::{header, own_headers},
};
use crate::contract::{Capability, JobId, Ticket, headers};

/// What was moved.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Moved {
    /// Jobs that waited.
    pub jobs: u64,
    /// Messages of a job that was in the queue already; they are dead letters now.
    pub set_aside: u64,
    /// Dead letters.
    pub letters: u64,
}

impl Streams {
    /// Moves what an earlier version's streams have. Streams that are as they must be are left alone.
    ///
    /// # Errors
    /// When JetStream does not do it; what was moved by then stays so, and the next call goes on.
    pub async fn move_jobs(&self) -> Result<Moved, BusError> {
        let mut moved = Moved::default();
        let [jobs, events, letters] = self.configs();
        if self.is_there(&events.name).await? {
            self.move_letters(&letters, &mut moved).await?;
            self.move_queue(&jobs, &mut moved).await?;
        }
        self.ensure().await?;
        Ok(moved)
    }

    async fn is_there(&self, stream: &str) -> Result<bool, BusError> {
        match self.context.get_stream(stream).await {
            Ok(_) => Ok(true),
            Err(error) if super::streams::is_missing(&error) => Ok(false),
            Err(error) => Err(BusError::jetstream(format!("stream {stream}"), error)),
        }
    }

    /// The stream, which takes messages on subjects of both kinds from now on; `None`: it is not there, or has no subjects of
    /// the earlier kind.
    async fn opened(&self, wanted: &Config) -> Result<Option<Stream>, BusError> {
        let failed = |error| BusError::jetstream(format!("opening stream {}", wanted.name), error);
        if !self.is_there(&wanted.name).await? {
            return Ok(None);
        }
        let stream = self.context.get_stream(&wanted.name).await;
        let stream = stream.map_err(|error| BusError::jetstream(format!("stream {}", wanted.name), error))?;
        let (found, earlier) = (stream.cached_info().config.clone(), self.earlier_subjects(&wanted.name));
        if !earlier.iter().all(|subject| found.subjects.contains(subject)) {
            return Ok(None);
        }
        let subjects = earlier.into_iter().chain(wanted.subjects.iter().cloned()).collect();
        self.context.update_stream(Config { subjects, ..found }).await.map_err(failed)?;
        Ok(Some(stream))
    }

    /// Takes messages on the new subjects alone, one of each.
    async fn close(&self, wanted: &Config) -> Result<(), BusError> {
        let failed = |error| BusError::jetstream(format!("closing stream {}", wanted.name), error);
        let stream = self.context.get_stream(&wanted.name).await;
        let stream = stream.map_err(|error| BusError::jetstream(format!("stream {}", wanted.name), error))?;
        let found = stream.cached_info().config.clone();
        let config = Config {
            subjects: wanted.subjects.clone(),
            max_messages_per_subject: wanted.max_messages_per_subject,
            discard_new_per_subject: wanted.discard_new_per_subject,
            ..found
        };
        self.context.update_stream(config).await.map(drop).map_err(failed)
    }

    async fn move_queue(&self, wanted: &Config, moved: &mut Moved) -> Result<(), BusError> {
        let Some(stream) = self.opened(wanted).await? else { return Ok(()) };
        let failed = |error| BusError::jetstream("moving the queue", error);
        // By what consumers know, which go now.
        self.number_anew().await?;
        // Consumers of the earlier kind would keep messages from those of today.
        let consumers: Vec<consumer::Info> = stream.consumers().try_collect().await.map_err(failed)?;
        for consumer in consumers {
            let deleted = stream.delete_consumer(&consumer.name).await;
            deleted.map_err(|error| BusError::jetstream("removing a consumer", error))?;
        }
        let mut next = 1;
        while let Some(message) = self.next_of(&stream, next, &self.subjects.jobs_without_id()).await? {
            next = message.sequence + 1;
            self.move_job(message, moved).await?;
        }
        self.close(wanted).await
    }

    async fn move_job(&self, message: StreamMessage, moved: &mut Moved) -> Result<(), BusError> {
        let old = message.sequence;
        let id = earlier_id(&message);
        let subject = format!("{}.{id}", message.subject);
        let mut there = self.job_in_queue(&id).await?;
        // It was sent again after its end: what was sent before has ended.
        if let Some(ended) = &there
            && header(Some(&message.headers), headers::JOB_AFTER).is_some()
        {
            self.remove_job(ended.sequence).await?;
            there = None;
        }
        let mut map = own_headers(&message.headers);
        map.insert(headers::JOB_ID, id.as_str());
        if there.is_some() {
            map.insert(headers::MESSAGE_ID, format!("{id}:moved:{old}"));
            map.insert(headers::JOB_SUBJECT, subject.as_str());
            map.insert(headers::JOB_ERROR_CODE, "invalid_request");
            map.insert(headers::JOB_ERROR, "the job was in the queue twice");
            let own = JobId::new(format!("{}-{old}", &id.as_str()[..id.as_str().len().min(100)]));
            let own = own.expect("a part of an id, and a number");
            map.insert(headers::JOB_ID, own.as_str());
            let letter = self.subjects.dead_letter_of(&subject, &own);
            self.put(letter, map, &message).await?;
            moved.set_aside += 1;
        } else {
            map.insert(headers::MESSAGE_ID, format!("{id}:moved:{old}"));
            let sequence = self.put(subject, map, &message).await?;
            if let Some(ticket) =
                self.stored_ticket(&id).await?.filter(|stored| stored.ticket.sequence == old)
            {
                self.put_ticket_after(&Ticket { sequence, ..ticket.ticket }, ticket.sequence).await?;
            }
            moved.jobs += 1;
        }
        self.remove_job(old).await.map(drop)
    }

    async fn move_letters(&self, wanted: &Config, moved: &mut Moved) -> Result<(), BusError> {
        let Some(stream) = self.opened(wanted).await? else { return Ok(()) };
        let mut next = 1;
        while let Some(message) =
            self.next_of(&stream, next, &self.subjects.dead_letters_without_id()).await?
        {
            next = message.sequence + 1;
            let id = earlier_id(&message);
            let capability = message.subject.rsplit('.').next().unwrap_or_default();
            let capability = capability.parse::<Capability>().map_or("unknown", Capability::token);
            let mut map = own_headers(&message.headers);
            if let Some(subject) = header(Some(&message.headers), headers::JOB_SUBJECT) {
                map.insert(headers::JOB_SUBJECT, format!("{subject}.{id}"));
            }
            map.insert(headers::MESSAGE_ID, format!("{id}:moved:{}", message.sequence));
            self.put(self.subjects.dead_letter(capability, &id), map, &message).await?;
            let removed = stream.delete_message(message.sequence).await;
            removed.map_err(|error| BusError::jetstream("removing a dead letter", error))?;
            moved.letters += 1;
        }
        self.close(wanted).await
    }

    async fn put(&self, subject: String, map: HeaderMap, message: &StreamMessage) -> Result<u64, BusError> {
        let copy = OutboundMessage::new(subject.clone().into(), message.payload.clone(), Some(map));
        let stored = self.publish(copy).await;
        stored
            .map(|ack| ack.sequence)
            .map_err(|error| BusError::jetstream(format!("storing {subject}"), error))
    }
}

/// The id of the job in a message of an earlier version. Whoever gave none gets the one that workers then gave it.
fn earlier_id(message: &StreamMessage) -> JobId {
    let id = |name| header(Some(&message.headers), name).and_then(|id| JobId::new(id).ok());
    let own = || {
        let since = SystemTime::from(message.time).duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        JobId::new(format!("queued-{}-{}", since.as_millis(), message.sequence)).expect("digits")
    };
    id(headers::JOB_ID).or_else(|| id(headers::MESSAGE_ID)).unwrap_or_else(own)
}
