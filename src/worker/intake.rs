//! The one task that takes jobs: it arms doors as slots become free and routes what comes.

use std::{sync::Arc, time::Duration};

use tokio::sync::Notify;

use super::job_router::{JobRouter, Routed};
use crate::bus::JobSource;

/// Doors are looked after this often even when nothing happens: while NATS was away none could be armed.
const REARM_EVERY: Duration = Duration::from_millis(250);

/// Takes jobs until the source ends. After [`Context::close`](super::context::Context::close) it closes the doors, says
/// so through `closed`, and goes on giving what comes late to others.
pub(super) async fn take_jobs<S: JobSource>(mut source: S, router: JobRouter, closed: Arc<Notify>) {
    let context = router.context().clone();
    let mut changes = context.slots.changes();
    let mut open = true;
    loop {
        if open && context.is_closed() {
            source.close().await;
            open = false;
            closed.notify_one();
        }
        if open && let Err(error) = source.arm(context.slots.free()).await {
            tracing::error!(%error, "a door cannot be armed");
        }
        let message = tokio::select! {
            message = source.next() => message,
            // The sender lives in the context.
            _ = changes.changed() => continue,
            () = tokio::time::sleep(REARM_EVERY), if open => continue,
        };
        let Some(message) = message else { return };
        if let Routed::PassOn { message, job_id, worker } = router.route(message) {
            source.pass_on(*message, job_id, worker).await;
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
        tokio::time::timeout(Duration::from_secs(5), worker.closed.notified()).await.unwrap();
        let body = r#"{"prompt":"a","job_id":"late"}"#;
        worker.requester.send(Via::Door, Capability::Generate, body, "late");
        worker.requester.send(Via::Direct, Capability::Generate, body, "direct");
        assert_eq!(replies(&mut worker.out, "direct").await, ["error"]);
        assert_eq!(worker.requester.passed_on().len(), 1);
        assert_eq!(worker.requester.armed(), 0);
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
