//! Workers are replaced one after the other while jobs come: nothing is lost, and nothing is done twice.

use std::{sync::Arc, time::Duration};

use tokio::task::JoinSet;

use super::{
    load::{self, Ledger},
    random::Random,
    run::settled,
    tell::tell,
    wishes::{SIM, Wish},
    world::{Shape, World},
};

const WORKERS: usize = 3;
const JOBS: usize = 90;

/// Waits until so many jobs have begun.
async fn begun(world: &World, jobs: usize) {
    let journal = world.journal().await;
    loop {
        if journal.events().await.0.len() >= jobs {
            return;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rolling_restart_under_load_loses_and_doubles_nothing() {
    let shape = Shape::of_model(1, 2, WORKERS, "sim=sim://?step_ms=10&size=64").flags(&["--grace", "60s"]);
    let mut world = World::start(shape).await;
    let (front, ledger) = (world.front(), Arc::new(Ledger::default()));
    let mut readers = JoinSet::new();
    for number in 0..JOBS {
        let wish = Wish::plain(&format!("r{number}"), SIM, 20);
        let random = Random::of(number as u64, "rolling");
        load::send_one(wish.clone(), random.clone(), &front, &ledger).await.expect("it is taken");
        let (front, ledger) = (front.clone(), ledger.clone());
        readers.spawn(async move {
            super::follow::stream(&front, &ledger, &wish.id, false, &mut random.clone()).await;
        });
    }
    for number in 0..WORKERS {
        // In the middle of the work, each at another point of it.
        begun(&world, (number + 1) * JOBS / 6).await;
        world.worker(number).leave();
        world.worker(number).signal("-TERM").expect("it runs");
        let code = world.worker(number).exit_after(0).await;
        assert_eq!(code, 0, "{}", world.worker(number).log());
        world.add_worker(&[]).await;
    }
    let (evidence, violations) = settled(&world, &front, &ledger, readers).await;
    if !violations.is_empty() {
        tell(&world, &evidence, &violations, &[]);
        panic!("{} violations", violations.len());
    }
    let events: Vec<_> = evidence.events.values().flatten().collect();
    let count = |name: &str| events.iter().filter(|event| event.name == name).count();
    assert_eq!((count("accepted"), count("complete")), (JOBS, JOBS), "each is computed once");
    assert!(events.iter().all(|event| event.attempt == 1));
}
