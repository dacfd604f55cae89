//! Credentials that change while a worker runs: it comes back with those that are in its files then. While they are not
//! good, its log says so once, and it tries on.

use std::{
    fs,
    path::{Path, PathBuf},
    time::Instant,
};

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use nkeys::KeyPair;
use serde_json::{Value, json};
use tempfile::TempDir;

use super::{
    processes::{Program, Server},
    sign_in::certificates,
};
use crate::support::{process::free_port, worker::PATIENCE};

/// A worker that tells of its health.
struct Watched {
    worker: Program,
    url: String,
}

impl Watched {
    fn start(nats_url: &str, given: &[&str]) -> Self {
        let address = format!("127.0.0.1:{}", free_port());
        let arguments = [&["--nats-url", nats_url, "--http", &address, "--core"][..], given].concat();
        Self { worker: Program::worker(&arguments, &[]), url: format!("http://{address}") }
    }

    /// Waits until `/ready` has this status; what it says.
    async fn ready(&self, wanted: u16) -> String {
        let until = Instant::now() + PATIENCE;
        loop {
            if let Ok(answer) = reqwest::get(format!("{}/ready", self.url)).await
                && answer.status() == wanted
            {
                return answer.text().await.expect("a text");
            }
            assert!(Instant::now() < until, "/ready is not {wanted}:\n{}", self.worker.log());
            tokio::time::sleep(std::time::Duration::from_millis(20)).await;
        }
    }

    /// Waits until `/health` says this of NATS.
    async fn nats_is(&self, wanted: &str) {
        let until = Instant::now() + PATIENCE;
        loop {
            let health: Value = reqwest::get(format!("{}/health", self.url))
                .await
                .expect("an answer")
                .json()
                .await
                .expect("JSON");
            if health["nats"] == wanted {
                return;
            }
            assert!(Instant::now() < until, "NATS is not {wanted}: {health}\n{}", self.worker.log());
            tokio::time::sleep(std::time::Duration::from_millis(20)).await;
        }
    }

    fn lines(&self, part: &str) -> usize {
        self.worker.log().lines().filter(|line| line.contains(part)).count()
    }
}

const REFUSED: &str = "NATS does not let this process in";

/// A configuration that lets in whoever has this key.
fn only(key: &KeyPair) -> String {
    format!("authorization {{ users: [{{ nkey: {} }}] }}", key.public_key())
}

/// A file with a new key, and a server that knows that one alone.
fn server_of_a_key(folder: &TempDir) -> (PathBuf, Server) {
    let (file, key) = (folder.path().join("worker.nk"), KeyPair::new_user());
    fs::write(&file, key.seed().unwrap()).unwrap();
    (file, Server::with(&only(&key)))
}

#[tokio::test]
async fn a_worker_comes_back_with_the_key_that_is_in_its_file_then() {
    let folder = TempDir::new().unwrap();
    let (file, server) = server_of_a_key(&folder);
    let second = KeyPair::new_user();
    let watched = Watched::start(&server.url(), &["--nats-nkey", file.to_str().unwrap()]);
    assert_eq!(watched.ready(200).await, "ready\n");

    // The new one is there first, as a careful operator does it.
    fs::write(&file, second.seed().unwrap()).unwrap();
    server.reload(&only(&second));
    let until = Instant::now() + PATIENCE;
    while watched.lines("NATS: connected") < 2 {
        assert!(Instant::now() < until, "it does not come back:\n{}", watched.worker.log());
        tokio::time::sleep(std::time::Duration::from_millis(20)).await;
    }
    watched.ready(200).await;
    assert_eq!(watched.lines(REFUSED), 0);
}

#[tokio::test]
async fn a_refusal_is_said_once_and_where_health_is_told_and_ends_with_good_credentials() {
    let folder = TempDir::new().unwrap();
    let (file, server) = server_of_a_key(&folder);
    let second = KeyPair::new_user();
    let mut watched = Watched::start(&server.url(), &["--nats-nkey", file.to_str().unwrap()]);
    watched.ready(200).await;

    server.reload(&only(&second));
    watched.worker.wait_for_log(REFUSED).await;
    watched.nats_is("refused").await;
    assert!(watched.ready(503).await.contains("NATS does not let this worker in"));
    // Several attempts later it has not been said again, and neither has the client library said it in its own words.
    tokio::time::sleep(std::time::Duration::from_secs(5)).await;
    assert_eq!(watched.lines(REFUSED), 1, "{}", watched.worker.log());
    assert_eq!(watched.lines("async_nats"), 0, "{}", watched.worker.log());
    let line = watched.worker.log();
    let line = line.lines().find(|line| line.contains(REFUSED)).unwrap();
    assert!(line.contains("--nats-nkey") && line.contains("authorization violation"), "{line}");

    // A file that is being written, and one that is gone, are told by their names.
    fs::write(&file, "SUhunter2").unwrap();
    watched.worker.wait_for_log(&format!("--nats-nkey: {}: its seed is none", file.display())).await;
    fs::remove_file(&file).unwrap();
    watched.worker.wait_for_log(&format!("--nats-nkey: {}: No such file", file.display())).await;
    watched.nats_is("refused").await;
    assert!(!watched.worker.log().contains("hunter2"));

    fs::write(&file, second.seed().unwrap()).unwrap();
    assert_eq!(watched.ready(200).await, "ready\n");
    watched.nats_is("connected").await;
}

