//! The file of clients and their tokens: `name:sha256:<64 hex>`, a line each, with `:admin` behind that of a client who sees
//! all jobs. It has no token in it, only hashes.
//!
//! SHA-256 without salt or stretching is enough for what [`Issued::new`] makes: 256 random bits are not found by trying.

use std::{
    fmt, hint, io,
    path::{Path, PathBuf},
    sync::{Arc, PoisonError, RwLock},
};

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use sha2::{Digest, Sha256};

use crate::contract::hex;

/// The most lines that a file may have: all of them are compared with what a request carries.
const MAX_LINES: usize = 10_000;
/// The longest name of a client, in characters.
const MAX_NAME: usize = 64;
/// Random bytes of a token.
const TOKEN_BYTES: usize = 32;
/// What a token begins with, so that it is recognised where it should not be.
const MARK: &str = "rbee_";

/// SHA-256 of a token.
type Hash = [u8; 32];

/// The tokens that are good. Cheap to clone; clones see the same, a file that was read again included.
#[derive(Clone)]
pub struct Tokens {
    path: PathBuf,
    lines: Arc<RwLock<Vec<Line>>>,
}

struct Line {
    holder: Holder,
    hash: Hash,
}

/// Whose token it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Holder {
    /// The client's name.
    pub name: Arc<str>,
    /// Whether it sees the jobs of all clients.
    pub is_admin: bool,
}

/// What stands behind the hash of an administrator's token.
const ADMIN: &str = ":admin";

/// Why a file of tokens cannot be used. No message repeats a line: it may hold a token.
#[derive(Debug, thiserror::Error)]
pub enum TokensError {
    /// It cannot be read.
    #[error(transparent)]
    Read(#[from] io::Error),
    /// A line is none of ours.
    #[error(
        "line {line}: it must be NAME:sha256:HASH or NAME:sha256:HASH:admin; `queen-rbee new-token NAME >> FILE` makes a token and its line, \
         and for a token that there is already `printf %s \"$TOKEN\" | sha256sum` gives HASH"
    )]
    Line {
        /// Which, from 1.
        line: usize,
    },
    /// A name is not allowed.
    #[error("line {line}: a name has 1 to {MAX_NAME} characters of A-Z a-z 0-9 - _")]
    Name {
        /// Which, from 1.
        line: usize,
    },
    /// Nobody could be let in.
    #[error("it names no client; `queen-rbee new-token NAME >> FILE` makes a token and its line")]
    Empty,
    /// There are too many.
    #[error("it has more than {MAX_LINES} tokens")]
    TooMany,
}

impl Tokens {
    /// Reads the file.
    ///
    /// # Errors
    /// [`TokensError`], which says what to do.
    pub fn read(path: &Path) -> Result<Self, TokensError> {
        let lines = parse(&std::fs::read_to_string(path)?)?;
        Ok(Self { path: path.to_owned(), lines: Arc::new(RwLock::new(lines)) })
    }

    /// Reads the file again; the number of its tokens. With an error those of before stay good.
    ///
    /// # Errors
    /// As [`read`](Self::read).
    pub fn read_again(&self) -> Result<usize, TokensError> {
        let lines = parse(&std::fs::read_to_string(&self.path)?)?;
        let number = lines.len();
        *self.lines.write().unwrap_or_else(PoisonError::into_inner) = lines;
        Ok(number)
    }

    /// Whose token it is.
    ///
    /// The time that this takes depends on the length of what was sent and on the number of lines, which are no secrets:
    /// hashes of one length are compared, each to its last byte, and every line is, also behind one that fits.
    pub fn client(&self, token: &str) -> Option<Holder> {
        let sent: Hash = Sha256::digest(token).into();
        let lines = self.lines.read().unwrap_or_else(PoisonError::into_inner);
        let mut found = None;
        for line in lines.iter() {
            if same(&line.hash, &sent) {
                found = Some(&line.holder);
            }
        }
        found.cloned()
    }
}

impl fmt::Debug for Tokens {
    /// The file alone: hashes are nobody's business either.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Tokens").field(&self.path).finish()
    }
}

/// Whether two hashes are the same; no byte decides when the loop ends.
fn same(a: &Hash, b: &Hash) -> bool {
    let differences = a.iter().zip(b).fold(0u8, |bits, (a, b)| hint::black_box(bits | (a ^ b)));
    differences == 0
}

fn parse(text: &str) -> Result<Vec<Line>, TokensError> {
    let mut lines = vec![];
    for (text, line) in text.lines().zip(1..) {
        let text = text.trim();
        if text.is_empty() || text.starts_with('#') {
            continue;
        }
        let (name, rest) = text.split_once(':').ok_or(TokensError::Line { line })?;
        let (rest, is_admin) = rest.strip_suffix(ADMIN).map_or((rest, false), |rest| (rest, true));
        let hash = rest.strip_prefix("sha256:").and_then(unhex).ok_or(TokensError::Line { line })?;
        check_name(name).ok_or(TokensError::Name { line })?;
        lines.push(Line { holder: Holder { name: name.into(), is_admin }, hash });
    }
    match lines.len() {
        0 => Err(TokensError::Empty),
        1..=MAX_LINES => Ok(lines),
        _ => Err(TokensError::TooMany),
    }
}

fn check_name(name: &str) -> Option<()> {
    let allowed = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_');
    ((1..=MAX_NAME).contains(&name.len()) && name.chars().all(allowed)).then_some(())
}

