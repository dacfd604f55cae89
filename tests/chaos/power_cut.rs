//! A power cut: nats-server comes back without the last messages that it had acknowledged. What it took may have to be sent
//! again, and then is as any other job; what it did not take is not touched.

use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::{
    blocks::{self, Cut},
    evidence::Answer,
    faults::Target,
    log_lines,
    random::Random,
    wishes::{SIM, Wish},
    world::{Shape, World},
};

/// More than any block has here.
const EVERYTHING: u64 = 1 << 30;
/// The last record alone.
const THE_LAST: u64 = 1;
/// More than the record of a job, and less than two.
const RECORD_AND_A_PART: u64 = 300;
/// How soon a server writes down which of its messages are done.
const INDEX_WITHIN: Duration = Duration::from_secs(3);
/// The longest that a job may stand still whose place in the queue was taken by another.
const PATIENCE: Duration = Duration::from_secs(90);

async fn send(world: &World, wish: &Wish) {
    let (answer, _) = world.front().submit(wish, &mut Random::new(1)).await;
    assert_eq!(answer, Answer::Accepted, "{}", world.last_lines());
}

/// How a job is, by queen.
async fn view(world: &World, job: &str) -> Value {
    world.front().get(0, &format!("/v1/jobs/{job}")).await.1
}

