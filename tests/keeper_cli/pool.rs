//! Keeper with a real queen and real workers, which simulate a model.

use std::{
    fs,
    os::unix::fs::{MetadataExt, PermissionsExt},
    time::Duration,
};

use tokio::{process::Command, time::timeout};

use crate::{
    stand_in::{PATIENCE, finish, generate, in_shell, keeper, until},
    support::{queen::QueenProcess, worker::Pool},
};

pub fn queen_of(pool: &Pool, more: &[&str]) -> QueenProcess {
    QueenProcess::start(&pool.url, &pool.prefix, pool.store.path().to_str().unwrap(), more)
}

pub async fn knows(queen: &QueenProcess, workers: u64) {
    let wait = async {
        while queen.get("/health").await.1["workers"].as_u64() != Some(workers) {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    timeout(PATIENCE, wait).await.expect("queen hears of the workers");
}

#[tokio::test]
async fn a_job_that_nobody_can_draw_yet_says_who_is_missing() {
    let pool = Pool::new().await;
    let queen = queen_of(&pool, &["--models", "painter"]);
    let folder = tempfile::tempdir().unwrap();
    let args = generate(&["--model", "painter", "--timeout", "5s", "--job-id", "alone"]);
    let (code, _, stderr) = finish(keeper(&queen.url, folder.path(), &args)).await;
    assert_eq!(code, 1, "{stderr}");
    assert!(stderr.contains("the job waits: no worker is up; it stays in the queue"), "{stderr}");
    assert!(stderr.contains("did not end within 5s") && stderr.contains("cancelled alone"), "{stderr}");
    assert_eq!(queen.get("/v1/jobs/alone").await.1["status"], "cancelled");

    let _worker = pool.worker("w", "other=sim://?step_ms=1&size=64", &[]).await;
    knows(&queen, 1).await;
    let args = generate(&["--model", "painter", "--timeout", "5s"]);
    let (_, _, stderr) = finish(keeper(&queen.url, folder.path(), &args)).await;
    assert!(stderr.contains("no worker that is up has `painter`; there are: other"), "{stderr}");
}

#[tokio::test]
async fn a_real_picture_comes_out_of_a_rude_shell_and_through_a_pipe() {
    let pool = Pool::new().await;
    let queen = queen_of(&pool, &[]);
    let _worker = pool.worker("w", "sim=sim://?step_ms=1&size=64", &[]).await;
    knows(&queen, 1).await;
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name);
    fs::write(at("a.png"), b"old").unwrap();
    fs::set_permissions(at("a.png"), fs::Permissions::from_mode(0o600)).unwrap();
    let args = generate(&["--seed", "7", "-o", "a.png"]);
    let (code, _, _) =
        finish(in_shell("exec \"$0\" \"$@\" 2>/dev/full", &queen.url, folder.path(), &args)).await;
    assert_eq!(code, 0);
    assert_eq!(fs::metadata(at("a.png")).unwrap().mode() & 0o777, 0o600);
    let picture = fs::read(at("a.png")).unwrap();
    assert!(picture.starts_with(b"\x89PNG"));

    let args = generate(&["--seed", "7", "-o", "-"]);
    let (code, _, stderr) =
        finish(in_shell("\"$0\" \"$@\" | cat > b.png", &queen.url, folder.path(), &args)).await;
    assert_eq!(code, 0, "{stderr}");
    assert!(stderr.contains("w draws it with sim, seed 7"), "{stderr}");
    assert_eq!(fs::read(at("b.png")).unwrap(), picture, "the same picture");
}

#[tokio::test]
async fn sigterm_ends_the_real_job_too() {
    let pool = Pool::new().await;
    let queen = queen_of(&pool, &[]);
    let _worker = pool.worker("w", "sim=sim://?step_ms=500&size=64", &[]).await;
    knows(&queen, 1).await;
    let folder = tempfile::tempdir().unwrap();
    let args = generate(&["--steps", "100", "--job-id", "long", "-o", "a.png"]);
    let script = "exec \"$0\" \"$@\" 2> said";
    let child = in_shell(script, &queen.url, folder.path(), &args).spawn().unwrap();
    let said = || fs::read_to_string(folder.path().join("said")).unwrap_or_default();
    until("the job is drawn", || said().contains("draws it")).await;
    let pid = child.id().unwrap().to_string();
    assert!(Command::new("kill").args(["-TERM", &pid]).status().await.unwrap().success());
    let output = timeout(PATIENCE, child.wait_with_output()).await.expect("keeper ends").unwrap();
    assert_eq!(output.status.code(), Some(143), "{}", said());
    let ended = async {
        while queen.get("/v1/jobs/long").await.1["status"] != "cancelled" {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    timeout(PATIENCE, ended).await.expect("the job is cancelled");
    assert!(!folder.path().join("a.png").exists());
}
