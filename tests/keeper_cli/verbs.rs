//! Verbs beside drawing: jobs that nobody waits for, completions, manual pages, what a terminal shows.

use std::{fs, process::Stdio};

use axum::http::StatusCode;
use serde_json::Value;
use tokio::{io::AsyncWriteExt, process::Command};

use crate::{
    pool::{knows, queen_of},
    stand_in::{
        PICTURE, StandIn, Stream, accepted, complete, finish, forget_environment, generate, keeper, program,
        progress, right_sha256,
    },
    support::worker::Pool,
};

async fn stand_in() -> StandIn {
    StandIn::start([Stream::Events(vec![accepted(), progress(2), complete(1, &right_sha256())])]).await
}

#[tokio::test]
async fn a_job_is_sent_listed_watched_fetched_and_cancelled() {
    let pool = Pool::new().await;
    let queen = queen_of(&pool, &[]);
    let worker = pool.worker("w", "m=sim://?step_ms=40&size=64", &[]).await;
    knows(&queen, 1).await;
    let folder = tempfile::tempdir().unwrap();
    let run = async |args: &[&str]| finish(keeper(&queen.url, folder.path(), args)).await;

    let (code, stdout, stderr) =
        run(&generate(&["--no-wait", "--model", "m", "--job-id", "mine", "--steps", "3"])).await;
    assert_eq!((code, stdout.as_str()), (0, "mine\n"), "{stderr}");
    assert!(stderr.contains("rbee-keeper job watch mine"), "{stderr}");
    let (code, stdout, stderr) = run(&["job", "watch", "mine", "-o", "a.png"]).await;
    assert_eq!((code, stdout.as_str()), (0, "a.png\n"), "{stderr}");
    assert!(fs::read(folder.path().join("a.png")).unwrap().starts_with(b"\x89PNG"));
    // Without a place for it, where it is.
    let (code, stdout, _) = run(&["--quiet", "job", "watch", "mine"]).await;
    assert_eq!((code, stdout), (0, format!("{}/v1/jobs/mine/images/0\n", queen.url)));
    let (code, stdout, _) = run(&["job", "show", "mine"]).await;
    assert_eq!(code, 0);
    assert!(stdout.starts_with("mine completed by w with m: one picture"), "{stdout}");
    let (_, stdout, _) = run(&["--json", "job", "show", "mine"]).await;
    assert_eq!(serde_json::from_str::<Value>(&stdout).unwrap()["status"], "completed");

    worker.stop();
    let (code, stdout, _) =
        run(&generate(&["--json", "--no-wait", "--model", "m", "--job-id", "later", "--steps", "3"])).await;
    assert_eq!((code, stdout.as_str()), (0, "{\"job_id\":\"later\"}\n"));
    let (code, stdout, stderr) = run(&["job", "list"]).await;
    assert_eq!(code, 0, "{stderr}");
    let lines: Vec<&str> = stdout.lines().collect();
    assert!(lines[0].starts_with("SENT") && lines[0].ends_with("PROMPT"), "{stdout}");
    assert!(lines[1].contains("later  queued") && lines[1].ends_with("a red circle"), "{stdout}");
    assert!(lines[2].contains("mine   completed  generation  m"), "{stdout}");
    let (_, stdout, _) = run(&["--json", "job", "list", "--limit", "1"]).await;
    assert_eq!(stdout.lines().count(), 1);
    assert_eq!(serde_json::from_str::<Value>(&stdout).unwrap()["job_id"], "later");
    worker.go_on();
    run(&["job", "watch", "later"]).await;

    let long = generate(&["--no-wait", "--model", "m", "--job-id", "long", "--steps", "150"]);
    assert_eq!(run(&long).await.0, 0);
    let (code, stdout, stderr) = run(&["job", "cancel", "nobody", "long"]).await;
    assert_eq!(code, 1);
    assert_eq!(stdout, "long cancelled\n");
    assert!(
        stderr.contains("there is no job `nobody`") && stderr.contains("`rbee-keeper job list`"),
        "{stderr}"
    );
    let (code, _, stderr) = run(&["job", "watch", "long"]).await;
    assert_eq!(code, 130);
    assert!(stderr.contains("long was cancelled"), "{stderr}");
}

#[tokio::test]
async fn a_prompt_may_come_from_standard_input() {
    let folder = tempfile::tempdir().unwrap();
    let queen = stand_in().await;
    let mut command = queen.keeper(folder.path(), &["image", "generate", "--prompt", "-"]);
    let mut child = command.stdin(Stdio::piped()).spawn().unwrap();
    child.stdin.take().unwrap().write_all("a cat,\n-5 degrees\r\n".as_bytes()).await.unwrap();
    let output = child.wait_with_output().await.unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    assert_eq!(queen.seen.lock().unwrap().posted[0]["prompt"], "a cat,\n-5 degrees");

    for (input, said) in [
        ("\n".to_owned(), "`prompt`: 0 characters"),
        ("x".repeat(70_000), "standard input has more than 65536 bytes"),
    ] {
        let mut command = queen.keeper(folder.path(), &["image", "generate", "--prompt", "-"]);
        let mut child = command.stdin(Stdio::piped()).spawn().unwrap();
        // It may have read enough before all is written.
        let _ = child.stdin.take().unwrap().write_all(input.as_bytes()).await;
        let output = child.wait_with_output().await.unwrap();
        let stderr = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(2), "{stderr}");
        assert!(stderr.contains(said), "{stderr}");
    }
    let both = ["image", "transform", "--prompt", "-", "--input", "-"];
    let (code, _, stderr) = finish(queen.keeper(folder.path(), &both)).await;
    assert_eq!(code, 2);
    assert!(stderr.contains("it has one of them"), "{stderr}");
}

