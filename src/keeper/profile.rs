//! What is said once for many commands: profiles in `keeper.toml`, below flags and variables, above defaults.
//!
//! A token belongs to the queen beside it: where a flag or a variable names another queen, it is not sent.

use std::{
    collections::BTreeMap,
    env,
    io::Read,
    path::{Path, PathBuf},
    time::Duration,
};

use reqwest::Url;
use serde::Deserialize;

use super::{
    KeeperError,
    args::{Connection, Token, values},
};
use crate::units::parse_duration;

/// Where queen is if nothing says so.
const DEFAULT_QUEEN: &str = "http://127.0.0.1:7833";
/// How long queen is asked again if nothing says so.
const DEFAULT_RETRY_FOR: Duration = Duration::from_secs(60);
/// The profile that is used where none is named.
const DEFAULT_PROFILE: &str = "default";
/// The largest file of profiles, or of a token, that is read, in bytes.
const MAX_FILE: u64 = 64 << 10;

/// Queen and the way to it, settled.
#[derive(Debug, Clone)]
pub struct Way {
    /// Where queen is.
    pub queen: Url,
    /// Its token.
    pub token: Option<Token>,
    /// A proxy in front of it.
    pub proxy: Option<Url>,
    /// How long it is asked again.
    pub retry_for: Duration,
    /// The model of jobs that name none.
    pub model: Option<String>,
}

/// A table of the file.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct Profile {
    queen: Option<String>,
    token_file: Option<PathBuf>,
    proxy: Option<String>,
    retry_for: Option<String>,
    model: Option<String>,
}

impl Way {
    /// What flags and variables say, then the profile, then the defaults.
    ///
    /// # Errors
    /// [`KeeperError::Usage`]: a file that cannot be read, or what is wrong in it.
    pub fn new(connection: &Connection) -> Result<Self, KeeperError> {
        Self::below(connection, file().as_deref())
    }

    fn below(connection: &Connection, file: Option<&Path>) -> Result<Self, KeeperError> {
        let (name, profile) = find(connection.profile.as_deref(), file)?;
        let folder = file.and_then(Path::parent).unwrap_or(Path::new(""));
        let wrong = |key: &str, why: String| {
            let file = file.unwrap_or(Path::new("")).display();
            KeeperError::Usage(format!("{file}: [{name}] {key}: {why}"))
        };
        let url = |key: &str, text: &Option<String>, read: fn(&str) -> Result<Url, String>| {
            text.as_deref().map(|text| read(text).map_err(|why| wrong(key, why))).transpose()
        };
        let of_profile = url("queen", &profile.queen, values::queen)?;
        let default = Url::parse(DEFAULT_QUEEN).expect("the default is a URL");
        let its_queen = of_profile.unwrap_or(default);
        let queen = connection.queen.clone().unwrap_or_else(|| its_queen.clone());
        let is_its_queen = queen == its_queen;
        let token = match (&connection.token, &connection.token_file, &profile.token_file) {
            (Some(_), Some(_), _) => {
                let message = "--token (RBEE_TOKEN) and --token-file (RBEE_TOKEN_FILE) are both set: one of them counts";
                return Err(KeeperError::Usage(message.into()));
            }
            (Some(token), None, _) => Some(token.clone()),
            (None, Some(path), _) => Some(
                read_token(path)
                    .map_err(|why| KeeperError::Usage(format!("--token-file {}: {why}", path.display())))?,
            ),
            (None, None, Some(path)) if is_its_queen => {
                let path = in_folder(folder, path);
                let why = |why| wrong("token_file", format!("{}: {why}", path.display()));
                Some(read_token(&path).map_err(why)?)
            }
            (None, None, _) => None,
        };
        let proxy = match &connection.proxy {
            Some(proxy) => Some(proxy.clone()),
            None if is_its_queen => url("proxy", &profile.proxy, values::proxy)?,
            None => None,
        };
        let retry_for = profile
            .retry_for
            .as_deref()
            .map(|text| parse_duration(text).map_err(|why| wrong("retry_for", why.to_string())));
        let retry_for = connection.retry_for.or(retry_for.transpose()?).unwrap_or(DEFAULT_RETRY_FOR);
        Ok(Self { queen, token, proxy, retry_for, model: profile.model })
    }
}

