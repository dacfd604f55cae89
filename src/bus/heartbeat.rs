//! What a worker says of itself: every 10 s, soon after anything in it changed, and when it is asked.

use std::{sync::Arc, time::Duration};

use tokio::{
    sync::{Notify, watch},
    task::JoinHandle,
    time::Instant,
};

use super::connect::Link;
use crate::contract::{Subjects, WorkerInfo};

/// The longest silence between two heartbeats. Queen takes a worker for lost after three.
pub const HEARTBEAT_EVERY: Duration = Duration::from_secs(10);
/// The shortest time between two heartbeats: a busy worker changes hundreds of times a second.
const AT_MOST_EVERY: Duration = Duration::from_millis(250);

/// Publishes heartbeats until it is dropped.
#[derive(Debug)]
pub struct Heartbeat(JoinHandle<()>);

impl Heartbeat {
    /// `asked`: somebody wants one now.
    pub(super) fn start(
        link: Link,
        subjects: &Subjects,
        info: watch::Receiver<WorkerInfo>,
        asked: Arc<Notify>,
    ) -> Self {
        let subject = subjects.heartbeat(&info.borrow().id);
        Self(tokio::spawn(beat(link, subject, info, asked)))
    }

    /// Ends them; none is published after this.
    pub async fn stop(mut self) {
        self.0.abort();
        // That it was aborted is what was wanted.
        let _ = (&mut self.0).await;
    }
}

impl Drop for Heartbeat {
    fn drop(&mut self) {
        self.0.abort();
    }
}

async fn beat(mut link: Link, subject: String, mut info: watch::Receiver<WorkerInfo>, asked: Arc<Notify>) {
    loop {
        let current = info.borrow_and_update().clone();
        let body = serde_json::to_vec(&current).expect("a heartbeat has string keys only");
        // While NATS is away the client's queue is not filled with what will be out of date.
        if link.is_connected()
            && let Err(error) = link.client.publish(subject.clone(), body.into()).await
        {
            tracing::warn!(%error, "a heartbeat could not be published");
        }
        let last = Instant::now();
        let changed = tokio::select! {
            changed = info.changed() => changed,
            () = link.reconnection() => Ok(()),
            () = asked.notified() => Ok(()),
            () = tokio::time::sleep(HEARTBEAT_EVERY) => Ok(()),
        };
        if changed.is_err() {
            return;
        }
        tokio::time::sleep_until(last + AT_MOST_EVERY).await;
    }
}
