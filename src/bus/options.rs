//! Where NATS is and how to sign in: flags, and the environment variables that the `nats` command line reads.
//!
//! A user and password inside the URL are ignored by the client library, so they are refused here instead.

use std::{fmt, path::PathBuf};

use async_nats::{ConnectOptions, ServerAddr};

use super::BusError;

/// The flags of the connection to NATS.
#[derive(Clone, clap::Args)]
#[command(next_help_heading = "NATS")]
pub struct NatsOptions {
    /// Server, or several of a cluster separated by commas
    #[arg(long, env = "NATS_URL", default_value = "nats://127.0.0.1:4222")]
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
                Ok(server) if server.has_user_pass() => Err(bad(
                    "a user or password in the URL is not used; give --nats-user and --nats-password".into(),
                )),
                Ok(server) => Ok(server),
                Err(error) => Err(bad(format!("`{url}`: {error}; write it as nats://host:4222"))),
            })
            .collect::<Result<Vec<_>, _>>()?;
        if servers.is_empty() { Err(bad("names no server".into())) } else { Ok(servers) }
    }

    /// The client library's options: credentials read from their files, certificates.
    pub(super) async fn to_connect_options(&self) -> Result<ConnectOptions, BusError> {
        let mut options = ConnectOptions::new();
        if let Some(path) = &self.nats_creds {
            options = options.credentials_file(path).await.map_err(|e| BusError::Options {
                flag: "--nats-creds",
                reason: format!("{}: {e}", path.display()),
            })?;
        }
        if let Some(path) = &self.nats_nkey {
            let seed = tokio::fs::read_to_string(path).await.map_err(|e| BusError::Options {
                flag: "--nats-nkey",
                reason: format!("{}: {e}", path.display()),
            })?;
            options = options.nkey(seed.trim().to_owned());
        }
        if let (Some(user), Some(password)) = (&self.nats_user, &self.nats_password) {
            options = options.user_and_password(user.clone(), password.clone());
        }
        if let Some(token) = &self.nats_token {
            options = options.token(token.clone());
        }
        if let Some(path) = &self.nats_ca {
            options = options.add_root_certificates(path.clone());
        }
        if let (Some(cert), Some(key)) = (&self.nats_cert, &self.nats_key) {
            options = options.add_client_certificate(cert.clone(), key.clone());
        }
        Ok(options)
    }
}

impl fmt::Debug for NatsOptions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let hidden = |secret: &Option<String>| secret.as_ref().map(|_| "***");
        f.debug_struct("NatsOptions")
            .field("nats_url", &self.nats_url)
            .field("nats_creds", &self.nats_creds)
            .field("nats_nkey", &self.nats_nkey)
            .field("nats_user", &self.nats_user)
            .field("nats_password", &hidden(&self.nats_password))
            .field("nats_token", &hidden(&self.nats_token))
            .field("nats_ca", &self.nats_ca)
            .field("nats_cert", &self.nats_cert)
            .field("nats_key", &self.nats_key)
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
            ..NatsOptions::new("nats://a")
        };
        assert!(!format!("{options:?}").contains("hunter2"));
    }

    #[test]
    fn a_cluster_is_a_list_and_a_password_in_the_url_is_refused() {
        assert_eq!(NatsOptions::new("nats://a:1, b:2").servers().unwrap().len(), 2);
        for bad in ["", "nats://user:password@a:1"] {
            assert!(NatsOptions::new(bad).servers().is_err(), "{bad}");
        }
    }
}