#[tokio::test]
async fn a_quiet_keeper_says_nothing_but_errors() {
    let folder = tempfile::tempdir().unwrap();
    let queen = stand_in().await;
    let args = generate(&["-q", "-o", "a.png", "--count", "1"]);
    let (code, stdout, stderr) = finish(queen.keeper(folder.path(), &args)).await;
    assert_eq!((code, stdout.as_str(), stderr.as_str()), (0, "a.png\n", ""));
    assert_eq!(queen.seen.lock().unwrap().posted[0]["n"], 1);
    let queen = StandIn::start_with(Some((StatusCode::BAD_REQUEST, "`steps`: no")), []).await;
    let (code, stdout, stderr) = finish(queen.keeper(folder.path(), &generate(&["-q"]))).await;
    assert_eq!((code, stdout.as_str()), (1, ""));
    assert!(stderr.starts_with("rbee-keeper: queen refused (400): `steps`: no"), "{stderr}");
}

#[tokio::test]
async fn who_does_not_wait_asks_for_no_place() {
    let folder = tempfile::tempdir().unwrap();
    let queen = stand_in().await;
    for flag in [&["-o", "a.png"][..], &["--preview", "a.jpg"], &["--timeout", "1s"]] {
        let args = [&generate(&["--no-wait"]), flag].concat();
        let (code, _, stderr) = finish(queen.keeper(folder.path(), &args)).await;
        assert_eq!(code, 2, "{stderr}");
        assert!(stderr.contains("--no-wait"), "{stderr}");
    }
    assert!(queen.seen.lock().unwrap().posted.is_empty());
}

#[tokio::test]
async fn completions_and_manual_pages_need_no_queen() {
    let folder = tempfile::tempdir().unwrap();
    for shell in ["bash", "zsh", "fish", "elvish", "powershell"] {
        let (code, stdout, stderr) =
            finish(keeper("http://127.0.0.1:1", folder.path(), &["completions", shell])).await;
        assert_eq!((code, stderr.as_str()), (0, ""), "{shell}");
        assert!(stdout.contains("rbee-keeper") && stdout.lines().count() > 50, "{shell}");
    }
    // A shell reads it.
    let (_, script, _) = finish(keeper("http://127.0.0.1:1", folder.path(), &["completions", "bash"])).await;
    fs::write(folder.path().join("keeper.bash"), script).unwrap();
    let complete = "source ./keeper.bash; COMP_WORDS=(rbee-keeper worker dr); COMP_CWORD=2; \
                    function=$(complete -p rbee-keeper | sed 's/.*-F \\([^ ]*\\).*/\\1/'); \
                    $function rbee-keeper dr worker; echo \"${COMPREPLY[@]}\"";
    let output =
        Command::new("bash").args(["-c", complete]).current_dir(folder.path()).output().await.unwrap();
    assert_eq!(String::from_utf8_lossy(&output.stdout).trim(), "drain", "{output:?}");
    let (code, stdout, stderr) = finish(keeper("http://127.0.0.1:1", folder.path(), &["man", "pages"])).await;
    assert_eq!((code, stdout.as_str()), (0, ""), "{stderr}");
    let page = fs::read_to_string(folder.path().join("pages/rbee-keeper-worker-drain.1")).unwrap();
    assert!(page.contains(".TH"), "{page}");
    let (code, _, stderr) =
        finish(keeper("http://127.0.0.1:1", folder.path(), &["completions", "cmd"])).await;
    assert_eq!(code, 2);
    assert!(stderr.contains("bash"), "{stderr}");
}

#[tokio::test]
async fn pictures_are_shown_in_a_terminal_that_can_and_refused_elsewhere() {
    let folder = tempfile::tempdir().unwrap();
    let queen = stand_in().await;
    let (code, _, stderr) = finish(queen.keeper(folder.path(), &generate(&["--preview", "-"]))).await;
    assert_eq!(code, 2);
    assert!(stderr.contains("--preview -: there must be a terminal on standard error"), "{stderr}");
    assert!(queen.seen.lock().unwrap().posted.is_empty());

    for (variable, value, begins) in [
        ("TERM_PROGRAM", "iTerm.app", "\x1b]1337;File=inline=1;"),
        ("TERM", "xterm-kitty", "\x1b_Ga=T,f=100,i="),
    ] {
        let queen = stand_in().await;
        let mut command = Command::new("script");
        forget_environment(&mut command);
        for name in ["TMUX", "STY", "KITTY_WINDOW_ID", "KONSOLE_VERSION", "TERM_PROGRAM", "LC_TERMINAL"] {
            command.env_remove(name);
        }
        let line =
            format!("{} --queen {} image generate --prompt a --preview - -o a.png", program(), queen.url);
        command.args(["-q", "-e", "-c", &line, "typescript"]);
        command.env("TERM", "xterm-256color").env(variable, value);
        let output = command.current_dir(folder.path()).stdin(Stdio::null()).output().await.unwrap();
        let typed = fs::read(folder.path().join("typescript")).unwrap();
        let typed = String::from_utf8_lossy(&typed);
        assert!(output.status.success(), "{typed}");
        assert!(typed.contains(begins), "{value}: {typed}");
        assert_eq!(queen.seen.lock().unwrap().posted[0]["preview_every"], 5);
        assert_eq!(fs::read(folder.path().join("a.png")).unwrap(), PICTURE);
    }
}
