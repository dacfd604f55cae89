//! A run from its seed to its verdict.

use std::{
    collections::BTreeSet,
    sync::Arc,
    time::{Duration, Instant},
};

use futures::{StreamExt, stream};
use tokio::task::JoinSet;

use super::{
    evidence::{Answer, Evidence, Left, View},
    faults::{self, Plan, Target},
    journal::{Journal, Standing},
    load::{self, Front, Ledger},
    log_lines,
    memory::{GROWTH_KIB, Memory},
    objects::objects,
    random::Random,
    report::Report,
    settings::{QUEENS, Settings},
    strike::Strikes,
    tell::tell,
    verify::{Violation, verify},
    world::{Shape, World},
};

/// A pool in which nothing has moved for so long has settled, one way or the other.
const STILL: Duration = Duration::from_secs(45);
/// The same for a pool that has only jobs left which have ended: longer than it takes to deliver one again.
const QUIET: Duration = Duration::from_secs(20);
/// What readers have for the rest of their streams when everything has ended.
const LAST_LINES: Duration = Duration::from_secs(40);
/// How often the evidence is read again while something is wrong with it: what is tidied up after the end of a job may
/// take a moment.
const LOOKS: u32 = 5;
/// Questions to queens at one time.
const QUESTIONS: usize = 16;
/// Samples of a life that memory is judged by: half a minute.
const JUDGED: usize = 60;

/// A run with faults. It panics, with all that is known, when something does not hold.
pub async fn storm(settings: &Settings) {
    let plan = || Plan::new(settings.seed, settings.workers, settings.faults_per_second);
    println!("{}\nthe first 1000 faults that are drawn: {}", settings.line(), faults::mark(plan(), 1000));
    let begun = Instant::now();
    let world = Arc::new(World::start(Shape::storm(settings.seed, QUEENS, settings.workers)).await);
    let (front, ledger) = (world.front(), Arc::new(Ledger::default()));
    let (mut readers, mut memory) = (JoinSet::new(), Memory::default());
    let mut strikes = Strikes::new(world.clone());
    tokio::select! {
        () = load::send_all(settings, &front, &ledger, &mut readers) => {}
        () = strikes.go_on(plan(), &settings.without) => unreachable!("there are always more faults"),
        () = memory.watch(&world) => unreachable!("there is always one more sample"),
    }
    strikes.lift().await;
    world.ready(settings.workers).await;
    let (evidence, violations) = settled(&world, &front, &ledger, readers).await;

    let lives = memory.lives(JUDGED);
    let grown: Vec<_> = lives.iter().filter(|life| life.growth() > GROWTH_KIB).cloned().collect();
    let report = Report::new(
        &evidence,
        strikes.counts.clone(),
        &world.s3().struck(),
        &world.worker_logs(),
        lives,
        &violations,
    );
    println!("{report}\ntime: {} s", begun.elapsed().as_secs());
    if violations.is_empty() && grown.is_empty() {
        return;
    }
    tell(&world, &evidence, &violations, &strikes.times);
    for life in &grown {
        println!("memory is not flat: {life}");
    }
    panic!(
        "{} violations, {} lives that grow; again with {}",
        violations.len(),
        grown.len(),
        settings.line()
    );
}

/// Waits for the end of everything, and judges it.
pub async fn settled(
    world: &World,
    front: &Front,
    ledger: &Ledger,
    mut readers: JoinSet<()>,
) -> (Evidence, Vec<Violation>) {
    let journal = world.journal().await;
    still(&journal).await;
    while restore(world, &journal, front, ledger).await {
        still(&journal).await;
    }
    let finish = async { while readers.join_next().await.is_some() {} };
    let _ = tokio::time::timeout(LAST_LINES, finish).await;
    // Who still reads has not been told of the end, and that is in the ledger when he is dropped.
    readers.shutdown().await;
    let mut looks = 0;
    loop {
        let evidence = gather(world, &journal, front, ledger).await;
        let violations = verify(&evidence);
        looks += 1;
        if violations.is_empty() || looks == LOOKS {
            return (evidence, violations);
        }
        tokio::time::sleep(Duration::from_secs(2)).await;
    }
}

