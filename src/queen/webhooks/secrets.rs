//! The secrets that webhooks are signed with, and how: Standard Webhooks 1.0.0, `v1` (HMAC-SHA256).
//!
//! A receiver needs the secret to see that a webhook is queen's, and could then make one itself. So clients that are kept
//! apart are given secrets of their own.

use std::{
    fmt, io,
    path::{Path, PathBuf},
    sync::{Arc, PoisonError, RwLock},
    time::SystemTime,
};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use hmac::{Hmac, KeyInit, Mac};
use sha2::Sha256;

/// What a secret begins with.
const MARK: &str = "whsec_";
/// The bytes of a secret: fewer could be guessed, and more say nothing.
const BYTES: std::ops::RangeInclusive<usize> = 24..=64;
/// Secrets that sign for one client at one time: the new one and the old one, while receivers change over.
const MAX_EACH: usize = 4;
/// The most lines of a file.
const MAX_LINES: usize = 10_000;

/// The secrets in a file. Cheap to clone; clones see the same, a file that was read again included.
#[derive(Clone)]
pub struct Secrets {
    path: PathBuf,
    lines: Arc<RwLock<Vec<Line>>>,
}

struct Line {
    /// Whose jobs it is for; none: those of all who have none of their own.
    owner: Option<String>,
    key: Vec<u8>,
}

/// Why a file of secrets cannot be used. No message repeats a line.
#[derive(Debug, thiserror::Error)]
pub enum SecretsError {
    /// It cannot be read.
    #[error(transparent)]
    Read(#[from] io::Error),
    /// A line is none of ours.
    #[error(
        "line {line}: it must be {MARK} and the base64 of {} to {} bytes, with NAME: in front for the jobs of one client; \
         `echo \"{MARK}$(openssl rand -base64 32)\"` makes one",
        BYTES.start(), BYTES.end()
    )]
    Line {
        /// Which, from 1.
        line: usize,
    },
    /// Nothing could be signed.
    #[error("it has no secret; `echo \"{MARK}$(openssl rand -base64 32)\"` makes one")]
    Empty,
    /// There are too many.
    #[error("it has more than {MAX_LINES} secrets, or more than {MAX_EACH} for one client")]
    TooMany,
}

/// The headers of a webhook.
#[derive(Debug, PartialEq, Eq)]
pub struct Signed {
    /// `webhook-id`: the same each time that it is posted.
    pub id: String,
    /// `webhook-timestamp`: of this attempt, in seconds since 1970.
    pub timestamp: String,
    /// `webhook-signature`: one for each secret.
    pub signature: String,
}

impl Secrets {
    /// Reads the file.
    ///
    /// # Errors
    /// [`SecretsError`], which says what to do.
    pub fn read(path: &Path) -> Result<Self, SecretsError> {
        let lines = parse(&std::fs::read_to_string(path)?)?;
        Ok(Self { path: path.to_owned(), lines: Arc::new(RwLock::new(lines)) })
    }

    /// Reads the file again; the number of its secrets. With an error those of before stay good.
    ///
    /// # Errors
    /// As [`read`](Self::read).
    pub fn read_again(&self) -> Result<usize, SecretsError> {
        let lines = parse(&std::fs::read_to_string(&self.path)?)?;
        let number = lines.len();
        *self.lines.write().unwrap_or_else(PoisonError::into_inner) = lines;
        Ok(number)
    }

    /// Whether there is a secret for the jobs of this owner.
    pub fn sign_for(&self, owner: Option<&str>) -> bool {
        self.with_keys(owner, |keys| !keys.is_empty())
    }

    /// Signs a body with every secret that is for the owner; `None`: there is none.
    pub fn sign(&self, owner: Option<&str>, id: &str, now: SystemTime, body: &[u8]) -> Option<Signed> {
        let seconds = now.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_secs();
        let timestamp = seconds.to_string();
        let signatures = self.with_keys(owner, |keys| {
            let signed = keys.iter().map(|key| signature(key, id, &timestamp, body));
            signed.collect::<Vec<_>>()
        });
        let signature = (!signatures.is_empty()).then(|| signatures.join(" "))?;
        Some(Signed { id: id.to_owned(), timestamp, signature })
    }

    /// The owner's own secrets, or else those of all.
    fn with_keys<T>(&self, owner: Option<&str>, use_them: impl FnOnce(&[&[u8]]) -> T) -> T {
        let lines = self.lines.read().unwrap_or_else(PoisonError::into_inner);
        let of = |wanted: Option<&str>| -> Vec<&[u8]> {
            lines.iter().filter(|line| line.owner.as_deref() == wanted).map(|line| &*line.key).collect()
        };
        let own = of(owner);
        if own.is_empty() { use_them(&of(None)) } else { use_them(&own) }
    }
}

impl fmt::Debug for Secrets {
    /// The file alone.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Secrets").field(&self.path).finish()
    }
}

/// `v1,` and the base64 of HMAC-SHA256 over `id.timestamp.body`.
fn signature(key: &[u8], id: &str, timestamp: &str, body: &[u8]) -> String {
    let mut mac = Hmac::<Sha256>::new_from_slice(key).expect("HMAC takes a key of any length");
    for part in [id.as_bytes(), b".", timestamp.as_bytes(), b".", body] {
        mac.update(part);
    }
    format!("v1,{}", STANDARD.encode(mac.finalize().into_bytes()))
}

