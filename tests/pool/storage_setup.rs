//! S3 that is set up wrongly: what is missing or wrong is named, within seconds, against real servers.

use std::time::{Duration, Instant};

use sd_worker_rbee::storage::{StorageError, Store, StoreOptions};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpListener,
};

use crate::support::{
    clock::shifted,
    process::free_port,
    s3::{S3Server, SECRET, environment},
    worker::{Pool, WorkerProcess},
};

/// What the check of this store says, and that it says it soon.
async fn said(variables: Vec<(String, String)>) -> String {
    let store = Store::open_with(&StoreOptions::new("s3://pool"), variables).expect("variables");
    let begun = Instant::now();
    let error = store.check().await.expect_err("nothing to be right");
    assert!(begun.elapsed() < Duration::from_secs(8), "{:?}: {error}", begun.elapsed());
    assert!(matches!(error, StorageError::Check { .. } | StorageError::NoCredentials { .. }), "{error:?}");
    let text = error.to_string();
    assert!(!text.contains(SECRET), "{text}");
    text
}

/// A server that answers every request with this.
async fn answers(status: &'static str, body: &'static str) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let url = format!("http://{}", listener.local_addr().expect("an address"));
    tokio::spawn(async move {
        while let Ok((mut client, _)) = listener.accept().await {
            tokio::spawn(async move {
                let mut request = [0; 4096];
                let _ = client.read(&mut request).await;
                let head = format!(
                    "HTTP/1.1 {status}\r\nconnection: close\r\ncontent-length: {}\r\n\r\n",
                    body.len()
                );
                let _ = client.write_all(format!("{head}{body}").as_bytes()).await;
                // What the client still sends is read: closing before that would lose the answer.
                let _ = client.shutdown().await;
                while matches!(client.read(&mut request).await, Ok(1..)) {}
            });
        }
    });
    url
}

#[tokio::test]
async fn a_bucket_that_does_not_exist_is_named_by_every_server() {
    let (rclone, moto) = (S3Server::rclone(), S3Server::moto());
    for server in [&rclone, &moto] {
        let text = said(server.environment()).await;
        for part in ["NoSuchBucket", "`pool`", "create the bucket", &server.endpoint()] {
            assert!(text.contains(part), "`{part}` in {text}");
        }
    }
}

#[tokio::test]
async fn keys_that_nobody_set_are_named_in_seconds_also_where_a_machine_might_have_a_role() {
    // A metadata service that never answers, as in many a network.
    let silent = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let silent =
        silent.local_addr().map(|address| (silent, format!("http://{address}"))).expect("an address");
    let nobody = format!("http://127.0.0.1:{}", free_port());
    for service in [silent.1.as_str(), &nobody] {
        let text = said(vec![("AWS_METADATA_ENDPOINT".into(), service.into())]).await;
        for part in ["AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY are not set", "no role of this machine"] {
            assert!(text.contains(part), "`{part}` in {text}");
        }
    }
}

#[tokio::test]
async fn a_wrong_region_is_told_by_the_variable_to_set() {
    let malformed = "<Error><Code>AuthorizationHeaderMalformed</Code><Message>The authorization header is malformed; \
                     the region 'us-east-1' is wrong; expecting 'eu-central-1'</Message></Error>";
    let text = said(environment(&answers("400 Bad Request", malformed).await, SECRET)).await;
    assert!(text.contains("expecting 'eu-central-1'") && text.contains("AWS_REGION must be"), "{text}");
    let moved = "<Error><Code>PermanentRedirect</Code><Message>The bucket is elsewhere</Message></Error>";
    let text = said(environment(&answers("301 Moved Permanently", moved).await, SECRET)).await;
    assert!(text.contains("AWS_REGION must be"), "{text}");
}

#[tokio::test]
async fn a_clock_that_is_wrong_is_told_as_aws_says_it() {
    let skewed = "<Error><Code>RequestTimeTooSkewed</Code><Message>The difference between the request time and the current \
                  time is too large.</Message></Error>";
    let text = said(environment(&answers("403 Forbidden", skewed).await, SECRET)).await;
    assert!(text.contains("RequestTimeTooSkewed") && text.contains("clocks of this machine"), "{text}");
    assert!(!text.contains("AWS_SECRET_ACCESS_KEY"), "{text}");
}

#[tokio::test]
async fn an_endpoint_that_does_not_speak_tls_is_told() {
    let server = S3Server::rclone();
    server.bucket("pool");
    let text = said(environment(&server.endpoint().replace("http://", "https://"), SECRET)).await;
    assert!(text.contains("does not speak TLS") && text.contains("http://"), "{text}");
}

#[tokio::test]
async fn an_answer_that_is_none_of_a_store_is_repeated() {
    let proxy = "<html>the proxy wants to know who you are</html>";
    let text = said(environment(&answers("403 Forbidden", proxy).await, SECRET)).await;
    assert!(text.contains("403 Forbidden") && text.contains("the proxy wants to know"), "{text}");
    let token = "<Error><Code>ExpiredToken</Code><Message>The provided token has expired.</Message></Error>";
    let text = said(environment(&answers("400 Bad Request", token).await, SECRET)).await;
    assert!(text.contains("AWS_SESSION_TOKEN has run out"), "{text}");
}

fn worker(pool: &Pool, variables: Vec<(String, String)>, more: &[&str]) -> WorkerProcess {
    WorkerProcess::start_with(&pool.url, &pool.prefix, "s3://pool", "a", "sim://", more, variables)
}

#[tokio::test]
async fn a_clock_that_is_wrong_is_told() {
    let server = S3Server::rclone();
    server.bucket("pool");
    let pool = Pool::new().await;
    for seconds in [3600, -3600] {
        let mut variables = server.environment();
        variables.extend(shifted(seconds));
        let mut worker = worker(&pool, variables, &[]);
        assert_eq!(worker.exit().await.code(), Some(1));
        let log = worker.log();
        assert!(
            log.contains("difference between the request time") && log.contains("clocks of this machine"),
            "{log}"
        );
    }
}

#[tokio::test]
async fn a_store_that_is_being_started_is_waited_for_and_said_to_be_missing() {
    let port = free_port();
    let pool = Pool::new().await;
    let begun = Instant::now();
    let worker = worker(&pool, environment(&format!("http://127.0.0.1:{port}"), SECRET), &[]);
    worker.wait_for_log("the store cannot be used yet").await;
    assert!(begun.elapsed() < Duration::from_secs(8), "{:?}", begun.elapsed());
    let log = worker.log();
    for part in ["s3://pool at http://127.0.0.1", "cannot connect", "AWS_ENDPOINT_URL", "--store-timeout"] {
        assert!(log.contains(part), "`{part}` in {log}");
    }
    let server = S3Server::rclone_at(port).expect("the port is free");
    server.bucket("pool");
    worker.wait_for_log(" ready ").await;
    assert_eq!(worker.log().matches("cannot be used yet").count(), 1, "{}", worker.log());
}
