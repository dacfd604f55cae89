//! Many jobs and the fleet, followed by one client on one stream.

mod fleet;
mod job;

use futures::{
    StreamExt,
    stream::{self, BoxStream, SelectAll},
};
use tokio::sync::OwnedSemaphorePermit;

use super::{Queen, busy};
use crate::http::{ApiError, Told, Watch, Watched};

pub(super) use fleet::FleetFeed;

/// Jobs that are looked up at one time for all such streams: after an outage all of them come back at once.
pub(super) const LOOKED_UP: usize = 16;

impl Watch for Queen {
    fn watch(&self, watched: Watched) -> Result<BoxStream<'static, Told>, ApiError> {
        let place = self.place()?;
        let Watched { jobs, fleet, cursor } = watched;
        let mut all = SelectAll::new();
        // It ends when all that is in it has ended: not before queen does.
        all.push(
            stream::once(self.shared.cut.clone().cancelled_owned())
                .filter_map(|()| std::future::ready(None))
                .boxed(),
        );
        if fleet {
            all.push(self.shared.fleet_feed.follow(self));
        }
        for id in jobs {
            let seen = cursor.of(&id);
            all.push(self.follow_job(id, seen));
        }
        Ok(holding(place, all))
    }
}

impl Queen {
    /// A place among the streams that may be open.
    pub(super) fn place(&self) -> Result<OwnedSemaphorePermit, ApiError> {
        self.shared.open_streams.clone().try_acquire_owned().map_err(|_| {
            busy(&format!("{} streams of events are open, as many as may", self.shared.options.max_streams))
        })
    }
}

/// A stream that has its place until it is dropped.
pub(super) fn holding<T: Send + 'static>(
    place: OwnedSemaphorePermit,
    events: impl futures::Stream<Item = T> + Send + Unpin + 'static,
) -> BoxStream<'static, T> {
    let next = |(mut events, place): (_, OwnedSemaphorePermit)| async move {
        let event = StreamExt::next(&mut events).await?;
        Some((event, (events, place)))
    };
    stream::unfold((events, place), next).boxed()
}
