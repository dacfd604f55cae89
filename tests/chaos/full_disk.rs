//! A store without room: a job is tried again, and is a dead letter when there is none for too long.

use std::time::Duration;

use tokio::task::JoinSet;

use super::{
    disk::SmallDisk,
    load::{self, Ledger},
    random::Random,
    run::settled,
    tell::tell,
    wishes::{SIM, Wish},
    world::{Shape, World},
};

/// Waits until the job is in this attempt.
async fn attempt(world: &World, job: &str, wanted: u64) {
    let journal = world.journal().await;
    loop {
        let (events, ..) = journal.events().await;
        let of_job = events.get(job).map_or(&[][..], Vec::as_slice);
        if of_job.iter().any(|event| event.attempt >= wanted) {
            return;
        }
        let ended = of_job.iter().find(|event| event.is_terminal());
        assert!(ended.is_none(), "{job} has ended: {ended:?}\n{}", world.log_lines(job));
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_disk_costs_a_retry_and_three_of_them_the_job() {
    let Some(disk) = SmallDisk::mount(1) else { return };
    let mut shape = Shape::of_model(1, 1, 1, "sim=sim://?step_ms=2&size=64");
    shape.folder = Some(disk.path().join("store"));
    let world = World::start(shape).await;
    let (front, ledger) = (world.front(), Ledger::default());
    let send = async |job: &str| {
        let wish = Wish::plain(job, SIM, 5);
        load::send_one(wish, Random::new(1), &front, &ledger).await.expect("it is taken");
    };
    disk.fill();
    send("waits").await;
    attempt(&world, "waits", 2).await;
    disk.empty();
    let (evidence, violations) = settled(&world, &front, &ledger, JoinSet::new()).await;
    if !violations.is_empty() {
        tell(&world, &evidence, &violations, &[]);
        panic!("{} violations", violations.len());
    }
    assert_eq!(evidence.end("waits").unwrap().name, "complete");

    disk.fill();
    send("never").await;
    let (evidence, violations) = settled(&world, &front, &ledger, JoinSet::new()).await;
    disk.empty();
    if !violations.is_empty() {
        tell(&world, &evidence, &violations, &[]);
        panic!("{} violations", violations.len());
    }
    assert_eq!(evidence.end("never").unwrap().code(), "storage");
    let letters: Vec<_> = evidence.letters.iter().map(|l| (l.job.as_str(), l.code.as_str())).collect();
    assert_eq!(letters, [("never", "storage")]);
}
