//! The runs: one for every change, and two by hand (see `tools/chaos`).

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use super::{
    load::Ledger,
    memory::{GROWTH_KIB, Memory},
    random::Random,
    run::storm,
    settings::Settings,
    tell::tell,
    verify::verify,
    wishes::{SHAPES, SIM, Wish},
    world::{Shape, World},
};

#[tokio::test(flavor = "multi_thread")]
async fn chaos_for_a_minute() {
    storm(&Settings::short()).await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "takes half an hour; tools/chaos/run starts it"]
async fn by_hand() {
    storm(&Settings::long()).await;
}

/// As many jobs as the pool can do, without faults, for `CHAOS_SECONDS`.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "takes half an hour; tools/chaos/run starts it"]
async fn memory_stays_flat_under_full_load() {
    let settings = Settings::soak();
    println!("{}", settings.line());
    let shape = Shape::storm(settings.seed, 1, settings.workers);
    let world = Arc::new(World::start(shape).await);
    let until = Instant::now() + settings.load;
    let done = Arc::new(AtomicU64::new(0));
    let mut senders = tokio::task::JoinSet::new();
    // Two slots of two workers, and one job more that waits for each of them.
    for sender in 0..settings.workers * 3 {
        senders.spawn(send_on(world.clone(), sender, until, done.clone()));
    }
    let mut memory = Memory::default();
    let all_sent = async {
        while let Some(sent) = senders.join_next().await {
            sent.expect("no failure")
        }
    };
    tokio::select! {
        () = all_sent => {}
        () = memory.watch(&world) => unreachable!("there is always one more sample"),
    }
    let lives = memory.lives(5);
    println!("jobs: {}", done.load(Ordering::Relaxed));
    for life in &lives {
        println!("memory of {life}");
    }
    let standing = world.journal().await.standing().await;
    assert_eq!((standing.jobs_left, standing.ack_pending), (0, 0));
    let named = |life: &&super::memory::Life| life.name.starts_with('w') || life.name.starts_with("queen");
    let ours: Vec<_> = lives.iter().filter(named).collect();
    assert_eq!(ours.len(), settings.workers + 1, "nobody has ended in between: {ours:?}");
    for life in ours {
        assert!(life.growth() <= GROWTH_KIB, "{life}");
    }
}

/// One job after the other until the time is over, each read to its end.
async fn send_on(world: Arc<World>, sender: usize, until: Instant, done: Arc<AtomicU64>) {
    let front = world.front();
    let mut random = Random::of(sender as u64, "soak");
    for number in 0.. {
        if Instant::now() > until {
            return;
        }
        let (model, steps) = if random.chance(5) { (SHAPES, 2) } else { (SIM, 10) };
        let wish = Wish::plain(&format!("s{sender}-{number}"), model, steps);
        let ledger = Ledger::default();
        super::load::send_one(wish.clone(), random.clone(), &front, &ledger).await.expect("it is taken");
        super::follow::stream(&front, &ledger, &wish.id, false, &mut random).await;
        let read = ledger.read.lock().expect("no panic").pop().expect("a reader");
        assert_eq!(read.ended.as_deref(), Some("[DONE]"), "{:?}\n{}", read, world.log_lines(&wish.id));
        done.fetch_add(1, Ordering::Relaxed);
    }
}

/// A pool that nothing is done to: the harness finds nothing wrong with it, and every job is as it was asked for.
#[tokio::test(flavor = "multi_thread")]
async fn without_faults_everything_holds() {
    let settings = Settings { seed: 1, jobs: 40, load: Duration::from_secs(2), ..Settings::short() };
    let world = World::start(Shape::storm(1, 2, 2)).await;
    let (front, ledger) = (world.front(), Arc::new(Ledger::default()));
    let mut readers = tokio::task::JoinSet::new();
    super::load::send_all(&settings, &front, &ledger, &mut readers).await;
    let (evidence, mut violations) = super::run::settled(&world, &front, &ledger, readers).await;
    assert_eq!(verify(&evidence), violations);
    let again = evidence.events.values().flatten().filter(|event| event.attempt > 1);
    for event in again.filter(|event| {
        !matches!(
            evidence.sent[event.value["job_id"].as_str().unwrap_or_default()].wish.kind,
            super::wishes::Kind::Poison
        )
    }) {
        violations.push(super::verify::Violation {
            job: event.value["job_id"].as_str().map(str::to_owned),
            what: format!("was tried again for no reason: {}", event.value),
            harm: super::verify::Harm::Other,
        });
    }
    if !violations.is_empty() {
        tell(&world, &evidence, &violations, &[]);
        panic!("{} violations", violations.len());
    }
}
