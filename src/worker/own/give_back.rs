//! The ways in which a job goes to another, or nowhere.

use std::{sync::Arc, time::Duration};

use super::{
    AWAY_FOR, CLAIM_TRIES,
    found::{Asking, Found, found},
    lease::Lease,
};
use crate::{
    bus::{AppendError, Delivery, Entry, Logged, Settle, request_mark},
    contract::{ErrorCode, Event, EventKind, Fingerprint, JobId},
    units::random_unit,
    worker::{
        resume::Snapshots,
        shared::{Context, Happened, HeldJob, Lost, Open, Sight, conflict},
    },
};

/// How long a job waits that this worker cannot do and another may, after the first look: not long, for each idle worker
/// gets it in turn, and one of them may be able.
const OTHERS_AFTER: Duration = Duration::from_millis(100);
/// It waits this many times as long after each further look,
const OTHERS_GROWTH: f64 = 1.25;
/// and this long at most.
const OTHERS_AT_MOST: Duration = Duration::from_secs(60);

/// Characters of a job's id in that of a message which is set aside under it.
const LONGEST_NAME: usize = 100;

/// How long a job waits for another worker that was delivered so often: half of the time to all of it, by chance, so that
/// two jobs and two workers that do not fit each other do not meet for ever.
pub fn others_after(times: u64) -> Duration {
    others_at_most(times).mul_f64(0.5 + random_unit() / 2.0)
}

fn others_at_most(times: u64) -> Duration {
    let looks = i32::try_from(times.saturating_sub(1)).unwrap_or(i32::MAX).min(100);
    OTHERS_AFTER.mul_f64(OTHERS_GROWTH.powi(looks)).min(OTHERS_AT_MOST)
}

/// The job is another's. What waits for it here is told so.
pub(super) async fn forsake(
    context: &Context,
    job: &Arc<HeldJob>,
    lease: &Lease,
    delivery: Option<Delivery>,
    lost: Lost,
    snapshots: &mut Snapshots,
) {
    snapshots.stop().await;
    job.events.leave(EventKind::error(ErrorCode::Internal, "this worker has lost the job; ask for it again"));
    tell_readers(context, job).await;
    let Some(delivery) = delivery else { return context.metrics.note(Happened::Lost) };
    if lost == Lost::Unheard {
        return delivery.settle(Settle::Again(AWAY_FOR)).await;
    }
    context.metrics.note(Happened::Lost);
    match lease.log.last(&job.id).await {
        Ok(Some(last)) if last.event.kind.is_terminal() => {
            tracing::info!(end = last.event.kind.name(), "the job was ended elsewhere");
            snapshots.remove(true).await;
            delivery.settle(Settle::Done).await;
        }
        // Not settled: that is for the worker that has it.
        _ => tracing::warn!("another worker has the job"),
    }
}

/// Publishes what is left for those who read here: the job has no way out any more, and needs none.
pub async fn tell_readers(context: &Context, job: &HeldJob) {
    let outlet = Open(context.sink.clone());
    // This way out loses no job.
    let _ = job.events.publish(&outlet).await;
}

/// What this worker cannot do, another may: the job goes back to the queue, for longer each time. When it has waited past
/// its own deadline, as far as this process has seen, it is a dead letter.
pub async fn leave_to_others(
    context: &Context,
    id: &JobId,
    fingerprint: &Fingerprint,
    deadline: Option<Duration>,
    delivery: Delivery,
    why: &str,
) {
    let waited = context.seen.since(id, Sight::Message(delivery.sequence));
    if deadline.is_none_or(|deadline| waited < deadline) {
        tracing::debug!(why, "a job is left to other workers");
        let after = others_after(delivery.times);
        return delivery.settle(Settle::Again(after)).await;
    }
    let message =
        format!("no worker that could do the job took it before its deadline; the last that looked: {why}");
    tracing::warn!(message, "the job is a dead letter");
    if let Err(error) = delivery.bury(id, ErrorCode::DeadlineExceeded, &message).await {
        tracing::error!(%error, "a dead letter could not be stored");
        return delivery.settle(Settle::Again(AWAY_FOR)).await;
    }
    context.metrics.note(Happened::DeadLetter);
    end_unrun(
        context,
        id,
        Some(fingerprint),
        delivery,
        EventKind::error(ErrorCode::DeadlineExceeded, message),
        None,
    )
    .await;
}

