//! Every way to sign in to NATS, by flags and by natscli's variables, with a worker that becomes ready; and what a
//! worker says that may not come in.

use std::{path::Path, process::Command};

use tempfile::TempDir;

use super::processes::{Program, Server};

/// A flag's name without `--nats-`, and its value.
type Given<'a> = (&'a str, &'a str);

fn worker(url: &str, given: &[Given], by_flags: bool) -> Program {
    if by_flags {
        let flags: Vec<_> = given.iter().map(|(name, _)| format!("--nats-{name}")).collect();
        let mut arguments = vec!["--nats-url", url];
        for (flag, (_, value)) in flags.iter().zip(given) {
            arguments.extend([flag.as_str(), value]);
        }
        return Program::worker(&arguments, &[]);
    }
    let names: Vec<_> = given.iter().map(|(name, _)| format!("NATS_{}", name.to_uppercase())).collect();
    let mut environment = vec![("NATS_URL", url)];
    environment.extend(names.iter().zip(given).map(|(name, (_, value))| (name.as_str(), *value)));
    Program::worker(&[], &environment)
}

async fn comes_in(url: &str, given: &[Given<'_>]) {
    for by_flags in [true, false] {
        worker(url, given, by_flags).wait_for_log(" ready ").await;
    }
}

/// The last line of a worker that is told why it may not come in.
async fn is_refused(url: &str, given: &[Given<'_>], secrets: &[&str]) -> String {
    let mut worker = worker(url, given, true);
    assert_eq!(worker.exit().await.code(), Some(1), "{}", worker.log());
    let log = worker.log();
    for secret in secrets {
        assert!(!log.contains(secret), "{log}");
    }
    log.lines().last().expect("a line").to_owned()
}

fn data(name: &str) -> String {
    format!("{}/tests/data/nats/{name}", env!("CARGO_MANIFEST_DIR"))
}

/// An authority, a certificate of 127.0.0.1 and one of a client, both signed by it.
pub fn certificates(folder: &Path) {
    let openssl = |arguments: &str| {
        let output = Command::new("openssl").args(arguments.split(' ')).current_dir(folder).output();
        let output = output.expect("openssl, which these tests need");
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    };
    let key = "-newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes";
    for authority in ["ca", "other-ca"] {
        openssl(&format!(
            "req -x509 {key} -keyout {authority}-key.pem -out {authority}.pem -days 2 -subj /CN={authority}"
        ));
    }
    for (name, authority) in [("server", "ca"), ("client", "ca"), ("stranger", "other-ca")] {
        let names = "basicConstraints=CA:FALSE\nsubjectAltName=IP:127.0.0.1\n";
        std::fs::write(folder.join("names"), names).expect("a file");
        openssl(&format!("req {key} -keyout {name}-key.pem -out {name}.csr -subj /CN={name}"));
        openssl(&format!(
            "x509 -req -in {name}.csr -CA {authority}.pem -CAkey {authority}-key.pem -CAcreateserial \
             -out {name}.pem -days 2 -extfile names"
        ));
    }
}

#[tokio::test]
async fn by_user_and_password() {
    let server = Server::with("authorization { user: alice, password: correct-horse }");
    comes_in(&server.url(), &[("user", "alice"), ("password", "correct-horse")]).await;
    let wrong = [("user", "alice"), ("password", "hunter2")];
    let line = is_refused(&server.url(), &wrong, &["hunter2"]).await;
    assert!(
        line.contains("--nats-user and --nats-password") && line.contains("check the credentials"),
        "{line}"
    );
    let line = is_refused(&server.url(), &[], &[]).await;
    assert!(line.contains("no credentials are given"), "{line}");
}

#[tokio::test]
async fn by_token() {
    let server = Server::with("authorization { token: open-sesame }");
    comes_in(&server.url(), &[("token", "open-sesame")]).await;
    let line = is_refused(&server.url(), &[("token", "hunter2")], &["hunter2"]).await;
    assert!(line.contains("--nats-token"), "{line}");
}

#[tokio::test]
async fn by_nkey() {
    let public = std::fs::read_to_string(data("user.pub")).unwrap();
    let server = Server::with(&format!("authorization {{ users: [{{ nkey: {} }}] }}", public.trim()));
    comes_in(&server.url(), &[("nkey", &data("user.nk"))]).await;

    let folder = TempDir::new().unwrap();
    let bad = folder.path().join("bad.nk");
    // A seed of a user that the server does not know, and a file that is none.
    let creds = std::fs::read_to_string(data("user.creds")).unwrap();
    let stranger = creds.lines().find(|line| line.starts_with("SU")).unwrap();
    for (text, part) in
        [(stranger, "--nats-nkey"), ("hunter2", "no line with a user's seed"), ("SUhunter2", "--nats-nkey")]
    {
        std::fs::write(&bad, text).unwrap();
        let line = is_refused(&server.url(), &[("nkey", bad.to_str().unwrap())], &[text]).await;
        assert!(line.contains(part), "{line}");
    }
    let line = is_refused(&server.url(), &[("nkey", "/nowhere/user.nk")], &[]).await;
    assert!(line.contains("--nats-nkey: /nowhere/user.nk"), "{line}");
}

#[tokio::test]
async fn by_credentials_file() {
    let server = Server::with(&std::fs::read_to_string(data("operator.conf")).unwrap());
    comes_in(&server.url(), &[("creds", &data("user.creds"))]).await;

    // Another's seed behind the user's JWT.
    let creds = std::fs::read_to_string(data("user.creds")).unwrap();
    let own = creds.lines().find(|line| line.starts_with("SU")).unwrap();
    let other = std::fs::read_to_string(data("user.nk")).unwrap();
    let folder = TempDir::new().unwrap();
    let bad = folder.path().join("bad.creds");
    for text in [creds.replace(own, other.trim()), "hunter2".into()] {
        std::fs::write(&bad, text).unwrap();
        let line =
            is_refused(&server.url(), &[("creds", bad.to_str().unwrap())], &[other.trim(), "hunter2"]).await;
        assert!(line.contains("--nats-creds"), "{line}");
    }
}

#[tokio::test]
async fn by_certificates() {
    let folder = TempDir::new().unwrap();
    certificates(folder.path());
    let path = |name: &str| folder.path().join(name).to_str().unwrap().to_owned();
    let [ca, other_ca, cert, key] = ["ca.pem", "other-ca.pem", "client.pem", "client-key.pem"].map(path);
    let [stranger, stranger_key] = ["stranger.pem", "stranger-key.pem"].map(path);
    let tls = |more: &str| {
        let [server, key] = ["server.pem", "server-key.pem"].map(path);
        Server::with(&format!("tls {{ cert_file: {server:?}, key_file: {key:?}, ca_file: {ca:?}, {more} }}"))
    };
    let server = tls("timeout: 5");
    comes_in(&server.url(), &[("ca", &ca)]).await;
    for (given, part) in [
        (vec![("ca", other_ca.as_str())], "invalid peer certificate"),
        (vec![], "invalid peer certificate"),
        (vec![("ca", "/nowhere/ca.pem")], "--nats-ca: /nowhere/ca.pem"),
    ] {
        let line = is_refused(&server.url(), &given, &[]).await;
        assert!(line.contains(part), "{line}");
    }

    // Who stands in between and says that there is no TLS is not told the password.
    let plain = Server::with("authorization { user: alice, password: correct-horse }");
    let given = [("ca", ca.as_str()), ("user", "alice"), ("password", "correct-horse")];
    is_refused(&plain.url(), &given, &["correct-horse"]).await;

    let server = tls("verify: true, timeout: 5");
    let mutual = [("ca", ca.as_str()), ("cert", &cert), ("key", &key)];
    comes_in(&server.url(), &mutual).await;
    is_refused(&server.url(), &mutual[..1], &[]).await;
    let strange = [("ca", ca.as_str()), ("cert", &stranger), ("key", &stranger_key)];
    let line = is_refused(&server.url(), &strange, &[]).await;
    assert!(line.contains("--nats-cert and --nats-key"), "{line}");
}

#[tokio::test]
async fn a_password_in_the_url_is_refused_and_not_repeated() {
    for url in ["nats://alice:hunter2@127.0.0.1:4222", "nats://:hunter2@127.0.0.1", "hunter2@127.0.0.1"] {
        let line = is_refused(url, &[], &["hunter2"]).await;
        assert!(line.contains("--nats-url") && line.contains("--nats-password"), "{line}");
    }
}
