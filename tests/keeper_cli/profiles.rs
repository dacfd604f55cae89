//! What a file says in place of flags, and who may do what with the token that it names.

use std::{fs, path::Path, process::Command as Process};

use crate::{
    pool::{knows, queen_of},
    stand_in::{StandIn, Stream, accepted, complete, finish, generate, program, right_sha256},
    support::worker::Pool,
};
use tokio::process::Command;

/// A keeper that reads this folder's `rbee/keeper.toml`.
fn keeper(config: &Path, args: &[&str]) -> Command {
    let mut command = Command::new(program());
    crate::stand_in::forget_environment(&mut command);
    command.args(args).current_dir(config).env("XDG_CONFIG_HOME", config).kill_on_drop(true);
    command.stdin(std::process::Stdio::null()).stdout(std::process::Stdio::piped());
    command.stderr(std::process::Stdio::piped());
    command
}

fn config(text: &str) -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    fs::create_dir(folder.path().join("rbee")).unwrap();
    fs::write(folder.path().join("rbee/keeper.toml"), text).unwrap();
    folder
}

#[tokio::test]
async fn a_profile_names_queen_token_and_model_and_flags_and_variables_go_before_it() {
    let events = || Stream::Events(vec![accepted(), complete(1, &right_sha256())]);
    let queen = StandIn::start([events(), events(), events(), events()]).await;
    let folder = config(&format!(
        "[default]\nqueen = \"{0}\"\nmodel = \"tiny\"\n\n[work]\nqueen = \"{0}\"\ntoken_file = \"token\"\n",
        queen.url
    ));
    fs::write(folder.path().join("rbee/token"), "secret\n").unwrap();
    let (code, _, stderr) = finish(keeper(folder.path(), &generate(&[]))).await;
    assert_eq!(code, 0, "{stderr}");
    let (code, _, stderr) = finish(keeper(folder.path(), &generate(&["--profile", "work"]))).await;
    assert_eq!(code, 0, "{stderr}");
    let mut variable = keeper(folder.path(), &generate(&["--model", "other"]));
    variable.env("RBEE_PROFILE", "work").env("RBEE_TOKEN", "of-the-variable");
    let (code, _, stderr) = finish(variable).await;
    assert_eq!(code, 0, "{stderr}");
    {
        let seen = queen.seen.lock().unwrap();
        let models: Vec<_> = seen.posted.iter().map(|posted| posted["model"].as_str()).collect();
        assert_eq!(models, [Some("tiny"), None, Some("other")]);
        let tokens: Vec<_> = seen.authorization.iter().map(Option::as_deref).collect();
        assert_eq!(tokens, [None, Some("Bearer secret"), Some("Bearer of-the-variable")]);
    }
    // Its token goes to its queen alone.
    let other = StandIn::start([events()]).await;
    let args = generate(&["--profile", "work", "--queen", &other.url]);
    let (code, _, stderr) = finish(keeper(folder.path(), &args)).await;
    assert_eq!(code, 0, "{stderr}");
    assert_eq!(other.seen.lock().unwrap().authorization, [None]);
    let (code, _, stderr) = finish(keeper(folder.path(), &generate(&["--profile", "home"]))).await;
    assert_eq!(code, 2);
    assert!(stderr.contains("has no [home]; there are: default, work"), "{stderr}");
}

/// A token of queen's file.
fn token(name: &str, file: &Path, more: &[&str]) -> String {
    let output = Process::new(env!("CARGO_BIN_EXE_queen-rbee"))
        .arg("new-token")
        .args(more)
        .arg(name)
        .output()
        .unwrap();
    assert!(output.status.success(), "{output:?}");
    let mut lines = fs::read_to_string(file).unwrap_or_default();
    lines.push_str(&String::from_utf8(output.stdout).unwrap());
    fs::write(file, lines).unwrap();
    String::from_utf8(output.stderr).unwrap().trim().to_owned()
}

#[tokio::test]
async fn an_administrator_runs_the_fleet_and_a_client_does_not() {
    let pool = Pool::new().await;
    let folder = config("");
    let file = folder.path().join("tokens");
    let alice = token("alice", &file, &[]);
    let admin = token("ops", &file, &["--admin"]);
    let queen = queen_of(&pool, &["--token-file", file.to_str().unwrap()]);
    fs::write(
        folder.path().join("rbee/keeper.toml"),
        format!("[alice]\nqueen = \"{0}\"\ntoken_file = \"alice\"\n[ops]\nqueen = \"{0}\"\ntoken_file = \"ops\"\n", queen.url),
    )
    .unwrap();
    fs::write(folder.path().join("rbee/alice"), alice).unwrap();
    fs::write(folder.path().join("rbee/ops"), admin).unwrap();
    let _worker = pool.worker("w", "m=sim://?step_ms=1&size=64", &[]).await;
    knows(&queen, 1).await;
    for args in [
        &["worker", "drain", "w"][..],
        &["worker", "resume", "w"],
        &["model", "load", "m", "--worker", "w"],
        &["model", "unload", "m", "--worker", "w"],
    ] {
        let (code, _, stderr) =
            finish(keeper(folder.path(), &[&["--profile", "alice"], args].concat())).await;
        assert_eq!(code, 1, "{stderr}");
        assert!(stderr.contains("queen refused (403)") && stderr.contains("administrator"), "{stderr}");
        let (code, stdout, stderr) =
            finish(keeper(folder.path(), &[&["--profile", "ops"], args].concat())).await;
        assert_eq!(code, 0, "{args:?}: {stderr}");
        assert!(stdout.starts_with("w "), "{stdout}");
    }
    // She may look, and draw.
    let (code, stdout, _) = finish(keeper(folder.path(), &["--profile", "alice", "worker", "list"])).await;
    assert!(code == 0 && stdout.contains("w       ready"), "{stdout}");
    let args = generate(&["--profile", "alice", "-o", "a.png"]);
    let (code, _, stderr) = finish(keeper(folder.path(), &args)).await;
    assert_eq!(code, 0, "{stderr}");
    let (code, _, stderr) = finish(keeper(folder.path(), &["--queen", &queen.url, "worker", "list"])).await;
    assert_eq!(code, 1);
    assert!(stderr.contains("401") && stderr.contains("new-token"), "{stderr}");
}
