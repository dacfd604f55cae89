//! How many consumers a stream may have: from 2.15 on a server takes 1,000 where the stream names no number. And what a sweep
//! puts right.

use async_nats::jetstream::{self, consumer::pull, stream::Config};
use futures::{StreamExt, TryStreamExt, stream};
use sd_worker_rbee::{
    bus::{StreamOptions, Streams, Sweeper},
    contract::{Capability, JobId},
};
use serde_json::{Value, json};

use crate::{
    security::users,
    support::{
        nats::{NatsServer, line},
        worker::{PATIENCE, Pool},
    },
};

/// What streams have that say a number.
const NUMBER: i32 = 10_000;

fn streams(pool: &Pool) -> Streams {
    let sizes = StreamOptions {
        jobs_max_bytes: 16 << 20,
        events_max_bytes: 16 << 20,
        dlq_max_bytes: 4 << 20,
        ..StreamOptions::default()
    };
    Streams::new(pool.client.clone(), pool.subjects.clone(), sizes)
}

async fn config(context: &jetstream::Context, name: &str) -> Config {
    context.get_stream(name).await.expect(name).cached_info().config.clone()
}

#[tokio::test]
async fn a_stream_takes_more_consumers_than_servers_give_one_that_names_no_number() {
    let server = NatsServer::start();
    let pool = Pool::on(&server.url()).await;
    streams(&pool).ensure().await.expect("the streams");
    let context = jetstream::new(pool.client.clone());
    for name in ["JOBS", "EVENTS", "DLQ"] {
        assert_eq!(config(&context, &pool.subjects.stream(name)).await.max_consumers, NUMBER);
    }
    let events = context.get_stream(pool.subjects.stream("EVENTS")).await.unwrap();
    stream::iter(0..1200)
        .map(|number| {
            let events = &events;
            let wanted = pull::Config {
                name: Some(format!("c{number}")),
                memory_storage: true,
                inactive_threshold: PATIENCE,
                ..pull::Config::default()
            };
            async move { events.create_consumer(wanted).await }
        })
        .buffer_unordered(16)
        .try_collect::<Vec<_>>()
        .await
        .expect("1,200 consumers");
}

/// Streams as an earlier version made them: without a number.
async fn of_before(context: &jetstream::Context, streams: &Streams, names: [String; 3]) {
    streams.ensure().await.expect("the streams");
    for name in names {
        let made = config(context, &name).await;
        context.delete_stream(&name).await.unwrap();
        context.create_stream(Config { max_consumers: 0, ..made }).await.unwrap();
    }
}

#[tokio::test]
async fn streams_of_before_are_used_and_are_given_a_number_where_the_server_asks_for_one() {
    let pool = Pool::new().await;
    let (context, streams) = (jetstream::new(pool.client.clone()), streams(&pool));
    let names = ["JOBS", "EVENTS", "DLQ"].map(|name| pool.subjects.stream(name));
    of_before(&context, &streams, names.clone()).await;
    streams.ensure().await.expect("they are taken as they are");
    let before = config(&context, &names[0]).await;
    assert!(before.max_consumers < 1, "{before:?}");

    Sweeper::new(streams, PATIENCE).sweep().await.expect("the queue is swept");
    for name in names {
        let after = config(&context, &name).await;
        let number = if line() >= (2, 15) { NUMBER } else { -1 };
        assert_eq!(after.max_consumers, number, "{after:?}");
        if name.ends_with("JOBS") {
            assert_eq!(after, Config { max_consumers: number, ..before.clone() }, "nothing else is changed");
        }
    }
}

#[tokio::test]
async fn a_queen_who_may_not_edit_streams_sweeps_and_leaves_them() {
    let server = users::server();
    let operator = jetstream::new(users::User::connect(&server, "operator").await.client);
    let queen = users::streams(&server, "queen").await;
    of_before(&operator, &queen, ["JOBS", "EVENTS", "DLQ"].map(str::to_owned)).await;
    Sweeper::new(queen, PATIENCE).sweep().await.expect("the queue is swept");
    assert!(config(&operator, "JOBS").await.max_consumers < 1);
    let body: Value = operator.request("STREAM.INFO.JOBS", &json!({})).await.unwrap();
    assert_eq!(body["config"]["retention"], "workqueue", "{body}");
}

#[tokio::test]
async fn what_is_left_of_passing_over_numbers_is_taken_out_of_the_queue() {
    let pool = Pool::new().await;
    let (context, streams) = (jetstream::new(pool.client.clone()), streams(&pool));
    streams.ensure().await.expect("the streams");
    // A queen that is killed before it takes them out leaves these.
    for left in ["a", "b"] {
        let subject = pool.subjects.jobs(Capability::Generate, "passed-over", &JobId::new(left).unwrap());
        context.publish(subject, "".into()).await.unwrap().await.expect("it is stored");
    }
    Sweeper::new(streams, PATIENCE).sweep().await.expect("the queue is swept");
    let jobs = context.get_stream(pool.subjects.stream("JOBS")).await.unwrap();
    assert_eq!(jobs.cached_info().state.messages, 0);
}
