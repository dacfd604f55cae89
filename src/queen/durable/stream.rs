//! The events of a durable job for a client: those that are stored, and previews between them.

use futures::stream::{self, BoxStream, StreamExt};
use tokio::sync::OwnedSemaphorePermit;
use tokio_util::sync::CancellationToken;

use super::{Durable, Log, away};
use crate::{
    bus::{Previews, StoredEvents},
    contract::{ErrorCode, Event, EventKind},
    http::ApiError,
    queen::{Queen, RETRY_AFTER},
};

/// A client's place in the events of a job.
struct Reader {
    queen: Queen,
    stored: StoredEvents,
    previews: Previews,
    /// Events up to this number are of earlier sendings.
    past: Option<u64>,
    /// The client has stored events up to this number.
    after: Option<u64>,
    /// The highest number of what the client has, previews counted.
    shown: Option<u64>,
    cut: CancellationToken,
    ended: bool,
    /// A place among the streams that may be open.
    _permit: OwnedSemaphorePermit,
}

impl Queen {
    /// The events of a job after number `after`, to the terminal one; that one is told to whoever has seen it too.
    pub(in crate::queen) async fn durable_events(
        &self,
        durable: &Durable,
        log: Log,
        after: Option<u64>,
    ) -> Result<BoxStream<'static, Event>, ApiError> {
        if let Some(last) = &log.last
            && last.event.kind.is_terminal()
            && after.is_some_and(|after| after >= last.event.seq)
        {
            let event = self.renewed(last.event.clone()).await;
            return Ok(stream::iter([event]).boxed());
        }
        let permit = durable.open_streams.clone().try_acquire_owned().map_err(|_| {
            let message = format!("{} streams of events are open", self.shared.options.max_streams);
            ApiError::new(ErrorCode::Busy, message).with_retry_after(RETRY_AFTER)
        })?;
        // Previews first: one that comes while the events are opened is not missed.
        let previews = durable.streams.previews_of(&log.id).await.map_err(|error| away(&error))?;
        let stored = durable.streams.events_of(&log.id).await.map_err(|error| away(&error))?;
        let reader = Reader {
            queen: self.clone(),
            stored,
            previews,
            past: log.past(),
            after,
            shown: after,
            cut: self.shared.cut.clone(),
            ended: false,
            _permit: permit,
        };
        let next = |mut reader: Reader| async move {
            let event = reader.next().await?;
            Some((event, reader))
        };
        Ok(stream::unfold(reader, next).boxed())
    }
}

impl Reader {
    /// The next event for the client; `None` after the terminal one, or when the stream is cut.
    async fn next(&mut self) -> Option<Event> {
        while !self.ended {
            tokio::select! {
                // What is stored goes first, so that no preview overtakes the event that ends the job.
                biased;
                stored = self.stored.next() => {
                    let event = stored?.event;
                    if self.is_new(&event) {
                        self.after = Some(event.seq);
                        self.shown = self.shown.max(self.after);
                        self.ended = event.kind.is_terminal();
                        return Some(self.queen.renewed(event).await);
                    }
                }
                () = self.cut.cancelled() => return None,
                preview = self.previews.next() => {
                    let event = preview?;
                    if is_above(event.seq, self.past) && is_above(event.seq, self.shown) {
                        self.shown = Some(event.seq);
                        return Some(event);
                    }
                }
            }
        }
        None
    }

    /// Whether a stored event is one that the client has not.
    fn is_new(&self, event: &Event) -> bool {
        // The end is told whatever its number: queen numbers the one that she writes without knowing of previews.
        is_above(event.seq, self.past) && (is_above(event.seq, self.after) || event.kind.is_terminal())
    }
}

fn is_above(seq: u64, bound: Option<u64>) -> bool {
    bound.is_none_or(|bound| seq > bound)
}

impl Queen {
    /// The event, with URLs that have not run out.
    pub(in crate::queen) async fn renewed(&self, mut event: Event) -> Event {
        if let EventKind::Complete(complete) = &mut event.kind {
            self.renew_urls(complete).await;
        }
        event
    }
}