/// Where profiles are, whether the file is there or not.
fn file() -> Option<PathBuf> {
    let absolute = |name: &str| env::var_os(name).map(PathBuf::from).filter(|path| path.is_absolute());
    let folder = absolute("XDG_CONFIG_HOME").or_else(|| absolute("HOME").map(|home| home.join(".config")))?;
    Some(folder.join("rbee").join("keeper.toml"))
}

/// The profile of this name, or the default one, with its name.
fn find(wanted: Option<&str>, file: Option<&Path>) -> Result<(String, Profile), KeeperError> {
    let usage = |text: String| Err(KeeperError::Usage(text));
    let name = wanted.unwrap_or(DEFAULT_PROFILE).to_owned();
    let Some(file) = file else {
        return match wanted {
            None => Ok((name, Profile::default())),
            Some(_) => usage("--profile: neither XDG_CONFIG_HOME nor HOME says where profiles are".into()),
        };
    };
    let shown = file.display();
    let text = match read(file) {
        Ok(text) => text,
        Err(Unread::NotThere) if wanted.is_none() => return Ok((name, Profile::default())),
        Err(Unread::NotThere) => return usage(format!("--profile {name}: there is no file {shown}")),
        Err(Unread::Why(why)) => return usage(format!("{shown}: {why}")),
    };
    let mut profiles: BTreeMap<String, Profile> = match toml::from_str(&text) {
        Ok(profiles) => profiles,
        Err(error) => return usage(format!("{shown}: {}", error.to_string().trim_end())),
    };
    match profiles.remove(&name) {
        Some(profile) => Ok((name, profile)),
        None if wanted.is_none() => Ok((name, Profile::default())),
        None => {
            let there: Vec<_> = profiles.into_keys().collect();
            let there = if there.is_empty() { "none".into() } else { there.join(", ") };
            usage(format!("--profile {name}: {shown} has no [{name}]; there are: {there}"))
        }
    }
}

/// Why a file was not read.
enum Unread {
    NotThere,
    Why(String),
}

fn read(path: &Path) -> Result<String, Unread> {
    let why = |error: std::io::Error| match error.kind() {
        std::io::ErrorKind::NotFound => Unread::NotThere,
        _ => Unread::Why(error.to_string()),
    };
    let mut text = String::new();
    let mut file = std::fs::File::open(path).map_err(why)?.take(MAX_FILE + 1);
    file.read_to_string(&mut text).map_err(why)?;
    match text.len() as u64 > MAX_FILE {
        true => Err(Unread::Why(format!("more than {MAX_FILE} bytes"))),
        false => Ok(text),
    }
}

fn read_token(path: &Path) -> Result<Token, String> {
    let text = read(path).map_err(|error| match error {
        Unread::NotThere => "there is no such file".to_owned(),
        Unread::Why(why) => why,
    })?;
    match text.trim() {
        "" => Err("it is empty".into()),
        token => Ok(Token::from(token)),
    }
}

