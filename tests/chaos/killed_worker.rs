//! kill -9 in the middle of a job: another worker goes on from the last checkpoint, to the same bytes.

use std::time::Duration;

use async_nats::Subscriber;
use futures::StreamExt;
use serde_json::Value;

use super::{
    evidence::Answer,
    log_lines,
    random::Random,
    wishes::{SHAPES, Wish},
    world::{Shape, World},
};

/// Nothing here takes longer between two events.
const PATIENCE: Duration = Duration::from_secs(60);

/// Events of every job, from now on.
async fn events(world: &World) -> Subscriber {
    let client = world.client().await;
    let events = client.subscribe(world.subject("events.*")).await.unwrap();
    client.flush().await.unwrap();
    events
}

/// Reads until an event of the job is what is wanted.
async fn wait_for(
    events: &mut Subscriber,
    job: &str,
    world: &World,
    wanted: impl Fn(&Value) -> bool,
) -> Value {
    loop {
        let next = tokio::time::timeout(PATIENCE, events.next()).await;
        let Ok(Some(message)) = next else { panic!("no such event of {job}:\n{}", world.log_lines(job)) };
        let event: Value = serde_json::from_slice(&message.payload).unwrap_or_default();
        if event["job_id"] == job && wanted(&event) {
            return event;
        }
    }
}

async fn send(world: &World, job: &str, model: &str, steps: u32) {
    let wish = Wish::plain(job, model, steps);
    let (answer, _) = world.front().submit(&wish, &mut Random::new(1)).await;
    assert_eq!(answer, Answer::Accepted);
}

/// Kills the worker of a job of `steps` steps when `kill_at` of them are done; how many are done twice.
async fn steps_lost(name: &str, model: &str, steps: u32, kill_at: u64) -> u64 {
    let shape = Shape::of_model(1, 1, 1, model).flags(&["--checkpoint-every", "300ms", "--slots", "1"]);
    let mut world = World::start(shape).await;
    let mut stream = events(&world).await;
    send(&world, "whole", name, steps).await;
    let whole = wait_for(&mut stream, "whole", &world, |event| event["type"] == "complete").await;

    send(&world, "killed", name, steps).await;
    wait_for(&mut stream, "killed", &world, |event| event["type"] == "accepted").await;
    let second = world.add_worker(&[]).await;
    let reached = |event: &Value| event["type"] == "progress" && event["step"].as_u64() >= Some(kill_at);
    let last = wait_for(&mut stream, "killed", &world, reached).await;
    assert_eq!(last["worker_id"], "w0");
    world.worker(0).leave();
    world.worker(0).signal("-KILL").unwrap();

    let other = |event: &Value| event["attempt"] == 2 && event["type"] == "progress";
    let first = wait_for(&mut stream, "killed", &world, other).await;
    assert_eq!(first["worker_id"], format!("w{second}"));
    let end = wait_for(&mut stream, "killed", &world, |event| event["type"] == "complete").await;
    assert_eq!(end["attempt"], 2);
    let sha256 = |event: &Value| event["images"][0]["sha256"].as_str().unwrap().to_owned();
    assert_eq!(sha256(&end), sha256(&whole), "the same request, with a break and without");
    assert_eq!(log_lines::count(&world.worker(second).log(), log_lines::RESUMED), 1);
    let lost = last["step"].as_u64().unwrap().saturating_sub(first["step"].as_u64().unwrap() - 1);
    println!("{name}: of {} steps {lost} were done twice", last["step"]);
    lost
}

#[tokio::test(flavor = "multi_thread")]
async fn a_killed_worker_costs_ten_steps() {
    // A checkpoint every three steps, and an event every two or three of them.
    let lost = steps_lost("sim", "sim=sim://?step_ms=100&size=64", 50, 40).await;
    assert!(lost <= 10, "{lost} steps were done twice");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_real_model_goes_on_to_the_same_bytes() {
    let lost = steps_lost(SHAPES, SHAPES, 150, 60).await;
    // The length of a step is the machine's: what counts is that it did not begin again.
    assert!(lost < 50, "{lost} steps were done twice");
}
