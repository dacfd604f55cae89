//! Where pictures may go, and what is refused before anything is sent.

use std::{
    fs,
    os::unix::{
        ffi::OsStrExt,
        fs::{MetadataExt, PermissionsExt, symlink},
    },
    path::Path,
};

use tokio::process::Command;

use crate::stand_in::{
    PATIENCE, PICTURE, StandIn, Stream, accepted, complete, finish, generate, in_shell, program,
    right_sha256, until,
};

/// Nobody, who owns nothing.
const NOBODY: u32 = 65534;

async fn one_picture() -> StandIn {
    StandIn::start([Stream::Events(vec![accepted(), complete(1, &right_sha256())])]).await
}

/// Draws one picture to where `output` says; standard output and what was said.
async fn draw(folder: &Path, output: &str) -> (String, String) {
    let queen = one_picture().await;
    let (code, stdout, stderr) = finish(queen.keeper(folder, &generate(&["-o", output]))).await;
    assert_eq!(code, 0, "{stderr}");
    (stdout, stderr)
}

async fn shell(line: &str, folder: &Path) {
    let status = Command::new("sh").args(["-c", line]).current_dir(folder).status().await.unwrap();
    assert!(status.success(), "{line}");
}

#[tokio::test]
async fn a_place_that_takes_no_picture_is_refused_before_anything_is_sent() {
    let queen = StandIn::start([]).await;
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name);
    fs::write(at("file"), b"").unwrap();
    fs::create_dir(at("two-0.png")).unwrap();
    symlink("nowhere/a.png", at("lost.png")).unwrap();
    symlink("circle.png", at("circle.png")).unwrap();
    shell("mkfifo pipe", folder.path()).await;
    let _socket = std::os::unix::net::UnixListener::bind(at("socket")).unwrap();
    let long = format!("{}.png", "n".repeat(300));
    for (args, said) in [
        (&["-o", "missing/a.png"][..], "there is no folder missing"),
        (&["-o", "missing/"], "there is no such folder"),
        (&["-o", "file/a.png"], "Not a directory"),
        (&["-o", &long], "File name too long"),
        (&["-o", "two.png", "--n", "2"], "two-0.png: it is a folder"),
        (&["-o", "lost.png"], "there is no folder nowhere"),
        (&["-o", "circle.png"], "symbolic links"),
        (&["-o", "socket"], "it is a socket"),
        (&["-o", "pipe", "--n", "2"], "it takes one picture"),
        (&["-o", "-", "--n", "2"], "standard output takes one picture"),
        (&["-o", "-", "--json"], "standard output has the events"),
        (&["-o", "a.png", "--format", "webp"], "another format than the name says"),
        (&["--preview", "now.png"], "previews are JPEG"),
    ] {
        let (code, stdout, stderr) = finish(queen.keeper(folder.path(), &generate(args))).await;
        assert_eq!((code, stdout.as_str()), (2, ""), "{args:?}: {stderr}");
        assert!(
            stderr.contains(said) && stderr.contains(if args[0] == "-o" { "--output" } else { args[0] }),
            "{args:?}: {stderr}"
        );
    }
    assert!(queen.seen.lock().unwrap().posted.is_empty());
}