/// Does what is asked of a client after a power cut: a job that was accepted, of which something was taken and which has
/// no end is sent again, once; whether there was one.
async fn restore(world: &World, journal: &Journal, front: &Front, ledger: &Ledger) -> bool {
    let (events, tickets, _) = journal.events().await;
    let (sent, taken) = (ledger.sent(), world.taken().into_iter().collect());
    let evidence = Evidence { sent, events, tickets, taken, ..Evidence::default() };
    let gone = evidence.sent.iter().filter(|(job, sent)| {
        let is_gone = evidence.is_taken(job) && evidence.end(job).is_none();
        is_gone && sent.answer == Answer::Accepted && !sent.restored
    });
    let gone: Vec<_> = gone.map(|(job, sent)| (job.clone(), sent.wish.clone())).collect();
    for (job, wish) in &gone {
        let (answer, posts) = front.submit(wish, &mut Random::of(world.shape.seed, job)).await;
        if answer != Answer::Accepted {
            ledger.complain(format!("a job that a power cut took was sent again: {job}: {answer:?}"));
        }
        if let Some(sent) = ledger.sent.lock().expect("no panic").get_mut(job) {
            (sent.posts, sent.restored) = (sent.posts + posts, true);
        }
    }
    !gone.is_empty()
}

/// Waits until no job is left, or nothing moves any more.
async fn still(journal: &Journal) {
    let (mut last, mut since) = (Standing::default(), Instant::now());
    loop {
        let now = journal.standing().await;
        if (now.jobs_left, now.ack_pending) == (0, 0) {
            return;
        }
        if now != last {
            (last, since) = (now, Instant::now());
        }
        if since.elapsed() > STILL
            || (since.elapsed() > QUIET && have_ended(&journal.jobs_left().await, journal).await)
        {
            println!("nothing moves any more: {now:?}\n{}", journal.consumers().await);
            return;
        }
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
}

/// Whether these jobs have ended: nobody will do anything more for them.
async fn have_ended(left: &[Left], journal: &Journal) -> bool {
    let (events, tickets, _) = journal.events().await;
    let evidence = Evidence { events, tickets, ..Evidence::default() };
    left.iter().all(|left| evidence.end(&left.job).is_some())
}

async fn gather(world: &World, journal: &Journal, front: &Front, ledger: &Ledger) -> Evidence {
    let (events, tickets, mut complaints) = journal.events().await;
    complaints.extend(ledger.complaints.lock().expect("no panic").iter().cloned());
    let standing = journal.standing().await;
    let mut evidence = Evidence {
        sent: ledger.sent(),
        events,
        tickets,
        letters: journal.letters().await,
        jobs_left: journal.jobs_left().await,
        ack_pending: standing.ack_pending,
        nats_was_killed: !world.process(Target::Nats).exits().is_empty(),
        taken: world.taken().into_iter().collect(),
        not_removed: BTreeSet::new(),
        objects: objects(&world.store_folder()),
        views: vec![],
        read: ledger.read.lock().expect("no panic").clone(),
        complaints,
    };
    let snapshots =
        evidence.objects.keys().filter_map(|key| key.strip_prefix("jobs/")?.strip_suffix("/checkpoint"));
    let not_removed = snapshots.filter(|job| world.log_lines(job).contains(log_lines::NOT_REMOVED));
    evidence.not_removed = not_removed.map(str::to_owned).collect();
    let ended: Vec<String> =
        evidence.sent.keys().filter(|job| evidence.end(job).is_some()).cloned().collect();
    let questions =
        ended.into_iter().flat_map(|job| (0..front.queens.len()).map(move |queen| (queen, job.clone())));
    let views = stream::iter(questions).map(|(queen, job)| async move {
        let (http, body) = front.get(queen, &format!("/v1/jobs/{job}")).await;
        View { queen, job, http, body }
    });
    evidence.views = views.buffer_unordered(QUESTIONS).collect().await;
    evidence
}
