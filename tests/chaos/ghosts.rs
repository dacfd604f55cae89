//! A consumer that waits for the end of deliveries whose messages are gone, as after a nats-server that was killed: with 2.9
//! each of them stops what it gives out, until the next question.

use std::time::{Duration, Instant};

use async_nats::jetstream::{self, consumer::PullConsumer};
use futures::StreamExt;

use super::{
    evidence::Answer,
    random::Random,
    wishes::{SIM, Wish},
    world::{Shape, World},
};

/// Jobs whose messages go while they are given out.
const GONE: usize = 30;
/// Two of queen's looks at the queue, on a busy machine.
const WITHIN: Duration = Duration::from_secs(25);

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
    let mut consumer: PullConsumer = loop {
        // Queen makes it beside the first job.
        match stream.get_consumer("generate-sim").await {
            Ok(consumer) => break consumer,
            Err(_) => tokio::time::sleep(Duration::from_millis(50)).await,
        }
    };
    let mut given = consumer.batch().max_messages(GONE).messages().await.unwrap();
    while let Some(message) = given.next().await {
        let sequence = message.unwrap().info().unwrap().stream_sequence;
        stream.delete_message(sequence).await.unwrap();
    }
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
