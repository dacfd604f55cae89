//! A clock that jumps under a running process.

use std::{
    process::{Command, Stdio},
    sync::Arc,
    time::{Duration, Instant},
};

use tokio::task::JoinSet;

use super::{
    faults::Target,
    load::{self, Ledger},
    log_lines,
    random::Random,
    run::settled,
    support::clock::Movable,
    tell::tell,
    wishes::{SIM, Wish},
    world::{Shape, World},
};

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

/// The store refuses what is signed at another time: that worker can do nothing, and leaves the jobs to the other.
#[tokio::test(flavor = "multi_thread")]
async fn a_worker_whose_clock_is_hours_off_leaves_the_jobs_to_others() {
    const JOBS: usize = 40;
    let shape = Shape { rude: true, ..Shape::of_model(1, 1, 2, "sim=sim://?step_ms=10&size=64") };
    let world = World::start(shape).await;
    world.clock(Target::Worker(0)).expect("a clock of its own").set(6 * 3600);
    // It looks at its clock once a second.
    tokio::time::sleep(Duration::from_millis(1500)).await;
    let (front, ledger, begun) = (world.front(), Arc::new(Ledger::default()), Instant::now());
    for number in 0..JOBS {
        let wish = Wish::plain(&format!("t{number}"), SIM, 10);
        load::send_one(wish, Random::new(1), &front, &ledger).await.expect("it is taken");
    }
    let (evidence, violations) = settled(&world, &front, &ledger, JoinSet::new()).await;
    let took = begun.elapsed();
    if !violations.is_empty() {
        tell(&world, &evidence, &violations, &[]);
        panic!("{} violations", violations.len());
    }
    let complete =
        evidence.sent.keys().filter(|job| evidence.end(job).is_some_and(|end| end.name == "complete"));
    assert_eq!(complete.count(), JOBS);
    let given_back = log_lines::count(&world.worker(0).log(), "is out of reach; the job waits");
    println!("{given_back} jobs were given back in {took:?}");
    assert!(given_back > 0, "its clock is right:\n{}", world.last_lines());
    // One a second in its one slot.
    assert!(given_back as f64 <= took.as_secs_f64() + 2.0, "{given_back} jobs in {took:?}");
}
