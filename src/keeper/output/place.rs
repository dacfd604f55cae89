//! One place for a picture. A file is written beside and renamed, so that whoever looks sees the whole picture or what was
//! there before; links, rights and owner stay. What is no file is never replaced by one: pipes and devices get the bytes.

use std::{
    fs::{self, File, Metadata, OpenOptions},
    io::{self, ErrorKind, Write},
    os::unix::fs::{FileTypeExt, MetadataExt, OpenOptionsExt},
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use bytes::Bytes;
use tokio::{
    io::AsyncWriteExt,
    net::unix::pipe::{self, Sender},
    sync::oneshot,
};

use crate::keeper::KeeperError;

/// The most links that lead to one file.
const MAX_LINKS: usize = 40;
/// How often it is looked whether somebody reads a pipe.
const LOOK_FOR_A_READER: Duration = Duration::from_millis(100);
/// What the system says (ENXIO) of a pipe that nobody reads.
const NO_READER: i32 = 6;

/// One place for a picture, which was looked at.
#[derive(Debug)]
pub struct Place {
    /// As the user knows it.
    shown: PathBuf,
    kind: Kind,
}

#[derive(Debug)]
enum Kind {
    /// A file that is not there, or that is replaced as a whole: its path behind all links.
    Whole(PathBuf),
    /// A file that has to be written where it is: it has several names, or its folder takes no other.
    InPlace(PathBuf),
    /// A named pipe; open once it has a reader.
    Pipe(Option<Sender>),
    /// A character device.
    Device(Arc<File>),
    StandardOutput,
}

impl Place {
    /// Standard output.
    pub fn standard_output() -> Self {
        Self { shown: PathBuf::from("-"), kind: Kind::StandardOutput }
    }

    /// Looks at a path: whether a picture can be written there, and how. Changes nothing; opens pipes and devices.
    ///
    /// # Errors
    /// What is wrong with it, in words.
    pub fn look(path: &Path) -> Result<Self, String> {
        let kind = match fs::metadata(path) {
            Ok(there) => look_at(path, &there)?,
            Err(error) if error.kind() == ErrorKind::NotFound => missing(path)?,
            Err(error) => return Err(words(&error)),
        };
        Ok(Self { shown: path.to_owned(), kind })
    }

    /// The path as it was asked for; `-` for standard output.
    pub fn shown(&self) -> &Path {
        &self.shown
    }

    /// Whether it is a file, or will be.
    pub fn is_file(&self) -> bool {
        matches!(self.kind, Kind::Whole(_) | Kind::InPlace(_))
    }

    /// Whether it is standard output.
    pub fn is_standard_output(&self) -> bool {
        matches!(self.kind, Kind::StandardOutput)
    }

    /// Whether it is a pipe that nobody reads yet.
    pub fn waits_for_a_reader(&self) -> bool {
        matches!(self.kind, Kind::Pipe(None))
    }

    /// Writes a picture.
    ///
    /// # Errors
    /// What the system says. A file that was to be replaced is as it was.
    pub async fn write(&mut self, bytes: Bytes) -> io::Result<()> {
        match &mut self.kind {
            Kind::Whole(path) => {
                let path = path.clone();
                on_a_thread(move || replace(&path, &bytes)).await
            }
            Kind::InPlace(path) => {
                let path = path.clone();
                on_a_thread(move || in_place(&path, &bytes)).await
            }
            Kind::Pipe(sender) => {
                let mut sender = match sender.take() {
                    Some(sender) => sender,
                    None => open_pipe(&self.shown).await?,
                };
                sender.write_all(&bytes).await
            }
            Kind::Device(file) => {
                let file = file.clone();
                on_a_thread(move || (&*file).write_all(&bytes)).await
            }
            Kind::StandardOutput => {
                on_a_thread(move || {
                    let mut out = io::stdout().lock();
                    out.write_all(&bytes)?;
                    out.flush()
                })
                .await
            }
        }
    }
}

/// The error for a picture that could not be written.
pub fn write_error(place: &Place, source: io::Error) -> KeeperError {
    let path = match place.is_standard_output() {
        true => PathBuf::from("standard output"),
        false => place.shown.clone(),
    };
    KeeperError::Output { path, source }
}

/// Something is there.
fn look_at(path: &Path, there: &Metadata) -> Result<Kind, String> {
    let kind = there.file_type();
    if kind.is_file() {
        return file(path, there).map_err(|error| words(&error));
    }
    if kind.is_fifo() {
        return match pipe::OpenOptions::new().open_sender(path) {
            Ok(sender) => Ok(Kind::Pipe(Some(sender))),
            Err(error) if error.raw_os_error() == Some(NO_READER) => Ok(Kind::Pipe(None)),
            Err(error) => Err(words(&error)),
        };
    }
    if kind.is_char_device() {
        let file = OpenOptions::new().write(true).open(path).map_err(|error| words(&error))?;
        return Ok(Kind::Device(Arc::new(file)));
    }
    if kind.is_dir() {
        return Err("it is a folder".into());
    }
    Err(format!(
        "it is a {}, which takes no picture",
        if kind.is_socket() { "socket" } else { "block device" }
    ))
}

/// A file is there.
fn file(path: &Path, there: &Metadata) -> io::Result<Kind> {
    // Not truncated: nothing is changed yet.
    OpenOptions::new().write(true).open(path)?;
    // Below these every name is a link to what is open, which may have no other name.
    let is_open_already = path.starts_with("/dev/fd") || path.starts_with("/proc");
    let real = fs::canonicalize(path)?;
    let has_other_names = there.nlink() > 1;
    if is_open_already || has_other_names || probe(&real).is_err() {
        return Ok(Kind::InPlace(if is_open_already { path.to_owned() } else { real }));
    }
    Ok(Kind::Whole(real))
}

/// Nothing is there, or links that lead to nothing.
fn missing(path: &Path) -> Result<Kind, String> {
    let path = behind_links(path).map_err(|error| words(&error))?;
    let folder = folder_of(&path);
    if !folder.is_dir() {
        return Err(format!("there is no folder {}", folder.display()));
    }
    probe(&path)
        .map_err(|error| format!("no file can be made in {}: {}", folder.display(), words(&error)))?;
    Ok(Kind::Whole(path))
}

/// Where links lead that lead to nothing yet.
fn behind_links(path: &Path) -> io::Result<PathBuf> {
    let mut path = path.to_owned();
    for _ in 0..MAX_LINKS {
        match fs::symlink_metadata(&path) {
            Ok(there) if there.is_symlink() => {
                let to = fs::read_link(&path)?;
                path = path.parent().unwrap_or(Path::new("")).join(to);
            }
            Ok(_) => return Ok(path),
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(path),
            Err(error) => return Err(error),
        }
    }
    Err(io::Error::other("too many links"))
}

fn folder_of(path: &Path) -> PathBuf {
    match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent.to_owned(),
        _ => PathBuf::from("."),
    }
}

