//! A file of the stream of jobs that lost its end, and in which numbers are missing from then on.

use std::time::Duration;

use async_nats::{
    Client,
    jetstream::{self, consumer::pull},
};
use futures::StreamExt;
use sd_worker_rbee::{
    bus::{Sending, StreamOptions, Streams},
    contract::{Capability, JobId, Subjects},
};

use super::{blocks, random::Random, supervised::Supervised, support::process::free_port, world};

/// How often a server writes down, at most, which messages of a file are done.
const INDEX_EVERY: Duration = Duration::from_millis(2500);
const PAUSE: Duration = Duration::from_millis(50);

async fn connected(port: u16) -> Client {
    let options = async_nats::ConnectOptions::new().retry_on_initial_connect();
    options.connect(format!("nats://127.0.0.1:{port}")).await.expect("it is tried again and again")
}

/// What a queen has of the streams that knows nothing of what was before.
async fn streams(port: u16) -> Streams {
    let sizes = StreamOptions {
        jobs_max_bytes: 16 << 20,
        events_max_bytes: 16 << 20,
        dlq_max_bytes: 4 << 20,
        ..StreamOptions::default()
    };
    let streams = Streams::new(connected(port).await, Subjects::new("").expect("no prefix"), sizes);
    // The server may be at its start.
    while streams.ensure().await.is_err() {
        tokio::time::sleep(PAUSE).await;
    }
    streams
}

fn id(job: &str) -> JobId {
    JobId::new(job).expect("an id")
}

/// Sends a job; its number.
async fn send(streams: &Streams, job: &str) -> u64 {
    let sending = Sending {
        job: id(job),
        subject: streams.subject_of_job(Capability::Generate, "m", &id(job)),
        body: format!("{job} {}", "x".repeat(400)).into(),
        after: None,
        lost: None,
        owner: None,
        traceparent: None,
    };
    streams.send_job(&sending).await.expect("it is stored").sequence
}

/// Kills the server and does something before it starts again.
async fn restart(server: &Supervised, between: impl FnOnce() + Send + 'static) {
    let known = server.exits().len();
    assert!(server.kill_and(between));
    server.exit_after(known).await;
    server.runs().await;
}

/// The index of the file says that all of it is done; with its end the file loses messages that waited, and one that was done
/// before them. The server goes on with a number that is not the next one in the file.
#[tokio::test(flavor = "multi_thread")]
async fn jobs_behind_missing_numbers_are_there_after_the_next_start() {
    let folder = tempfile::TempDir::new().unwrap();
    let port = free_port();
    let server = world::start_nats(port, folder.path(), folder.path(), Random::new(1));
    let before = streams(port).await;
    for job in ["one", "two", "three", "four"] {
        send(&before, job).await;
    }
    let jobs = jetstream::new(connected(port).await).get_stream("JOBS").await.unwrap();
    let consumer = pull::Config { durable_name: Some("generate-m".into()), ..pull::Config::default() };
    let consumer = jobs.create_consumer(consumer).await.unwrap();
    let mut given = consumer.messages().await.unwrap();
    for _ in ["one", "two", "three"] {
        tokio::time::sleep(INDEX_EVERY).await;
        given.next().await.unwrap().unwrap().double_ack().await.unwrap();
    }
    drop(given);
    jobs.delete_consumer("generate-m").await.unwrap();
    let data = blocks::folder_of(&folder.path().join("jetstream"), "JOBS");
    restart(&server, move || {
        let cut = blocks::cut_records(&data, 2);
        assert_eq!(cut.iter().map(|record| record.sequence).collect::<Vec<_>>(), [3, 4]);
    })
    .await;
    let after = streams(port).await;
    let mut sent = vec![];
    for job in ["five", "six", "seven"] {
        sent.push((send(&after, job).await, job));
    }
    restart(&server, || ()).await;
    let last = streams(port).await;
    for (sequence, job) in sent {
        let there = last.job_at(sequence, &id(job)).await.unwrap();
        assert!(there.is_some(), "{job}, which was stored as number {sequence}, cannot be read");
    }
}
