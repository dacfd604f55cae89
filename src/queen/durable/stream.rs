//! The events of a durable job for a client: those that are stored, and previews between them.

use futures::stream::{self, BoxStream, StreamExt};
use tokio_util::sync::CancellationToken;

use super::{Durable, Log};
use crate::{
    bus::{EventReader, Told},
    contract::{Event, EventKind},
    queen::Queen,
};

/// A client's place in the events of a job.
struct Reader {
    queen: Queen,
    events: EventReader,
    /// Events up to this number are of earlier sendings.
    past: Option<u64>,
    /// The client has stored events up to this number.
    after: Option<u64>,
    /// The highest number of what the client has, previews counted.
    shown: Option<u64>,
    cut: CancellationToken,
    ended: bool,
}

impl Queen {
    /// The events of a job after number `after`, to the terminal one; that one is told to whoever has seen it too.
    pub(in crate::queen) async fn durable_events(
        &self,
        durable: &Durable,
        log: Log,
        after: Option<u64>,
    ) -> BoxStream<'static, Event> {
        if let Some(last) = &log.last
            && last.event.kind.is_terminal()
            && after.is_some_and(|after| after >= last.event.seq)
        {
            let event = self.renewed(last.event.clone()).await;
            return stream::iter([event]).boxed();
        }
        let reader = Reader {
            queen: self.clone(),
            events: durable.events.of(&log.id),
            past: log.past(),
            after,
            shown: after,
            cut: self.shared.cut.clone(),
            ended: false,
        };
        let next = |mut reader: Reader| async move {
            let event = reader.next().await?;
            Some((event, reader))
        };
        stream::unfold(reader, next).boxed()
    }
}

impl Reader {
    /// The next event for the client; `None` after the terminal one, or when the stream is cut.
    async fn next(&mut self) -> Option<Event> {
        while !self.ended {
            let told = tokio::select! {
                // What is there already goes out before the stream is cut.
                biased;
                told = self.events.next() => told?,
                () = self.cut.cancelled() => return None,
            };
            match told {
                Told::Stored(logged) if self.is_new(&logged.event) => {
                    let event = logged.event.clone();
                    self.after = Some(event.seq);
                    self.shown = self.shown.max(self.after);
                    self.ended = event.kind.is_terminal();
                    return Some(self.queen.renewed(event).await);
                }
                Told::Preview(event) if is_above(event.seq, self.past) && is_above(event.seq, self.shown) => {
                    self.shown = Some(event.seq);
                    return Some(Event::clone(&event));
                }
                Told::Stored(_) | Told::Preview(_) => {}
            }
        }
        None
    }

    /// Whether a stored event is one that the client has not.
    fn is_new(&self, event: &Event) -> bool {
        // The end is told whatever its number: queen numbers the one that it writes without knowing of previews.
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