fn parse(text: &str) -> Result<Vec<Line>, SecretsError> {
    let mut lines: Vec<Line> = vec![];
    for (text, line) in text.lines().zip(1..) {
        let text = text.trim();
        if text.is_empty() || text.starts_with('#') {
            continue;
        }
        let (owner, secret) = match text.split_once(':') {
            Some((owner, secret)) => (Some(owner), secret),
            None => (None, text),
        };
        let key = secret.strip_prefix(MARK).and_then(|key| STANDARD.decode(key).ok());
        let key = key.filter(|key| BYTES.contains(&key.len())).ok_or(SecretsError::Line { line })?;
        if owner.is_some_and(str::is_empty) {
            return Err(SecretsError::Line { line });
        }
        let owner = owner.map(str::to_owned);
        let of_the_same = lines.iter().filter(|other| other.owner == owner).take(MAX_EACH).count();
        if of_the_same == MAX_EACH || lines.len() == MAX_LINES {
            return Err(SecretsError::TooMany);
        }
        lines.push(Line { owner, key });
    }
    if lines.is_empty() { Err(SecretsError::Empty) } else { Ok(lines) }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    /// The secret, the message and the signature of the examples of the specification and of its libraries' tests.
    const SECRET: &str = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw";
    const ID: &str = "msg_p5jXN8AQM9LWM0D4loKWxJek";
    const SECONDS: u64 = 1_614_265_330;
    const BODY: &[u8] = br#"{"test": 2432232314}"#;
    const SIGNATURE: &str = "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=";

    fn secrets(text: &str) -> Secrets {
        Secrets { path: PathBuf::new(), lines: Arc::new(RwLock::new(parse(text).unwrap())) }
    }

    fn sign(secrets: &Secrets, owner: Option<&str>) -> Option<Signed> {
        secrets.sign(owner, ID, SystemTime::UNIX_EPOCH + Duration::from_secs(SECONDS), BODY)
    }

    fn another(byte: u8) -> String {
        format!("{MARK}{}", STANDARD.encode([byte; 32]))
    }

    #[test]
    fn a_webhook_is_signed_as_the_specification_shows() {
        let signed = sign(&secrets(SECRET), None).unwrap();
        let (timestamp, signature) = (SECONDS.to_string(), SIGNATURE.to_owned());
        assert_eq!(signed, Signed { id: ID.into(), timestamp, signature });
    }

    #[test]
    fn while_secrets_are_changed_all_of_them_sign() {
        let both = sign(&secrets(&format!("# new\n{}\n\n  {SECRET}  \n", another(1))), None).unwrap();
        let parts: Vec<&str> = both.signature.split(' ').collect();
        assert_eq!((parts.len(), parts[1]), (2, SIGNATURE));
        assert!(parts[0].starts_with("v1,") && parts[0] != SIGNATURE);
    }

    #[test]
    fn a_client_that_has_secrets_of_its_own_has_no_others() {
        let all = secrets(&format!("alice:{}\n{SECRET}", another(1)));
        let signature = |owner| sign(&all, owner).unwrap().signature;
        assert_eq!((signature(None), signature(Some("bob"))), (SIGNATURE.into(), SIGNATURE.into()));
        assert!(!signature(Some("alice")).contains(SIGNATURE));
        let alices = secrets(&format!("alice:{SECRET}"));
        assert_eq!(sign(&alices, Some("alice")).unwrap().signature, SIGNATURE);
        assert!(alices.sign_for(Some("alice")) && !alices.sign_for(Some("bob")) && !alices.sign_for(None));
        assert_eq!(sign(&alices, Some("bob")), None);
    }

    #[test]
    fn a_line_that_is_wrong_is_told_by_its_number_and_is_not_repeated() {
        for bad in [
            "hunter2",
            "whsec_hunter2",
            "whsec_",
            &another(1)[6..],
            &format!(":{}", another(1)),
            &format!("{MARK}{}", STANDARD.encode([1; 23])),
            &format!("{MARK}{}", STANDARD.encode([1; 65])),
        ] {
            let error = parse(&format!("{SECRET}\n{bad}")).err().unwrap().to_string();
            assert!(error.starts_with("line 2: ") && error.contains("openssl rand"), "{error}");
            assert!(!error.contains("hunter2") && !error.contains(&another(1)[6..]), "{error}");
        }
        assert!(matches!(parse("# none\n"), Err(SecretsError::Empty)));
        let many: String = (0..=MAX_EACH).map(|n| format!("a:{}\n", another(n as u8))).collect();
        assert!(matches!(parse(&many), Err(SecretsError::TooMany)));
    }

    #[test]
    fn a_file_that_became_bad_changes_nothing() {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), SECRET).unwrap();
        let secrets = Secrets::read(file.path()).unwrap();
        std::fs::write(file.path(), "nonsense").unwrap();
        assert!(secrets.read_again().is_err());
        assert_eq!(sign(&secrets, None).unwrap().signature, SIGNATURE);
        std::fs::write(file.path(), another(1)).unwrap();
        assert_eq!(secrets.read_again().unwrap(), 1);
        assert_ne!(sign(&secrets, None).unwrap().signature, SIGNATURE);
        assert!(!format!("{secrets:?}").contains("key"));
    }
}