#[tokio::test]
async fn what_may_not_be_written_is_refused_before_anything_is_sent() {
    let queen = StandIn::start([]).await;
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name);
    // Nobody may not see what root has built.
    fs::copy(program(), at("keeper")).unwrap();
    fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o755)).unwrap();
    fs::create_dir(at("closed")).unwrap();
    fs::create_dir(at("open")).unwrap();
    fs::write(at("open/read-only.png"), b"old").unwrap();
    for (name, mode) in [("closed", 0o555), ("open", 0o777), ("open/read-only.png", 0o444)] {
        fs::set_permissions(at(name), fs::Permissions::from_mode(mode)).unwrap();
    }
    let is_root = fs::metadata(folder.path()).unwrap().uid() == 0;
    for (here, args, said) in [
        (".", &["-o", "open/read-only.png"][..], "Permission denied"),
        (".", &["-o", "closed/a.png"], "no file can be made in closed: Permission denied"),
        (".", &["-o", "closed"], "Permission denied"),
        ("closed", &[], "--output names another place"),
    ] {
        let mut command = Command::new(at("keeper"));
        crate::stand_in::forget_environment(&mut command);
        command.args(["--queen", &queen.url]).args(generate(args)).current_dir(at(here)).kill_on_drop(true);
        if is_root {
            command.uid(NOBODY).gid(NOBODY);
        }
        let (code, _, stderr) = finish(command).await;
        assert_eq!(code, 2, "{args:?}: {stderr}");
        assert!(stderr.contains(said), "{args:?}: {stderr}");
    }
    assert!(queen.seen.lock().unwrap().posted.is_empty());
    assert_eq!(fs::read(at("open/read-only.png")).unwrap(), b"old");
}

#[tokio::test]
async fn a_file_keeps_its_rights_its_names_and_the_links_to_it() {
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name);
    let is_root = fs::metadata(folder.path()).unwrap().uid() == 0;
    for name in ["secret.png", "twin.png"] {
        fs::write(at(name), b"a picture of before, which is longer").unwrap();
        fs::set_permissions(at(name), fs::Permissions::from_mode(0o600)).unwrap();
    }
    if is_root {
        std::os::unix::fs::chown(at("secret.png"), Some(NOBODY), Some(NOBODY)).unwrap();
    }
    let owner = fs::metadata(at("secret.png")).unwrap().uid();
    fs::hard_link(at("twin.png"), at("other.png")).unwrap();
    fs::create_dir(at("far")).unwrap();
    symlink("far/picture.png", at("link.png")).unwrap();
    for name in ["secret.png", "twin.png", "link.png"] {
        assert_eq!(draw(folder.path(), name).await.0, format!("{name}\n"));
        assert_eq!(fs::read(at(name)).unwrap(), PICTURE);
    }
    let secret = fs::metadata(at("secret.png")).unwrap();
    assert_eq!((secret.mode() & 0o777, secret.uid()), (0o600, owner));
    assert_eq!(fs::read(at("other.png")).unwrap(), PICTURE, "it is the same file");
    assert!(fs::symlink_metadata(at("link.png")).unwrap().is_symlink());
    assert_eq!(fs::read(at("far/picture.png")).unwrap(), PICTURE);
    draw(folder.path(), "link.png").await;
    assert!(
        fs::symlink_metadata(at("link.png")).unwrap().is_symlink(),
        "also when there is a picture already"
    );
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 5);
}

#[tokio::test]
async fn a_pipe_gets_the_picture_and_stays_a_pipe() {
    let folder = tempfile::tempdir().unwrap();
    shell("mkfifo pipe", folder.path()).await;
    let reader = || {
        let mut reader = Command::new("cat");
        reader.arg("pipe").current_dir(folder.path()).kill_on_drop(true);
        tokio::spawn(async move { reader.output().await.unwrap().stdout })
    };
    let early = reader();
    draw(folder.path(), "pipe").await;
    assert_eq!(tokio::time::timeout(PATIENCE, early).await.unwrap().unwrap(), PICTURE);

    let queen = one_picture().await;
    let drawing = tokio::spawn(finish(queen.keeper(folder.path(), &generate(&["-o", "pipe"]))));
    until("keeper follows the job", || !queen.seen.lock().unwrap().after.is_empty()).await;
    tokio::time::sleep(std::time::Duration::from_millis(300)).await;
    assert!(!drawing.is_finished(), "it waits for a reader");
    assert_eq!(tokio::time::timeout(PATIENCE, reader()).await.unwrap().unwrap(), PICTURE);
    let (code, _, stderr) = drawing.await.unwrap();
    assert_eq!(code, 0, "{stderr}");
    assert!(stderr.contains("pipe waits for somebody who reads it"), "{stderr}");
    let kind = std::os::unix::fs::FileTypeExt::is_fifo(
        &fs::metadata(folder.path().join("pipe")).unwrap().file_type(),
    );
    assert!(kind, "it is a pipe still");
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
}