/// Whether a file can be made beside this one: one is, and removed.
fn probe(path: &Path) -> io::Result<()> {
    let (part, _) = part(path, 0o600)?;
    fs::remove_file(part)
}

/// A new file beside this one, with a name of its own that is as short as any.
fn part(path: &Path, mode: u32) -> io::Result<(PathBuf, File)> {
    let number = getrandom::u64().map_err(|error| io::Error::other(error.to_string()))?;
    let part = folder_of(path).join(format!(".rbee-{number:016x}.part"));
    let file = OpenOptions::new().write(true).create_new(true).mode(mode).open(&part)?;
    Ok((part, file))
}

/// Writes beside the file and renames. One that is there keeps its rights and its owner; where that cannot be, it is
/// written where it is.
fn replace(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let there = fs::metadata(path).ok();
    let was_a_file = there.as_ref().is_some_and(Metadata::is_file);
    // Nobody reads in the part what he may not read in the file.
    let mode = if there.is_some() { 0o600 } else { 0o666 };
    let (part, mut file) = part(path, mode)?;
    let written = file.write_all(bytes).and_then(|()| file.sync_all());
    let done = written.map(|()| {
        let kept = there.as_ref().map_or(Ok(()), |there| keep(&part, &file, there));
        kept.and_then(|()| fs::rename(&part, path))
    });
    if !matches!(done, Ok(Ok(()))) {
        // The reason is what the user needs; a leftover that cannot be removed adds nothing to it.
        let _ = fs::remove_file(&part);
    }
    match done {
        Ok(Ok(())) => Ok(()),
        // Another's file, or one that something is mounted on.
        Ok(Err(_)) if was_a_file => in_place(path, bytes),
        Ok(Err(error)) | Err(error) => Err(error),
    }
}

/// Gives a new file the owner and the rights of another.
fn keep(part: &Path, file: &File, there: &Metadata) -> io::Result<()> {
    let ours = file.metadata()?;
    if (ours.uid(), ours.gid()) != (there.uid(), there.gid()) {
        std::os::unix::fs::chown(part, Some(there.uid()), Some(there.gid()))?;
    }
    file.set_permissions(there.permissions())
}

/// Writes over what is in a file; all its names see it.
fn in_place(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let mut file = OpenOptions::new().write(true).open(path)?;
    file.write_all(bytes)?;
    file.set_len(bytes.len() as u64)?;
    file.sync_all()
}

