//! Who we are to NATS: what is in the files is read whenever a connection is made, so that credentials can be changed
//! while a process runs.
//!
//! The client library reads the certificates' files itself, at the same times.

use std::path::{Path, PathBuf};

use async_nats::Auth;
use nkeys::KeyPair;

use super::{BusError, NatsOptions};

/// What [`NatsOptions`] say of it.
#[derive(Clone)]
pub(super) struct SignIn {
    creds: Option<PathBuf>,
    nkey: Option<PathBuf>,
    user: Option<String>,
    password: Option<String>,
    token: Option<String>,
}

impl SignIn {
    pub fn new(options: &NatsOptions) -> Self {
        Self {
            creds: options.nats_creds.clone(),
            nkey: options.nats_nkey.clone(),
            user: options.nats_user.clone(),
            password: options.nats_password.clone(),
            token: options.nats_token.clone(),
        }
    }

    /// What the server is told, with its `nonce` signed by the key that is in the file now.
    ///
    /// # Errors
    /// [`BusError::Options`] for a file that cannot be used; it never repeats what is in it.
    pub async fn auth(&self, nonce: &[u8]) -> Result<Auth, BusError> {
        let mut auth = Auth::new();
        auth.username.clone_from(&self.user);
        auth.password.clone_from(&self.password);
        auth.token.clone_from(&self.token);
        if let Some(path) = &self.nkey {
            let flag = "--nats-nkey";
            let text = read(flag, path).await?;
            let seed = text.lines().map(str::trim).find(|line| line.starts_with("SU"));
            let key = key_of(flag, path, seed.ok_or("it has no line with a user's seed (SU...)"))?;
            auth.nkey = Some(key.public_key());
            auth.signature = Some(signed(flag, path, &key, nonce)?);
        }
        if let Some(path) = &self.creds {
            let flag = "--nats-creds";
            let text = read(flag, path).await?;
            let jwt = block(&text, "USER JWT").ok_or("it has no block with a user's JWT");
            let key =
                key_of(flag, path, block(&text, "NKEY SEED").ok_or("it has no block with a user's seed"))?;
            auth.jwt = Some(jwt.map_err(|reason| unusable(flag, path, reason))?.to_owned());
            auth.signature = Some(signed(flag, path, &key, nonce)?);
        }
        Ok(auth)
    }
}

/// What is in a file that this flag names.
pub(super) async fn read(flag: &'static str, path: &Path) -> Result<String, BusError> {
    let text = tokio::fs::read_to_string(path).await;
    text.map_err(|error| unusable(flag, path, error))
}

fn unusable(flag: &'static str, path: &Path, reason: impl std::fmt::Display) -> BusError {
    BusError::Options { flag, reason: format!("{}: {reason}", path.display()) }
}

fn key_of(flag: &'static str, path: &Path, seed: Result<&str, &str>) -> Result<KeyPair, BusError> {
    let seed = seed.map_err(|reason| unusable(flag, path, reason))?;
    KeyPair::from_seed(seed).map_err(|error| unusable(flag, path, format!("its seed is none: {error}")))
}

fn signed(flag: &'static str, path: &Path, key: &KeyPair, nonce: &[u8]) -> Result<Vec<u8>, BusError> {
    key.sign(nonce).map_err(|error| unusable(flag, path, format!("its seed does not sign: {error}")))
}

/// The line in a file of credentials that stands between `-----BEGIN ... name-----` and the next line of dashes.
fn block<'a>(text: &'a str, name: &str) -> Option<&'a str> {
    let mut lines = text.lines().map(str::trim).filter(|line| !line.is_empty());
    lines.find(|line| line.starts_with("---") && line.contains("BEGIN") && line.contains(name))?;
    lines.next().filter(|line| !line.starts_with("---"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_blocks_of_a_credentials_file_are_found_by_their_names() {
        let text = "-----BEGIN NATS USER JWT-----\r\n  eyJ0.a.b\r\n------END NATS USER JWT------\n\n\
                    *** IMPORTANT ***\n\n-----BEGIN USER NKEY SEED-----\n\nSUA\n------END USER NKEY SEED------\n";
        assert_eq!(block(text, "USER JWT"), Some("eyJ0.a.b"));
        assert_eq!(block(text, "NKEY SEED"), Some("SUA"));
        let empty = "-----BEGIN NATS USER JWT-----\n------END NATS USER JWT------\n";
        assert_eq!((block(empty, "USER JWT"), block(empty, "NKEY SEED")), (None, None));
    }

    #[tokio::test]
    async fn a_file_that_cannot_be_used_is_named_and_not_repeated() {
        let folder = tempfile::TempDir::new().unwrap();
        let path = folder.path().join("file");
        let mut options = NatsOptions::new("nats://a");
        for text in ["hunter2", "SUhunter2", "-----BEGIN NATS USER JWT-----\nhunter2\n---", ""] {
            std::fs::write(&path, text).unwrap();
            for flag in ["--nats-creds", "--nats-nkey"] {
                options.nats_creds = (flag == "--nats-creds").then(|| path.clone());
                options.nats_nkey = (flag == "--nats-nkey").then(|| path.clone());
                let told = SignIn::new(&options).auth(b"nonce").await.err().unwrap().to_string();
                assert!(told.starts_with(&format!("{flag}: {}", path.display())), "{told}");
                assert!(!told.contains("hunter2"), "{told}");
            }
        }
        std::fs::remove_file(&path).unwrap();
        assert!(SignIn::new(&options).auth(b"nonce").await.is_err());
    }
}