/// A JWT as `nsc` makes them.
fn jwt(issuer: &KeyPair, subject: &KeyPair, nats: &Value) -> String {
    let (issued_by, of) = (issuer.public_key(), subject.public_key());
    let claims = json!({"jti": "TEST", "iat": 1_700_000_000, "iss": issued_by, "sub": of, "name": "test", "nats": nats});
    let header = json!({"typ": "JWT", "alg": "ed25519-nkey"});
    let signed = [header, claims].map(|part| URL_SAFE_NO_PAD.encode(part.to_string())).join(".");
    let signature = URL_SAFE_NO_PAD.encode(issuer.sign(signed.as_bytes()).expect("a signature"));
    format!("{signed}.{signature}")
}

/// A file of credentials as `nsc` writes it.
fn credentials(account: &KeyPair, user: &KeyPair) -> String {
    let rights =
        json!({"type": "user", "version": 2, "pub": {}, "sub": {}, "subs": -1, "data": -1, "payload": -1});
    let (jwt, seed) = (jwt(account, user, &rights), user.seed().expect("a seed"));
    format!(
        "-----BEGIN NATS USER JWT-----\n{jwt}\n------END NATS USER JWT------\n\n\
         ************************* IMPORTANT *************************\n\
         -----BEGIN USER NKEY SEED-----\n{seed}\n------END USER NKEY SEED------\n"
    )
}

#[tokio::test]
async fn a_worker_whose_user_was_revoked_comes_back_with_new_credentials() {
    let folder = TempDir::new().unwrap();
    let file = folder.path().join("worker.creds");
    let operator = KeyPair::new_operator();
    let (account, system) = (KeyPair::new_account(), KeyPair::new_account());
    let (first, second) = (KeyPair::new_user(), KeyPair::new_user());
    let configuration = |revoked: &[&KeyPair]| {
        let revocations: Value = revoked
            .iter()
            .map(|user| (user.public_key(), json!(1_900_000_000)))
            .collect::<serde_json::Map<_, _>>()
            .into();
        let limits = json!({
            "subs": -1, "data": -1, "payload": -1, "imports": -1, "exports": -1, "wildcards": true, "conn": -1, "leaf": -1,
        });
        let with = |revocations: &Value| json!({"type": "account", "version": 2, "limits": limits, "revocations": revocations});
        format!(
            "operator: {}\nsystem_account: {}\nresolver: MEMORY\nresolver_preload: {{ {}: {}, {}: {} }}\n",
            jwt(&operator, &operator, &json!({"type": "operator", "version": 2})),
            system.public_key(),
            system.public_key(),
            jwt(&operator, &system, &with(&json!({}))),
            account.public_key(),
            jwt(&operator, &account, &with(&revocations)),
        )
    };
    fs::write(&file, credentials(&account, &first)).unwrap();
    let server = Server::with(&configuration(&[]));
    let mut watched = Watched::start(&server.url(), &["--nats-creds", file.to_str().unwrap()]);
    watched.ready(200).await;

    server.reload(&configuration(&[&first]));
    watched.worker.wait_for_log(REFUSED).await;
    assert!(watched.worker.log().contains("signing in by --nats-creds"), "{}", watched.worker.log());
    fs::write(&file, credentials(&account, &second)).unwrap();
    assert_eq!(watched.ready(200).await, "ready\n");
    watched.nats_is("connected").await;
}

fn path(folder: &Path, name: &str) -> String {
    folder.join(name).to_str().unwrap().to_owned()
}

#[tokio::test]
async fn a_worker_comes_back_with_the_certificates_that_are_in_its_files_then() {
    let (old, new, files) = (TempDir::new().unwrap(), TempDir::new().unwrap(), TempDir::new().unwrap());
    for folder in [&old, &new] {
        certificates(folder.path());
    }
    let take = |from: &TempDir| {
        for name in ["ca.pem", "client.pem", "client-key.pem"] {
            fs::copy(from.path().join(name), files.path().join(name)).unwrap();
        }
    };
    let tls = |of: &TempDir| {
        let [ca, cert, key] = ["ca.pem", "server.pem", "server-key.pem"].map(|name| path(of.path(), name));
        format!("tls {{ cert_file: {cert:?}, key_file: {key:?}, ca_file: {ca:?}, verify: true, timeout: 5 }}")
    };
    take(&old);
    let mut server = Server::with(&tls(&old));
    let [ca, cert, key] = ["ca.pem", "client.pem", "client-key.pem"].map(|name| path(files.path(), name));
    let given = ["--nats-ca", &ca, "--nats-cert", &cert, "--nats-key", &key];
    let mut watched = Watched::start(&server.url(), &given);
    watched.ready(200).await;

    server.restart_with(&tls(&new));
    watched.worker.wait_for_log(REFUSED).await;
    watched.nats_is("refused").await;
    take(&new);
    assert_eq!(watched.ready(200).await, "ready\n");
}
