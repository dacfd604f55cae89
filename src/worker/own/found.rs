//! What the log of a job says to a worker that would have it: one table.

use std::time::Duration;

use crate::{
    bus::Logged,
    contract::{EventKind, WorkerId},
};

/// Attempts that may fail; then the job is a dead letter.
pub const MAX_FAILURES: u32 = 3;
/// A job whose log has not grown for this long has no worker: it has an event at least every 5 s.
pub const LEASE: Duration = Duration::from_secs(15);

/// Who would have the job.
#[derive(Debug, Clone, Copy)]
pub struct Asking<'a> {
    /// This worker.
    pub worker: &'a WorkerId,
    /// The message of the queue that it holds; none: it was asked for on a request subject.
    pub queued: Option<u64>,
    /// See [`headers::JOB_AFTER`](crate::contract::headers::JOB_AFTER).
    pub after: Option<u64>,
    /// The request, as [`request_mark`](crate::bus::request_mark) gives it.
    pub request: &'a str,
    /// As another version may have written the same request.
    pub also: &'a str,
    /// For how long this process has seen the same last event.
    pub quiet: Duration,
}

/// What is found in the log of a job.
#[derive(Debug, Clone, PartialEq)]
pub enum Found {
    /// Nobody has it: it is to be run after this event of the stream, as this attempt, from this number.
    Free { last: u64, failures: u32, attempt: u32, seq: u64 },
    /// Another worker has it.
    Held { by: WorkerId },
    /// It has ended, and this is how.
    Ended(Box<Logged>),
    /// It has failed too often.
    WornOut(Box<Logged>),
    /// The id stands for another request.
    OtherRequest,
}

/// Reads the last event of a job's log.
pub fn found(last: Option<Logged>, asking: Asking) -> Found {
    let Some(last) = last else { return Found::Free { last: 0, failures: 0, attempt: 1, seq: 0 } };
    let free = |failures| Found::Free {
        last: last.sequence,
        failures,
        attempt: last.event.attempt + 1,
        seq: last.event.seq + 1,
    };
    if last.request.as_deref().is_some_and(|request| request != asking.request && request != asking.also) {
        return Found::OtherRequest;
    }
    // What was before it was sent again neither ends nor holds it now. Its end may be lost, and not what came before that.
    let is_sent_again = asking.after.is_some_and(|after| last.event.seq <= after);
    if is_sent_again {
        return free(0);
    }
    if last.event.kind.is_terminal() {
        // A message of the queue is sent again by whoever may; a request is one.
        let may_run_again =
            asking.queued.is_none() && matches!(last.event.kind, EventKind::Error { retryable: true, .. });
        return match may_run_again {
            true => free(0),
            false => Found::Ended(Box::new(last)),
        };
    }
    // The server gives a message to another only when its worker was not heard of for long enough.
    let is_its_message = asking.queued.is_some() && last.queued == asking.queued;
    let has_nobody = !last.is_read
        || last.given_back
        || is_its_message
        || last.event.worker_id == *asking.worker
        || asking.quiet >= LEASE;
    match last.failures {
        _ if !has_nobody => Found::Held { by: last.event.worker_id },
        failures if failures >= MAX_FAILURES => Found::WornOut(Box::new(last)),
        failures => free(failures),
    }
}

#[cfg(test)]
mod tests {
    use std::time::SystemTime;

    use super::*;
    use crate::contract::{ErrorCode, Event, JobId};

    const REQUEST: &str = "abc";

    fn id(name: &str) -> WorkerId {
        WorkerId::new(name).unwrap()
    }

    /// The last event, of worker `w`, who holds message 5.
    fn logged(kind: EventKind) -> Logged {
        Logged {
            event: Event { job_id: JobId::new("j").unwrap(), worker_id: id("w"), attempt: 2, seq: 7, kind },
            is_read: true,
            sequence: 40,
            failures: 1,
            given_back: false,
            queued: Some(5),
            request: Some(REQUEST.into()),
            traceparent: None,
            stored_at: SystemTime::UNIX_EPOCH,
        }
    }

    fn running() -> Logged {
        logged(EventKind::Progress { step: 1, total: 2, percent: 50.0, eta_ms: 0 })
    }

    fn free(failures: u32) -> Found {
        Found::Free { last: 40, failures, attempt: 3, seq: 8 }
    }

    #[test]
    fn every_row_of_the_table() {
        let (me, anew) = (id("me"), id("w"));
        let queue = Asking {
            worker: &me,
            queued: Some(5),
            after: None,
            request: REQUEST,
            also: REQUEST,
            quiet: Duration::ZERO,
        };
        let other = |asking| Asking { request: "x", also: "y", ..asking };
        let earlier = Asking { request: "x", ..queue };
        let core = Asking { queued: None, ..queue };
        let held = || Found::Held { by: id("w") };
        let new = || Found::Free { last: 0, failures: 0, attempt: 1, seq: 0 };
        let end = || logged(EventKind::Cancelled { step: 1 });
        let ended = || Found::Ended(Box::new(end()));
        let failed = || logged(EventKind::error(ErrorCode::Internal, "x"));
        let worn_out = || Logged { failures: MAX_FAILURES, ..running() };
        let rows: Vec<(&str, Option<Logged>, Asking, Found)> = vec![
            ("an empty log", None, queue, new()),
            ("an empty log, a request", None, core, new()),
            ("another request", Some(running()), other(queue), Found::OtherRequest),
            ("the same, as an earlier version wrote it", Some(running()), earlier, free(1)),
            ("another request has ended", Some(end()), other(core), Found::OtherRequest),
            ("of a version without marks", Some(Logged { request: None, ..running() }), queue, free(1)),
            ("its own message, delivered again", Some(running()), queue, free(1)),
            ("another message", Some(running()), Asking { queued: Some(6), ..queue }, held()),
            ("a request for what the queue has", Some(running()), core, held()),
            ("the queue has what a request runs", Some(Logged { queued: None, ..running() }), queue, held()),
            ("given back", Some(Logged { given_back: true, ..running() }), core, free(1)),
            ("its worker begun anew", Some(running()), Asking { worker: &anew, ..core }, free(1)),
            ("just within the lease", Some(running()), Asking { quiet: LEASE / 2, ..core }, held()),
            ("the lease has run out", Some(running()), Asking { quiet: LEASE, ..core }, free(1)),
            ("of nobody of ours", Some(Logged { is_read: false, ..running() }), core, free(1)),
            ("failed too often", Some(worn_out()), queue, Found::WornOut(Box::new(worn_out()))),
            ("failed too often, and held", Some(worn_out()), core, held()),
            ("it has ended", Some(end()), queue, ended()),
            ("it has ended, a request", Some(end()), core, ended()),
            ("sent again after its end", Some(end()), Asking { after: Some(7), ..queue }, free(0)),
            ("sent again, its end lost", Some(worn_out()), Asking { after: Some(7), ..queue }, free(0)),
            ("ended again since", Some(end()), Asking { after: Some(6), ..queue }, ended()),
            ("failed, in the queue", Some(failed()), queue, Found::Ended(Box::new(failed()))),
            ("failed, asked for again", Some(failed()), core, free(0)),
        ];
        for (name, last, asking, expected) in rows {
            assert_eq!(found(last, asking), expected, "{name}");
        }
    }
}