async fn wait_for(world: &World, job: &str, status: &str) -> Value {
    let until = Instant::now() + PATIENCE;
    loop {
        let view = view(world, job).await;
        if view["status"] == status {
            return view;
        }
        assert!(Instant::now() < until, "{job} is not {status}: {view}\n{}", world.log_lines(job));
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

/// Cuts the power, and waits until everything is there again; which jobs lost a message.
async fn cut(world: &World, stream: Cut, bytes: u64) -> Vec<String> {
    let known = world.process(Target::Nats).exits().len();
    assert!(world.power_cut(stream, bytes));
    world.process(Target::Nats).exit_after(known).await;
    world.process(Target::Nats).runs().await;
    // Until queens have noticed.
    world.journal().await.standing().await;
    world.taken()
}

async fn world(workers: usize) -> World {
    World::start(Shape::of_model(1, 1, workers, "sim=sim://?step_ms=40&size=64").flags(&["--slots", "1"]))
        .await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_job_that_was_taken_from_the_queue_is_drawn_when_it_is_sent_again() {
    let mut world = world(0).await;
    let wish = Wish::plain("gone", SIM, 3);
    send(&world, &wish).await;
    assert_eq!(cut(&world, Cut::Jobs, EVERYTHING).await, ["gone"]);
    world.add_worker(&[]).await;
    world.ready(1).await;
    // It has a ticket, and nothing that a worker could be given.
    assert_eq!(view(&world, "gone").await["status"], "queued");
    send(&world, &wish).await;
    wait_for(&world, "gone", "completed").await;
    // As often as one likes: it is the same job.
    send(&world, &wish).await;
    assert_eq!(world.journal().await.standing().await.jobs_left, 0);
    let (events, ..) = world.journal().await.events().await;
    assert_eq!(events["gone"].iter().filter(|event| event.name == "accepted").count(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_end_that_was_taken_is_told_again_when_the_job_is_sent_again() {
    let world = world(1).await;
    let wish = Wish::plain("ended", SIM, 3);
    send(&world, &wish).await;
    let before = wait_for(&world, "ended", "completed").await;
    // Its message goes after its end.
    while world.journal().await.standing().await.jobs_left > 0 {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    assert_eq!(cut(&world, Cut::Events, THE_LAST).await, ["ended"]);
    world.ready(1).await;
    send(&world, &wish).await;
    let after = wait_for(&world, "ended", "completed").await;
    assert_eq!(after["event"]["images"][0]["sha256"], before["event"]["images"][0]["sha256"]);
    let computed = log_lines::count(&world.worker(0).log(), "the job has a result already");
    assert_eq!(computed, 1, "nothing is computed again:\n{}", world.log_lines("ended"));
}

/// The server's index says of some numbers that they are done, and outlives what had them.
#[tokio::test(flavor = "multi_thread")]
async fn a_job_is_drawn_where_others_were_done_under_the_numbers_that_are_given_out_again() {
    let world = world(2).await;
    let mut held = Wish::plain("held", SIM, 150);
    held.body["n"] = json!(8);
    send(&world, &held).await;
    worker_of(&world, "held").await;
    for job in ["one", "two", "three"] {
        send(&world, &Wish::plain(job, SIM, 2)).await;
        wait_for(&world, job, "completed").await;
    }
    while world.journal().await.standing().await.jobs_left > 1 {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    // Until the server has written its index.
    tokio::time::sleep(INDEX_WITHIN).await;
    between_two_events(&world, "held").await;
    assert_eq!(cut(&world, Cut::Jobs, RECORD_AND_A_PART).await, ["two", "three"]);
    world.ready(2).await;
    for job in ["four", "five", "six"] {
        send(&world, &Wish::plain(job, SIM, 2)).await;
        wait_for(&world, job, "completed").await;
    }
}

/// Waits until a job's log has a new event, and the server has written it to its disk: killed with an event that it had
/// acknowledged and not written, the worker at the job would not have it any more.
async fn between_two_events(world: &World, job: &str) {
    let seq = async || view(world, job).await["event"]["seq"].clone();
    let (before, until) = (seq().await, Instant::now() + PATIENCE);
    while seq().await == before {
        assert!(Instant::now() < until, "{job} has no further event:\n{}", world.log_lines(job));
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    // Less than the time to the next.
    tokio::time::sleep(Duration::from_millis(120)).await;
}

/// The worker at a job.
async fn worker_of(world: &World, job: &str) -> usize {
    let running = wait_for(world, job, "running").await;
    let name = running["event"]["worker_id"].as_str().expect("a worker").to_owned();
    name.strip_prefix('w').and_then(|number| number.parse().ok()).expect("a number")
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_that_ends_a_job_whose_number_is_anothers_by_now_takes_nothing_from_that_one() {
    let shape = Shape::of_model(1, 1, 2, "sim=sim://?step_ms=60&size=64").flags(&["--slots", "1"]);
    let world = World::start(shape).await;
    let pictures = |id: &str, n: u32| {
        let mut wish = Wish::plain(id, SIM, 150);
        wish.body["n"] = json!(n);
        wish
    };
    // Long enough for a server that comes back slowly.
    send(&world, &pictures("held", 2)).await;
    let at_it = worker_of(&world, "held").await;
    // What the server knew of its consumer goes, too: it gives out anew what it has.
    let (server, stream) = (world.server_folder(), "chaos-JOBS");
    let state = blocks::state_of(&server, stream, "generate-sim");
    let (nats, known) = (world.process(Target::Nats), world.process(Target::Nats).exits().len());
    between_two_events(&world, "held").await;
    assert!(nats.kill_and(move || {
        assert_eq!(blocks::cut(&blocks::folder_of(&server, stream), THE_LAST).len(), 1);
        let _ = std::fs::remove_file(state);
    }));
    nats.exit_after(known).await;
    world.ready(2).await;
    // Numbers are given out once more: this one has the number of the job that the worker is at. Its pictures take several
    // times as long as that one's: it runs when that one has ended, however slow the machine is.
    send(&world, &pictures("other", 8)).await;
    let at_other = worker_of(&world, "other").await;
    assert_ne!(at_it, at_other, "{}", world.last_lines());
    assert_eq!(
        view(&world, "held").await["status"],
        "running",
        "the worker is at it when the number is given out"
    );
    wait_for(&world, "held", "completed").await;
    // Until it is settled.
    tokio::time::sleep(Duration::from_millis(500)).await;
    // Whoever has the other job dies: its message alone keeps it.
    world.worker(at_other).signal("-KILL").expect("it runs");
    let until = Instant::now() + PATIENCE;
    loop {
        let view = view(&world, "other").await;
        assert_eq!(view["status"], "running", "the worker died in its middle: {view}");
        if view["event"]["attempt"] == 2 {
            return;
        }
        assert!(Instant::now() < until, "nobody draws it: {view}\n{}", world.log_lines("other"));
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}
