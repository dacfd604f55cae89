//! The workers, told to many clients: written once for all of them, and at most once a second.

use std::time::Duration;

use bytes::Bytes;
use futures::{
    StreamExt,
    stream::{self, BoxStream},
};
use tokio::sync::watch;

use super::super::Queen;
use crate::http::Told;

/// How often it is looked whether something is different.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// What clients are told of the fleet. Nothing is done while nobody listens.
pub(in crate::queen) struct FleetFeed {
    /// As it was last told.
    told: watch::Sender<Bytes>,
}

impl Default for FleetFeed {
    fn default() -> Self {
        Self { told: watch::Sender::new(Bytes::new()) }
    }
}

impl FleetFeed {
    /// The workers as they are, and then each time that they are different. It ends when queen does.
    pub fn follow(&self, queen: &Queen) -> BoxStream<'static, Told> {
        let changes = self.told.subscribe();
        let now = queen.workers_in_json();
        let first = stream::iter([Told::Fleet(now.clone())]);
        let changed = stream::unfold((changes, now), |(mut changes, before)| async move {
            loop {
                changes.changed().await.ok()?;
                let now = changes.borrow_and_update().clone();
                if now != before {
                    return Some((Told::Fleet(now.clone()), (changes, now)));
                }
            }
        });
        let ended = queen.shared.cut.clone().cancelled_owned();
        first.chain(changed).take_until(ended).boxed()
    }
}

impl Queen {
    /// Tells those who listen what is different, for as long as queen runs.
    pub(in crate::queen) async fn tell_of_the_fleet(self) {
        let mut look = tokio::time::interval(LOOK_EVERY);
        let told = &self.shared.fleet_feed.told;
        loop {
            look.tick().await;
            if told.receiver_count() > 0 {
                let now = self.workers_in_json();
                told.send_if_modified(|before| {
                    let is_different = *before != now;
                    *before = now;
                    is_different
                });
            }
        }
    }

    fn workers_in_json(&self) -> Bytes {
        serde_json::to_vec(&self.workers()).expect("workers have string keys only").into()
    }
}
