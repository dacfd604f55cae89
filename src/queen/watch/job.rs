//! One of the jobs on a stream of many.

use std::time::Duration;

use futures::{
    StreamExt,
    stream::{self, BoxStream},
};

use super::super::{Queen, known::Known};
use crate::{
    contract::{HttpCode, JobId},
    http::{Heard, Seen, Told},
};

/// The first pause after nobody could say how a job is; each is twice the one before,
const PAUSE: Duration = Duration::from_millis(500);
/// up to this one.
const LONGEST_PAUSE: Duration = Duration::from_secs(8);

impl Queen {
    /// What there is to tell of a job to a client that has seen so much. It ends after the end of the job, or when queen ends.
    pub(super) fn follow_job(&self, id: JobId, seen: Option<Seen>) -> BoxStream<'static, Told> {
        let queen = self.clone();
        let told = async move {
            match queen.known_in_time(&id).await {
                None => stream::empty().boxed(),
                Some(None) => stream::iter([Told::Unknown(id)]).boxed(),
                Some(Some(known)) => {
                    let heard = queen.events_of(known, seen.map(|seen| seen.seq)).await.heard();
                    heard.filter(move |heard| std::future::ready(is_new(seen, heard))).map(Told::Job).boxed()
                }
            }
        };
        stream::once(told).flatten().boxed()
    }

    /// What is known of a job, as soon as somebody can say it: `None` when queen ends before, and within it, for a job that
    /// there is not.
    async fn known_in_time(&self, id: &JobId) -> Option<Option<Known>> {
        let cut = &self.shared.cut;
        let mut pause = PAUSE;
        loop {
            let known = {
                let _turn = cut.run_until_cancelled(self.shared.looking_up.acquire()).await?.ok()?;
                cut.run_until_cancelled(self.known(id)).await?
            };
            match known {
                Ok(known) => return Some(Some(known)),
                Err(error) if error.http == Some(HttpCode::NotFound) => return Some(None),
                Err(error) => tracing::debug!(job = %id, %error, "nobody can say at present how a job is"),
            }
            cut.run_until_cancelled(tokio::time::sleep(pause)).await?;
            pause = (pause * 2).min(LONGEST_PAUSE);
        }
    }
}

/// Whether an event is one that the client has not. An end is told again to who reads the stream of one job alone: here that
/// would be all jobs that have ended, each time that the client connects.
fn is_new(seen: Option<Seen>, heard: &Heard) -> bool {
    match (seen, heard) {
        (Some(Seen { seq, ended: true }), Heard::Event(event)) => event.seq > seq,
        (Some(_) | None, Heard::Event(_) | Heard::Queued(_)) => true,
    }
}
