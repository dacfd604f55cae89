//! What is wrong with an address, a file or a credential is told in seconds, whatever a model takes to load.

use super::*;
use crate::support::process::free_port;

/// Half a minute to load.
const SLOW: &str = "sim://?step_ms=1&size=64&load_ms=30000";
const SOON: Duration = Duration::from_secs(6);

#[tokio::test]
async fn a_typo_is_told_before_models_are_loaded() {
    let pool = Pool::new().await;
    let taken = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
    let taken = taken.local_addr().map(|address| (taken, address.to_string())).expect("an address");
    let file = pool.store.path().join("file");
    std::fs::write(&file, "").expect("a file");
    let file = file.to_str().expect("a UTF-8 path");
    let good = of(&pool);
    for (flags, variables, said) in [
        (&["--nats-url", "nats://user:secret@127.0.0.1"][..], &[][..], "--nats-user"),
        (&["--nats-url", "nats://127.0.0.1:port"], &[], "--nats-url"),
        (&["--nats-creds", "/no/such/file"], &[], "--nats-creds: /no/such/file"),
        (&["--nats-nkey", "/no/such/file"], &[], "--nats-nkey: /no/such/file"),
        (&["--nats-ca", "/no/such/file"], &[], "--nats-ca: /no/such/file"),
        (&["--store-url", file], &[], "the store's folder"),
        (&["--store-url", "s3://pool"], &[("AWS_ENDPOINT_URL", "http://store:9000")], "AWS_ACCESS_KEY_ID"),
        (&["--store-url", "s4://pool"], &[], "--store-url"),
        (&["--http", &taken.1], &[], "--http"),
        (&["--subject-prefix", "a..b"], &[], "--subject-prefix"),
    ] {
        let mut all = vec!["--model", SLOW];
        all.extend(good.chunks(2).filter(|pair| !flags.contains(&pair[0])).flatten());
        all.extend(flags);
        let mut worker = Program::worker(&all, variables);
        assert_eq!(worker.exit_within(SOON).await.code(), Some(1), "{flags:?}: {}", worker.log());
        assert!(worker.log().contains(said), "{flags:?}: {}", worker.log());
        assert!(!worker.log().contains("a model was loaded"), "{}", worker.log());
    }
    let mut worker =
        Program::worker(&[&["--model", SLOW, "--lora-dir", "/no/such/folder"], &good[..]].concat(), &[]);
    assert_eq!(worker.exit_within(SOON).await.code(), Some(2), "{}", worker.log());
    assert!(worker.log().contains("--lora-dir"), "{}", worker.log());
}

#[tokio::test]
async fn a_server_that_refuses_is_told_before_models_are_loaded() {
    let folder = TempDir::new().expect("a folder");
    let configuration = folder.path().join("nats.conf");
    std::fs::write(&configuration, "authorization { user: a, password: b }").expect("a file");
    let port = free_port().to_string();
    let arguments = ["-a", "127.0.0.1", "-p", &port, "-c", configuration.to_str().expect("a UTF-8 path")];
    let program = crate::support::process::program("nats-server", "NATS_SERVER");
    let _server = crate::support::process::Leashed::start(&program, &arguments, &folder.path().join("log"));
    assert!(crate::support::process::listens(port.parse().expect("a port"), PATIENCE));
    let url = format!("nats://127.0.0.1:{port}");
    for (flags, said) in [
        (&[][..], "no credentials are given"),
        (&["--nats-user", "a", "--nats-password", "wrong"], "--nats-user"),
    ] {
        let flags = [&["--model", SLOW, "--nats-url", &url, "--store-url", "memory://"], flags].concat();
        let mut worker = Program::worker(&flags, &[]);
        assert_eq!(worker.exit_within(SOON).await.code(), Some(1), "{}", worker.log());
        assert!(
            worker.log().contains("refuses the connection") && worker.log().contains(said),
            "{}",
            worker.log()
        );
    }
}

#[tokio::test]
async fn a_model_is_loaded_while_nats_is_away_and_what_is_wrong_with_it_is_told() {
    let nowhere = format!("nats://127.0.0.1:{}", free_port());
    let empty = TempDir::new().expect("a folder");
    let model = empty.path().to_str().expect("a UTF-8 path");
    let flags = ["--model", model, "--nats-url", &nowhere, "--store-url", "memory://"];
    let mut worker = Program::worker(&flags, &[]);
    assert_eq!(worker.exit_within(SOON).await.code(), Some(1), "{}", worker.log());
    assert!(worker.log().contains("--model") && worker.log().contains("NATS is away"), "{}", worker.log());
}

#[tokio::test]
async fn queens_address_is_looked_at_before_nats_is_waited_for() {
    let taken = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = taken.local_addr().expect("an address").to_string();
    let nowhere = format!("nats://127.0.0.1:{}", free_port());
    let flags = ["--listen", &address, "--nats-url", &nowhere, "--store-url", "memory://"];
    let mut queen = Program::start(":", &queen_program(), &flags, &[]);
    assert_eq!(queen.exit_within(SOON).await.code(), Some(1), "{}", queen.log());
    assert!(queen.log().contains(&format!("--listen {address}")), "{}", queen.log());
}

#[tokio::test]
async fn both_say_which_folder_their_store_is() {
    let pool = Pool::new().await;
    let flags = ["--nats-url", &pool.url, "--subject-prefix", &pool.prefix];
    let (one, two) = (TempDir::new().expect("a folder"), TempDir::new().expect("a folder"));
    let shell = |folder: &TempDir| format!("cd {}", folder.path().display());
    let arguments = [&["--model", MODEL, "--threads", "1"], &flags[..]].concat();
    let mut worker = Program::start(&shell(&one), &worker_program(), &arguments, &[]);
    let arguments = [&["--listen", "127.0.0.1:0"], &flags[..]].concat();
    let mut queen = Program::start(&shell(&two), &queen_program(), &arguments, &[]);
    worker.wait_for_log(" ready ").await;
    queen.wait_for_log("listening on ").await;
    for (program, folder) in [(&worker, &one), (&queen, &two)] {
        let store = folder.path().canonicalize().expect("a folder").join("store");
        assert!(program.log().contains(store.to_str().expect("a UTF-8 path")), "{}", program.log());
    }
    // With two stores no picture is found, and the answer says what may be the reason.
    let log = queen.log();
    let url =
        log.split_once("listening on ").and_then(|(_, rest)| rest.split_whitespace().next()).expect("a URL");
    let body = r#"{"operation":"image_generation","prompt":"a","steps":1,"job_id":"j"}"#;
    let sent =
        reqwest::Client::new().post(format!("{url}/v1/jobs")).header("content-type", "application/json");
    assert_eq!(sent.body(body).send().await.expect("an answer").status(), 200);
    let events = reqwest::get(format!("{url}/v1/jobs/j/stream")).await.expect("an answer").text().await;
    assert!(events.expect("events").contains(r#""type":"complete""#));
    let picture = reqwest::get(format!("{url}/v1/jobs/j/images/0")).await.expect("an answer");
    assert_eq!(picture.status(), 502);
    let said = picture.text().await.expect("a message");
    assert!(
        said.contains("--store-url") && !said.contains(two.path().to_str().expect("a UTF-8 path")),
        "{said}"
    );
}
