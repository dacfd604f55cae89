//! A look at the store at start: one small object is written and read back, which needs exactly the rights that jobs need.
//! A wrong secret, a missing bucket or a folder that cannot be written is found here, in seconds, and not by the first job.

use std::time::Duration;

use bytes::Bytes;
use tokio::time::{Instant, sleep, timeout, timeout_at};

use super::{Action, Key, StorageError, Store, backend::Backend, s3};

/// What a start writes and reads back.
const CHECK_TEXT: &[u8] = b"sd-worker-rbee writes this at start to see that the store can be used.\n";

/// How often it is read until it is what was written, and the time between.
const CHECK_READS: u32 = 5;
const CHECK_PAUSE: Duration = Duration::from_millis(200);
/// The pause before a store is tried again that may come up yet.
const AGAIN: Duration = Duration::from_secs(1);
/// After this long without an answer it is said that there is none.
const SILENCE: Duration = Duration::from_secs(5);
/// How long this machine has to tell its role in AWS, where no keys are set.
const ROLE_WITHIN: Duration = Duration::from_secs(5);

impl Store {
    /// Sees whether the store can be used. What passes, such as a store that is being started, is said at once and tried
    /// again for `--store-timeout`.
    ///
    /// # Errors
    /// [`StorageError::Check`] or [`StorageError::NoCredentials`], which say what to do.
    pub async fn check(&self) -> Result<(), StorageError> {
        let until = Instant::now() + self.inner.timeout;
        let mut told = false;
        loop {
            let Err(failure) = self.look(until).await else {
                tracing::info!(store = self.location(), "the store can be used");
                return Ok(());
            };
            if let StorageError::NoCredentials { .. } = failure {
                return Err(failure);
            }
            let hint = self.advice(&failure);
            if !failure.may_pass() || Instant::now() + AGAIN >= until {
                return Err(StorageError::Check {
                    location: self.location().to_owned(),
                    source: Box::new(failure),
                    hint,
                });
            }
            if !told {
                let seconds = self.inner.timeout.as_secs();
                tracing::warn!(
                    store = self.location(),
                    "the store cannot be used yet: {failure}; {hint}; it is tried for {seconds} s (--store-timeout)"
                );
                told = true;
            }
            sleep(AGAIN).await;
        }
    }

    /// Once, no longer than until then.
    async fn look(&self, until: Instant) -> Result<(), StorageError> {
        self.check_role().await?;
        let key = Key::Check;
        let tried = async {
            let probe = self.backend().probe();
            self.put_into(probe, &key, Bytes::from_static(CHECK_TEXT), "text/plain").await?;
            self.read_back(&key).await
        };
        let mut tried = std::pin::pin!(tried);
        let patience = SILENCE.min(until.saturating_duration_since(Instant::now()));
        if let Ok(done) = timeout(patience, &mut tried).await {
            return done;
        }
        tracing::warn!(store = self.location(), "the store has not answered for {} s", patience.as_secs());
        timeout_at(until, tried).await.unwrap_or_else(|_| {
            let seconds = self.inner.timeout.as_secs_f64();
            Err(StorageError::TimedOut { action: Action::Write, key: Key::Check.path(), seconds })
        })
    }

    /// Reads what was just written. Some servers replace an object in two moves (`rclone serve s3`): while another
    /// process checks too, it may be away for a moment, or be there in part.
    async fn read_back(&self, key: &Key) -> Result<(), StorageError> {
        let mut tries = 0;
        loop {
            let failure = match self.get_from(self.backend().probe(), key, CHECK_TEXT.len() as u64).await {
                Ok(read) if read == CHECK_TEXT => return Ok(()),
                Ok(_) => {
                    let reason = "it is not what was written".into();
                    StorageError::Malformed { key: key.path(), reason }
                }
                Err(failure @ StorageError::NotFound { .. }) => failure,
                Err(failure) => return Err(failure),
            };
            tries += 1;
            if tries == CHECK_READS {
                return Err(failure);
            }
            sleep(CHECK_PAUSE).await;
        }
    }

    /// Where no keys are set, this machine may have a role. One that is in no cloud would be asked for it in vain for as
    /// long as a request may take.
    async fn check_role(&self) -> Result<(), StorageError> {
        let Backend::S3(s3) = self.backend() else { return Ok(()) };
        let s3::Keys::OfThisMachine { advice } = &s3.keys else { return Ok(()) };
        let failed = |reason: &str| {
            s3::no_keys(format!("no role of this machine was found either ({reason}): {advice}"))
        };
        match timeout(ROLE_WITHIN, s3.client.credentials().get_credential()).await {
            Ok(Ok(_)) => Ok(()),
            Ok(Err(error)) => Err(failed(&super::error::cause(&error))),
            Err(_) => Err(failed(&format!(
                "the metadata service did not answer within {} s",
                ROLE_WITHIN.as_secs()
            ))),
        }
    }

    fn advice(&self, failure: &StorageError) -> String {
        let hint = failure.hint();
        let proxy = match (self.backend(), failure) {
            (
                Backend::S3(s3),
                StorageError::Unreachable { .. }
                | StorageError::TimedOut { .. }
                | StorageError::Denied { .. }
                | StorageError::Failed { .. },
            ) => s3.proxy,
            _ => None,
        };
        match proxy {
            Some(name) => {
                format!("{hint}; {name} is set: a store that is not behind that proxy belongs into NO_PROXY")
            }
            None => hint.to_owned(),
        }
    }
}
