//! Readers of jobs' events on a real nats-server: none misses an event, none has one twice, and none hangs.

use std::time::Duration;

use futures::TryStreamExt;

use crate::support::{fake_durable::DurablePool, nats::NatsServer};
use sd_worker_rbee::{
    bus::{Entry, EventLog, EventReader, JobEvents, Told},
    contract::{Event, EventKind, JobId, WorkerId},
};

/// Appends the events of a job, one behind the other.
struct Writer<'a> {
    pool: &'a DurablePool,
    job: JobId,
    seq: u64,
    sequence: u64,
}

impl<'a> Writer<'a> {
    fn new(pool: &'a DurablePool, job: &str) -> Self {
        Self { pool, job: JobId::new(job).unwrap(), seq: 0, sequence: 0 }
    }

    async fn write(&mut self, count: u64) {
        for _ in 0..count {
            let kind = EventKind::Progress { step: 1, total: 2, percent: 50.0, eta_ms: 0 };
            let worker_id = WorkerId::new("w").unwrap();
            let event = Event { job_id: self.job.clone(), worker_id, attempt: 1, seq: self.seq, kind };
            let entry = Entry { failures: 1, ..Entry::of(event) };
            self.sequence = self.pool.streams.append(&entry, self.sequence).await.unwrap();
            self.seq += 1;
        }
    }
}

async fn pool() -> DurablePool {
    let pool = DurablePool::start().await;
    pool.streams.ensure().await.unwrap();
    pool
}

/// The numbers of the next events.
async fn read(reader: &mut EventReader, count: usize) -> Vec<u64> {
    let mut seqs = vec![];
    let more = async {
        while seqs.len() < count {
            match reader.next().await.expect("a connection") {
                Told::Stored(logged) => seqs.push(logged.event.seq),
                Told::Preview(_) => {}
            }
        }
    };
    tokio::time::timeout(Duration::from_secs(30), more).await.expect("events in time");
    seqs
}

/// Whether nothing comes for a while.
async fn is_quiet(reader: &mut EventReader) -> bool {
    tokio::time::timeout(Duration::from_millis(500), reader.next()).await.is_err()
}

fn up_to(count: u64) -> Vec<u64> {
    (0..count).collect()
}

