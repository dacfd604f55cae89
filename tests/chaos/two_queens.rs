//! Two queens beside each other: a job belongs to neither.

use std::time::Duration;

use serde_json::Value;

use super::{
    evidence::{Answer, Read},
    faults::Target,
    follow,
    load::{Front, Ledger},
    random::Random,
    wishes::{SIM, Wish},
    world::{Shape, World},
};

const STEPS: u32 = 60;

/// A client that knows one queen.
fn only(front: &Front, queen: usize) -> Front {
    Front { client: front.client.clone(), queens: vec![front.queens[queen].clone()].into() }
}

/// What a reader has read, and the job's events as any queen tells them afterwards.
fn read(ledger: &Ledger) -> Read {
    ledger.read.lock().expect("no panic").pop().expect("a reader")
}

/// The job is sent to one queen and read from the other; the queen that is `killed` in its middle does not come back before
/// the end.
async fn killed_in_the_middle(world: &World, job: &str, sent_to: usize, killed: usize) -> Read {
    let front = world.front();
    let wish = Wish::plain(job, SIM, STEPS);
    let (answer, posts) = only(&front, sent_to).submit(&wish, &mut Random::new(1)).await;
    assert_eq!((answer, posts), (Answer::Accepted, 1));
    let ledger = Ledger::default();
    let reader = async {
        // Whose queen is gone comes again, to whichever is there.
        let queens = if killed == sent_to { only(&front, 1 - sent_to) } else { front.clone() };
        follow::stream(&queens, &ledger, job, false, &mut Random::new(7)).await;
    };
    let kill = async {
        let journal = world.journal().await;
        loop {
            let (events, ..) = journal.events().await;
            let done = events.get(job).map_or(0, Vec::len);
            if done >= 4 {
                break;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        world.process(Target::Queen(killed)).signal("-STOP").expect("it runs");
        world.process(Target::Queen(killed)).signal("-KILL").expect("it runs");
    };
    tokio::join!(reader, kill);
    let complaints = ledger.complaints.lock().expect("no panic").clone();
    assert_eq!(complaints, Vec::<String>::new(), "{}", world.log_lines(job));
    read(&ledger)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_job_sent_to_one_queen_is_read_from_the_other_whichever_dies() {
    let world = World::start(Shape::of_model(1, 2, 1, "sim=sim://?step_ms=25&size=64")).await;
    for (job, sent_to, killed) in [("sender-dies", 0, 0), ("reader-dies", 1, 0)] {
        let read = killed_in_the_middle(&world, job, sent_to, killed).await;
        assert_eq!(read.ended.as_deref(), Some("[DONE]"), "{read:?}\n{}", world.log_lines(job));
        let (events, ..) = world.journal().await.events().await;
        let stored: Vec<_> = events[job].iter().map(|event| (event.seq, event.name.clone())).collect();
        assert_eq!(read.events, stored, "every event, once and in order");
        world.ready(1).await;
        for queen in [0, 1] {
            let (status, view) = world.front().get(queen, &format!("/v1/jobs/{job}")).await;
            assert_eq!((status, &view["status"]), (200, &Value::from("completed")), "queen {queen}: {view}");
        }
    }
}
