//! Empty variables are not set, of every flag of every program; and this machine is reached without a proxy.

use std::collections::BTreeSet;

use clap::CommandFactory;
use sd_worker_rbee::{keeper, queen::QueenOptions, worker::WorkerOptions};

use super::*;
use crate::support::{
    process::free_port,
    s3::{S3Server, environment},
};

/// The variables of all flags of a command and of what is below it.
fn variables(command: &clap::Command) -> BTreeSet<String> {
    let own = command
        .get_arguments()
        .filter_map(|flag| flag.get_env())
        .map(|name| name.to_str().unwrap().to_owned());
    own.chain(command.get_subcommands().flat_map(variables)).collect()
}

/// Runs a program with these variables empty, until it fails for a reason of its own: its exit code and what it said.
fn run(program: &str, arguments: &[&str], empty: &[&str]) -> (Option<i32>, String) {
    let variables: Vec<_> = empty.iter().map(|name| (*name, "")).collect();
    let mut program = Program::start(":", program, arguments, &variables);
    let status = program.child.wait().expect("a child");
    (status.code(), program.log())
}

/// Whatever is empty changes nothing: one variable at a time, and all of them.
fn every_empty_variable_is_not_set(
    program: &str,
    command: &clap::Command,
    arguments: impl Fn(&str) -> Vec<&'static str>,
) {
    let names = variables(command);
    assert!(names.len() > 1, "{names:?}");
    for name in &names {
        let arguments = arguments(name);
        let (code, said) = run(program, &arguments, &[]);
        let (code_with, said_with) = run(program, &arguments, &[name]);
        assert_ne!(code, Some(0), "{name}: it was to fail: {said}");
        assert_eq!(code_with, code, "{name}: {said_with}");
        if name != "SD_MODELS" {
            assert_ne!(code, Some(2), "{name}: it was to fail for a reason of its own: {said}");
        }
        assert!(!said_with.contains(name.as_str()) || said.contains(name.as_str()), "{name}: {said_with}");
    }
}

#[test]
fn an_empty_variable_of_a_workers_flag_is_not_set() {
    let arguments = |name: &str| match name {
        // Without a model it is the usage that is wrong, and said as if the variable were not there.
        "SD_MODELS" => vec!["--device", "9"],
        "SD_DEVICE" => vec!["--model", "sim://", "--nats-url", "nats://user:secret@127.0.0.1"],
        _ => vec!["--model", "sim://", "--device", "9"],
    };
    every_empty_variable_is_not_set(&worker_program(), &WorkerOptions::command(), arguments);
    let names = variables(&WorkerOptions::command());
    let all: Vec<_> = names.iter().map(String::as_str).collect();
    let (code, said) = run(&worker_program(), &["--model", "sim://", "--device", "9"], &all);
    assert!(code == Some(1) && said.contains("--device 9"), "{said}");
}

#[test]
fn an_empty_variable_of_queens_flag_is_not_set() {
    let arguments = |name: &str| match name {
        "QUEEN_TOKEN_FILE" => vec!["--listen", "192.0.2.1:1"],
        _ => vec!["--token-file", "/no/such/file"],
    };
    every_empty_variable_is_not_set(&queen_program(), &QueenOptions::command(), arguments);
    let names = variables(&QueenOptions::command());
    let all: Vec<_> = names.iter().map(String::as_str).collect();
    let (code, said) =
        run(&queen_program(), &["move-jobs", "--nats-url", "nats://user:secret@127.0.0.1"], &all);
    assert!(code == Some(1) && said.contains("--nats-url"), "{said}");
}

#[test]
fn an_empty_variable_of_keepers_flag_is_not_set() {
    let keeper = env!("CARGO_BIN_EXE_rbee-keeper");
    let arguments = |name: &str| match name {
        // Nobody is asked to be where queen is by default: what matters is that it is tried.
        "RBEE_QUEEN" => vec!["dlq", "list"],
        _ => vec!["dlq", "list", "--queen", "http://127.0.0.1:1"],
    };
    for name in variables(&keeper::Cli::command()) {
        let arguments = arguments(&name);
        let (code, said) = run(keeper, &arguments, &[]);
        assert_ne!(code, Some(2), "{name}: {said}");
        assert_eq!(run(keeper, &arguments, &[&name]).0, code, "{name}: {said}");
    }
}

#[test]
fn empty_variables_of_s3_are_not_set() {
    let names = [
        "AWS_ENDPOINT",
        "AWS_ENDPOINT_URL_S3",
        "AWS_REGION",
        "AWS_DEFAULT_REGION",
        "AWS_SESSION_TOKEN",
        "AWS_ALLOW_HTTP",
        "AWS_VIRTUAL_HOSTED_STYLE_REQUEST",
        "AWS_PROFILE",
    ];
    let mut all: Vec<_> = names.iter().map(|name| (*name, "")).collect();
    all.extend([
        ("AWS_ENDPOINT_URL", "store:9000"),
        ("AWS_ACCESS_KEY_ID", "a"),
        ("AWS_SECRET_ACCESS_KEY", "b"),
    ]);
    let mut worker = Program::worker(&["--model", "sim://", "--store-url", "s3://pool"], &all);
    assert_eq!(worker.child.wait().expect("a child").code(), Some(1));
    assert!(worker.log().contains("AWS_ENDPOINT_URL: `store:9000`"), "{}", worker.log());
}

#[tokio::test]
async fn a_store_on_this_machine_is_reached_without_the_proxy_and_one_elsewhere_through_it() {
    let server = S3Server::rclone();
    server.bucket("pool");
    let nobody = format!("http://127.0.0.1:{}", free_port());
    let pool = Pool::new().await;
    let flags = ["--nats-url", &pool.url, "--subject-prefix", &pool.prefix, "--store-url", "s3://pool/a"];
    let flags = [&["--model", MODEL][..], &flags].concat();
    for name in ["HTTP_PROXY", "http_proxy", "ALL_PROXY"] {
        let variables = server.environment();
        let mut all: Vec<_> = variables.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
        all.push((name, &nobody));
        let mut worker = Program::worker(&flags, &all);
        worker.wait_for_log(" ready ").await;
    }
    // The name is not looked up here: the proxy is asked, and is not there.
    let elsewhere = environment("http://store.example:9000", "secret");
    let mut all: Vec<_> = elsewhere.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
    all.push(("HTTP_PROXY", &nobody));
    let mut worker = Program::worker(&[&flags[..], &["--store-timeout", "4s"]].concat(), &all);
    assert_eq!(worker.exit_within(Duration::from_secs(15)).await.code(), Some(1));
    for part in ["s3://pool/a at http://store.example:9000", "HTTP_PROXY", "NO_PROXY"] {
        assert!(worker.log().contains(part), "`{part}` in {}", worker.log());
    }
}
