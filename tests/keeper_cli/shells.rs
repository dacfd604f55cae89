//! Standard output and standard error that are closed, full, a terminal, or a pipe whose reader has gone.

use std::{fs, path::Path};

use serde_json::Value;

use crate::stand_in::{
    PICTURE, StandIn, Stream, accepted, complete, finish, generate, in_shell, progress, right_sha256,
};

async fn slow() -> StandIn {
    StandIn::start([Stream::Slow(vec![accepted(), progress(1), progress(2), complete(1, &right_sha256())])])
        .await
}

async fn quick() -> StandIn {
    StandIn::start([Stream::Events(vec![accepted(), progress(2), complete(1, &right_sha256())])]).await
}

fn saved(folder: &Path) {
    assert_eq!(fs::read(folder.join("a.png")).unwrap(), PICTURE);
    fs::remove_file(folder.join("a.png")).unwrap();
}

#[tokio::test]
async fn a_standard_error_that_takes_nothing_costs_no_picture() {
    let folder = tempfile::tempdir().unwrap();
    for redirect in ["2>&-", "2>/dev/full", "2>&- <&-"] {
        for json in [&[][..], &["--json"]] {
            let args = [generate(&["-o", "a.png"]), json.to_vec()].concat();
            let script = format!("exec \"$0\" \"$@\" {redirect}");
            let (code, stdout, _) = finish(in_shell(&script, &quick().await.url, folder.path(), &args)).await;
            assert_eq!(code, 0, "{redirect}");
            assert!(stdout.contains("a.png"), "{stdout}");
            saved(folder.path());
        }
    }
}

#[tokio::test]
async fn a_failure_is_told_by_the_exit_code_where_nothing_can_be_said() {
    let folder = tempfile::tempdir().unwrap();
    let queen = StandIn::start([]).await;
    for redirect in ["2>&-", "2>/dev/full", ">&- 2>&-"] {
        let script = format!("exec \"$0\" \"$@\" {redirect}");
        let args = generate(&["-o", "missing/a.png"]);
        assert_eq!(finish(in_shell(&script, &queen.url, folder.path(), &args)).await.0, 2, "{redirect}");
    }
}

#[tokio::test]
async fn a_standard_output_that_is_full_exits_1_with_the_picture_saved() {
    let folder = tempfile::tempdir().unwrap();
    for json in [&[][..], &["--json"]] {
        let args = [generate(&["-o", "a.png"]), json.to_vec()].concat();
        let full = in_shell("exec \"$0\" \"$@\" > /dev/full", &quick().await.url, folder.path(), &args);
        let (code, _, stderr) = finish(full).await;
        assert_eq!(code, 1, "{stderr}");
        assert!(stderr.contains("No space left on device; the pictures are saved"), "{stderr}");
        saved(folder.path());
    }
}

#[tokio::test]
async fn a_reader_that_leaves_early_costs_no_picture() {
    let folder = tempfile::tempdir().unwrap();
    for json in [&[][..], &["--json"]] {
        let args = [generate(&["-o", "a.png"]), json.to_vec()].concat();
        let script = "{ \"$0\" \"$@\"; echo $? > code; } | :";
        let (_, _, stderr) = finish(in_shell(script, &slow().await.url, folder.path(), &args)).await;
        assert!(!stderr.contains("panicked"), "{stderr}");
        crate::stand_in::until("keeper ends", || folder.path().join("code").exists()).await;
        assert_eq!(fs::read_to_string(folder.path().join("code")).unwrap(), "0\n", "{stderr}");
        fs::remove_file(folder.path().join("code")).unwrap();
        saved(folder.path());
    }
}

#[tokio::test]
async fn help_to_a_reader_that_has_gone_is_no_panic() {
    let folder = tempfile::tempdir().unwrap();
    for redirect in ["| :", "> /dev/full", ">&- 2>&-"] {
        let script = format!("{{ \"$0\" \"$@\"; echo $? > code; }} {redirect}");
        let args = ["image", "generate", "--help"];
        let (_, _, stderr) = finish(in_shell(&script, "http://127.0.0.1:1", folder.path(), &args)).await;
        assert!(!stderr.contains("panicked"), "{redirect}: {stderr}");
        assert_ne!(fs::read_to_string(folder.path().join("code")).unwrap(), "101\n", "{redirect}");
    }
}

