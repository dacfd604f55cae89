//! Where NATS is and how to sign in: flags, and the environment variables that the `nats` command line reads.
//!
//! A user and password inside the URL are ignored by the client library, so they are refused here instead.

use std::{fmt, path::PathBuf};

use async_nats::{AuthError, ConnectOptions, ServerAddr};

use super::{
    BusError,
    reply::{INBOX, is_inbox_prefix},
    sign_in::{SignIn, read},
};

/// The flags of the connection to NATS.
#[derive(Clone, clap::Args)]
#[command(next_help_heading = "NATS")]
pub struct NatsOptions {
    /// Server, or several of a cluster separated by commas
    #[arg(long, env = "NATS_URL", default_value = "nats://127.0.0.1:4222", hide_env_values = true)]
    pub nats_url: String,
    /// Credentials file (JWT and seed)
    #[arg(long, env = "NATS_CREDS", value_name = "FILE")]
    pub nats_creds: Option<PathBuf>,
    /// File with an NKey seed
    #[arg(long, env = "NATS_NKEY", value_name = "FILE")]
    pub nats_nkey: Option<PathBuf>,
    /// User name
    #[arg(long, env = "NATS_USER", requires = "nats_password")]
    pub nats_user: Option<String>,
    /// Password
    #[arg(long, env = "NATS_PASSWORD", hide_env_values = true, requires = "nats_user")]
    pub nats_password: Option<String>,
    /// Token
    #[arg(long, env = "NATS_TOKEN", hide_env_values = true)]
    pub nats_token: Option<String>,
    /// Certificate authority that signed the server's certificate (PEM)
    #[arg(long, env = "NATS_CA", value_name = "FILE")]
    pub nats_ca: Option<PathBuf>,
    /// Client certificate (PEM)
    #[arg(long, env = "NATS_CERT", value_name = "FILE", requires = "nats_key")]
    pub nats_cert: Option<PathBuf>,
    /// Key of the client certificate (PEM)
    #[arg(long, env = "NATS_KEY", value_name = "FILE", requires = "nats_cert")]
    pub nats_key: Option<PathBuf>,
    /// What our inboxes begin with, as in _INBOX.worker: with one for each user the server keeps answers from other users
    #[arg(long, env = "NATS_INBOX_PREFIX", default_value = INBOX, value_parser = parse_inbox_prefix, value_name = "PREFIX")]
    pub nats_inbox_prefix: String,
}

fn parse_inbox_prefix(text: &str) -> Result<String, String> {
    if is_inbox_prefix(text) {
        Ok(text.to_owned())
    } else {
        Err("it must be _INBOX, alone or with tokens of A-Z a-z 0-9 - _ behind it, as in _INBOX.worker"
            .into())
    }
}

impl NatsOptions {
    /// Options that reach one server without signing in.
    pub fn new(url: impl Into<String>) -> Self {
        Self {
            nats_url: url.into(),
            nats_creds: None,
            nats_nkey: None,
            nats_user: None,
            nats_password: None,
            nats_token: None,
            nats_ca: None,
            nats_cert: None,
            nats_key: None,
            nats_inbox_prefix: INBOX.into(),
        }
    }

    /// The servers, parsed.
    pub(super) fn servers(&self) -> Result<Vec<ServerAddr>, BusError> {
        let bad = |reason: String| BusError::Options { flag: "--nats-url", reason };
        let servers = self
            .nats_url
            .split(',')
            .map(str::trim)
            .filter(|url| !url.is_empty())
            .map(|url| match url.parse::<ServerAddr>() {
                // First, so that no message repeats it.
                _ if has_user(url) => Err(bad(
                    "a user or password in the URL is not used; give --nats-user and --nats-password".into(),
                )),
                Ok(server) => Ok(server),
                Err(error) => Err(bad(format!("`{url}`: {error}; write it as nats://host:4222"))),
            })
            .collect::<Result<Vec<_>, _>>()?;
        if servers.is_empty() { Err(bad("names no server".into())) } else { Ok(servers) }
    }

