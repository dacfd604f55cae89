//! The events of jobs as they are stored, and their previews, which are not: for any number of readers by one consumer.
//!
//! A reader first catches up by reading its job's events from the stream, one after the other, and goes on with what one
//! consumer of all events and one subscription of all previews hand on ([`FanOut`]). Whenever that one may have missed
//! something, each reader catches up again from where it is. A message's number in the stream says whether a reader has it.
//!
//! What is published on `events.<job>` is never read from there: an event that the stream refused was published too.

use std::{
    collections::HashSet,
    sync::{Arc, Mutex, OnceLock, PoisonError},
    time::Duration,
};

use async_nats::{
    Message,
    jetstream::{
        Context,
        message::StreamMessage,
        stream::{RawMessageErrorKind, Stream},
    },
};
use futures::StreamExt;
use tokio::{sync::Semaphore, task::JoinSet};

use super::{
    BusError, Logged, Streams,
    event_log::logged,
    fan_out::{FanOut, Place, Told, Waiting},
    ordered::{Live, News},
    subscribe,
};
use crate::contract::{Event, EventKind, JobId, Subjects, headers};

/// Readers that catch up at one time, each with one request: after an outage all do.
const CATCHING_UP: usize = 16;
/// The pause after the stream could not be read.
const PAUSE: Duration = Duration::from_millis(500);
/// Kinds of messages that cannot be read and are warned of, each once.
const MAX_KINDS: usize = 32;

/// The events of jobs. Cheap to clone; clones share the consumer, which is there from the first reader on.
#[derive(Debug, Clone)]
pub struct JobEvents {
    source: Arc<Source>,
    listening: Arc<OnceLock<JoinSet<()>>>,
}

/// Where events come from.
#[derive(Debug)]
struct Source {
    context: Context,
    subjects: Subjects,
    /// The name of the stream.
    stream: String,
    fan_out: FanOut,
    catching_up: Semaphore,
    unreadable: Unreadable,
    bounds: Bounds,
}

/// Who is told of every beginning and end of a job.
struct Bounds(Box<dyn Fn(&Event) + Send + Sync>);

impl std::fmt::Debug for Bounds {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Bounds")
    }
}

/// A reader of one job: its stored events from the first, previews between them.
#[derive(Debug)]
pub struct EventReader {
    source: Arc<Source>,
    /// Keeps the consumer.
    _listening: Arc<OnceLock<JoinSet<()>>>,
    subject: String,
    place: Place,
    /// The last stored event that was told.
    last: Option<Arc<Logged>>,
    phase: Phase,
}

/// Which message of a subject.
#[derive(Debug, Clone, Copy)]
enum Which {
    /// The last.
    Last,
    /// The first from this number of the stream on.
    From(u64),
}

/// What a reader is about to do.
#[derive(Debug, Clone, Copy)]
enum Phase {
    /// See what is stored.
    Look,
    /// Read stored events from number `from` of the stream on, to number `until`.
    CatchUp { from: u64, until: u64 },
    /// Wait for what is handed on.
    Follow,
}

impl JobEvents {
    /// The events in these streams. Nothing is sent before the first reader.
    pub fn new(streams: &Streams) -> Self {
        Self::telling(streams, |_| {})
    }

    /// As [`Self::new`]; `bounds` is told how each job begins and how it ends, from [`Self::listen`] or the first reader on,
    /// but for what an outage hides. It is called between two events, and must not take long.
    pub fn telling(streams: &Streams, bounds: impl Fn(&Event) + Send + Sync + 'static) -> Self {
        let source = Source {
            context: streams.context.clone(),
            subjects: streams.subjects.clone(),
            stream: streams.events.clone(),
            fan_out: FanOut::default(),
            catching_up: Semaphore::new(CATCHING_UP),
            unreadable: Unreadable::default(),
            bounds: Bounds(Box::new(bounds)),
        };
        Self { source: Arc::new(source), listening: Arc::default() }
    }

    /// Begins to listen, if it does not yet.
    pub fn listen(&self) {
        self.listening.get_or_init(|| {
            let mut tasks = JoinSet::new();
            tasks.spawn(self.source.clone().hear_events());
            tasks.spawn(self.source.clone().hear_previews());
            tasks
        });
    }

    /// Reads the events of a job, from the first that is stored. Outages are sat out.
    pub fn of(&self, job: &JobId) -> EventReader {
        self.listen();
        EventReader {
            source: self.source.clone(),
            _listening: self.listening.clone(),
            subject: self.source.subjects.events(job),
            place: self.source.fan_out.open(job),
            last: None,
            phase: Phase::Look,
        }
    }
}