/// Ends a job of the queue that is not run, unless somebody has it or it has ended.
pub async fn end_unrun(
    context: &Context,
    id: &JobId,
    fingerprint: Option<&Fingerprint>,
    delivery: Delivery,
    kind: EventKind,
    traceparent: Option<String>,
) {
    let request = fingerprint.map(|fingerprint| request_mark(fingerprint.written()));
    let also = fingerprint.map(|fingerprint| request_mark(fingerprint.also_written()));
    for _ in 0..CLAIM_TRIES {
        let last = match context.log.last(id).await {
            Ok(last) => last,
            Err(error) => {
                tracing::warn!(%error, "a job's log is out of reach; the job waits");
                return delivery.settle(Settle::Again(AWAY_FOR)).await;
            }
        };
        let quiet = last.as_ref().map(|last| context.seen.since(id, Sight::LastEvent(last.sequence)));
        let written = last.as_ref().and_then(|last| last.request.clone()).unwrap_or_default();
        let is_anothers = |last: &Logged| {
            let is_its_own = last.queued == Some(delivery.sequence);
            let is_past = delivery.after.is_some_and(|after| last.event.seq <= after);
            !is_its_own && !is_past && !last.event.kind.is_terminal()
        };
        if context.held.running(id).is_some() || last.as_ref().is_some_and(is_anothers) {
            return set_aside(Some(id), delivery, &conflict(id)).await;
        }
        let asking = Asking {
            worker: &context.identity.worker_id,
            queued: Some(delivery.sequence),
            after: delivery.after,
            request: request.as_deref().unwrap_or(&written),
            also: also.as_deref().unwrap_or(&written),
            quiet: quiet.unwrap_or_default(),
        };
        let (last, attempt, seq) = match found(last, asking) {
            Found::Ended(_) => return delivery.settle(Settle::Done).await,
            Found::Held { .. } => return delivery.settle(Settle::Again(AWAY_FOR)).await,
            Found::OtherRequest => {
                return set_aside(Some(id), delivery, &conflict(id)).await;
            }
            Found::WornOut(last) => (last.sequence, last.event.attempt, last.event.seq + 1),
            Found::Free { last, attempt, seq, .. } => (last, attempt, seq),
        };
        let worker_id = context.identity.worker_id.clone();
        let event = Event { job_id: id.clone(), worker_id, attempt, seq, kind: kind.clone() };
        let entry = Entry {
            queued: Some(delivery.sequence),
            request: request.clone(),
            traceparent: traceparent.clone(),
            ..Entry::of(event)
        };
        match context.log.append(&entry, last).await {
            Ok(_) => return delivery.settle(Settle::Gone).await,
            Err(AppendError::Fenced) => {}
            Err(AppendError::Bus(error)) => {
                tracing::warn!(%error, "an event could not be stored; the job waits");
                return delivery.settle(Settle::Again(AWAY_FOR)).await;
            }
        }
    }
    delivery.settle(Settle::Again(AWAY_FOR)).await;
}

/// A message whose id stands for another job, or that names none: it is kept among the dead letters under an id of its own,
/// and that job hears nothing of it.
pub async fn set_aside(id: Option<&JobId>, delivery: Delivery, message: &str) {
    tracing::warn!(job_id = id.map(tracing::field::display), message, "a message of the queue is set aside");
    let named = id.map_or("unnamed", JobId::as_str);
    let own = format!("{}-{}", &named[..named.len().min(LONGEST_NAME)], delivery.sequence);
    let own = JobId::new(own).expect("a part of an id, and a number");
    match delivery.bury(&own, ErrorCode::InvalidRequest, message).await {
        Ok(()) => delivery.settle(Settle::Gone).await,
        Err(error) => {
            tracing::error!(%error, "a dead letter could not be stored");
            delivery.settle(Settle::Again(AWAY_FOR)).await;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_job_that_waits_for_another_worker_is_looked_at_soon_and_then_ever_less_often() {
        assert_eq!(others_at_most(1), OTHERS_AFTER);
        let looks: Duration = (1..=20).map(others_at_most).sum();
        assert!((Duration::from_secs(20)..Duration::from_secs(40)).contains(&looks), "{looks:?}");
        assert_eq!(others_at_most(u64::MAX), OTHERS_AT_MOST);
        for times in [1, 7, 9_000] {
            let (after, most) = (others_after(times), others_at_most(times));
            assert!(after >= most / 2 && after <= most, "{after:?} {most:?}");
        }
    }
}