#[tokio::test]
async fn readers_that_come_while_events_are_written_have_each_once() {
    let pool = pool().await;
    let events = JobEvents::new(&pool.streams);
    let (mut writer, mut noise) = (Writer::new(&pool, "j"), Writer::new(&pool, "noise"));
    let mut readers = vec![];
    for round in 0..40 {
        let mut reader = events.of(&writer.job);
        readers.push(tokio::spawn(async move {
            let seqs = read(&mut reader, 200).await;
            (seqs, is_quiet(&mut reader).await)
        }));
        writer.write(5).await;
        if round % 10 == 0 {
            noise.write(1).await;
        }
    }
    for (number, reader) in readers.into_iter().enumerate() {
        let (seqs, quiet) = reader.await.unwrap();
        assert_eq!(seqs, up_to(200), "reader {number}");
        assert!(quiet, "reader {number} has nothing twice");
    }
    let consumers = pool.stream("EVENTS").await.cached_info().state.consumer_count;
    assert_eq!(consumers, 1);
    drop(events);
    let gone = async {
        while pool.stream("EVENTS").await.cached_info().state.consumer_count > 0 {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(20), gone).await.expect("the consumer goes with its readers");
}

#[tokio::test]
async fn a_reader_that_is_slow_holds_up_nobody_and_misses_nothing() {
    let pool = pool().await;
    let events = JobEvents::new(&pool.streams);
    let mut writer = Writer::new(&pool, "j");
    let (mut slow, mut quick) = (events.of(&writer.job), events.of(&writer.job));
    writer.write(1).await;
    assert_eq!((read(&mut slow, 1).await, read(&mut quick, 1).await), (vec![0], vec![0]));
    for _ in 0..30 {
        writer.write(10).await;
        read(&mut quick, 10).await;
    }
    assert_eq!(read(&mut slow, 300).await, (1..301).collect::<Vec<_>>());
    writer.write(1).await;
    assert_eq!(read(&mut slow, 1).await, [301]);
    assert!(is_quiet(&mut slow).await);
}

#[tokio::test]
async fn messages_that_cannot_be_read_are_passed_over() {
    let pool = pool().await;
    let events = JobEvents::new(&pool.streams);
    let mut writer = Writer::new(&pool, "j");
    let garbage = async |text: &'static str| {
        let subject = pool.subjects.events(&JobId::new("j").unwrap());
        pool.jetstream.publish(subject, text.into()).await.unwrap().await.unwrap().sequence
    };
    writer.write(1).await;
    writer.sequence = garbage("no event").await;
    let mut reader = events.of(&writer.job);
    assert_eq!(read(&mut reader, 1).await, [0]);
    writer.write(1).await;
    writer.sequence = garbage(r#"{"type":"of a later version"}"#).await;
    writer.write(1).await;
    assert_eq!(read(&mut reader, 2).await, [1, 2]);
    assert_eq!(read(&mut events.of(&writer.job), 3).await, [0, 1, 2]);
}

#[tokio::test]
async fn readers_go_on_over_a_restart_of_the_server() {
    let mut server = NatsServer::start();
    let pool = DurablePool::start_on(&server).await;
    pool.streams.ensure().await.unwrap();
    let events = JobEvents::new(&pool.streams);
    let mut writer = Writer::new(&pool, "j");
    let mut readers: Vec<_> = (0..50).map(|_| events.of(&writer.job)).collect();
    writer.write(3).await;
    for reader in &mut readers {
        assert_eq!(read(reader, 3).await, [0, 1, 2]);
    }
    server.restart();
    let back = async {
        while pool.streams.last(&writer.job).await.is_err() {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(20), back).await.expect("JetStream is back");
    // Some of these come before the consumer is made again.
    writer.write(5).await;
    for reader in &mut readers {
        assert_eq!(read(reader, 5).await, [3, 4, 5, 6, 7]);
    }
    writer.write(1).await;
    for reader in &mut readers {
        assert_eq!(read(reader, 1).await, [8]);
    }
}

#[tokio::test]
async fn what_was_stored_while_nobody_listened_is_read_from_the_stream() {
    let pool = pool().await;
    let events = JobEvents::new(&pool.streams);
    let mut writer = Writer::new(&pool, "j");
    let (mut reader, mut other) = (events.of(&writer.job), events.of(&JobId::new("other").unwrap()));
    writer.write(2).await;
    assert_eq!(read(&mut reader, 2).await, [0, 1]);
    assert!(is_quiet(&mut reader).await && is_quiet(&mut other).await);
    // Until it is found out, nobody hears of events.
    let stream = pool.stream("EVENTS").await;
    let names: Vec<String> = stream.consumer_names().try_collect().await.unwrap();
    assert_eq!(names.len(), 1);
    stream.delete_consumer(&names[0]).await.unwrap();
    writer.write(5).await;
    assert_eq!(read(&mut reader, 5).await, [2, 3, 4, 5, 6]);
    let consumers = pool.stream("EVENTS").await.cached_info().state.consumer_count;
    assert_eq!(consumers, 1, "it is there again");
    writer.write(1).await;
    assert_eq!(read(&mut reader, 1).await, [7]);
    assert!(is_quiet(&mut reader).await && is_quiet(&mut other).await);
}

#[tokio::test]
async fn a_reader_goes_on_with_a_stream_that_was_made_again() {
    let pool = pool().await;
    let events = JobEvents::new(&pool.streams);
    let (mut writer, mut noise) = (Writer::new(&pool, "j"), Writer::new(&pool, "noise"));
    let mut reader = events.of(&writer.job);
    noise.write(20).await;
    writer.write(2).await;
    assert_eq!(read(&mut reader, 2).await, [0, 1]);
    for round in 0..3 {
        pool.jetstream.delete_stream(pool.subjects.stream("EVENTS")).await.unwrap();
        pool.streams.ensure().await.unwrap();
        (writer.sequence, noise.sequence) = (0, 0);
        // Once smaller numbers than those of before, then larger ones.
        noise.write(1 + round * 30).await;
        let first = writer.seq;
        writer.write(2).await;
        assert_eq!(read(&mut reader, 2).await, [first, first + 1], "round {round}");
    }
}
