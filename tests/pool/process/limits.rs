//! The limit of open files: raised as far as it may be, and said where it is too low.

use super::*;

/// The soft and the hard limit of open files.
fn limits(program: &Program) -> (String, String) {
    let text = std::fs::read_to_string(format!("/proc/{}/limits", program.child.id())).expect("Linux");
    let line = text.lines().find_map(|line| line.strip_prefix("Max open files")).expect("a limit");
    let mut numbers = line.split_whitespace();
    let mut number = || numbers.next().expect("a number").to_owned();
    (number(), number())
}

#[tokio::test]
async fn the_limit_of_open_files_is_raised() {
    let pool = Pool::new().await;
    let flags = of(&pool);
    let worker = [&["--model", MODEL, "--threads", "1"], &flags[..]].concat();
    let queen =
        [&["--listen", "127.0.0.1:0", "--max-streams", "100", "--max-waiting", "50"], &flags[..]].concat();
    let debug = [("RUST_LOG", "sd_worker_rbee=debug")];
    for (program, arguments, up) in
        [(worker_program(), worker, " ready "), (queen_program(), queen, "listening on ")]
    {
        let mut program = Program::start("ulimit -Sn 64; ulimit -Hn 600", &program, &arguments, &debug);
        program.wait_for_log(up).await;
        assert_eq!(limits(&program), ("600".into(), "600".into()));
        assert!(program.log().contains("the limit is raised"), "{}", program.log());
        assert!(!program.log().contains("--max-streams"), "{}", program.log());
    }
}

#[tokio::test]
async fn more_streams_than_the_system_has_room_for_are_said_at_start() {
    let pool = Pool::new().await;
    let arguments = [&["--listen", "127.0.0.1:0"], &of(&pool)[..]].concat();
    let mut queen = Program::start("ulimit -n 600", &queen_program(), &arguments, &[]);
    queen.wait_for_log("listening on ").await;
    for part in ["--max-streams 10000 cannot be held", "600 files", "ulimit -Hn"] {
        assert!(queen.log().contains(part), "`{part}` in {}", queen.log());
    }
}
