//! The device does not wait: what it does while the store or the bus stands still, and how much may pile up.

use std::{sync::Arc, time::Duration};

use futures::{FutureExt, future::BoxFuture};
use tokio::{net::TcpListener, sync::mpsc::UnboundedReceiver};

use super::{Worker, worker_between};
use crate::{
    bus::{EventSink, Outgoing, To, Via, memory::MemorySink},
    contract::{Capability, ErrorCode, EventKind},
    storage::{Store, StoreOptions},
};

const SIM: &str = "sim://?step_ms=0&size=64";
const STEPS: u32 = 3;
const SLOTS: usize = 2;
const PATIENCE: Duration = Duration::from_secs(10);

/// An S3 store at a server that takes connections and never answers; it lives as long as the listener.
async fn a_store_that_hangs() -> (Store, TcpListener) {
    let silent = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let endpoint = format!("http://{}", silent.local_addr().unwrap());
    let environment = [
        ("AWS_ENDPOINT", endpoint.as_str()),
        ("AWS_ACCESS_KEY_ID", "key"),
        ("AWS_SECRET_ACCESS_KEY", "secret"),
        ("AWS_REGION", "us-east-1"),
    ];
    let environment = environment.map(|(name, value)| (name.to_owned(), value.to_owned()));
    (Store::open_with(&StoreOptions::new("s3://bucket"), environment).unwrap(), silent)
}

/// A bus that takes nothing.
struct Away;

impl EventSink for Away {
    fn deliver<'a>(&'a self, _: &'a [Outgoing]) -> BoxFuture<'a, ()> {
        std::future::pending().boxed()
    }
}

fn body(id: &str) -> String {
    format!(r#"{{"prompt":"a","steps":{STEPS},"job_id":"{id}"}}"#)
}

/// Waits for the last step of a job.
async fn computed(out: &mut UnboundedReceiver<Outgoing>, reply: &str) {
    let look = async {
        loop {
            let message = out.recv().await.unwrap();
            let Some(event) = message.event.filter(|_| message.to == To::Reply(reply.into())) else {
                continue;
            };
            match event.kind {
                EventKind::Accepted { .. } => {}
                EventKind::Progress { step, .. } if step < STEPS => {}
                EventKind::Progress { .. } => return,
                ref other => panic!("{other:?}"),
            }
        }
    };
    tokio::time::timeout(PATIENCE, look).await.unwrap();
}

/// Waits until this many jobs have ended, whoever heard of it.
async fn ended(worker: &Worker, jobs: u64) {
    let mut changes = worker.context.slots.changes();
    let look = async {
        while worker.context.metrics.counts(Capability::Generate).requests < jobs {
            changes.changed().await.unwrap();
        }
    };
    tokio::time::timeout(PATIENCE, look).await.unwrap();
}

#[tokio::test]
async fn the_device_computes_on_while_the_store_hangs_until_each_slot_has_a_picture_on_its_way() {
    let (store, _silent) = a_store_that_hangs().await;
    let (sink, mut out) = MemorySink::new();
    let mut worker = worker_between(SIM, SLOTS, store, Arc::new(sink));
    for number in 0..2 * SLOTS {
        let reply = format!("r{number}");
        // Without an id, nothing is looked for in the store before the job is computed.
        let body = format!(r#"{{"prompt":"a","steps":{STEPS}}}"#);
        worker.requester.send(Via::Door, Capability::Generate, &body, &reply);
        computed(&mut out, &reply).await;
    }
    tokio::time::timeout(PATIENCE, worker.requester.wait_for_doors(0)).await.unwrap();
    worker.requester.send(Via::Direct, Capability::Generate, &body("late"), "late");
    let refused = async {
        loop {
            let message = out.recv().await.unwrap();
            if message.to == To::Reply("late".into()) {
                return message.event.unwrap().kind.clone();
            }
            assert!(message.event.is_none_or(|event| !event.kind.is_terminal()));
        }
    };
    let refused = tokio::time::timeout(PATIENCE, refused).await.unwrap();
    assert!(matches!(refused, EventKind::Error { code: ErrorCode::Busy, .. }), "{refused:?}");
}

#[tokio::test]
async fn the_device_computes_on_while_the_bus_takes_nothing_until_each_slot_has_an_end_to_tell() {
    let store = Store::open(&StoreOptions::new("memory://")).unwrap();
    let mut worker = worker_between(SIM, SLOTS, store, Arc::new(Away));
    for number in 1..=2 * SLOTS {
        worker.requester.send(Via::Door, Capability::Generate, &body(&format!("j{number}")), "r");
        ended(&worker, number as u64).await;
    }
    tokio::time::timeout(PATIENCE, worker.requester.wait_for_doors(0)).await.unwrap();
    assert_eq!(worker.context.held.len(), 2 * SLOTS);
    worker.requester.send(Via::Door, Capability::Generate, &body("late"), "late");
    let passed_on = async {
        while worker.requester.passed_on().is_empty() {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(PATIENCE, passed_on).await.unwrap();
}
