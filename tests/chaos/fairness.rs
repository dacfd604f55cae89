//! One slot, more of both kinds of jobs than it can do: neither the core path nor the durable one waits for ever.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use futures::StreamExt;
use serde_json::{Value, json};
use tokio::task::JoinSet;

use super::{
    load::{self, Ledger},
    random::Random,
    wishes::{SIM, Wish},
    world::{Shape, World},
};

const DURABLE_JOBS: usize = 60;
/// Clients that send one core job after the other.
const CLIENTS: usize = 4;
/// The most jobs of one kind in a row while the other kind waits.
const IN_A_ROW: usize = 10;

/// Sends core jobs, each until a worker takes it.
async fn send_on(client: async_nats::Client, subject: String, number: usize, stop: Arc<AtomicBool>) {
    let mut sent = 0;
    while !stop.load(Ordering::Relaxed) {
        let body =
            json!({"prompt": "a", "steps": 20, "stream": false, "job_id": format!("k{number}-{sent}")});
        let request = async_nats::Request::new()
            .payload(body.to_string().into())
            .timeout(Some(Duration::from_secs(60)));
        match client.send_request(subject.clone(), request).await {
            Ok(answer) => {
                let event: Value = serde_json::from_slice(&answer.payload).expect("an event");
                sent += usize::from(event["type"] == "complete");
            }
            Err(error) => {
                let nobody = async_nats::client::RequestErrorKind::NoResponders;
                assert_eq!(error.kind(), nobody, "{error}");
            }
        }
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
}

/// The longest run of entries that are `kind`.
fn longest(order: &[bool], kind: bool) -> usize {
    order.chunk_by(|a, b| a == b).filter(|run| run[0] == kind).map(<[bool]>::len).max().unwrap_or(0)
}

#[tokio::test(flavor = "multi_thread")]
async fn neither_path_starves() {
    let world = World::start(Shape::of_model(1, 1, 1, "sim=sim://?step_ms=10&size=64")).await;
    let client = world.client().await;
    let mut events = client.subscribe(world.subject("events.*")).await.unwrap();
    client.flush().await.unwrap();

    let (front, ledger) = (world.front(), Ledger::default());
    for number in 0..DURABLE_JOBS {
        let wish = Wish::plain(&format!("d{number}"), SIM, 20);
        load::send_one(wish, Random::new(number as u64), &front, &ledger).await.expect("it is taken");
    }
    let stop = Arc::new(AtomicBool::new(false));
    let mut senders = JoinSet::new();
    for number in 0..CLIENTS {
        let subject = world.subject("image.generate");
        senders.spawn(send_on(world.client().await, subject, number, stop.clone()));
    }
    // True for a durable job, in the order in which they were begun, as long as both kinds wait.
    let (mut order, mut durable, mut core_waits) = (vec![], 0, false);
    while durable < DURABLE_JOBS {
        let next = tokio::time::timeout(Duration::from_secs(60), events.next()).await;
        let message = next.unwrap_or_else(|_| panic!("nothing is begun any more: {order:?}")).unwrap();
        let event: Value = serde_json::from_slice(&message.payload).expect("an event");
        if event["type"] != "accepted" {
            continue;
        }
        let is_durable = event["job_id"].as_str().unwrap().starts_with('d');
        durable += usize::from(is_durable);
        // What was begun before the first core job was sent says nothing.
        core_waits |= !is_durable;
        if core_waits {
            order.push(is_durable);
        }
    }
    stop.store(true, Ordering::Relaxed);
    while let Some(sent) = senders.join_next().await {
        sent.unwrap();
    }
    println!("durable jobs in a row: {}, core jobs: {}", longest(&order, true), longest(&order, false));
    assert!(order.contains(&true) && order.contains(&false), "{order:?}");
    assert!(longest(&order, true) <= IN_A_ROW && longest(&order, false) <= IN_A_ROW, "{order:?}");
}

#[test]
fn runs_are_measured() {
    let order = [true, true, false, true, false, false, false];
    assert_eq!((longest(&order, true), longest(&order, false), longest(&[], true)), (2, 3, 0));
}