impl Source {
    async fn hear_events(self: Arc<Self>) {
        let subject = self.subjects.events_any();
        let prefix = subject.trim_end_matches('*').to_owned();
        let mut live = Live::listen(self.context.clone(), self.stream.clone(), subject);
        while let Some(news) = live.next().await {
            match news {
                News::Gap => self.fan_out.gap(),
                News::Message(message) => {
                    let job = message.subject.strip_prefix(&prefix).unwrap_or_default();
                    let is_read = self.fan_out.is_read(job);
                    if is_end(&message) {
                        self.fan_out.forget_preview(job);
                    }
                    if (is_read || is_begin_or_end(&message))
                        && let Some(logged) = self.read(&message)
                    {
                        let kind = &logged.event.kind;
                        if kind.is_terminal() || matches!(kind, EventKind::Accepted { .. }) {
                            (self.bounds.0)(&logged.event);
                        }
                        if is_read {
                            self.fan_out.stored(job, &Arc::new(logged));
                        }
                    }
                }
            }
        }
        self.fan_out.close();
    }

    async fn hear_previews(self: Arc<Self>) {
        let prefix = previews_prefix(&self.subjects);
        // The client keeps a subscription across outages.
        let mut messages = match subscribe(&self.context.client(), &format!("{prefix}*")).await {
            Ok(messages) => messages,
            Err(error) => return tracing::error!(%error, "previews cannot be heard"),
        };
        while let Some(message) = messages.next().await {
            let job = message.subject.strip_prefix(&prefix).unwrap_or_default();
            match preview(&message, job) {
                Some(event) => self.fan_out.preview(job, &Arc::new(event)),
                None => tracing::debug!(job, "a preview that is none is left out"),
            }
        }
    }

    /// The event in a message. One that cannot be read is left out: a newer worker may have written it.
    fn read(&self, message: &StreamMessage) -> Option<Logged> {
        match logged(message) {
            Ok(logged) => Some(logged),
            Err(error) => {
                let kind = message.headers.get(headers::JOB_EVENT).map_or("", |kind| kind.as_str());
                if self.unreadable.is_new(kind) {
                    tracing::warn!(%error, kind, "events that cannot be read are left out");
                }
                None
            }
        }
    }

    /// A message on a subject, if there is one.
    async fn message(&self, subject: &str, which: Which) -> Result<Option<StreamMessage>, BusError> {
        let request = self.stream(subject).await?.raw_message_builder();
        let found = match which {
            Which::Last => request.last_by_subject(subject).send().await,
            Which::From(sequence) => request.sequence(sequence).next_by_subject(subject).send().await,
        };
        match found {
            Ok(message) => Ok(Some(message)),
            Err(error) if error.kind() == RawMessageErrorKind::NoMessageFound => Ok(None),
            Err(error) => Err(BusError::jetstream(format!("reading {subject}"), error)),
        }
    }

    async fn stream(&self, subject: &str) -> Result<Stream<()>, BusError> {
        let stream = self.context.get_stream_no_info(&self.stream).await;
        stream.map_err(|error| BusError::jetstream(format!("reading {subject}"), error))
    }
}

impl EventReader {
    /// What is next; `None` when the connection is closed for good. Can be dropped and called again. After an outage in
    /// which stored events were lost it begins with the first again.
    pub async fn next(&mut self) -> Option<Told> {
        loop {
            match self.phase {
                Phase::Look => {
                    let last = self.ask(Which::Last).await?;
                    self.phase = self.behind(last);
                }
                Phase::CatchUp { from, until } => {
                    let found = self.ask(Which::From(from)).await?;
                    if let Some(logged) = self.found(found, from, until) {
                        return Some(Told::Stored(logged));
                    }
                }
                Phase::Follow => match self.place.next().await? {
                    Waiting::Gap => self.phase = Phase::Look,
                    Waiting::Told(Told::Stored(logged)) if !self.is_behind(&logged) => {}
                    Waiting::Told(Told::Stored(logged)) => return Some(Told::Stored(self.told(logged))),
                    Waiting::Told(preview @ Told::Preview(_)) => return Some(preview),
                },
            }
        }
    }

    /// Asks the stream, one of so many readers at a time, until it answers; `None` when the connection is closed.
    async fn ask(&self, which: Which) -> Option<Option<StreamMessage>> {
        loop {
            let answer = {
                let _permit = self.source.catching_up.acquire().await.ok()?;
                self.source.message(&self.subject, which).await
            };
            match answer {
                Ok(answer) => return Some(answer),
                Err(error) => tracing::debug!(%error, "events cannot be read at present"),
            }
            if self.place.is_closed() {
                return None;
            }
            tokio::time::sleep(PAUSE).await;
        }
    }

