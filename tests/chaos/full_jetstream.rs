//! A full disk under nats-server: what cannot be kept is not taken, and what was taken ends.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use serde_json::Value;
use tokio::task::JoinSet;

use super::{
    evidence::{Answer, Sent},
    load::{self, Front, Ledger},
    random::Random,
    run::settled,
    tell::tell,
    wishes::{SIM, Wish},
    world::{Shape, World},
};

/// A server turns JetStream off when it is told that there is no room; queens look every few seconds.
const WITHIN: Duration = Duration::from_secs(30);

/// One attempt to send a job: status, whether there is a word on when to come again, and the body.
async fn post(front: &Front, wish: &Wish) -> (u16, bool, Value) {
    let url = format!("{}/v1/jobs", front.queens[0]);
    let answer = front.client.post(url).json(&wish.body).timeout(Duration::from_secs(30)).send().await;
    let answer = answer.expect("an answer");
    let (status, again) = (answer.status().as_u16(), answer.headers().contains_key("retry-after"));
    (status, again, answer.json().await.expect("a body"))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_disk_under_nats_refuses_new_jobs_and_loses_none() {
    let mut shape = Shape::of_model(1, 1, 1, "sim=sim://?step_ms=40&size=64");
    shape.rude = true;
    let world = World::start(shape).await;
    let (front, ledger) = (world.front(), Arc::new(Ledger::default()));
    for (job, steps) in [("before", 3), ("during", 150)] {
        let wish = Wish::plain(job, SIM, steps);
        load::send_one(wish, Random::new(1), &front, &ledger).await.expect("it is taken");
    }
    if !world.fill_disk() {
        return;
    }
    // What the server has room for in its memory may still be taken, and then it counts.
    let (until, mut refused, mut number) = (Instant::now() + WITHIN, 0, 0);
    while refused < 8 {
        assert!(
            Instant::now() < until,
            "jobs are taken although they cannot be kept\n{}",
            world.last_lines()
        );
        let wish = Wish::plain(&format!("full{number}"), SIM, 3);
        number += 1;
        match post(&front, &wish).await {
            (200, ..) => {
                assert_eq!(refused, 0, "it was refused for want of room before");
                let sent = Sent {
                    wish: wish.clone(),
                    answer: Answer::Accepted,
                    posts: 1,
                    cancel: None,
                    restored: false,
                };
                ledger.sent.lock().unwrap().insert(wish.id.clone(), sent);
            }
            (status, again, body) => {
                assert_eq!((status, again), (503, true), "{body}");
                assert!(body["error"]["message"].as_str().is_some_and(|text| !text.is_empty()), "{body}");
                assert_eq!(body["error"]["code"], "busy", "{body}");
                // Nobody knows whether it was taken: it may be there afterwards.
                let sent = Sent {
                    wish: wish.clone(),
                    answer: Answer::Unknown,
                    posts: 1,
                    cancel: None,
                    restored: false,
                };
                ledger.sent.lock().unwrap().insert(wish.id.clone(), sent);
                refused += 1;
            }
        }
    }
    let until = Instant::now() + WITHIN;
    while front.get(0, "/health").await.1["durable"] != false {
        assert!(Instant::now() < until, "queen says that jobs are durable\n{}", world.last_lines());
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    world.empty_disk().await;
    world.ready(1).await;
    let wish = Wish::plain("after", SIM, 3);
    load::send_one(wish, Random::new(1), &front, &ledger).await.expect("there is room again");
    let (evidence, violations) = settled(&world, &front, &ledger, JoinSet::new()).await;
    if !violations.is_empty() {
        tell(&world, &evidence, &violations, &[]);
        panic!("{} violations", violations.len());
    }
    for job in ["before", "during", "after"] {
        assert_eq!(evidence.end(job).unwrap().name, "complete");
    }
}
