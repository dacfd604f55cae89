//! The store against real S3 servers over HTTP, with an HTTP client of its own on the reading side.

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use crate::support::s3::{S3Server, SECRET, environment};
use bytes::Bytes;
use sd_worker_rbee::{
    contract::{ErrorCode, JobId, OutputFormat},
    storage::{Key, StorageError, Store, StoreOptions},
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt, copy_bidirectional},
    net::{TcpListener, TcpStream},
};

const MIB: u64 = 1 << 20;

fn image(job: &str) -> Key {
    Key::Image { job: JobId::new(job).unwrap(), index: 0, attempt: 1, format: OutputFormat::Png }
}

#[tokio::test]
async fn a_presigned_url_gives_a_stranger_the_bytes_the_type_and_the_job() {
    let server = S3Server::rclone();
    server.bucket("pictures");
    let store = server.store("s3://pictures/pool/one");
    store.check().await.unwrap();
    store.put(&image("j1"), Bytes::from_static(b"not quite a PNG"), "image/png").await.unwrap();

    let url = store.url(&image("j1")).await.unwrap();
    assert!(url.contains("/pictures/pool/one/jobs/j1/0.png?"), "{url}");
    assert!(url.contains("X-Amz-Expires=3600"), "{url}");
    let answer = reqwest::get(&url).await.unwrap();
    assert_eq!(answer.status(), 200);
    assert_eq!(answer.headers()["content-type"], "image/png");
    assert_eq!(answer.headers()["x-amz-meta-job-id"], "j1");
    assert_eq!(answer.bytes().await.unwrap(), "not quite a PNG");

    let other = url.replace("/j1/", "/j2/");
    assert_eq!(reqwest::get(&other).await.unwrap().status(), 403, "the URL is for that object alone");
    let unsigned = url.split('?').next().unwrap();
    // What is not signed at all is a bad request to this server.
    assert_eq!(reqwest::get(unsigned).await.unwrap().status(), 400, "without a signature nothing is given");
    let longer = url.replace("X-Amz-Expires=3600", "X-Amz-Expires=7200");
    assert_eq!(reqwest::get(&longer).await.unwrap().status(), 403, "its time cannot be made longer");
}

#[tokio::test]
async fn processes_that_start_together_do_not_disturb_each_others_check() {
    let server = S3Server::rclone();
    server.bucket("pool");
    let checks = (0..16).map(|_| {
        let store = server.store("s3://pool/all");
        async move {
            for _ in 0..8 {
                store.check().await.unwrap();
            }
        }
    });
    futures::future::join_all(checks).await;
}

#[tokio::test]
async fn a_key_that_a_client_names_stays_below_the_prefix() {
    let server = S3Server::rclone();
    server.bucket("pool");
    let (mine, other) = (server.store("s3://pool/mine"), server.store("s3://pool/other"));
    let key = Key::input(b"theirs");
    other.put(&key, Bytes::from_static(b"theirs"), "image/png").await.unwrap();
    let name = key.path();
    let own = mine.get(&Key::parse_reference(&name).unwrap(), MIB).await.unwrap_err();
    assert!(matches!(own, StorageError::NotFound { .. }), "{own}");
    for way_out in ["inputs/../../other", "inputs/%2e%2e/%2e%2e/other", "/other", "inputs//../../other"] {
        let named = format!("{way_out}/{name}");
        let error = Key::parse_reference(&named).unwrap_err();
        assert_eq!(error.code(), ErrorCode::InvalidRequest, "{named}: {error}");
    }
    let same = other.get(&Key::parse_reference(&name).unwrap(), MIB).await.unwrap();
    assert_eq!(same, "theirs");
}

#[tokio::test]
async fn an_object_is_read_back_and_overwritten() {
    let server = S3Server::rclone();
    server.bucket("pool");
    let store = server.store("s3://pool");
    let key = image("j");
    assert_eq!(store.find(&key, MIB).await.unwrap(), None);
    assert!(
        matches!(store.get(&key, MIB).await, Err(StorageError::NotFound { key }) if key == "jobs/j/0.png")
    );
    for text in ["one", "two"] {
        store.put(&key, Bytes::from(text), "image/png").await.unwrap();
        assert_eq!(store.get(&key, MIB).await.unwrap(), text);
    }
    let error = store.get(&key, 2).await.unwrap_err();
    assert_eq!(error.code(), ErrorCode::PayloadTooLarge);
    assert_eq!(error.to_string(), "object `jobs/j/0.png` has 3 bytes, at most 2 are taken");
}

