//! Ends of durable jobs reach their receivers, whatever happens to queens and receivers meanwhile.

use std::{collections::BTreeMap, time::Duration};

use serde_json::json;

use super::{Hooks, SOON, job, secret};
use crate::support::{
    fake_durable::DurableWorker,
    fake_pool::with,
    nats::NatsServer,
    receiver::{Answer, Receiver},
};

/// How long a webhook waits that no queen has settled, and a little more.
const GIVEN_TO_ANOTHER: Duration = Duration::from_secs(45);

async fn draw(worker: &DurableWorker) {
    let mut job = worker.job().await;
    job.accept().await;
    job.progress(3).await;
    job.complete().await;
}

#[tokio::test]
async fn an_end_is_posted_once_with_what_happened_and_workers_know_nothing_of_it() {
    let (hooks, receiver) = (Hooks::start().await, Receiver::start(&[]).await);
    let queen = hooks.queen(&[]);
    queen.submit(&job("done", &receiver.url("127.0.0.1"))).await;
    let worker = hooks.pool.worker("w", "m").await;
    let mut held = worker.job().await;
    assert!(held.operation.webhook_fields().is_empty());
    held.accept().await;
    held.progress(3).await;
    held.complete().await;
    let got = &receiver.wait_for(1, SOON).await[0];
    assert_eq!((got.kind(), got.id.as_str()), ("job.complete", "done_2"));
    assert_eq!(got.path, "/hook?token=hunter2");
    assert_eq!(got.headers["content-type"], "application/json");
    let (_, view) = queen.get("/v1/jobs/done").await;
    assert_eq!(got.body["data"], view["event"], "it is the event that everybody reads");
    assert!(got.signature.starts_with("v1,") && got.timestamp > 1_700_000_000);
    assert!(got.body["timestamp"].as_str().unwrap().ends_with('Z'));

    // A job that nobody has begun, and one that failed.
    queen.submit(&job("taken-back", &receiver.url("127.0.0.1"))).await;
    assert_eq!(queen.delete("/v1/jobs/taken-back").await.0, 202);
    let got = receiver.wait_for(2, SOON).await;
    assert_eq!((got[1].kind(), got[1].job()), ("job.cancelled", "taken-back"));
    queen.submit(&job("broken", &receiver.url("127.0.0.1"))).await;
    let mut held = worker.job().await;
    held.accept().await;
    held.die(sd_worker_rbee::contract::ErrorCode::Internal, "it broke").await;
    let got = receiver.wait_for(3, SOON).await;
    assert_eq!((got[2].kind(), &got[2].body["data"]["message"]), ("job.error", &json!("it broke")));

    // Sent again, it is told of to the same receiver.
    let (status, _) = queen.post_to("/v1/dead-letters/broken/retry").await;
    assert_eq!(status, 200);
    draw(&worker).await;
    let got = receiver.wait_for(4, SOON).await;
    assert_eq!((got[3].kind(), got[3].job()), ("job.complete", "broken"));
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert_eq!(receiver.got().len(), 4, "each end once");
    assert!(!queen.log().contains("hunter2") && !queen.log().contains("/hook"), "{}", queen.log());
}

