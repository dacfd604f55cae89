//! Jobs that break whoever takes them.

use std::sync::Arc;

use tokio::task::JoinSet;

use super::{
    load::{self, Ledger},
    random::Random,
    run::settled,
    tell::tell,
    verify::FAILURES,
    wishes::{Kind, POISON, SIM, Wish},
    world::{Shape, World},
};

/// A poison job among good ones; how often its workers ended.
async fn poison_among_good_jobs(failure: &str) -> usize {
    let mut shape = Shape::of_model(1, 1, 2, "sim=sim://?step_ms=2&size=64");
    shape.models.push(format!("{POISON}=sim://?step_ms=2&size=64&fail={failure}&fail_step=3"));
    let world = World::start(shape).await;
    // A process that found its port taken when it started has ended once by now, and not for a job.
    let before = [0, 1].map(|worker| world.worker(worker).exits().len());
    let (front, ledger) = (world.front(), Arc::new(Ledger::default()));
    let poison = Wish { kind: Kind::Poison, ..Wish::plain("poison", POISON, 5) };
    let good = (0..12).map(|number| Wish::plain(&format!("good{number}"), SIM, 5));
    for wish in [poison].into_iter().chain(good) {
        load::send_one(wish, Random::new(1), &front, &ledger).await.expect("it is taken");
    }
    let (evidence, violations) = settled(&world, &front, &ledger, JoinSet::new()).await;
    if !violations.is_empty() {
        tell(&world, &evidence, &violations, &[]);
        panic!("{} violations", violations.len());
    }
    let begun = evidence.events["poison"].iter().filter(|event| event.name == "accepted").count() as u64;
    assert_eq!(begun, FAILURES);
    let letters: Vec<_> = evidence.letters.iter().map(|l| (l.job.as_str(), l.code.as_str())).collect();
    assert_eq!(letters, [("poison", "internal")]);
    let completed =
        evidence.sent.keys().filter(|job| evidence.end(job).is_some_and(|end| end.name == "complete"));
    assert_eq!(completed.count(), 12);
    let exits = |worker: usize| {
        let (exits, name) = (world.worker(worker).exits(), &world.worker(worker).name);
        if failure == "panic" && exits.len() > before[worker] {
            eprintln!("{name} ended with {exits:?}:\n{}", world.worker(worker).log());
        }
        exits.len() - before[worker]
    };
    (0..2).map(exits).sum()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_job_that_panics_ends_in_the_dead_letters_after_three_attempts() {
    assert_eq!(poison_among_good_jobs("panic").await, 0, "no worker ends for it");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_job_that_kills_its_worker_ends_in_the_dead_letters_after_three_attempts() {
    assert_eq!(poison_among_good_jobs("exit").await as u64, FAILURES);
}