#[tokio::test]
async fn what_is_deleted_is_gone_and_what_is_not_there_may_be_deleted() {
    let (rclone, moto) = (S3Server::rclone(), S3Server::moto());
    rclone.bucket("pool");
    let made = reqwest::Client::new().put(format!("{}/pool", moto.endpoint())).send().await.unwrap();
    assert_eq!(made.status(), 200);
    for server in [&rclone, &moto] {
        let store = server.store("s3://pool/one");
        let job = JobId::new("j").unwrap();
        let gone = Key::Checkpoint { job: job.clone() };
        let stays = Key::Cancelled { job };
        for key in [&gone, &stays] {
            store.put(key, Bytes::from_static(b"x"), "application/octet-stream").await.unwrap();
        }
        for _ in 0..2 {
            store.delete(&gone).await.unwrap();
            assert_eq!(store.find(&gone, MIB).await.unwrap(), None);
        }
        assert_eq!(store.get(&stays, MIB).await.unwrap(), "x");
        store.delete(&Key::Checkpoint { job: JobId::new("never-there").unwrap() }).await.unwrap();
    }
    let wrong = environment(&rclone.endpoint(), "another-secret");
    let stranger = Store::open_with(&StoreOptions::new("s3://pool/one"), wrong).unwrap();
    let error = stranger.delete(&image("j")).await.unwrap_err();
    assert!(matches!(error, StorageError::Denied { .. }), "{error}");
    assert!(error.to_string().contains("deleting object `jobs/j/0.png`"), "{error}");
}

#[tokio::test]
async fn a_wrong_secret_is_said_and_not_shown() {
    let server = S3Server::rclone();
    server.bucket("pool");
    let wrong = format!("{SECRET}-wrong");
    let options = StoreOptions::new("s3://pool");
    let store = Store::open_with(&options, environment(&server.endpoint(), &wrong)).unwrap();
    let error = store.check().await.unwrap_err();
    let text = error.to_string();
    for part in ["s3://pool", "store-check.txt", "403", "SignatureDoesNotMatch", "AWS_SECRET_ACCESS_KEY"] {
        assert!(text.contains(part), "{part} is missing: {text}");
    }
    assert_eq!(error.code(), ErrorCode::Storage);
    for text in [text, format!("{error:?}"), format!("{store:?}")] {
        assert!(!text.contains(SECRET), "{text}");
    }
}

#[tokio::test]
async fn a_bucket_that_is_missing_is_named() {
    let server = S3Server::moto();
    let store = server.store("s3://no-such-bucket/p");
    let error = store.put(&image("j"), Bytes::from_static(b"x"), "image/png").await.unwrap_err();
    let text = error.to_string();
    assert!(matches!(error, StorageError::NoSuchBucket { .. }), "{text}");
    for part in ["jobs/j/0.png", "NoSuchBucket", "`no-such-bucket`"] {
        assert!(text.contains(part), "{part} is missing: {text}");
    }
    let error = store.find(&image("j"), MIB).await.unwrap_err();
    assert!(
        matches!(error, StorageError::NoSuchBucket { .. }),
        "a missing bucket is no missing object: {error}"
    );
    assert!(store.check().await.unwrap_err().to_string().contains("create the bucket"));
}

#[tokio::test]
async fn a_server_that_is_not_there_is_said_within_the_time() {
    let port = crate::support::process::free_port();
    let mut options = StoreOptions::new("s3://pool");
    options.store_timeout = Duration::from_secs(4);
    let store = Store::open_with(&options, environment(&format!("http://127.0.0.1:{port}"), SECRET)).unwrap();
    let started = Instant::now();
    let error = store.check().await.unwrap_err();
    assert!(started.elapsed() < Duration::from_secs(6), "{:?}", started.elapsed());
    let text = error.to_string();
    assert!(text.contains("store-check.txt") && text.contains("AWS_ENDPOINT_URL"), "{text}");
}

#[tokio::test]
async fn readers_get_a_url_of_the_endpoint_that_they_can_reach() {
    let server = S3Server::rclone();
    server.bucket("pool");
    let mut options = StoreOptions::new("s3://pool");
    options.public_url = Some(format!("http://localhost:{}/", server.port));
    options.presign_ttl = Duration::from_secs(60);
    let store = Store::open_with(&options, server.environment()).unwrap();
    store.put(&image("j"), Bytes::from_static(b"x"), "image/png").await.unwrap();
    let url = store.url(&image("j")).await.unwrap();
    assert!(url.starts_with(&format!("http://localhost:{}/pool/jobs/j/0.png?", server.port)), "{url}");
    assert!(url.contains("X-Amz-Expires=60"), "{url}");
    assert_eq!(reqwest::get(&url).await.unwrap().status(), 200, "{url}");
}

