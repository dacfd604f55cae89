//! Events of jobs that are not durable: told by the queen that has them, from its memory, for as long as it runs. So many
//! wait to be told again; what is beyond them is given up after its first attempt.

use std::{
    sync::Arc,
    time::{Instant, SystemTime},
};

use futures::StreamExt;

use super::{Attempt, NO_PLACE, Next, Outcome, Told, Webhooks, log, schedule::Standing, spread};
use crate::{
    contract::{Event, EventKind, Webhook},
    queen::{Queen, record::Record},
};

/// Events that may wait in memory to be told again.
pub(super) const MAX_WAITING: usize = 1000;

impl Queen {
    /// Tells what becomes of a job that this queen has, for as long as it runs.
    pub(in crate::queen) fn tell_of(&self, record: Arc<Record>, webhook: Webhook) {
        let Some(webhooks) = self.shared.webhooks.clone() else { return };
        let queen = self.clone();
        tokio::spawn(async move {
            let webhook = Arc::new(webhook);
            let mut events = record.clone().stream(None, queen.shared.cut.clone());
            while let Some(event) = events.next().await {
                if !webhook.wants(&event.kind) {
                    continue;
                }
                let is_kept = !matches!(event.kind, EventKind::Progress { .. });
                if is_kept || webhooks.lately.is_due(&event.job_id) {
                    let (queen, webhooks) = (queen.clone(), webhooks.clone());
                    let (webhook, owner) = (webhook.clone(), record.owner.clone());
                    tokio::spawn(async move {
                        queen.tell_from_memory(&webhooks, &webhook, owner.as_deref(), &event, is_kept).await;
                    });
                }
            }
        });
    }

    /// Posts an event, once, or if it `is_kept` until it is taken.
    async fn tell_from_memory(
        &self,
        webhooks: &Webhooks,
        webhook: &Webhook,
        owner: Option<&str>,
        event: &Event,
        is_kept: bool,
    ) {
        let (since, mut times) = (Instant::now(), 0);
        let told = Told { event, at: SystemTime::now(), webhook, owner };
        let mut waiting = None;
        loop {
            times += 1;
            let attempt = self.post(webhooks, &told).await;
            if !is_kept {
                return;
            }
            let is_made = matches!(attempt, Attempt::Made { .. });
            let (outcome, host, mut next) = match attempt {
                Attempt::NoPlace(host) => {
                    (Outcome::failed("as many are under way as may"), host, Next::Again(spread(NO_PLACE)))
                }
                Attempt::Made { outcome, host } => {
                    let (age, retry_for) = (since.elapsed(), webhooks.retry_for);
                    let next = Standing { age, times, retry_for, is_crowded: false }.after(&outcome);
                    (outcome, host, next)
                }
            };
            if matches!(next, Next::Again(_)) && waiting.is_none() {
                waiting = webhooks.remembered.try_acquire().ok();
                if waiting.is_none() {
                    next = Next::GiveUp;
                }
            }
            if is_made || next == Next::GiveUp {
                log(&event.job_id, &event.kind, &host, &outcome, next);
            }
            let Next::Again(pause) = next else { return };
            let slept = tokio::time::sleep(pause);
            if self.shared.stopping.run_until_cancelled(slept).await.is_none() {
                return;
            }
        }
    }
}
