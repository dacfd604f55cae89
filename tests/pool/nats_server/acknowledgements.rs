//! Servers from 2.14 on can be told to use a second form of the subjects on which messages are acknowledged.

use std::time::Duration;

use async_nats::jetstream::{self, consumer::PullConsumer};
use serde_json::json;
use tempfile::TempDir;

use crate::{
    security::users::{User, in_no_log, process_of, server_with, streams},
    support::{nats::line, worker::PATIENCE},
};

/// The second form, where the server has it.
fn second_form() -> &'static str {
    if line() >= (2, 14) { "feature_flags { js_ack_fc_v2: true }" } else { "" }
}

#[tokio::test]
async fn a_durable_job_is_acknowledged_in_the_form_that_the_server_has() {
    let server = server_with(second_form());
    streams(&server, "queen").await.ensure().await.expect("queen makes the streams");
    let store = TempDir::new().unwrap();
    let soon = ["--ack-wait", "1s"];
    let mut worker = process_of(&server, "worker", &store, &[&soon[..], &["--worker-id", "w"]].concat());
    let mut queen = process_of(&server, "queen", &store, &soon);
    worker.wait_for_log(" ready ").await;
    let url = queen.url().await;

    let client = reqwest::Client::new();
    let body = json!({"operation": "image_generation", "prompt": "a", "steps": 2, "job_id": "j"});
    let drawn = async {
        loop {
            let sent = client.post(format!("{url}/v1/jobs")).body(body.to_string()).send().await.unwrap();
            if sent.status() == 200 {
                break;
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        let stream = client.get(format!("{url}/v1/jobs/j/stream")).send().await.unwrap();
        stream.text().await.unwrap()
    };
    let told = tokio::time::timeout(PATIENCE, drawn).await.expect("an end in time");
    assert!(told.contains(r#""type":"complete""#), "{told}");

    // Not acknowledged, it would come again now.
    tokio::time::sleep(Duration::from_secs(3)).await;
    let operator = jetstream::new(User::connect(&server, "operator").await.client);
    let mut jobs = operator.get_stream("JOBS").await.unwrap();
    assert_eq!(jobs.info().await.unwrap().state.messages, 0);
    let names: Vec<String> = futures::TryStreamExt::try_collect(jobs.consumer_names()).await.unwrap();
    let mut delivered = 0;
    for name in names {
        let mut consumer: PullConsumer = jobs.get_consumer(&name).await.unwrap();
        let info = consumer.info().await.unwrap();
        assert_eq!((info.num_ack_pending, info.num_redelivered), (0, 0), "{info:?}");
        delivered += info.delivered.consumer_sequence;
    }
    assert_eq!(delivered, 1);
    in_no_log(&[&worker, &queen]);
}

#[tokio::test]
async fn nobody_acknowledges_for_others_in_either_form() {
    let server = server_with(second_form());
    streams(&server, "queen").await.ensure().await.expect("queen makes the streams");
    let subjects = ["$JS.ACK.JOBS.generate-m.1.1.1.1.0", "$JS.ACK._.abcdefgh.JOBS.generate-m.1.1.1.1.0"];
    for user in ["queen", "client"] {
        let mut user = User::connect(&server, user).await;
        for subject in subjects {
            user.may_not_publish(subject).await;
        }
    }
    let mut worker = User::connect(&server, "worker").await;
    for subject in ["$JS.ACK._.abcdefgh.EVENTS.x.1.1.1.1.0", "$JS.FC._.abcdefgh.EVENTS.x"] {
        worker.may_not_publish(subject).await;
    }
}
