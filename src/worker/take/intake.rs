//! The one task that takes jobs: from doors on request subjects, and from the queue of durable jobs.
//!
//! A slot that becomes free looks at the queue first, so that requests cannot starve it. After a job of the queue it
//! waits for a moment at the doors alone, so that the queue cannot starve requests. Otherwise both are waited for.

use std::{collections::VecDeque, time::Duration};

use futures::FutureExt;
use tokio::time::Instant;

use super::router::{JobRouter, Routed};
use crate::bus::{Incoming, JobQueue, Requests, Settle, Via};

/// Doors are looked after this often even when nothing happens: while NATS was away none could be armed.
const REARM_EVERY: Duration = Duration::from_millis(250);
/// After a job of the queue, a slot waits at the doors alone for this part of the time that the job ran,
const DOORS_FIRST_PART: u32 = 100;
/// and for this long at most.
const DOORS_FIRST: Duration = Duration::from_millis(100);
/// A job of the queue that came without a slot is given back; after this many deliveries it waits here for one, far
/// from the number at which the server delivers it no more.
const WAIT_HERE_AFTER: u64 = 50;

/// Takes jobs until the source ends. When the worker takes none any more ([`Context::close`], [`Context::drain`]) it closes
/// doors and queue, says so ([`Context::set_doors_open`]), and goes on giving what comes late to others. One that was
/// drained opens them again.
///
/// [`Context::close`]: crate::worker::shared::Context::close
/// [`Context::drain`]: crate::worker::shared::Context::drain
/// [`Context::set_doors_open`]: crate::worker::shared::Context::set_doors_open
pub async fn take_jobs<S: Requests, Q: JobQueue>(source: S, queue: Q, router: JobRouter) {
    // A worker that says it is ready has its doors open.
    Intake { source, queue, router, waiting: VecDeque::new(), turn: Turn::Either }.run().await;
}

struct Intake<S, Q> {
    source: S,
    queue: Q,
    router: JobRouter,
    /// Jobs of the queue that wait for a slot here.
    waiting: VecDeque<Incoming>,
    turn: Turn,
}

/// Where the next job is taken from.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Turn {
    /// From the queue, if there is one now.
    QueueFirst,
    /// From a door, until then.
    DoorsFirst(Instant),
    /// From whichever has one first.
    Either,
}

impl<S: Requests, Q: JobQueue> Intake<S, Q> {
    async fn run(mut self) {
        let context = self.router.context().clone();
        let mut changes = context.slots.changes();
        let mut open = true;
        loop {
            if open && !context.takes_jobs() {
                self.source.close().await;
                self.queue.close().await;
                self.give_all_back().await;
                open = false;
                context.set_doors_open(false);
            } else if !open && context.takes_jobs() {
                self.source.reopen();
                if let Err(error) = self.queue.reopen().await {
                    // Nothing is subscribed any more: another process is to take over.
                    tracing::error!(%error, "the queue cannot be opened again");
                    return;
                }
                (open, self.turn) = (true, Turn::QueueFirst);
                context.set_doors_open(true);
            }
            let free = if open { context.slots.free() } else { 0 };
            self.take_turns(free, context.slots.take_queue_ran());
            if free > 0
                && self.turn == Turn::QueueFirst
                && let Some(message) = self.look().await
            {
                self.route(message).await;
                continue;
            }
            if self.turn == Turn::QueueFirst && free > 0 {
                self.turn = Turn::Either;
            }
            if open && let Err(error) = self.source.arm(free).await {
                tracing::error!(%error, "a door cannot be armed");
            }
            let pause = match self.turn {
                Turn::DoorsFirst(until) => until,
                Turn::QueueFirst | Turn::Either => Instant::now() + REARM_EVERY,
            };
            let ask = free > 0 && self.turn == Turn::Either;
            let message = tokio::select! {
                message = self.source.next() => message,
                message = self.queue.next(ask) => Some(message),
                // The sender lives in the context.
                _ = changes.changed() => continue,
                () = tokio::time::sleep_until(pause), if open => continue,
            };
            let Some(message) = message else { return };
            self.route(message).await;
        }
    }

