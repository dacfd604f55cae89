//! SIGTERM, SIGINT and SIGHUP at every time of a life: while a process starts, while it works, and while NATS is away.

use super::*;
use crate::support::nats::NatsServer;

/// An address that takes connections and says nothing.
fn silent() -> (std::net::TcpListener, String) {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
    let url = format!("http://{}", listener.local_addr().expect("an address"));
    (listener, url)
}

#[tokio::test]
async fn a_hangup_drains_a_worker_and_a_queen() {
    let pool = Pool::new().await;
    let mut worker =
        Program::worker(&[&["--model", "sim://?step_ms=50&size=64"], &of(&pool)[..]].concat(), &[]);
    worker.wait_for_log(" ready ").await;
    let mut replies = pool.generate(r#"{"prompt":"a","steps":10}"#).await;
    replies.wait_for("accepted").await;
    let mut queen = Program::queen(&of(&pool), &[]);
    queen.wait_for_log("listening on ").await;
    worker.signal("-HUP");
    queen.signal("-HUP");
    replies.end().await.done();
    assert_eq!(worker.exit_within(Duration::from_secs(10)).await.code(), Some(0), "{}", worker.log());
    assert_eq!(queen.exit_within(Duration::from_secs(10)).await.code(), Some(0), "{}", queen.log());
    assert!(
        worker.log().contains("drained") && queen.log().contains("stopped"),
        "{}{}",
        worker.log(),
        queen.log()
    );
}

#[tokio::test]
async fn what_was_started_with_nohup_outlives_its_terminal() {
    let pool = Pool::new().await;
    let shell = "trap '' HUP";
    let flags = of(&pool);
    let worker = [&["--model", MODEL, "--threads", "1"], &flags[..]].concat();
    let queen = [&["--listen", "127.0.0.1:0"], &flags[..]].concat();
    for (program, arguments, up) in
        [(worker_program(), worker, " ready "), (queen_program(), queen, "listening on ")]
    {
        let mut program = Program::start(shell, &program, &arguments, &[]);
        program.wait_for_log(up).await;
        program.signal("-HUP");
        assert!(
            exit_within(&mut program.child, Duration::from_millis(500)).await.is_none(),
            "{}",
            program.log()
        );
        program.signal("-TERM");
        assert_eq!(program.exit_within(Duration::from_secs(10)).await.code(), Some(0));
    }
}

#[tokio::test]
async fn a_hangup_reads_the_tokens_again_and_ends_nothing() {
    let pool = Pool::new().await;
    let tokens = pool.store.path().join("tokens");
    let line = sd_worker_rbee::queen::Issued::new("a", false).expect("a token").line;
    std::fs::write(&tokens, line).expect("a file");
    let flags = [&["--token-file", tokens.to_str().expect("a UTF-8 path")], &of(&pool)[..]].concat();
    let mut queen = Program::queen(&flags, &[]);
    queen.wait_for_log("listening on ").await;
    queen.signal("-HUP");
    queen.wait_for_log("read the file of tokens again").await;
    queen.signal("-TERM");
    assert_eq!(queen.exit_within(Duration::from_secs(10)).await.code(), Some(0), "{}", queen.log());
}

#[tokio::test]
async fn what_still_starts_is_stopped_at_once() {
    let (_listener, silent) = silent();
    let keys = [("AWS_ACCESS_KEY_ID", "a"), ("AWS_SECRET_ACCESS_KEY", "b")];
    let hangs = [&[("AWS_ENDPOINT_URL", silent.as_str()), ("STORE_URL", "s3://pool")][..], &keys].concat();
    let memory = [("STORE_URL", "memory://")];
    let pool = Pool::new().await;
    let nowhere = format!("nats://127.0.0.1:{}", crate::support::process::free_port());
    let slow = "sim://?step_ms=1&size=64&load_ms=30000";
    for (model, url, variables, up) in [
        // The store does not answer; the model is being loaded; NATS is away.
        (MODEL, &pool.url, &hangs[..], "has not answered"),
        (slow, &pool.url, &memory[..], "connected to NATS"),
        (MODEL, &nowhere, &memory[..], "NATS is away"),
    ] {
        let flags = ["--nats-url", url, "--subject-prefix", &pool.prefix];
        let worker = Program::worker(&[&["--model", model], &flags[..]].concat(), variables);
        let queen = Program::queen(&flags, variables);
        for (mut program, is_up) in [(worker, up), (queen, if model == slow { "listening on " } else { up })]
        {
            program.wait_for_log(is_up).await;
            program.signal("-TERM");
            let status = program.exit_within(Duration::from_secs(4)).await;
            assert_eq!(status.code(), Some(0), "{}", program.log());
        }
    }
}

#[tokio::test]
async fn a_process_that_is_stopped_while_nats_is_away_ends_soon_after_its_grace() {
    let mut server = NatsServer::start();
    let pool = Pool::on(&server.url()).await;
    let flags = [&["--grace", "1s"], &of(&pool)[..]].concat();
    let model = ["--model", "sim://?step_ms=50&size=64"];
    let mut idle = Program::worker(&[&model[..], &["--capabilities", "inpaint"], &flags].concat(), &[]);
    idle.wait_for_log(" ready ").await;
    let mut busy = Program::worker(&[&model[..], &flags].concat(), &[]);
    busy.wait_for_log(" ready ").await;
    let mut queen = Program::queen(&flags, &[]);
    queen.wait_for_log("listening on ").await;
    let mut replies = pool.generate(r#"{"prompt":"a","steps":10,"job_id":"j"}"#).await;
    replies.wait_for("accepted").await;
    server.stop();
    for program in [&mut idle, &mut busy, &mut queen] {
        program.wait_for_log("NATS: disconnected").await;
        program.signal("-TERM");
    }
    assert_eq!(idle.exit_within(Duration::from_secs(6)).await.code(), Some(0), "{}", idle.log());
    assert_eq!(queen.exit_within(Duration::from_secs(6)).await.code(), Some(0), "{}", queen.log());
    // What it computed is stored, and nobody could hear that: the exit code says so.
    assert_eq!(busy.exit_within(Duration::from_secs(20)).await.code(), Some(69), "{}", busy.log());
    assert!(pool.job_folder("j").join("result.json").is_file());
}

#[tokio::test]
async fn a_second_signal_stops_a_queen_at_once() {
    let pool = Pool::new().await;
    let _worker = pool.worker("a", "sim://?step_ms=100&size=64", &[]).await;
    let mut queen = Program::queen(&[&["--grace", "60s", "--core"], &of(&pool)[..]].concat(), &[]);
    queen.wait_for_log("listening on ").await;
    let log = queen.log();
    let url =
        log.split_once("listening on ").and_then(|(_, rest)| rest.split_whitespace().next()).expect("a URL");
    // A request whose end never comes keeps a connection open.
    let address = url.strip_prefix("http://").expect("an address");
    let mut open = std::net::TcpStream::connect(address).expect("queen");
    std::io::Write::write_all(
        &mut open,
        b"POST /v1/jobs HTTP/1.1\r\nhost: localhost\r\ncontent-length: 100\r\n\r\n{",
    )
    .expect("a connection");
    tokio::time::sleep(Duration::from_millis(300)).await;
    queen.signal("-INT");
    queen.wait_for_log("stopping").await;
    assert!(exit_within(&mut queen.child, Duration::from_secs(1)).await.is_none(), "{}", queen.log());
    queen.signal("-INT");
    assert_eq!(queen.exit_within(Duration::from_secs(2)).await.code(), Some(130), "{}", queen.log());
    assert!(queen.log().contains("stopping at once"), "{}", queen.log());
}