    /// What is to be done when this is the last message of the job.
    fn behind(&mut self, last: Option<StreamMessage>) -> Phase {
        let Some(message) = last else {
            // Events that were told before are gone with their stream.
            self.last = None;
            return Phase::Follow;
        };
        let until = message.sequence;
        match &self.last {
            None => Phase::CatchUp { from: 1, until },
            Some(last) if is_the_same(&message, last) => Phase::Follow,
            // With the last one that was told, to see that it is still there.
            Some(last) if last.sequence < until => Phase::CatchUp { from: last.sequence, until },
            Some(_) => self.begin_again(until),
        }
    }

    /// The stream is another by now, or has lost its end.
    fn begin_again(&mut self, until: u64) -> Phase {
        self.last = None;
        Phase::CatchUp { from: 1, until }
    }

    /// Goes on behind a message that was read from the stream; its event, if it is to be told.
    fn found(&mut self, found: Option<StreamMessage>, from: u64, until: u64) -> Option<Arc<Logged>> {
        let Some(message) = found else {
            self.phase = Phase::Follow;
            return None;
        };
        if let Some(last) = &self.last
            && last.sequence == from
            && !is_the_same(&message, last)
        {
            self.phase = self.begin_again(until);
            return None;
        }
        self.phase = match message.sequence < until {
            true => Phase::CatchUp { from: message.sequence + 1, until },
            false => Phase::Follow,
        };
        let logged = Arc::new(self.source.read(&message)?);
        self.is_behind(&logged).then(|| self.told(logged))
    }

    /// Whether an event comes after all that were told.
    fn is_behind(&self, logged: &Logged) -> bool {
        self.last.as_ref().is_none_or(|last| logged.sequence > last.sequence)
    }

    fn told(&mut self, logged: Arc<Logged>) -> Arc<Logged> {
        self.last = Some(logged.clone());
        logged
    }
}

/// Whether a message of the stream is that event.
fn is_the_same(message: &StreamMessage, last: &Logged) -> bool {
    message.sequence == last.sequence && logged(message).is_ok_and(|logged| logged == *last)
}

/// Whether a message says that it ends its job.
fn is_end(message: &StreamMessage) -> bool {
    matches!(kind(message), Some("complete" | "error" | "cancelled"))
}

/// Whether a message says that a worker has begun its job, or that it ends it.
fn is_begin_or_end(message: &StreamMessage) -> bool {
    kind(message) == Some("accepted") || is_end(message)
}

fn kind(message: &StreamMessage) -> Option<&str> {
    message.headers.get(headers::JOB_EVENT).map(|kind| kind.as_str())
}

/// The preview in a message on the subject of `job`.
fn preview(message: &Message, job: &str) -> Option<Event> {
    let event: Event = serde_json::from_slice(&message.payload).ok()?;
    (event.job_id.as_str() == job && matches!(event.kind, EventKind::Preview { .. })).then_some(event)
}

/// What all subjects of previews begin with.
fn previews_prefix(subjects: &Subjects) -> String {
    let all = subjects.events_any();
    format!("{}previews.", all.strip_suffix("events.*").unwrap_or_default())
}

/// Kinds of messages that could not be read.
#[derive(Debug, Default)]
struct Unreadable {
    kinds: Mutex<HashSet<String>>,
}

impl Unreadable {
    /// Whether it is the first of its kind.
    fn is_new(&self, kind: &str) -> bool {
        let mut kinds = self.kinds.lock().unwrap_or_else(PoisonError::into_inner);
        kinds.len() < MAX_KINDS && kinds.insert(kind.to_owned())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn previews_of_a_pool_begin_with_its_prefix() {
        let job = JobId::new("j").unwrap();
        for prefix in ["", "p.q"] {
            let subjects = Subjects::new(prefix).unwrap();
            assert_eq!(format!("{}j", previews_prefix(&subjects)), subjects.previews(&job));
        }
    }

    #[test]
    fn messages_that_cannot_be_read_are_told_once_a_kind_and_are_bounded() {
        let unreadable = Unreadable::default();
        assert!(unreadable.is_new("later") && !unreadable.is_new("later") && unreadable.is_new(""));
        let told = (0..1000).filter(|number| unreadable.is_new(&number.to_string())).count();
        assert_eq!(told, MAX_KINDS - 2);
    }
}