/// A path of the file: absolute, of the home folder, or beside the file.
fn in_folder(folder: &Path, path: &Path) -> PathBuf {
    match (path.strip_prefix("~"), env::var_os("HOME")) {
        (Ok(rest), Some(home)) => Path::new(&home).join(rest),
        _ => folder.join(path),
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;
    use crate::keeper::Cli;

    const FILE: &str = "[default]\nqueen = \"http://home:1\"\nmodel = \"tiny\"\n\n[work]\nqueen = \"https://work:2\"\n\
                        token_file = \"token\"\nproxy = \"http://proxy:3\"\nretry_for = \"5s\"\n";

    fn way(text: &str, flags: &[&str]) -> Result<Way, String> {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("keeper.toml");
        std::fs::write(&file, text).unwrap();
        std::fs::write(folder.path().join("token"), "hunter2\n").unwrap();
        std::fs::write(folder.path().join("empty"), " \n").unwrap();
        let cli = Cli::parse_from([&["rbee-keeper"], flags, &["dlq", "list"]].concat());
        Way::below(&cli.connection, Some(&file)).map_err(|error| error.to_string())
    }

    fn secret(way: &Way) -> Option<&str> {
        way.token.as_ref().map(Token::secret)
    }

    #[test]
    fn a_flag_counts_before_a_profile_and_a_profile_before_a_default() {
        let plain = way("", &[]).unwrap();
        assert_eq!((plain.queen.as_str(), plain.retry_for), ("http://127.0.0.1:7833/", DEFAULT_RETRY_FOR));
        let home = way(FILE, &[]).unwrap();
        assert_eq!((home.queen.as_str(), home.model.as_deref()), ("http://home:1/", Some("tiny")));
        let work = way(FILE, &["--profile", "work"]).unwrap();
        assert_eq!((work.queen.as_str(), secret(&work)), ("https://work:2/", Some("hunter2")));
        assert_eq!(
            (work.proxy.unwrap().as_str(), work.retry_for),
            ("http://proxy:3/", Duration::from_secs(5))
        );
        let mine = way(FILE, &["--profile", "work", "--retry-for", "1s", "--token", "mine"]).unwrap();
        assert_eq!((mine.retry_for, secret(&mine)), (Duration::from_secs(1), Some("mine")));
    }

    #[test]
    fn a_token_goes_to_no_other_queen() {
        let other = way(FILE, &["--profile", "work", "--queen", "http://other:1"]).unwrap();
        assert_eq!(
            (other.queen.as_str(), secret(&other), other.proxy.is_none()),
            ("http://other:1/", None, true)
        );
        let same = way(FILE, &["--profile", "work", "--queen", "https://work:2"]).unwrap();
        assert_eq!(secret(&same), Some("hunter2"));
    }

    #[test]
    fn what_is_wrong_in_the_file_is_told_by_its_place() {
        for (text, flags, said) in [
            (FILE, &["--profile", "wrok"][..], "has no [wrok]; there are: default, work"),
            ("queen = 1", &[], "keeper.toml: "),
            ("[default]\nqueeen = \"x\"", &[], "queeen"),
            ("[default]\ntoken = \"x\"", &[], "token_file"),
            ("[default]\nqueen = \"ftp://x\"", &[], "[default] queen: "),
            ("[default]\nretry_for = \"soon\"", &[], "[default] retry_for: "),
            ("[default]\ntoken_file = \"none\"", &[], "[default] token_file: "),
            ("[default]\ntoken_file = \"empty\"", &[], "it is empty"),
            ("[default", &[], "keeper.toml: "),
            ("", &["--token", "a", "--token-file", "b"], "one of them counts"),
            ("", &["--token-file", "/nowhere/token"], "--token-file /nowhere/token: there is no such file"),
        ] {
            let error = way(text, flags).unwrap_err();
            assert!(error.contains(said), "{text:?} {flags:?}: {error}");
            assert!(!error.contains("hunter2"), "{error}");
        }
        let large = "#".repeat(MAX_FILE as usize + 1);
        assert!(way(&large, &[]).unwrap_err().contains("more than 65536 bytes"));
        let cli = Cli::parse_from(["rbee-keeper", "--profile", "work", "dlq", "list"]);
        let error = Way::below(&cli.connection, Some(Path::new("/nowhere/keeper.toml"))).unwrap_err();
        assert!(error.to_string().contains("there is no file /nowhere/keeper.toml"), "{error}");
    }
}
