//! A job's events, from the first to the one that ends it: across dropped connections, proxies that answer in queen's place
//! for a while, and proxies that hold events back.

use std::{cell::Cell, time::Duration};

use base64::{Engine, engine::general_purpose::STANDARD};
use bytes::Bytes;
use tokio::time::timeout;

use super::{
    KeeperError,
    client::{Again, Queen},
    heard::{self, Heard},
    output::Place,
    report::Reporter,
    save,
    sse::SseParser,
};
use crate::contract::{Event, EventKind, JobId};

/// After so long a silence queen is asked how the job is. It sends a comment every 10 s: something holds the events back.
const QUIET: Duration = Duration::from_secs(15);

/// A job that is followed.
pub struct Follower<'a> {
    queen: &'a Queen,
    job: &'a JobId,
    reporter: &'a Reporter,
    /// Where previews go.
    preview: Option<Place>,
    /// Whether a worker has the job.
    started: &'a Cell<bool>,
    /// The id of the last event, for `Last-Event-ID`.
    last_id: Option<String>,
    /// The number of the last event that was told: one that comes again is not told again.
    last_seq: Option<u64>,
    again: Again,
    /// It was told that events are held back.
    told_quiet: bool,
}

impl<'a> Follower<'a> {
    /// Follows `job`; `started` is set when a worker has it.
    pub fn new(
        queen: &'a Queen,
        job: &'a JobId,
        reporter: &'a Reporter,
        preview: Option<Place>,
        started: &'a Cell<bool>,
    ) -> Self {
        Self {
            queen,
            job,
            reporter,
            preview,
            started,
            last_id: None,
            last_seq: None,
            again: queen.again(),
            told_quiet: false,
        }
    }

    /// Reports every event but the one that ends the job, which it returns.
    ///
    /// # Errors
    /// [`KeeperError::Unreachable`] when queen stayed away, or its refusal.
    pub async fn until_the_end(mut self) -> Result<Event, KeeperError> {
        loop {
            let before = self.last_seq;
            let lost = match self.listen().await {
                Ok(Some(event)) => return Ok(event),
                Ok(None) => KeeperError::Protocol(format!("the events of {} broke off", self.job)),
                Err(error @ (KeeperError::Unreachable { .. } | KeeperError::Foreign { .. })) => error,
                // 429: more requests than one client may send. 5xx: it is starting or stopping. The job runs all the same.
                Err(KeeperError::Refused { status, message, after }) if status >= 500 || status == 429 => {
                    KeeperError::Refused { status, message, after }
                }
                Err(error) => return Err(error),
            };
            if self.last_seq != before {
                self.again.got_on();
            }
            let reporter = self.reporter;
            self.again.wait(lost, |error| reporter.asking_again(error)).await?;
        }
    }

    /// One connection: the event that ended the job, or `None` when the connection ended before.
    async fn listen(&mut self) -> Result<Option<Event>, KeeperError> {
        let (queen, job, last_id) = (self.queen, self.job, self.last_id.clone());
        let mut opening = Box::pin(queen.events(job, last_id.as_deref()));
        let mut response = loop {
            match timeout(QUIET, &mut opening).await {
                Ok(response) => break response?,
                Err(_) => match self.ask().await {
                    Some(end) => return Ok(Some(end)),
                    None => continue,
                },
            }
        };
        let mut parser = SseParser::default();
        loop {
            let chunk = match timeout(QUIET, response.chunk()).await {
                Ok(chunk) => chunk.map_err(|error| queen.unreachable(&error))?,
                Err(_) => match self.ask().await {
                    Some(end) => return Ok(Some(end)),
                    None => continue,
                },
            };
            let Some(chunk) = chunk else { return Ok(None) };
            for message in parser.feed(&chunk).map_err(|error| queen.foreign(error.to_string()))? {
                match heard::read(&message.data, job).map_err(|what| queen.foreign(what))? {
                    Heard::Nothing => {}
                    Heard::Queued(queued) => self.reporter.queued(&queued, &message.data).await,
                    Heard::Failed { code, message: said, retryable } => {
                        self.reporter.raw(&message.data).await;
                        return Err(KeeperError::Failed { code, message: said, retryable });
                    }
                    Heard::Event(event) => {
                        self.last_id = message.id.or(self.last_id.take());
                        if event.kind.is_terminal() {
                            return Ok(Some(*event));
                        }
                        self.tell(&event).await;
                    }
                }
            }
            // Queen answered: what is no event of its own has ended the connection.
            self.again.heard();
        }
    }

    async fn tell(&mut self, event: &Event) {
        self.started.set(true);
        if let EventKind::Preview { image, .. } = &event.kind {
            self.show(image).await;
        } else if self.last_seq.is_some_and(|last| event.seq <= last) {
            return;
        } else {
            self.last_seq = Some(event.seq);
        }
        self.reporter.event(event).await;
    }

    /// Puts a preview where --preview says; where that fails it is told once.
    async fn show(&mut self, image: &str) {
        let Ok(bytes) = STANDARD.decode(image) else { return };
        self.reporter.picture(&bytes);
        let Some(place) = &mut self.preview else { return };
        if let Err(error) = save::preview(place, Bytes::from(bytes)).await {
            self.reporter.note(&format!("--preview: {error}; the job goes on"));
            self.preview = None;
        }
    }

    /// Asks queen how the job is; the event that ended it, if it has ended.
    async fn ask(&mut self) -> Option<Event> {
        // Where it does not answer, the stream says so too, in its own time.
        let view = timeout(QUIET, self.queen.job(self.job)).await.ok()?.ok()?;
        self.again.heard();
        if !std::mem::replace(&mut self.told_quiet, true) {
            self.reporter.note(
                "no event comes through, so something between holds them back; queen is asked instead, now and then",
            );
        }
        let event = view.event.filter(|event| event.job_id == *self.job)?;
        self.started.set(true);
        event.kind.is_terminal().then_some(event)
    }
}
