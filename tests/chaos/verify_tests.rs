//! The verdict on made-up evidence: sound evidence has no violation, and each thing that may go wrong is found.

use serde_json::{Value, json};

use super::{
    evidence::{Answer, Evidence, Left, Letter, Object, Read, Sent, Stored, View},
    verify::{Harm, verify},
    wishes::{Follow, Kind, SIM, Wish},
};

fn sent(job: &str, kind: Kind, answer: Answer) -> Sent {
    let wish = Wish { kind, follow: Follow::No, ..Wish::plain(job, SIM, 5) };
    Sent { wish, answer, posts: 1, cancel: None, restored: false }
}

fn stored(job: &str, attempt: u64, seq: u64, mut kind: Value) -> Stored {
    for (field, value) in [("job_id", json!(job)), ("seq", json!(seq)), ("attempt", json!(attempt))] {
        kind[field] = value;
    }
    Stored::new(kind).unwrap()
}

fn accepted() -> Value {
    json!({"type": "accepted"})
}

fn complete(job: &str, sha256: &str) -> Value {
    let key = format!("jobs/{job}/0.png");
    json!({"type": "complete", "images": [{"key": key, "bytes": 3, "sha256": sha256}]})
}

fn failed(code: &str) -> Value {
    json!({"type": "error", "code": code})
}

/// A job that was complete after a failure, one that was refused, one that was given up, one that was cancelled.
fn sound() -> Evidence {
    let mut evidence = Evidence::default();
    let jobs = [("done", Kind::Plain), ("given-up", Kind::Poison), ("cancelled", Kind::Cancel)];
    for (job, kind) in jobs {
        evidence.sent.insert(job.into(), sent(job, kind, Answer::Accepted));
    }
    evidence.sent.insert("bad".into(), sent("bad", Kind::Bad, Answer::Refused(400, "no".into())));
    evidence.sent.insert("unheard".into(), sent("unheard", Kind::Plain, Answer::Unknown));
    let done = vec![
        stored("done", 1, 0, accepted()),
        stored("done", 2, 1, accepted()),
        stored("done", 2, 2, complete("done", "aa")),
    ];
    let given_up: Vec<_> = (0..3).map(|n| stored("given-up", n + 1, n, accepted())).collect();
    let given_up = [given_up, vec![stored("given-up", 3, 3, failed("internal"))]].concat();
    let cancelled = vec![stored("cancelled", 1, 0, json!({"type": "cancelled"}))];
    for (job, events) in [("done", done), ("given-up", given_up), ("cancelled", cancelled)] {
        evidence.events.insert(job.into(), events);
        evidence.tickets.insert(job.into(), json!({"job_id": job}));
    }
    evidence.letters.push(Letter { job: "given-up".into(), code: "internal".into() });
    let result = json!({"event": complete("done", "aa")});
    let object = |json| Object { bytes: 3, sha256: "aa".into(), json };
    evidence.objects.insert("jobs/done/0.png".into(), object(None));
    evidence.objects.insert("jobs/done/result.json".into(), object(Some(result)));
    evidence.objects.insert("jobs/cancelled/cancelled".into(), object(None));
    evidence.objects.insert("store-check.txt".into(), object(None));
    evidence.objects.insert("inputs/abc".into(), object(None));
    let events = vec![(0, "accepted".into()), (1, "accepted".into()), (2, "complete".into())];
    let read = Read { job: "done".into(), events, connections: 2, ended: Some("[DONE]".into()) };
    evidence.read.push(read);
    let body = json!({"status": "completed", "event": {"type": "complete"}});
    evidence.views.push(View { queen: 0, job: "done".into(), http: 200, body });
    evidence
}

/// What is found when the sound evidence is changed so.
fn found(change: impl FnOnce(&mut Evidence)) -> Vec<String> {
    let mut evidence = sound();
    change(&mut evidence);
    verify(&evidence).iter().map(ToString::to_string).collect()
}

#[track_caller]
fn finds(part: &str, change: impl FnOnce(&mut Evidence)) {
    let found = found(change);
    assert!(found.iter().any(|text| text.contains(part)), "no `{part}` in {found:#?}");
}

fn events<'a>(evidence: &'a mut Evidence, job: &str) -> &'a mut Vec<Stored> {
    evidence.events.get_mut(job).unwrap()
}

#[test]
fn sound_evidence_has_no_violation() {
    assert_eq!(found(|_| {}), Vec::<String>::new());
}

#[test]
fn a_lost_job_is_found() {
    finds("done: LOST: 2 events and no end", |e| drop(events(e, "done").pop()));
    finds("done: LOST: 0 events and no end", |e| drop(e.events.remove("done")));
    finds("unheard: LOST", |e| drop(e.tickets.insert("unheard".into(), json!({}))));
}