/// A pipe that has a reader, as soon as it has one.
async fn open_pipe(path: &Path) -> io::Result<Sender> {
    loop {
        match pipe::OpenOptions::new().open_sender(path) {
            Err(error) if error.raw_os_error() == Some(NO_READER) => {
                tokio::time::sleep(LOOK_FOR_A_READER).await;
            }
            opened => return opened,
        }
    }
}

/// Does what may block for as long as somebody else likes. The thread does not keep the process: a signal ends it.
async fn on_a_thread(work: impl FnOnce() -> io::Result<()> + Send + 'static) -> io::Result<()> {
    let (done, result) = oneshot::channel();
    std::thread::Builder::new().name("picture".into()).spawn(move || {
        // Nobody waits for it where keeper was stopped.
        let _ = done.send(work());
    })?;
    result.await.unwrap_or_else(|_| Err(io::Error::other("the writing thread has ended")))
}

/// The system's words without its number.
fn words(error: &io::Error) -> String {
    error.to_string().split(" (os error").next().unwrap_or_default().to_owned()
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{PermissionsExt, symlink};

    use super::*;

    async fn write(path: &Path, bytes: &'static [u8]) {
        Place::look(path).unwrap().write(Bytes::from_static(bytes)).await.unwrap();
    }

    fn names(folder: &Path) -> usize {
        fs::read_dir(folder).unwrap().count()
    }

    #[tokio::test]
    async fn a_file_is_replaced_as_a_whole_and_keeps_its_rights() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("a.png");
        write(&file, b"new").await;
        fs::set_permissions(&file, fs::Permissions::from_mode(0o604)).unwrap();
        let before = fs::metadata(&file).unwrap().ino();
        write(&file, b"newer").await;
        let after = fs::metadata(&file).unwrap();
        assert_eq!((fs::read(&file).unwrap().as_slice(), after.mode() & 0o777), (&b"newer"[..], 0o604));
        assert_ne!(after.ino(), before, "whoever has it open sees the old picture to its end");
        assert_eq!(names(folder.path()), 1);
    }

    #[tokio::test]
    async fn every_name_of_a_file_sees_the_picture() {
        let folder = tempfile::tempdir().unwrap();
        let (a, b) = (folder.path().join("a.png"), folder.path().join("b.png"));
        fs::write(&a, b"a longer old picture").unwrap();
        fs::hard_link(&a, &b).unwrap();
        write(&b, b"new").await;
        assert_eq!(fs::read(&a).unwrap(), b"new");
    }

    #[tokio::test]
    async fn a_link_stays_whether_it_leads_to_something_or_not() {
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| folder.path().join(name);
        symlink("middle", at("link.png")).unwrap();
        symlink(at("picture.png"), at("middle")).unwrap();
        for bytes in [&b"first"[..], b"second"] {
            write(&at("link.png"), bytes).await;
            assert_eq!(fs::read(at("picture.png")).unwrap(), bytes);
            assert!(fs::symlink_metadata(at("link.png")).unwrap().is_symlink());
        }
        assert_eq!(names(folder.path()), 3);
        symlink("circle", at("circle")).unwrap();
        assert!(Place::look(&at("circle")).is_err());
        symlink("nowhere/a.png", at("lost")).unwrap();
        assert!(Place::look(&at("lost")).unwrap_err().contains("there is no folder"));
    }

    #[test]
    fn what_takes_no_picture_is_told() {
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| folder.path().join(name);
        fs::write(at("file"), b"").unwrap();
        let _socket = std::os::unix::net::UnixListener::bind(at("socket")).unwrap();
        for (path, said) in [
            (folder.path().to_owned(), "it is a folder"),
            (at("file/a.png"), "Not a directory"),
            (at("missing/a.png"), "there is no folder"),
            (at("socket"), "it is a socket"),
            (at(&"n".repeat(300)), "File name too long"),
        ] {
            let why = Place::look(&path).unwrap_err();
            assert!(why.contains(said) && !why.contains("os error"), "{}: {why}", path.display());
        }
        assert!(Place::look(&at(&"n".repeat(255))).is_ok(), "the longest name that there can be");
        assert_eq!(names(folder.path()), 2);
    }

    #[tokio::test]
    async fn what_could_not_be_written_leaves_what_was_there() {
        let folder = tempfile::tempdir().unwrap();
        let gone = folder.path().join("folder/a.png");
        fs::create_dir(folder.path().join("folder")).unwrap();
        let mut place = Place::look(&gone).unwrap();
        fs::remove_dir(folder.path().join("folder")).unwrap();
        assert!(place.write(Bytes::from_static(b"picture")).await.is_err());
        let taken = folder.path().join("taken.png");
        let mut place = Place::look(&taken).unwrap();
        fs::create_dir(&taken).unwrap();
        assert!(place.write(Bytes::from_static(b"picture")).await.is_err());
        assert_eq!(names(folder.path()), 1);
    }
}
