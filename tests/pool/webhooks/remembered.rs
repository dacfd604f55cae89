//! Jobs that are not durable are told of by the queen that has them.

use std::time::Duration;

use serde_json::json;

use super::{Hooks, SOON, job};
use crate::support::{
    fake_pool::with,
    fake_worker::FakeWorker,
    receiver::{Answer, Receiver},
};

#[tokio::test]
async fn a_job_of_the_core_path_is_told_of_from_its_beginning_to_its_end() {
    let (hooks, receiver) = (Hooks::start().await, Receiver::start(&[Answer::Status(500)]).await);
    let queen = hooks.queen(&["--core"]);
    let mut worker = FakeWorker::start(&hooks.pool.url, &hooks.pool.prefix, "w", &["m"]).await;
    let events = json!(["accepted", "complete"]);
    let body = with(job("core", &receiver.url("127.0.0.1")), "webhook_events", events);
    let until = tokio::time::Instant::now() + SOON;
    while queen.post(&body).await.0 != 200 {
        assert!(tokio::time::Instant::now() < until, "queen hears of the worker");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    let mut held = worker.job().await;
    assert!(held.operation.webhook_fields().is_empty());
    held.accept().await;
    held.complete().await;
    let got = receiver.wait_for(3, SOON).await;
    let mut kinds: Vec<_> = got.iter().map(|got| (got.kind(), got.id.as_str())).collect();
    kinds.sort_unstable();
    let (accepted, complete) = (("job.accepted", "core_0"), ("job.complete", "core_1"));
    assert!(
        kinds == [accepted, accepted, complete] || kinds == [accepted, complete, complete],
        "the one that was not taken comes again: {kinds:?}"
    );
}