#[tokio::test]
async fn the_beginning_and_how_it_goes_are_posted_to_who_asks() {
    let (hooks, receiver) = (Hooks::start().await, Receiver::start(&[]).await);
    let queen = hooks.queen(&[]);
    let events = json!(["accepted", "progress", "complete"]);
    queen.submit(&with(job("all", &receiver.url("127.0.0.1")), "webhook_events", events)).await;
    queen
        .submit(&with(job("error-only", &receiver.url("127.0.0.1")), "webhook_events", json!(["error"])))
        .await;
    let worker = hooks.pool.worker("w", "m").await;
    let mut held = worker.job().await;
    held.accept().await;
    for step in 1..=40 {
        held.progress(step).await;
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    held.complete().await;
    draw(&worker).await;
    receiver.wait_for(4, SOON).await;
    tokio::time::sleep(Duration::from_secs(1)).await;
    let got = receiver.got();
    let kinds: Vec<&str> = got.iter().map(|got| got.kind()).collect();
    assert!(kinds.contains(&"job.accepted") && kinds.contains(&"job.complete"), "{kinds:?}");
    let progress = got.iter().filter(|got| got.kind() == "job.progress").count();
    assert!((2..=4).contains(&progress), "about one a second: {progress}");
    assert!(got.iter().all(|got| got.job() == "all"), "the other did not fail");
}

#[tokio::test]
async fn a_receiver_that_fails_twice_gets_the_same_again() {
    let answers = [Answer::RetryAfter(503, 1), Answer::Status(404)];
    let (hooks, receiver) = (Hooks::start().await, Receiver::start(&answers).await);
    let queen = hooks.queen(&[]);
    queen.submit(&job("again", &receiver.url("127.0.0.1"))).await;
    draw(&hooks.pool.worker("w", "m").await).await;
    let got = receiver.wait_for(3, SOON * 2).await;
    assert!(got.iter().all(|one| one.id == got[0].id && one.body == got[0].body), "{got:?}");
    assert!(got[1].timestamp >= got[0].timestamp + 5 && got[2].timestamp >= got[1].timestamp + 5, "{got:?}");
    assert_ne!(got[0].signature, got[1].signature, "each attempt is signed with its own time");
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert_eq!(receiver.got().len(), 3);
}

#[tokio::test]
async fn a_receiver_that_is_gone_is_not_asked_again() {
    let (hooks, receiver) = (Hooks::start().await, Receiver::start(&[Answer::Status(410)]).await);
    let queen = hooks.queen(&[]);
    queen.submit(&job("gone", &receiver.url("127.0.0.1"))).await;
    draw(&hooks.pool.worker("w", "m").await).await;
    receiver.wait_for(1, SOON).await;
    queen.wait_for_log("a webhook is given up").await;
    tokio::time::sleep(Duration::from_secs(7)).await;
    assert_eq!(receiver.got().len(), 1);
}

#[tokio::test]
async fn two_queens_post_each_end_once() {
    let (hooks, receiver) = (Hooks::start().await, Receiver::start(&[]).await);
    let queens = [hooks.queen(&[]), hooks.queen(&[])];
    let worker = hooks.pool.worker("w", "m").await;
    for number in 0..20 {
        queens[number % 2].submit(&job(&format!("j{number}"), &receiver.url("127.0.0.1"))).await;
        draw(&worker).await;
    }
    receiver.wait_for(20, SOON).await;
    tokio::time::sleep(Duration::from_secs(1)).await;
    let mut times: BTreeMap<String, usize> = BTreeMap::new();
    receiver.got().into_iter().for_each(|got| *times.entry(got.id).or_default() += 1);
    assert!(times.len() == 20 && times.values().all(|number| *number == 1), "{times:?}");
}

#[tokio::test]
async fn what_ends_while_no_queen_is_there_is_posted_by_the_next() {
    let (hooks, receiver) = (Hooks::start().await, Receiver::start(&[]).await);
    let mut queen = hooks.queen(&[]);
    queen.submit(&job("alone", &receiver.url("127.0.0.1"))).await;
    queen.kill();
    draw(&hooks.pool.worker("w", "m").await).await;
    tokio::time::sleep(Duration::from_millis(500)).await;
    assert_eq!(receiver.got().len(), 0);
    let _next = hooks.queen(&[]);
    assert_eq!(receiver.wait_for(1, GIVEN_TO_ANOTHER).await[0].job(), "alone");
}

#[tokio::test]
async fn what_a_killed_queen_had_under_way_is_posted_by_another_under_the_same_id() {
    let (hooks, receiver) = (Hooks::start().await, Receiver::start(&[Answer::Silence]).await);
    let mut queen = hooks.queen(&[]);
    queen.submit(&job("cut", &receiver.url("127.0.0.1"))).await;
    draw(&hooks.pool.worker("w", "m").await).await;
    receiver.wait_for(1, SOON).await;
    queen.kill();
    let _other = hooks.queen(&[]);
    let got = receiver.wait_for(2, GIVEN_TO_ANOTHER).await;
    assert_eq!((&got[0].id, &got[0].body), (&got[1].id, &got[1].body));
}

#[tokio::test]
async fn a_server_that_was_started_again_goes_on_where_it_was() {
    let mut server = NatsServer::start();
    let hooks = Hooks::start_on(&server).await;
    let receiver = Receiver::start(&[Answer::Status(500)]).await;
    let queen = hooks.queen(&[]);
    queen.submit(&job("before", &receiver.url("127.0.0.1"))).await;
    draw(&hooks.pool.worker("w", "m").await).await;
    receiver.wait_for(1, SOON).await;
    server.stop();
    server.restart();
    let until = tokio::time::Instant::now() + SOON;
    while queen.post(&job("after", &receiver.url("127.0.0.1"))).await.0 != 200 {
        assert!(tokio::time::Instant::now() < until, "{}", queen.log());
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    draw(&hooks.pool.worker("w", "m").await).await;
    let got = receiver.wait_for(3, GIVEN_TO_ANOTHER).await;
    let times = |id: &str| got.iter().filter(|got| got.job() == id).count();
    assert_eq!((times("before"), times("after")), (2, 1), "{got:?}");
}

#[tokio::test]
async fn a_dead_receiver_holds_up_nobody_else() {
    let silent: Vec<Answer> = std::iter::repeat_n(Answer::Silence, 100).collect();
    let dead = Receiver::at([127, 0, 0, 2], &silent).await;
    let (hooks, receiver) = (Hooks::start().await, Receiver::start(&[]).await);
    let queen =
        hooks.queen(&["--webhook-concurrency", "4", "--webhook-per-host", "2", "--webhook-timeout", "20s"]);
    let worker = hooks.pool.worker("w", "m").await;
    for number in 0..30 {
        queen.submit(&job(&format!("dead{number}"), &dead.url("127.0.0.2"))).await;
        draw(&worker).await;
    }
    dead.wait_for(2, SOON).await;
    for number in 0..10 {
        queen.submit(&job(&format!("well{number}"), &receiver.url("127.0.0.1"))).await;
        draw(&worker).await;
    }
    receiver.wait_for(10, SOON).await;
    assert!(dead.got().len() <= 3, "it has its own places, and no more");
}

#[tokio::test]
async fn secrets_are_changed_without_a_restart_and_without_a_gap() {
    let (hooks, receiver) = (Hooks::start().await, Receiver::start(&[]).await);
    let queen = hooks.queen(&[]);
    let worker = hooks.pool.worker("w", "m").await;
    let post = async |id: &str, nth: usize| {
        queen.submit(&job(id, &receiver.url("127.0.0.1"))).await;
        draw(&worker).await;
        receiver.wait_for(nth, SOON).await[nth - 1].signature.split(' ').count()
    };
    assert_eq!(post("old", 1).await, 1);
    for (id, nth, text, signatures, log) in [
        ("both", 2, format!("{}\n{}\n", secret(2), secret(1)), 2, "secrets=2"),
        ("bad", 3, "hunter2".to_owned(), 2, "the file of secrets cannot be used"),
        ("new", 4, secret(2), 1, "secrets=1"),
    ] {
        std::fs::write(hooks.secrets(), text).unwrap();
        queen.signal("-HUP");
        queen.wait_for_log(log).await;
        assert_eq!(post(id, nth).await, signatures, "{id}");
    }
    assert!(!queen.log().contains("hunter2") && !queen.log().contains("whsec_A"), "{}", queen.log());
}
