//! The users of `deploy/nats.conf`.

use async_nats::{Client, ConnectOptions, Event as NatsEvent};
use sd_worker_rbee::{
    bus::{NatsOptions, StreamOptions, Streams, connect},
    contract::Subjects,
};
use tempfile::TempDir;
use tokio::sync::mpsc;

use super::processes::{Program, Server};
use crate::support::worker::PATIENCE;

const USERS: [&str; 4] = ["worker", "queen", "operator", "client"];

pub fn password(user: &str) -> String {
    format!("p{user}secret")
}

/// A server as `deploy/nats.conf` makes it.
pub fn server() -> Server {
    server_with("")
}

/// As [`server`], with more of a configuration.
pub fn server_with(more: &str) -> Server {
    let variables = USERS.map(|user| (format!("{}_PASSWORD", user.to_uppercase()), password(user)));
    Server::deployed_with(more, &variables.each_ref().map(|(name, value)| (name.as_str(), value.as_str())))
}

fn inbox_prefix(user: &str) -> String {
    format!("_INBOX.{user}")
}

/// Signed in, and told of what the server refuses.
pub struct User {
    pub client: Client,
    pub refusals: mpsc::UnboundedReceiver<String>,
}

impl User {
    pub async fn connect(server: &Server, name: &str) -> Self {
        let (told, refusals) = mpsc::unbounded_channel();
        let options = ConnectOptions::with_user_and_password(name.into(), password(name))
            .custom_inbox_prefix(inbox_prefix(name))
            .event_callback(move |event| {
                if let NatsEvent::ServerError(error) = event {
                    let _ = told.send(error.to_string());
                }
                std::future::ready(())
            });
        Self { client: options.connect(server.url()).await.expect("a connection"), refusals }
    }

    /// What the server refused.
    async fn refused(&mut self) -> String {
        tokio::time::timeout(PATIENCE, self.refusals.recv())
            .await
            .expect("a refusal in time")
            .expect("a client")
    }

    pub async fn may_not_publish(&mut self, subject: &str) {
        self.client.publish(subject.to_owned(), "{}".into()).await.expect("it is sent");
        assert_eq!(
            self.refused().await.to_lowercase(),
            format!("nats: permissions violation for publish to \"{subject}\"").to_lowercase()
        );
    }

    pub async fn may_not_subscribe(&mut self, subject: &str) -> async_nats::Subscriber {
        let subscriber = self.client.subscribe(subject.to_owned()).await.expect("it is sent");
        let refusal = self.refused().await;
        assert!(refusal.to_lowercase().contains("permissions violation for subscription"), "{refusal}");
        assert!(refusal.contains(subject), "{refusal}");
        subscriber
    }
}

/// The streams, small ones, by the rights of a user.
pub async fn streams(server: &Server, user: &str) -> Streams {
    let options = NatsOptions {
        nats_user: Some(user.into()),
        nats_password: Some(password(user)),
        nats_inbox_prefix: inbox_prefix(user),
        ..NatsOptions::new(server.url())
    };
    let client = connect(&options, "test").await.expect("a connection");
    let sizes = StreamOptions {
        jobs_max_bytes: 16 << 20,
        events_max_bytes: 16 << 20,
        dlq_max_bytes: 4 << 20,
        ..StreamOptions::default()
    };
    Streams::new(client, Subjects::default(), sizes)
}

/// A worker or queen with its own user.
pub fn process_of(server: &Server, user: &str, store: &TempDir, more: &[&str]) -> Program {
    let (url, prefix, password) = (server.url(), inbox_prefix(user), password(user));
    let mut arguments = vec!["--nats-url", &url, "--nats-user", user, "--nats-inbox-prefix", &prefix];
    arguments.extend(["--store-url", store.path().to_str().expect("a UTF-8 path")]);
    arguments.extend_from_slice(more);
    let environment = [("NATS_PASSWORD", password.as_str())];
    match user {
        "queen" => Program::queen(&arguments, &environment),
        _ => Program::worker(&arguments, &environment),
    }
}

/// No program was refused anything, but for a worker's wish to make streams, which queen has not made yet.
pub fn in_no_log(programs: &[&Program]) {
    for program in programs {
        let log = program.log().to_lowercase();
        let refused =
            |line: &&str| line.contains("permissions violation") && !line.contains("js.api.stream.create.");
        assert_eq!(log.lines().find(refused), None);
        assert!(!log.contains("confirms nothing"), "{log}");
    }
}
