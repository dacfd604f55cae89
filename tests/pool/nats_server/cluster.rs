//! Three servers that keep three copies of the streams, of which one is away at a time.

use std::time::{Duration, Instant};

use super::crowd::Crowd;
use crate::support::{nats::NatsServer, worker::PATIENCE};

const COPIES: [&str; 2] = ["--stream-replicas", "3"];

fn urls(servers: &[NatsServer]) -> String {
    servers.iter().map(NatsServer::url).collect::<Vec<_>>().join(",")
}

#[tokio::test]
async fn servers_of_a_cluster_are_killed_in_turn_and_no_job_is_lost() {
    let mut servers = NatsServer::cluster();
    let mut crowd = Crowd::start(&urls(&servers), &COPIES).await;
    for server in &mut servers {
        for _ in 0..8 {
            crowd.send().await;
        }
        server.stop();
        for _ in 0..8 {
            crowd.send().await;
        }
        server.restart();
        // The next one is killed when this one has again what the others have.
        server.is_in_step().await;
    }
    crowd.all_are_drawn().await;
    assert_eq!(crowd.lost().await, Vec::<String>::new());
    crowd.each_ended_once().await;
}

#[tokio::test]
async fn a_server_that_is_upgraded_sends_its_clients_to_the_others() {
    let mut servers = NatsServer::cluster();
    let mut crowd = Crowd::start(&urls(&servers), &COPIES).await;
    for _ in 0..8 {
        crowd.send().await;
    }
    // One after the other, so that every client was at one of them.
    for server in &mut servers {
        server.lame_duck();
        let until = Instant::now() + PATIENCE;
        while server.is_running() {
            crowd.send().await;
            assert!(Instant::now() < until, "it goes on running");
            tokio::time::sleep(Duration::from_millis(500)).await;
        }
        server.restart();
        server.is_in_step().await;
    }
    crowd.all_are_drawn().await;
    crowd.each_ended_once().await;
    for worker in &mut crowd.workers {
        assert!(worker.is_running());
        assert!(worker.log().contains("lame duck"), "{}", worker.log());
    }
}