    /// Which flags say who we are, without what they say.
    pub(super) fn signed_in(&self) -> String {
        let flags = [
            ("--nats-creds", self.nats_creds.is_some()),
            ("--nats-nkey", self.nats_nkey.is_some()),
            ("--nats-user and --nats-password", self.nats_user.is_some()),
            ("--nats-token", self.nats_token.is_some()),
            ("--nats-cert and --nats-key", self.nats_cert.is_some()),
        ];
        let given: Vec<_> = flags.iter().filter(|(_, given)| *given).map(|(flag, _)| *flag).collect();
        match given[..] {
            [] => "no credentials are given".into(),
            _ => format!("signing in by {}", given.join(", ")),
        }
    }

    /// The client library's options: how to sign in, certificates. Their files are read here once, so that a start with a
    /// file that cannot be used ends, and again whenever a connection is made.
    ///
    /// # Errors
    /// [`BusError::Options`] for a file that cannot be used; it never repeats what is in it.
    pub(super) async fn to_connect_options(&self) -> Result<ConnectOptions, BusError> {
        let sign_in = SignIn::new(self);
        sign_in.auth(&[]).await?;
        let sign_in = move |nonce: Vec<u8>| {
            let sign_in = sign_in.clone();
            async move { sign_in.auth(&nonce).await.map_err(AuthError::new) }
        };
        // Whoever names a certificate wants TLS: a server, or who pretends to be one, that has none gets no password.
        let tls = self.nats_ca.is_some() || self.nats_cert.is_some();
        let mut options = ConnectOptions::with_auth_callback(sign_in)
            .custom_inbox_prefix(&self.nats_inbox_prefix)
            .require_tls(tls);
        if let Some(path) = &self.nats_ca {
            read("--nats-ca", path).await?;
            options = options.add_root_certificates(path.clone());
        }
        if let (Some(cert), Some(key)) = (&self.nats_cert, &self.nats_key) {
            read("--nats-cert", cert).await?;
            read("--nats-key", key).await?;
            options = options.add_client_certificate(cert.clone(), key.clone());
        }
        Ok(options)
    }
}

/// Whether a URL names a user or a password.
fn has_user(url: &str) -> bool {
    let rest = url.split_once("://").map_or(url, |(_, rest)| rest);
    rest.split('/').next().is_some_and(|authority| authority.contains('@'))
}

impl fmt::Debug for NatsOptions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let hidden = |secret: &Option<String>| secret.as_ref().map(|_| "***");
        let url = if has_user(&self.nats_url) { "***" } else { &self.nats_url };
        f.debug_struct("NatsOptions")
            .field("nats_url", &url)
            .field("nats_creds", &self.nats_creds)
            .field("nats_nkey", &self.nats_nkey)
            .field("nats_user", &self.nats_user)
            .field("nats_password", &hidden(&self.nats_password))
            .field("nats_token", &hidden(&self.nats_token))
            .field("nats_ca", &self.nats_ca)
            .field("nats_cert", &self.nats_cert)
            .field("nats_key", &self.nats_key)
            .field("nats_inbox_prefix", &self.nats_inbox_prefix)
            .finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_secret_is_not_printed() {
        let options = NatsOptions {
            nats_password: Some("hunter2".into()),
            nats_token: Some("hunter2".into()),
            ..NatsOptions::new("nats://user:hunter2@a")
        };
        let shown = format!("{options:?}");
        assert!(!shown.contains("hunter2") && !options.signed_in().contains("hunter2"), "{shown}");
        assert_eq!(options.signed_in(), "signing in by --nats-token");
    }

    #[test]
    fn an_inbox_prefix_is_one_that_workers_answer_to() {
        for good in ["_INBOX", "_INBOX.worker", "_INBOX.a-1.b"] {
            assert!(parse_inbox_prefix(good).is_ok(), "{good}");
        }
        for bad in ["", "INBOX", "_INBOX.", "_INBOX_worker", "_INBOX.*", "_INBOX.a b", ">"] {
            assert!(parse_inbox_prefix(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn a_cluster_is_a_list_and_a_password_in_the_url_is_refused() {
        assert_eq!(NatsOptions::new("nats://a:1, b:2").servers().unwrap().len(), 2);
        for bad in [
            "",
            "nats://user:hunter2@a:1",
            "nats://:hunter2@a",
            "hunter2@a",
            "nats://b,nats://u:hunter2 @a:x",
        ] {
            let error = NatsOptions::new(bad).servers().unwrap_err().to_string();
            assert!(!error.contains("hunter2"), "{error}");
        }
    }
}