    /// `ran`: for how long the job of the queue ran that has just given its slot back.
    fn take_turns(&mut self, free: usize, ran: Option<Duration>) {
        self.turn = match self.turn {
            // Without a slot nothing is taken; the next one that is free begins anew.
            _ if free == 0 => Turn::QueueFirst,
            Turn::DoorsFirst(until) if Instant::now() < until => self.turn,
            Turn::DoorsFirst(_) => Turn::QueueFirst,
            Turn::QueueFirst => match ran {
                Some(ran) => Turn::DoorsFirst(Instant::now() + (ran / DOORS_FIRST_PART).min(DOORS_FIRST)),
                None => Turn::QueueFirst,
            },
            Turn::Either => Turn::Either,
        };
    }

    async fn look(&mut self) -> Option<Incoming> {
        match self.waiting.pop_front() {
            Some(message) => Some(message),
            None => self.queue.look().await,
        }
    }

    async fn route(&mut self, message: Incoming) {
        match self.router.route(message) {
            Routed::Done => {}
            Routed::PassOn { message, job_id, worker } => {
                self.source.pass_on(*message, job_id, worker).await;
            }
            Routed::NoSlot(message) => self.give_back(*message),
        }
    }

    fn give_back(&mut self, message: Incoming) {
        match message.via {
            Via::Queue { ref delivery, .. }
                if delivery.times >= WAIT_HERE_AFTER && self.router.context().takes_jobs() =>
            {
                self.waiting.push_back(message);
            }
            Via::Queue { delivery, .. } => {
                tokio::spawn(delivery.settle(Settle::Again(Duration::ZERO)));
            }
            Via::Door | Via::Direct => {}
        }
    }