#[test]
fn a_second_end_is_found_unless_the_job_was_sent_again() {
    let again = stored("done", 3, 3, complete("done", "aa"));
    finds("done: has ended 2 times", |e| events(e, "done").push(again));
    finds("done: goes on after its end", |e| events(e, "done").push(stored("done", 3, 3, accepted())));

    let sent_again = |posts| {
        move |e: &mut Evidence| {
            let done = events(e, "done");
            done.insert(2, stored("done", 2, 2, failed("deadline_exceeded")));
            done[3] = stored("done", 1, 3, complete("done", "aa"));
            e.tickets.insert("done".into(), json!({"after": 2}));
            e.sent.get_mut("done").unwrap().posts = posts;
            e.read.clear();
        }
    };
    assert_eq!(found(sent_again(2)), Vec::<String>::new());
    finds("done: ran 2 times and was sent 1 times", sent_again(1));
    finds("done: was complete and ran again", |e| {
        sent_again(2)(e);
        events(e, "done")[2] = stored("done", 2, 2, complete("done", "aa"));
    });
}

#[test]
fn numbers_that_do_not_go_on_are_found() {
    finds("done: event 1 is stored after event 3", |e| {
        events(e, "done")[1].seq = 3;
        events(e, "done")[2].seq = 1;
    });
    finds("done: event 1 is stored after event 1", |e| events(e, "done")[2].seq = 1);
    finds("done: its first event is number 1", |e| {
        for event in events(e, "done") {
            event.seq += 1;
        }
    });
    finds("done: attempt 1 after attempt 2", |e| events(e, "done")[2].attempt = 1);
    let with_previews = found(|e| {
        e.sent.get_mut("done").unwrap().wish.previews = true;
        events(e, "done")[2].seq = 7;
        e.read.clear();
    });
    assert_eq!(with_previews, Vec::<String>::new());
}

#[test]
fn a_picture_that_is_not_as_said_is_found() {
    let picture = "jobs/done/0.png";
    finds("is said to be stored and is not", |e| drop(e.objects.remove(picture)));
    finds("and not as said", |e| e.objects.get_mut(picture).unwrap().sha256 = "bb".into());
    finds("and not as said", |e| e.objects.get_mut(picture).unwrap().bytes = 4);
    finds("has no result.json", |e| drop(e.objects.remove("jobs/done/result.json")));
    finds("is of other pictures", |e| {
        let result = e.objects.get_mut("jobs/done/result.json").unwrap();
        result.json = Some(json!({"event": complete("done", "bb")}));
    });
    finds("has 1 pictures, 2 were asked for", |e| e.sent.get_mut("done").unwrap().wish.images = 2);
}

#[test]
fn objects_without_a_job_and_left_over_ones_are_found() {
    let object = || Object { bytes: 1, sha256: "aa".into(), json: None };
    for (key, what) in [
        ("jobs/nobody/0.png", "has no job"),
        ("jobs/bad/0.png", "has no job"),
        ("jobs/cancelled/checkpoint", "was left"),
        ("checkpoints/done/7", "was left"),
    ] {
        finds(what, |e| drop(e.objects.insert(key.into(), object())));
    }
    let mut said = sound();
    said.objects.insert("jobs/cancelled/checkpoint".into(), object());
    said.not_removed.insert("cancelled".into());
    assert_eq!(verify(&said), [], "a worker has said that it could not remove it");
    let mut late = sound();
    late.objects.insert("jobs/done/checkpoint".into(), object());
    assert_eq!(verify(&late), [], "it is of the attempt before the one that ended");
}

#[test]
fn an_end_that_such_a_job_cannot_have_is_found() {
    let end = |code| stored("done", 2, 2, failed(code));
    finds("Plain ended in error", |e| events(e, "done")[2] = end("invalid_request"));
    finds("Plain ended in cancelled", |e| {
        events(e, "done")[2] = stored("done", 2, 2, json!({"type": "cancelled"}));
    });
    finds("Poison ended in complete", |e| e.sent.get_mut("done").unwrap().wish.kind = Kind::Poison);
    finds("bad: was refused and is there", |e| drop(e.tickets.insert("bad".into(), json!({}))));
    finds("is a good request and was refused", |e| e.sent.get_mut("bad").unwrap().wish.kind = Kind::Plain);
    finds("stranger: nobody has sent it", |e| drop(e.tickets.insert("stranger".into(), json!({}))));
}

