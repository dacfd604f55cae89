//! Offering again: a message that this worker cannot take goes to another, who answers the original requester.
//!
//! "No responders" reaches only the connection that published, so it comes to an inbox of ours, and we tell the requester.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use async_nats::{HeaderMap, StatusCode};
use futures::StreamExt;

use super::{BusError, EventSink, Incoming, NatsSink, Outgoing, To, connect::Link, subscribe};
use crate::contract::{ErrorCode, Event, EventKind, JobId, Subjects, WorkerId, headers};

/// An offer without "no responders" for this long was taken.
const TAKEN_AFTER: Duration = Duration::from_secs(5);

/// Offers messages again. Cheap to clone.
#[derive(Clone)]
pub(super) struct Offers {
    link: Link,
    sink: NatsSink,
    subjects: Subjects,
    worker_id: WorkerId,
    inbox: String,
    pending: Arc<Mutex<Pending>>,
}

#[derive(Default)]
struct Pending {
    next: u64,
    /// By number, which is by age.
    offers: BTreeMap<u64, Offer>,
}

impl Pending {
    /// Takes note of an offer, under a number of its own, and forgets those that were taken.
    fn add(&mut self, offer: Offer) -> u64 {
        while let Some(oldest) = self.offers.first_entry()
            && oldest.get().at.elapsed() >= TAKEN_AFTER
        {
            oldest.remove();
        }
        self.next += 1;
        self.offers.insert(self.next, offer);
        self.next
    }
}

struct Offer {
    at: Instant,
    job_id: JobId,
    reply: Option<String>,
    traceparent: Option<String>,
    /// What to say if there is nobody.
    refusal: String,
}

impl Offers {
    pub async fn start(
        link: &Link,
        sink: &NatsSink,
        subjects: &Subjects,
        worker_id: &WorkerId,
    ) -> Result<Self, BusError> {
        let inbox = link.client.new_inbox();
        let mut answers = subscribe(&link.client, &format!("{inbox}.*")).await?;
        let offers = Self {
            link: link.clone(),
            sink: sink.clone(),
            subjects: subjects.clone(),
            worker_id: worker_id.clone(),
            inbox,
            pending: Arc::default(),
        };
        let listener = offers.clone();
        tokio::spawn(async move {
            while let Some(answer) = answers.next().await {
                if answer.status != Some(StatusCode::NO_RESPONDERS) {
                    continue;
                }
                let number = answer.subject.rsplit('.').next().and_then(|token| token.parse().ok());
                let offer = number.and_then(|number| listener.lock().offers.remove(&number));
                if let Some(offer) = offer {
                    listener.refuse(offer).await;
                }
            }
        });
        Ok(offers)
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Pending> {
        self.pending.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Publishes the message again, on its own subject or for `worker` alone.
    pub async fn pass_on(&self, message: Incoming, job_id: JobId, worker: Option<WorkerId>) {
        let hops = message.hops.saturating_add(1);
        let refusal = match &worker {
            Some(worker) => format!("worker `{worker}` is not there; try again"),
            None => "no worker has a free slot; try again".to_owned(),
        };
        let offer = Offer {
            at: Instant::now(),
            job_id,
            reply: message.reply.clone(),
            traceparent: message.traceparent.clone(),
            refusal,
        };
        if hops > headers::MAX_HOPS {
            return self.refuse(offer).await;
        }
        let subject = match (&worker, message.capability) {
            (Some(worker), Some(capability)) => self.subjects.direct(worker, capability),
            _ => message.subject.clone(),
        };
        let mut map = HeaderMap::new();
        map.insert(headers::JOB_ID, offer.job_id.as_str());
        map.insert(headers::JOB_HOPS, hops.to_string());
        if let Some(reply) = &message.reply {
            map.insert(headers::JOB_REPLY, reply.as_str());
        }
        if let Some(owner) = &message.owner {
            map.insert(headers::JOB_OWNER, owner.as_str());
        }
        if let Some(trace) = &message.traceparent {
            map.insert(headers::TRACEPARENT, trace.as_str());
        }
        let number = self.lock().add(offer);
        let reply = format!("{}.{number}", self.inbox);
        let sent =
            self.link.client.publish_with_reply_and_headers(subject.clone(), reply, map, message.body).await;
        if let Err(error) = sent {
            tracing::warn!(%subject, %error, "a job cannot be offered again");
            let offer = self.lock().offers.remove(&number);
            if let Some(offer) = offer {
                self.refuse(offer).await;
            }
        }
    }

    async fn refuse(&self, offer: Offer) {
        tracing::debug!(job_id = %offer.job_id, "nobody takes the job");
        let Some(reply) = offer.reply else { return };
        let event = Event {
            job_id: offer.job_id.clone(),
            worker_id: self.worker_id.clone(),
            attempt: 1,
            seq: 0,
            kind: EventKind::error(ErrorCode::Busy, offer.refusal),
        };
        let message = |event| Outgoing {
            to: To::Reply(reply.clone()),
            event,
            job_id: offer.job_id.clone(),
            worker_id: self.worker_id.clone(),
            traceparent: offer.traceparent.clone(),
        };
        let messages = [message(Some(Arc::new(event))), message(None)];
        let sink = self.sink.clone();
        tokio::spawn(async move { sink.deliver(&messages).await });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_offer_is_forgotten_once_it_must_have_been_taken() {
        let offer = |at| Offer {
            at,
            job_id: JobId::generate(),
            reply: None,
            traceparent: None,
            refusal: String::new(),
        };
        let mut pending = Pending::default();
        let long_ago = Instant::now().checked_sub(TAKEN_AFTER).unwrap();
        assert_eq!((pending.add(offer(long_ago)), pending.add(offer(long_ago))), (1, 2));
        assert_eq!((pending.add(offer(Instant::now())), pending.add(offer(Instant::now()))), (3, 4));
        assert_eq!(pending.offers.keys().collect::<Vec<_>>(), [&3, &4]);
    }
}
