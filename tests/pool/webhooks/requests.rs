//! Webhooks that are refused with their job.

use serde_json::json;

use super::{Hooks, SOON, job, secret};
use crate::{
    security::queen::new_token,
    support::{fake_pool::with, receiver::Receiver},
};

const URL: &str = "https://me.example/hook?token=hunter2";

#[tokio::test]
async fn what_would_never_be_posted_is_refused_by_its_field() {
    let hooks = Hooks::start().await;
    let (queen, none) = (hooks.queen(&[]), hooks.pool.queen(&["--models", "m"]));
    for queen in [&queen, &none] {
        assert_eq!(queen.post(&with(job("plain", ""), "webhook_events", json!(null))).await.0, 200);
    }
    let (status, answer) = none.post(&job("silent", URL)).await;
    assert_eq!((status, &answer["error"]["code"]), (400, &json!("invalid_request")), "{answer}");
    assert!(answer["error"]["message"].as_str().unwrap().starts_with("`webhook_url`: this queen posts no"));

    let long = format!("{URL}{}", "x".repeat(2000));
    for (body, says) in [
        (job("x", &long), "`webhook_url`: 2037 characters; at most 2000"),
        (job("x", "me.example"), "`webhook_url`: is no URL"),
        (job("x", "ftp://me.example/"), "`webhook_url`: must begin with https://"),
        (job("x", "https://a:hunter2@me.example/"), "`webhook_url`: must name no user"),
        (job("x", "https://me.example:22/"), "`webhook_url`: port 22"),
        (with(job("x", URL), "webhook_events", json!(["compleet"])), "`webhook_events[0]`: there is no such"),
        (with(job("x", URL), "webhook_events", json!([])), "`webhook_events`: is empty"),
        (with(job("x", URL), "webhook_events", json!("complete")), "`webhook_events`: must be a list"),
        (with(job("x", URL), "webhook_url", json!(["a"])), "`webhook_url`: must be a text"),
        (with(job("x", ""), "webhook_events", json!(["error"])), "`webhook_events`: is for a job with"),
    ] {
        let (status, answer) = queen.post(&body).await;
        let message = answer["error"]["message"].as_str().unwrap();
        assert!(status == 400 && message.starts_with(says), "{says}: {answer}");
        assert!(!message.contains("hunter2"), "{message}");
    }
    assert!(!queen.log().contains("hunter2"));
}

#[tokio::test]
async fn a_second_submit_with_another_url_is_the_same_job_and_its_url_is_lost() {
    let hooks = Hooks::start().await;
    let (first, second) = (Receiver::start(&[]).await, Receiver::start(&[]).await);
    let queen = hooks.queen(&[]);
    for receiver in [&first, &second] {
        assert_eq!(queen.submit(&job("same", &receiver.url("127.0.0.1"))).await, "same");
    }
    let worker = hooks.pool.worker("w", "m").await;
    let mut held = worker.job().await;
    held.accept().await;
    held.complete().await;
    first.wait_for(1, SOON).await;
    tokio::time::sleep(std::time::Duration::from_millis(500)).await;
    assert_eq!((first.got().len(), second.got().len()), (1, 0));
}

#[tokio::test]
async fn clients_that_are_kept_apart_have_secrets_of_their_own() {
    let (hooks, receiver) = (Hooks::start().await, Receiver::start(&[]).await);
    let tokens = hooks.folder.path().join("tokens");
    let [alice, bob] = ["alice", "bob"].map(|name| new_token(name, &tokens));
    std::fs::write(hooks.secrets(), format!("alice:{}", secret(7))).unwrap();
    let queen = hooks.queen(&["--token-file", tokens.to_str().unwrap()]);
    let post = async |token: &str| {
        let request = reqwest::Client::new().post(format!("{}/v1/jobs", queen.url)).bearer_auth(token);
        let body = job("owned", &receiver.url("127.0.0.1")).to_string();
        let answer = request.body(body).send().await.unwrap();
        (answer.status().as_u16(), answer.text().await.unwrap())
    };
    let (status, answer) = post(&bob).await;
    assert!(
        status == 400 && answer.contains("`webhook_url`: there is no secret for this client"),
        "{answer}"
    );
    assert_eq!(post(&alice).await.0, 200);
    let worker = hooks.pool.worker("w", "m").await;
    let mut held = worker.job().await;
    held.accept().await;
    held.complete().await;
    assert_eq!(receiver.wait_for(1, SOON).await[0].job(), "owned");
}