#[test]
fn dead_letters_and_failures_must_agree() {
    finds("given-up: failed for good 1 times, 0 dead letters", |e| e.letters.clear());
    finds("given-up: failed for good 1 times, 2 dead letters", |e| e.letters.push(e.letters[0].clone()));
    finds("a dead letter of code `invalid_request`", |e| e.letters[0].code = "invalid_request".into());
    finds("was given up in attempt 2", |e| {
        events(e, "given-up").remove(2);
        events(e, "given-up")[2] = stored("given-up", 2, 2, failed("internal"));
    });
}

#[test]
fn twins_must_be_the_same() {
    finds("the same request as done has given other pictures", |e| {
        e.sent.insert("twin".into(), sent("twin", Kind::Plain, Answer::Accepted));
        e.events.insert("twin".into(), vec![stored("twin", 1, 0, complete("twin", "bb"))]);
    });
}

#[test]
fn a_reader_that_missed_something_is_found() {
    finds("was not told of the end", |e| e.read[0].ended = None);
    finds("a reader missed [(1, \"accepted\")]", |e| drop(e.read[0].events.remove(1)));
    finds("twice or out of order", |e| e.read[0].events.insert(0, (2, "complete".into())));
    finds("has what is not stored: [(1, \"progress\")]", |e| e.read[0].events[1].1 = "progress".into());
    finds("was told Some(\"[CANCELLED]\")", |e| e.read[0].ended = Some("[CANCELLED]".into()));
}

#[test]
fn a_queen_that_says_otherwise_is_found() {
    finds("done: has ended: completed", |e| e.views[0].body["status"] = json!("running"));
    finds("done: has ended: completed", |e| e.views[0].http = 404);
}

#[test]
fn jobs_that_are_left_and_complaints_are_found() {
    finds("done: message 7 of the stream of jobs is left, and the job: complete", |e| {
        e.jobs_left.push(Left { job: "done".into(), sequence: 7 });
    });
    finds("2 jobs are given out", |e| e.ack_pending = 2);
    let after_a_kill = found(|e| (e.ack_pending, e.nats_was_killed) = (2, true));
    assert_eq!(after_a_kill, Vec::<String>::new());
    finds("a complaint", |e| e.complaints.push("a complaint".into()));
}

#[test]
fn a_power_cut_excuses_holes_and_neither_a_loss_nor_a_second_result() {
    let taken = |change: fn(&mut Evidence)| {
        found(|e| {
            e.taken.insert("done".into());
            change(e);
        })
    };
    assert_eq!(taken(|_| {}), Vec::<String>::new());
    let holes = taken(|e| {
        events(e, "done").remove(0);
        events(e, "done")[0].seq = 9;
        e.complaints.push("done: was said to be completed, and then running".into());
        e.letters.push(Letter { job: "done".into(), code: "storage".into() });
    });
    assert_eq!(holes, Vec::<String>::new());
    let with_a_result = taken(|e| drop((e.events.remove("done"), e.tickets.remove("done"), e.read.clear())));
    assert_eq!(with_a_result, Vec::<String>::new(), "queen tells the result");
    let with_a_snapshot = taken(|e| {
        drop(
            e.objects
                .insert("jobs/done/checkpoint".into(), Object { bytes: 1, sha256: "aa".into(), json: None }),
        )
    });
    assert_eq!(with_a_snapshot, Vec::<String>::new());
    let lost = taken(|e| drop((events(e, "done").pop(), e.objects.remove("jobs/done/result.json"))));
    assert!(lost.iter().any(|text| text.contains("done: LOST")), "{lost:?}");
    let twice = taken(|e| {
        let before = stored("done", 2, 1, complete("done", "bb"));
        events(e, "done").insert(1, before);
    });
    assert!(twice.iter().any(|text| text.contains("done: has 2 results")), "{twice:?}");
    finds("given-up: failed for good", |e| {
        e.taken.insert("done".into());
        e.letters.clear();
    });
}

#[test]
fn a_violation_says_what_it_means() {
    let harm = |change: fn(&mut Evidence)| {
        let mut evidence = sound();
        change(&mut evidence);
        verify(&evidence).iter().map(|violation| violation.harm).collect::<Vec<_>>()
    };
    assert_eq!(harm(|e| drop(events(e, "cancelled").pop())), [Harm::Lost]);
    assert!(harm(|e| drop(e.objects.remove("jobs/done/0.png"))).contains(&Harm::FalseEnd));
    let again = |e: &mut Evidence| events(e, "done").push(stored("done", 3, 3, complete("done", "aa")));
    assert!(harm(again).contains(&Harm::Doubled));
    assert_eq!(harm(|e| e.ack_pending = 1), [Harm::Other]);
}