#[tokio::test]
async fn what_fails_for_a_while_is_tried_again() {
    for fault in [Fault::Status(500), Fault::Status(503), Fault::Drop, Fault::LoseAnswer] {
        let server = S3Server::rclone();
        server.bucket("pool");
        let proxy = Proxy::start(server.port, fault, 2).await;
        let store = Store::open_with(&StoreOptions::new("s3://pool"), environment(&proxy.endpoint(), SECRET))
            .unwrap();
        let stored = store.put(&image("j"), Bytes::from_static(b"x"), "image/png").await;
        stored.unwrap_or_else(|error| panic!("{fault:?}: {error}"));
        assert_eq!(store.get(&image("j"), MIB).await.unwrap(), "x");
        assert!(proxy.connections() > 2, "{fault:?}: the faults were met");
    }
}

#[tokio::test]
async fn what_always_fails_ends_in_an_error_that_names_object_and_cause() {
    let proxy = Proxy::start(0, Fault::Status(500), usize::MAX).await;
    let mut options = StoreOptions::new("s3://pool");
    options.store_timeout = Duration::from_secs(4);
    let store = Store::open_with(&options, environment(&proxy.endpoint(), SECRET)).unwrap();
    let started = Instant::now();
    let error = store.put(&image("j"), Bytes::from_static(b"x"), "image/png").await.unwrap_err();
    assert!(started.elapsed() < Duration::from_secs(6), "{:?}", started.elapsed());
    assert_eq!(error.code(), ErrorCode::Storage);
    let text = error.to_string();
    assert!(text.contains("writing object `jobs/j/0.png`"), "{text}");
    assert!(proxy.connections() > 2, "it was tried again");
    assert!(text.contains("500 Internal Server Error: InternalError: made up"), "{text}");
}

/// What a connection through the proxy meets.
#[derive(Debug, Clone, Copy)]
enum Fault {
    /// This status, without asking the server.
    Status(u16),
    /// The connection ends before the request is read.
    Drop,
    /// The server does what was asked, and its answer is lost.
    LoseAnswer,
}

/// Passes bytes on, so that signatures hold; the first connections meet a fault.
struct Proxy {
    port: u16,
    connections: Arc<AtomicUsize>,
}

impl Proxy {
    async fn start(server: u16, fault: Fault, faults: usize) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let connections = Arc::new(AtomicUsize::new(0));
        let count = connections.clone();
        tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                let faulty = count.fetch_add(1, Ordering::Relaxed) < faults;
                tokio::spawn(async move {
                    // A client that goes away ends the connection, which is all that it means here.
                    let _ = pass(client, server, faulty.then_some(fault)).await;
                });
            }
        });
        Self { port, connections }
    }

    fn endpoint(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }

    fn connections(&self) -> usize {
        self.connections.load(Ordering::Relaxed)
    }
}

async fn pass(mut client: TcpStream, server: u16, fault: Option<Fault>) -> std::io::Result<()> {
    match fault {
        None => {
            let mut server = TcpStream::connect(("127.0.0.1", server)).await?;
            copy_bidirectional(&mut client, &mut server).await.map(drop)
        }
        Some(Fault::Drop) => Ok(()),
        Some(Fault::Status(status)) => {
            request(&mut client).await?;
            let body = "<Error><Code>InternalError</Code><Message>made up</Message></Error>";
            let length = body.len();
            let head =
                format!("HTTP/1.1 {status} X\r\nconnection: close\r\ncontent-length: {length}\r\n\r\n");
            client.write_all(format!("{head}{body}").as_bytes()).await
        }
        Some(Fault::LoseAnswer) => {
            let request = request(&mut client).await?;
            let mut server = TcpStream::connect(("127.0.0.1", server)).await?;
            server.write_all(&request).await?;
            server.read_u8().await.map(drop)
        }
    }
}

/// Reads one request, body included.
async fn request(client: &mut TcpStream) -> std::io::Result<Vec<u8>> {
    let mut bytes = vec![];
    loop {
        let mut more = [0; 4096];
        let read = client.read(&mut more).await?;
        bytes.extend_from_slice(&more[..read]);
        let text = String::from_utf8_lossy(&bytes).to_ascii_lowercase();
        let Some((head, body)) = text.split_once("\r\n\r\n") else { continue };
        let length = head
            .lines()
            .find_map(|line| line.strip_prefix("content-length: "))
            .map_or(0, |n| n.parse().unwrap());
        if read == 0 || body.len() >= length {
            return Ok(bytes);
        }
    }
}
