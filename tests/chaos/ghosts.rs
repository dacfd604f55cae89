//! A consumer that waits for the end of deliveries whose messages are gone: a nats-server that was killed comes back with an
//! older state of its consumers. Each of them stops what the consumer gives out until the next question (seen with 2.9).

use std::{
    fs,
    time::{Duration, Instant},
};

use async_nats::jetstream::{self, consumer::PullConsumer};
use futures::StreamExt;

use super::{
    blocks,
    evidence::Answer,
    faults::Target,
    random::Random,
    wishes::{SIM, Wish},
    world::{Shape, World},
};

/// Jobs whose messages are gone.
const GONE: usize = 30;
/// After this long the server has written down what it knows.
const WRITTEN: Duration = Duration::from_secs(3);
/// A few of queen's looks at the queue, on a busy machine.
const WITHIN: Duration = Duration::from_secs(40);

#[tokio::test(flavor = "multi_thread")]
async fn a_consumer_does_not_wait_for_messages_that_are_gone() {
    let world = World::start(Shape::of_model(1, 1, 0, "sim=sim://?step_ms=2&size=64")).await;
    for number in 0..GONE + 1 {
        let wish = Wish::plain(&format!("g{number}"), SIM, 3);
        let (answer, _) = world.front().submit(&wish, &mut Random::new(1)).await;
        assert_eq!(answer, Answer::Accepted);
    }
    let context = jetstream::new(world.client().await);
    let stream = context.get_stream("chaos-JOBS").await.unwrap();
    let consumer: PullConsumer = loop {
        // Queen makes it beside the first job.
        match stream.get_consumer("generate-sim").await {
            Ok(consumer) => break consumer,
            Err(_) => tokio::time::sleep(Duration::from_millis(50)).await,
        }
    };
    let mut given = consumer.batch().max_messages(GONE).messages().await.unwrap();
    let mut messages = vec![];
    while let Some(message) = given.next().await {
        messages.push(message.unwrap());
    }
    assert_eq!(messages.len(), GONE);
    let state = blocks::state_of(&world.server_folder(), "chaos-JOBS", "generate-sim");
    tokio::time::sleep(WRITTEN).await;
    let before = fs::read(&state).unwrap();
    for message in messages {
        message.double_ack().await.unwrap();
    }
    tokio::time::sleep(WRITTEN).await;
    let (nats, known) = (world.process(Target::Nats), world.process(Target::Nats).exits().len());
    assert!(nats.kill_and(move || fs::write(state, before).unwrap()));
    nats.exit_after(known).await;
    let consumer: PullConsumer = loop {
        match context.get_consumer_from_stream("generate-sim", "chaos-JOBS").await {
            Ok(consumer) => break consumer,
            Err(_) => tokio::time::sleep(Duration::from_millis(50)).await,
        }
    };
    // The server sees by itself that the first is gone, and none behind it.
    let waits_for = consumer.info().await.unwrap().num_ack_pending;
    assert!((GONE - 1..=GONE).contains(&waits_for), "it waits for {waits_for}");
    let until = Instant::now() + WITHIN;
    loop {
        let info = consumer.info().await.unwrap();
        if info.num_ack_pending == 0 {
            break;
        }
        assert!(Instant::now() < until, "it waits for {} deliveries", info.num_ack_pending);
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
    let (jobs, ..) = world.journal().await.events().await;
    assert!(jobs.is_empty(), "nobody has done anything: {jobs:?}");
    assert_eq!(world.journal().await.standing().await.jobs_left, 1, "what is there is not touched");
}