fn unhex(text: &str) -> Option<Hash> {
    let mut hash = Hash::default();
    if text.len() != 2 * hash.len() {
        return None;
    }
    let digits = |pair: &[u8]| {
        let digit = |byte: u8| char::from(byte).to_digit(16);
        u8::try_from(digit(pair[0])? * 16 + digit(pair[1])?).ok()
    };
    for (byte, pair) in hash.iter_mut().zip(text.as_bytes().chunks_exact(2)) {
        *byte = digits(pair)?;
    }
    Some(hash)
}

/// A token that has just been made.
pub struct Issued {
    /// What the client sends. It is kept nowhere.
    pub token: String,
    /// What goes into the file.
    pub line: String,
}

impl Issued {
    /// A token of 256 random bits for this client; whether it is to see the jobs of all.
    ///
    /// # Errors
    /// When the name is not allowed, or the system gives no random bytes.
    pub fn new(name: &str, is_admin: bool) -> Result<Self, String> {
        check_name(name)
            .ok_or_else(|| format!("a name has 1 to {MAX_NAME} characters of A-Z a-z 0-9 - _"))?;
        let mut bytes = [0; TOKEN_BYTES];
        getrandom::fill(&mut bytes).map_err(|error| format!("no random bytes: {error}"))?;
        let token = format!("{MARK}{}", URL_SAFE_NO_PAD.encode(bytes));
        let mark = if is_admin { ADMIN } else { "" };
        let line = format!("{name}:sha256:{}{mark}", hex(&Sha256::digest(&token)));
        Ok(Self { token, line })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(text: &str) -> tempfile::NamedTempFile {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), text).unwrap();
        file
    }

    #[test]
    fn every_client_is_known_by_its_own_tokens() {
        let [old, new, other] = ["alice", "alice", "bob"].map(|name| Issued::new(name, false).unwrap());
        let text = format!("# who may\n\n {} \n{}\r\n{}", old.line, new.line, other.line.to_uppercase());
        assert!(parse(&text).is_err(), "SHA256 is no word of ours");
        let text = format!("# who may\n\n {} \n{}\r\n{}", old.line, new.line, other.line);
        let tokens = Tokens::read(file(&text).path()).unwrap();
        for (issued, name) in [(&old, "alice"), (&new, "alice"), (&other, "bob")] {
            let holder = tokens.client(&issued.token).unwrap();
            assert_eq!((&*holder.name, holder.is_admin), (name, false));
            assert_eq!(tokens.client(&issued.token[1..]), None);
            assert_eq!(tokens.client(&issued.line), None, "the hash is no token");
        }
        assert_eq!(tokens.client(""), None);
    }

    #[test]
    fn an_administrator_is_marked_behind_the_hash() {
        let [admin, other] = [true, false].map(|is_admin| Issued::new("ops", is_admin).unwrap());
        assert!(admin.line.ends_with(":admin") && !other.line.ends_with(":admin"));
        let tokens = Tokens::read(file(&format!("{}\n{}", admin.line, other.line)).path()).unwrap();
        let is_admin = |issued: &Issued| tokens.client(&issued.token).unwrap().is_admin;
        assert!(is_admin(&admin) && !is_admin(&other), "the mark is the token's, not the name's");
    }

    #[test]
    fn one_different_bit_is_another_hash() {
        let hash: Hash = Sha256::digest("sesame").into();
        assert!(same(&hash, &hash));
        for bit in 0..256 {
            let mut other = hash;
            other[bit / 8] ^= 1 << (bit % 8);
            assert!(!same(&hash, &other), "bit {bit}");
        }
    }

    #[test]
    fn a_plain_token_is_refused_without_being_repeated() {
        let good = Issued::new("a", false).unwrap().line;
        for bad in [
            "hunter2",
            "a:hunter2",
            "a:sha256:hunter2",
            "a:md5:hunter2",
            ":",
            "hunter2 2:sha256:00",
            &format!("{good}:hunter2"),
            &format!("{good}:admin:admin"),
        ] {
            let error = parse(&format!("{good}\n{bad}")).err().unwrap().to_string();
            assert!(error.contains("line 2") && error.contains("new-token NAME"), "{bad}: {error}");
            assert!(!error.contains("hunter2"), "{error}");
        }
        let spaced = good.replacen('a', "a b", 1);
        assert!(matches!(parse(&spaced), Err(TokensError::Name { line: 1 })));
        assert!(matches!(parse("# nobody\n"), Err(TokensError::Empty)));
    }

    #[test]
    fn a_file_that_became_bad_changes_nothing() {
        let [first, second] = ["a", "b"].map(|name| Issued::new(name, false).unwrap());
        let file = file(&first.line);
        let tokens = Tokens::read(file.path()).unwrap();
        std::fs::write(file.path(), "nonsense").unwrap();
        assert!(tokens.read_again().is_err());
        assert!(tokens.client(&first.token).is_some());
        std::fs::write(file.path(), &second.line).unwrap();
        assert_eq!(tokens.read_again().unwrap(), 1);
        assert!(tokens.client(&first.token).is_none() && tokens.client(&second.token).is_some());
    }

    #[test]
    fn what_is_debugged_holds_no_hash() {
        let issued = Issued::new("a", false).unwrap();
        let tokens = Tokens::read(file(&issued.line).path()).unwrap();
        assert!(!format!("{tokens:?}").contains(issued.line.rsplit(':').next().unwrap()));
    }
}
