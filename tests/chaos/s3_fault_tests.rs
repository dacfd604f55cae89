//! The faulty S3 server by itself, in front of a real one, with the client that workers use.

use std::{
    net::Ipv4Addr,
    time::{Duration, Instant},
};

use bytes::Bytes;
use sd_worker_rbee::{
    contract::{JobId, OutputFormat},
    storage::{Key, Store, StoreOptions},
};

use super::{
    random::Random,
    s3_faults::{BYTES_PER_SECOND, LATE, S3Fault, S3Faults},
    support::s3::{S3Server, SECRET, environment},
};

async fn faulty(server: &S3Server) -> S3Faults {
    S3Faults::start(Ipv4Addr::LOCALHOST, server.endpoint(), Random::new(1)).await
}

fn store(faults: &S3Faults, timeout: Duration) -> Store {
    let options = StoreOptions { store_timeout: timeout, ..StoreOptions::new("s3://pool/a") };
    Store::open_with(&options, environment(&faults.endpoint(), SECRET)).unwrap()
}

fn key(job: &str) -> Key {
    Key::Image { job: JobId::new(job).unwrap(), index: 0, attempt: 1, format: OutputFormat::Png }
}

fn picture() -> Bytes {
    Bytes::from((0..200_000_u32).map(|i| (i % 251) as u8).collect::<Vec<_>>())
}

#[tokio::test(flavor = "multi_thread")]
async fn without_a_fault_signed_requests_pass() {
    let server = S3Server::rclone();
    server.bucket("pool");
    let faults = faulty(&server).await;
    let store = store(&faults, Duration::from_secs(20));
    store.check().await.unwrap();
    store.put(&key("a"), picture(), "image/png").await.unwrap();
    assert_eq!(store.get(&key("a"), 1 << 20).await.unwrap(), picture());
    assert_eq!(std::fs::read(server.data().join("pool/a/jobs/a/0.png")).unwrap(), picture());
    let url = store.url(&key("a")).await.unwrap();
    assert_eq!(reqwest::get(url).await.unwrap().bytes().await.unwrap(), picture());
    assert!(faults.struck().is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn each_fault_fails_a_request_that_is_not_tried_again_and_is_counted() {
    let server = S3Server::rclone();
    server.bucket("pool");
    let faults = faulty(&server).await;
    let open = store(&faults, Duration::from_secs(20));
    open.put(&key("there"), picture(), "image/png").await.unwrap();
    let url = open.url(&key("there")).await.unwrap();
    for fault in S3Fault::ALL {
        faults.set(Some((fault, 100)));
        let client = reqwest::Client::builder().timeout(Duration::from_secs(2)).build().unwrap();
        let read = async { client.get(&url).send().await?.error_for_status()?.bytes().await };
        let read = read.await;
        assert!(read.is_err(), "{fault:?}: {} bytes", read.unwrap().len());
        assert_eq!(faults.struck()[&fault], 1, "{fault:?}");
        let status = match fault {
            S3Fault::InternalError => Some(500),
            S3Fault::SlowDown => Some(503),
            _ => None,
        };
        assert_eq!(read.unwrap_err().status().map(|status| status.as_u16()), status, "{fault:?}");
    }
    faults.set(None);
    assert_eq!(reqwest::get(url).await.unwrap().bytes().await.unwrap(), picture());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_write_whose_answer_is_dropped_has_been_made() {
    let server = S3Server::rclone();
    server.bucket("pool");
    let faults = faulty(&server).await;
    let store = store(&faults, Duration::from_millis(1500));
    for (fault, made) in [(S3Fault::ServeAndDrop, true), (S3Fault::Drop, false)] {
        faults.set(Some((fault, 100)));
        let job = fault.name().replace(' ', "-");
        store.put(&key(&job), picture(), "image/png").await.unwrap_err();
        let file = server.data().join(format!("pool/a/jobs/{job}/0.png"));
        assert_eq!(file.is_file(), made, "{fault:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_write_that_hangs_is_made_when_the_fault_is_lifted() {
    let server = S3Server::rclone();
    server.bucket("pool");
    let faults = faulty(&server).await;
    let store = store(&faults, Duration::from_secs(30));
    faults.set(Some((S3Fault::Hang, 100)));
    let begun = Instant::now();
    let (image, content) = (key("late"), picture());
    let put = store.put(&image, content, "image/png");
    let lift = async {
        while faults.struck().is_empty() {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        tokio::time::sleep(Duration::from_millis(300)).await;
        faults.set(None);
    };
    let (put, ()) = tokio::join!(put, lift);
    put.unwrap();
    assert!(begun.elapsed() >= Duration::from_millis(300));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_slow_server_is_late_takes_its_time_and_does_all() {
    let server = S3Server::rclone();
    server.bucket("pool");
    let faults = faulty(&server).await;
    let store = store(&faults, Duration::from_secs(30));
    faults.set(Some((S3Fault::Slow, 100)));
    let least = LATE.as_secs_f64() + picture().len() as f64 / BYTES_PER_SECOND as f64;
    let begun = Instant::now();
    store.put(&key("slow"), picture(), "image/png").await.unwrap();
    assert!(begun.elapsed().as_secs_f64() >= least, "{:?}", begun.elapsed());
    let begun = Instant::now();
    assert_eq!(store.get(&key("slow"), 1 << 20).await.unwrap(), picture());
    assert!(begun.elapsed().as_secs_f64() >= least, "{:?}", begun.elapsed());
    assert_eq!(faults.struck()[&S3Fault::Slow], 2);
}
