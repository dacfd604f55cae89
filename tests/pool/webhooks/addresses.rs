//! Where webhooks do not go, whatever a URL, a name or a receiver says.

use std::time::Duration;

use super::{Hooks, SOON, job, secret};
use crate::support::receiver::{Answer, Receiver};

#[tokio::test]
async fn a_redirect_is_a_failure_and_is_not_followed() {
    let inside = Receiver::start(&[]).await;
    let answers = [Answer::Redirect(inside.url("127.0.0.1"))];
    let (hooks, receiver) = (Hooks::start().await, Receiver::start(&answers).await);
    let queen = hooks.queen(&[]);
    queen.submit(&job("moved", &receiver.url("127.0.0.1"))).await;
    let worker = hooks.pool.worker("w", "m").await;
    let mut held = worker.job().await;
    held.accept().await;
    held.complete().await;
    receiver.wait_for(2, SOON).await;
    assert_eq!(inside.got().len(), 0);
    assert!(queen.log().contains("redirects are not followed"), "{}", queen.log());
}

#[tokio::test]
async fn an_address_that_is_not_public_is_refused_at_once_and_a_name_when_it_is_connected_to() {
    let (hooks, receiver) = (Hooks::start().await, Receiver::start(&[]).await);
    let queen = hooks.queen_that_allows("10.99.0.0/16", &[]);
    for host in ["127.0.0.1", "[::1]", "0x7f000001", "169.254.169.254", "[::ffff:127.0.0.1]", "0.0.0.0"] {
        for url in [receiver.url(host), receiver.url(host).replace("http://", "https://")] {
            let (status, answer) = queen.post(&job("literal", &url)).await;
            let message = answer["error"]["message"].as_str().unwrap();
            assert!(status == 400 && message.starts_with("`webhook_url`: "), "{url}: {answer}");
            assert!(message.contains("not public") && !message.contains("hunter2"), "{message}");
        }
    }
    let until = tokio::time::Instant::now() + SOON;
    // A name is looked up when it is connected to, and it is this machine's.
    for (id, url) in [
        ("open", receiver.url("localhost")),
        ("tls", receiver.url("localhost").replace("http://", "https://")),
    ] {
        queen.submit(&job(id, &url)).await;
        let worker = hooks.pool.worker("w", "m").await;
        let mut held = worker.job().await;
        held.accept().await;
        held.complete().await;
        while !queen.log().contains(&format!("given up job_id={id}")) {
            assert!(tokio::time::Instant::now() < until, "{}", queen.log());
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }
    tokio::time::sleep(Duration::from_millis(500)).await;
    assert_eq!(receiver.got().len(), 0);
    let log = queen.log();
    let given_up: Vec<&str> = log.lines().filter(|line| line.contains("a webhook is given up")).collect();
    assert!(given_up.len() == 2 && given_up.iter().all(|line| line.contains("not public")), "{log}");
    assert!(!log.contains("hunter2"), "{log}");
}

#[tokio::test]
async fn the_proxy_of_the_environment_is_not_used_and_no_log_shows_a_url_or_a_secret() {
    let proxy = Receiver::start(&[]).await;
    let (hooks, receiver) = (Hooks::start().await, Receiver::start(&[]).await);
    let proxy_url = format!("http://127.0.0.1:{}", proxy.port);
    let variables =
        ["http_proxy", "HTTP_PROXY", "ALL_PROXY", "all_proxy"].map(|name| (name, proxy_url.as_str()));
    let variables = variables.into_iter().chain([("RUST_LOG", "trace")]);
    let variables = variables.map(|(name, value)| (name.to_owned(), value.to_owned())).collect();
    let secrets = hooks.secrets();
    let arguments =
        ["--models", "m", "--webhook-secret-file", secrets.to_str().unwrap(), "--webhook-allow", "127.0.0.1"];
    let queen = hooks.pool.queen_with(&arguments, variables);
    queen.submit(&job("direct", &receiver.url("127.0.0.1"))).await;
    let worker = hooks.pool.worker("w", "m").await;
    let mut held = worker.job().await;
    held.accept().await;
    held.complete().await;
    receiver.wait_for(1, SOON).await;
    assert_eq!(proxy.got().len(), 0);
    queen.wait_for_log("a webhook is taken").await;
    let (log, secret) = (queen.log(), secret(1));
    assert!(log.contains("TRACE"));
    assert!(!log.contains("hunter2") && !log.contains(&secret[6..]), "{log}");
}
