//! A clock that jumps under a running process.

use std::{
    process::{Command, Stdio},
    time::{Duration, Instant},
};

use super::support::clock::Movable;

/// Writes down the time of day, and how long it has run, ten times a second.
const CLOCK: &str = r#"use Time::HiRes qw(time sleep clock_gettime CLOCK_MONOTONIC); $| = 1;
while (1) { printf "%d %.3f\n", time, clock_gettime(CLOCK_MONOTONIC); select undef, undef, undef, 0.1; }"#;

#[test]
fn the_time_of_day_jumps_in_a_running_process_and_time_that_passes_does_not() {
    let folder = tempfile::TempDir::new().unwrap();
    let clock = Movable::new(folder.path().join("clock"));
    let log = folder.path().join("log");
    let out = std::fs::File::create(&log).unwrap();
    let mut command = Command::new("perl");
    let mut child = command
        .args(["-e", CLOCK])
        .envs(clock.environment())
        .stdin(Stdio::null())
        .stdout(out)
        .spawn()
        .unwrap();
    // Waits until the process says that its clock is so many seconds ahead.
    let shows = |ahead: f64| {
        let until = Instant::now() + Duration::from_secs(20);
        loop {
            let text = std::fs::read_to_string(&log).unwrap();
            let last = text.lines().rev().nth(1).and_then(|line| line.split_once(' '));
            let now = std::time::SystemTime::UNIX_EPOCH.elapsed().unwrap().as_secs_f64();
            if let Some((told, ran)) = last
                && (told.parse::<f64>().unwrap() - now - ahead).abs() < 5.0
            {
                return (ran.parse::<f64>().unwrap(), Instant::now());
            }
            assert!(Instant::now() < until, "it does not jump by {ahead} s: {text}");
            std::thread::sleep(Duration::from_millis(20));
        }
    };
    let mut before = shows(0.0);
    for jump in [7200, -7200, 0] {
        clock.set(jump);
        let after = shows(jump as f64);
        let (ran, passed) = (after.0 - before.0, (after.1 - before.1).as_secs_f64());
        assert!((ran - passed).abs() < 2.0, "{ran} s by its own measure, {passed} s in fact");
        before = after;
    }
    child.kill().unwrap();
    child.wait().unwrap();
}