    /// Before the worker says that its doors are closed, what came from the queue too late is with the server again.
    async fn give_all_back(&mut self) {
        while let Some(message) = self.queue.next(false).now_or_never() {
            self.waiting.push_back(message);
        }
        for message in std::mem::take(&mut self.waiting) {
            if let Via::Queue { delivery, .. } = message.via {
                delivery.settle(Settle::Again(Duration::ZERO)).await;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use tokio::sync::mpsc::UnboundedReceiver;

    use super::*;
    use crate::{
        bus::{Outgoing, To, Via},
        contract::Capability,
        worker::testing::worker,
    };

    /// The names of what comes on a reply subject, to the end message.
    async fn replies(out: &mut UnboundedReceiver<Outgoing>, reply: &str) -> Vec<String> {
        let mut names = vec![];
        loop {
            let message = tokio::time::timeout(Duration::from_secs(10), out.recv()).await.unwrap().unwrap();
            if message.to != To::Reply(reply.into()) {
                continue;
            }
            match &message.event {
                Some(event) => names.push(event.kind.name().to_owned()),
                None => return names,
            }
        }
    }

    #[tokio::test]
    async fn a_door_closes_with_the_slot_and_opens_with_it() {
        let mut worker = worker("sim://?step_ms=20&size=64", 1);
        worker.requester.wait_for_doors(1).await;
        worker.requester.send(Via::Door, Capability::Generate, r#"{"prompt":"a","steps":10}"#, "r");
        worker.requester.wait_for_doors(0).await;
        assert_eq!(replies(&mut worker.out, "r").await.last().unwrap(), "complete");
        worker.requester.wait_for_doors(1).await;
        assert_eq!(worker.requester.armed(), 1);
    }

    #[tokio::test]
    async fn a_full_worker_takes_no_job() {
        let mut worker = worker("sim://?step_ms=50&size=64", 1);
        let body = |id: &str| format!(r#"{{"prompt":"a","steps":10,"job_id":"{id}"}}"#);
        worker.requester.send(Via::Door, Capability::Generate, &body("first"), "first");
        worker.requester.send(Via::Door, Capability::Generate, &body("second"), "second");
        worker.requester.send(Via::Direct, Capability::Generate, &body("third"), "third");
        assert_eq!(replies(&mut worker.out, "third").await, ["error"]);
        assert_eq!(worker.requester.passed_on().iter().map(|id| id.as_str()).collect::<Vec<_>>(), ["second"]);
        // The same request again needs no slot: it reads along.
        worker.requester.send(Via::Direct, Capability::Generate, &body("first"), "again");
        assert_eq!(replies(&mut worker.out, "again").await.last().unwrap(), "complete");
    }

    #[tokio::test]
    async fn a_bad_request_costs_no_slot() {
        let mut worker = worker("sim://?step_ms=0&size=64", 1);
        for body in ["", "{", r#"{"prompt":"a","steps":0}"#, r#"{"prompt":"a","model":"none"}"#] {
            worker.requester.send(Via::Door, Capability::Generate, body, "bad");
            assert_eq!(replies(&mut worker.out, "bad").await, ["error"], "{body}");
            assert_eq!(worker.context.slots.free(), 1);
        }
    }

    #[tokio::test]
    async fn a_closed_worker_gives_everything_to_others() {
        let mut worker = worker("sim://?step_ms=0&size=64", 1);
        worker.requester.wait_for_doors(1).await;
        worker.context.close();
        tokio::time::timeout(Duration::from_secs(5), worker.context.doors_are(false)).await.unwrap();
        let body = r#"{"prompt":"a","job_id":"late"}"#;
        worker.requester.send(Via::Door, Capability::Generate, body, "late");
        worker.requester.send(Via::Direct, Capability::Generate, body, "direct");
        assert_eq!(replies(&mut worker.out, "direct").await, ["error"]);
        assert_eq!(worker.requester.passed_on().len(), 1);
        assert_eq!(worker.requester.armed(), 0);
    }

    #[tokio::test]
    async fn a_drained_worker_gives_everything_to_others_until_it_resumes() {
        let mut worker = worker("sim://?step_ms=20&size=64", 2);
        worker.requester.wait_for_doors(2).await;
        let body = |id: &str| format!(r#"{{"prompt":"a","steps":10,"job_id":"{id}"}}"#);
        worker.requester.send(Via::Door, Capability::Generate, &body("before"), "before");
        worker.requester.wait_for_doors(1).await;
        worker.context.drain(true);
        tokio::time::timeout(Duration::from_secs(5), worker.context.doors_are(false)).await.unwrap();
        assert_eq!((worker.requester.armed(), worker.context.info().free_slots), (0, 0));
        worker.requester.send(Via::Door, Capability::Generate, &body("late"), "late");
        worker.requester.send(Via::Direct, Capability::Generate, &body("direct"), "direct");
        assert_eq!(replies(&mut worker.out, "direct").await, ["error"]);
        assert_eq!(worker.requester.passed_on().len(), 1);
        // What it held ends, and its slot opens no door.
        assert_eq!(replies(&mut worker.out, "before").await.last().unwrap(), "complete");
        assert_eq!(worker.requester.armed(), 0);
        worker.context.drain(false);
        worker.requester.wait_for_doors(2).await;
        worker.requester.send(Via::Direct, Capability::Generate, &body("after"), "after");
        assert_eq!(replies(&mut worker.out, "after").await.last().unwrap(), "complete");
    }

    #[tokio::test]
    async fn previews_and_a_panicking_model_each_end_in_one_terminal_event() {
        let started = Instant::now();
        let mut good = worker("sim://?step_ms=5&size=64", 1);
        let body = r#"{"prompt":"a","steps":4,"preview_every":1}"#;
        good.requester.send(Via::Door, Capability::Generate, body, "r");
        let names = replies(&mut good.out, "r").await;
        assert_eq!(names.iter().filter(|name| *name == "preview").count(), 1, "{names:?}");
        assert_eq!(names.last().unwrap(), "complete");

        let mut bad = worker("sim://?step_ms=0&size=64&fail=panic&fail_step=2", 1);
        bad.requester.send(Via::Door, Capability::Generate, r#"{"prompt":"a","steps":4}"#, "r");
        assert_eq!(replies(&mut bad.out, "r").await.last().unwrap(), "error");
        bad.requester.send(Via::Door, Capability::Generate, r#"{"prompt":"a","steps":1}"#, "again");
        assert_eq!(replies(&mut bad.out, "again").await.last().unwrap(), "complete");
        assert!(started.elapsed() < Duration::from_secs(10));
    }
}