#[tokio::test]
async fn a_terminal_shows_the_job_its_worker_its_seed_the_time_left_and_the_file() {
    let folder = tempfile::tempdir().unwrap();
    let queen = slow().await;
    let args = generate(&["-o", "a.png", "--job-id", "my-job"]);
    // `script` runs a command line in a terminal of its own.
    let script = "exec script -qec \"$(printf \"'%s' \" \"$0\" \"$@\")\" typescript";
    let mut command = in_shell(script, &queen.url, folder.path(), &args);
    command.env("TERM", "xterm").env("SHELL", "/bin/sh");
    let (code, stdout, stderr) = finish(command).await;
    assert_eq!(code, 0, "{stdout}{stderr}");
    for shown in [
        "job my-job",
        "w1 draws it with tiny, seed 7",
        "drawing, 1m 15s left",
        "1/2",
        "warning: the prompt was cut",
        "a.png",
    ] {
        assert!(stdout.contains(shown), "`{shown}` is not in {stdout}");
    }
    saved(folder.path());
}

#[tokio::test]
async fn without_a_terminal_the_lines_are_the_same_as_ever() {
    let folder = tempfile::tempdir().unwrap();
    let args = generate(&["-o", "a.png", "--job-id", "my-job"]);
    let (code, stdout, stderr) = finish(quick().await.keeper(folder.path(), &args)).await;
    assert_eq!((code, stdout.as_str()), (0, "a.png\n"));
    let lines: Vec<_> = stderr.lines().collect();
    assert_eq!(
        lines,
        ["job my-job", "w1 draws it with tiny, seed 7", "step 2/2 (100 %)", "warning: the prompt was cut"]
    );
}

#[tokio::test]
async fn what_others_say_moves_no_cursor() {
    use crate::rude::{Reply, Rude, events};
    let queen = Rude::start(|request, _| {
        if !request.line.ends_with("/stream") {
            return Reply::AsQueen;
        }
        let job = crate::rude::job_of(&request.line);
        let model = "a\u{1b}[2J\u{9b}31m";
        let accepted = serde_json::json!({"type": "accepted", "model": model, "seed": 7, "position": 0});
        let error = serde_json::json!({"type": "error", "code": "internal", "message": "b\u{1b}]0;x\u{7}", "retryable": true});
        Reply::Bytes(events(job, &[accepted, error]))
    })
    .await;
    let folder = tempfile::tempdir().unwrap();
    let (code, _, stderr) = finish(crate::stand_in::keeper(&queen.url, folder.path(), &generate(&[]))).await;
    assert_eq!(code, 1);
    assert!(stderr.contains("draws it with a [2J") && stderr.contains("b ]0;x"), "{stderr}");
    assert!(stderr.chars().all(|c| c == '\n' || !c.is_control()), "{stderr:?}");
}

#[tokio::test]
async fn the_dead_letters_are_a_table() {
    use crate::rude::{Reply, Rude, answer, refusal};
    let letter = |job: &str, model: &str, message: &str| {
        serde_json::json!({"job_id": job, "capability": "generate", "model": model, "code": "internal",
            "message": message, "sequence": 1, "time": "2026-11-27T15:51:46.123456789Z"})
    };
    let letters = serde_json::json!({"dead_letters": [letter("a", "tiny", "one\nline"), letter("long-name", "m", "x")]});
    let queen = Rude::start(move |_, before| match before {
        0 | 1 => Reply::Bytes(answer("200 OK", "content-type: application/json", letters.to_string())),
        2 => Reply::Bytes(answer("200 OK", "", "{\"dead_letters\":[]}")),
        _ => Reply::Bytes(refusal("503 Service Unavailable", "", "busy", "there is no JetStream")),
    })
    .await;
    let folder = tempfile::tempdir().unwrap();
    let list = async |more: &[&str]| {
        let args = [&["dlq", "list"], more].concat();
        finish(crate::stand_in::keeper(&queen.url, folder.path(), &args)).await
    };
    let (code, stdout, _) = list(&[]).await;
    assert_eq!(code, 0);
    assert_eq!(
        stdout.lines().collect::<Vec<_>>(),
        [
            "TIME                  JOB        DOES      MODEL  WHY",
            "2026-11-27T15:51:46Z  a          generate  tiny   internal: one line",
            "2026-11-27T15:51:46Z  long-name  generate  m      internal: x",
        ]
    );
    let (_, stdout, _) = list(&["--json"]).await;
    let first: Value = serde_json::from_str(stdout.lines().next().unwrap()).unwrap();
    assert_eq!(first["time"], "2026-11-27T15:51:46.123456789Z");
    let (code, stdout, stderr) = list(&[]).await;
    assert_eq!((code, stdout.as_str(), stderr.as_str()), (0, "", "there are no dead letters\n"));
    let (code, _, stderr) = list(&[]).await;
    assert_eq!(code, 1, "{stderr}");
    assert!(stderr.contains("there is no JetStream") && !stderr.contains("no worker"), "{stderr}");
}