#[tokio::test]
async fn a_device_is_written_to_and_not_replaced() {
    let folder = tempfile::tempdir().unwrap();
    let made = Command::new("mknod").args(["null.png", "c", "1", "3"]).current_dir(folder.path()).output();
    if !made.await.unwrap().status.success() {
        // Who may not make a device may not replace one either.
        assert_ne!(fs::metadata(folder.path()).unwrap().uid(), 0, "root may make a device here");
        return;
    }
    draw(folder.path(), "null.png").await;
    let there = fs::metadata(folder.path().join("null.png")).unwrap();
    assert!(std::os::unix::fs::FileTypeExt::is_char_device(&there.file_type()));
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
}

#[tokio::test]
async fn a_dash_is_standard_output_which_then_has_the_picture_alone() {
    let folder = tempfile::tempdir().unwrap();
    let queen = one_picture().await;
    let output = queen.keeper(folder.path(), &generate(&["-o", "-"])).output().await.unwrap();
    assert_eq!(output.status.code(), Some(0));
    assert_eq!(output.stdout, PICTURE);
    assert!(String::from_utf8_lossy(&output.stderr).contains("w1 draws it with tiny, seed 7"));
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 0);
    let queen = one_picture().await;
    let args = generate(&["-o", "-"]);
    let appended = in_shell("{ printf before; \"$0\" \"$@\"; } > a.png", &queen.url, folder.path(), &args);
    assert_eq!(finish(appended).await.0, 0);
    assert_eq!(fs::read(folder.path().join("a.png")).unwrap(), [b"before", PICTURE].concat());
}

#[tokio::test]
async fn a_standard_output_that_takes_no_picture_is_an_error() {
    let folder = tempfile::tempdir().unwrap();
    let queen = one_picture().await;
    let args = generate(&["-o", "-"]);
    let full = in_shell("exec \"$0\" \"$@\" > /dev/full", &queen.url, folder.path(), &args);
    let (code, _, stderr) = finish(full).await;
    assert_eq!(code, 1, "{stderr}");
    assert!(stderr.contains("cannot write standard output: No space left on device"), "{stderr}");
    assert!(stderr.contains("are stored: http://"), "{stderr}");

    let queen = one_picture().await;
    let closed = in_shell("exec \"$0\" \"$@\" >&-", &queen.url, folder.path(), &args);
    let (code, _, stderr) = finish(closed).await;
    assert_eq!(code, 2, "{stderr}");
    assert!(stderr.contains("standard output is closed"), "{stderr}");
    assert!(queen.seen.lock().unwrap().posted.is_empty());

    let queen = one_picture().await;
    let null = in_shell("exec \"$0\" \"$@\" > /dev/null", &queen.url, folder.path(), &args);
    assert_eq!(finish(null).await.0, 0, "thrown away on purpose");
}

#[tokio::test]
async fn a_name_that_is_no_utf_8_is_a_name() {
    let folder = tempfile::tempdir().unwrap();
    let name = std::ffi::OsStr::from_bytes(b"caf\xe9.png");
    for json in [false, true] {
        let queen = one_picture().await;
        let mut command = queen.keeper(folder.path(), &generate(if json { &["--json"] } else { &[] }));
        command.arg("-o").arg(name);
        let output = command.output().await.unwrap();
        assert_eq!(output.status.code(), Some(0), "{}", String::from_utf8_lossy(&output.stderr));
        assert_eq!(fs::read(folder.path().join(name)).unwrap(), PICTURE);
        assert!(String::from_utf8_lossy(&output.stdout).contains("caf\u{fffd}.png"));
        fs::remove_file(folder.path().join(name)).unwrap();
    }
}
