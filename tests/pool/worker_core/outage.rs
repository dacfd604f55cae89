//! NATS goes away while a job runs, and comes back on the same port.

use std::time::Duration;

use sd_worker_rbee::contract::{ErrorCode, EventKind};

use crate::support::{
    nats::NatsServer,
    worker::{Pool, next_event},
};

#[tokio::test]
async fn a_job_finishes_while_nats_is_away_and_its_end_is_published_afterwards() {
    let server = NatsServer::start();
    let port = server.port;
    let pool = Pool::on(&server.url()).await;
    let worker = pool.worker("a", "sim://?step_ms=50&size=64", &[]).await;
    let mut public = pool.events("j").await;
    let mut replies = pool.generate(r#"{"prompt":"a","steps":30,"job_id":"j"}"#).await;
    replies.wait_for("progress").await;

    drop(server);
    worker.wait_for_log("NATS: disconnected").await;
    // The job ends in the meantime.
    worker.wait_for_log("a job ended").await;
    assert!(pool.job_folder("j").join("result.json").is_file());
    let _server = NatsServer::start_at(port).expect("the port is free again");

    replies.end().await.done();
    let seqs: Vec<u64> = replies.events.iter().map(|event| event.seq).collect();
    // What the server may not have had is said again, with its number.
    assert!(seqs.windows(2).all(|pair| pair[0] <= pair[1]), "{seqs:?}");
    loop {
        let event = next_event(&mut public).await;
        if let EventKind::Complete(_) = event.kind {
            break;
        }
    }
    // And the worker takes jobs again.
    pool.insist(r#"{"prompt":"a","steps":1}"#).await.done();
}

#[tokio::test]
async fn a_job_that_outlives_an_outage_goes_on_telling_its_progress() {
    let server = NatsServer::start();
    let port = server.port;
    let pool = Pool::on(&server.url()).await;
    let worker = pool.worker("a", "sim://?step_ms=50&size=64", &[]).await;
    let mut replies = pool.generate(r#"{"prompt":"a","steps":140,"job_id":"j"}"#).await;
    replies.wait_for("progress").await;
    drop(server);
    worker.wait_for_log("NATS: disconnected").await;
    tokio::time::sleep(Duration::from_millis(300)).await;
    let _server = NatsServer::start_at(port).expect("the port is free again");
    let before = replies.events.len();
    replies.end().await.done();
    assert!(replies.events.len() > before + 2, "{:?}", replies.names());
}

#[tokio::test]
async fn a_worker_that_is_told_to_stop_while_nats_is_away_stores_what_it_computed() {
    let server = NatsServer::start();
    let pool = Pool::on(&server.url()).await;
    let mut worker = pool.worker("a", "sim://?step_ms=50&size=64", &["--grace", "1s"]).await;
    let mut replies = pool.generate(r#"{"prompt":"a","steps":10,"job_id":"j"}"#).await;
    replies.wait_for("accepted").await;
    drop(server);
    worker.wait_for_log("NATS: disconnected").await;
    worker.terminate();
    worker.wait_for_log("a job ended").await;
    assert!(pool.job_folder("j").join("result.json").is_file());
    // Its end cannot be said to anybody, and a second signal ends the wait for that.
    worker.wait_for_log("the grace time is over").await;
    worker.terminate();
    assert_eq!(worker.exit().await.code(), Some(143));
}

#[tokio::test]
async fn a_message_limit_of_the_server_does_not_swallow_the_end() {
    let pool = Pool::new().await;
    let _worker = pool.worker("a", "sim://?step_ms=1&size=64", &[]).await;
    // The largest body that the server takes.
    let body = r#"{"prompt":"a","steps":1,"negative_prompt":""}"#;
    let pad = (1 << 20) - body.len();
    let padded = format!("{body}{}", " ".repeat(pad));
    assert_eq!(padded.len(), 1 << 20);
    pool.generate(&padded).await.end().await.done();
    let image = "A".repeat((1 << 20) - 64);
    let body = format!(r#"{{"prompt":"a","init_image":"{image}"}}"#);
    let capability = sd_worker_rbee::contract::Capability::Transform;
    let (code, message) = pool.request(capability, body).await.end().await.failed();
    assert_eq!(code, ErrorCode::ImageInvalid);
    assert!(message.len() < 1000, "{} bytes", message.len());
}
