//! The part of [`verify`](super::verify::verify) that is about events: as stored, as read, as told by queens.

use std::collections::BTreeSet;

use super::{
    evidence::{Evidence, Sent, Stored},
    verify::{Harm, Violations},
};

/// One end, the last; numbers that rise. Previews take numbers and are not kept, nor is a progress that a newer one
/// overtook while it waited for NATS.
pub fn check_events(evidence: &Evidence, job: &str, sent: &Sent, violations: &mut Violations) {
    let events = evidence.events.get(job).map_or(&[][..], Vec::as_slice);
    let last_sending = evidence.last_sending(job);
    let terminals = last_sending.iter().filter(|event| event.is_terminal()).count();
    match terminals {
        0 => violations.harm(Harm::Lost, job, format!("LOST: {} events and no end", last_sending.len())),
        1 if !last_sending.last().is_some_and(Stored::is_terminal) => {
            violations.of(job, "goes on after its end");
        }
        1 => {}
        more => violations.harm(Harm::Doubled, job, format!("has ended {more} times")),
    }
    // Who sends a job again after it failed has it run again; who has a picture has it for good.
    let earlier = &events[..events.len() - last_sending.len()];
    let ends: Vec<_> = earlier.iter().filter(|event| event.is_terminal()).collect();
    if ends.len() as u64 >= u64::from(sent.posts) {
        let what = format!("ran {} times and was sent {} times", ends.len() + 1, sent.posts);
        violations.harm(Harm::Doubled, job, what);
    }
    if ends.iter().any(|end| end.name == "complete") {
        violations.harm(Harm::Doubled, job, "was complete and ran again");
    }
    if events.first().is_some_and(|event| event.seq != 0) && !sent.wish.previews {
        violations.of(job, format!("its first event is number {}", events[0].seq));
    }
    for pair in events.windows(2) {
        let (before, after) = (&pair[0], &pair[1]);
        if after.seq <= before.seq {
            violations.of(job, format!("event {} is stored after event {}", after.seq, before.seq));
        }
        if after.attempt < before.attempt && !before.is_terminal() {
            violations.of(job, format!("attempt {} after attempt {}", after.attempt, before.attempt));
        }
    }
    if let Some(stray) = events.iter().find(|event| event.name == "preview") {
        violations.of(job, format!("preview {} is stored", stray.seq));
    }
}

/// A job of which a power cut took messages: numbers may have holes and begin again, but once it was sent again it has
/// ended, and it has one result. Where it had ended before, and nothing but its result is left, queen tells that.
pub fn check_taken(evidence: &Evidence, job: &str, violations: &mut Violations) {
    let events = evidence.events.get(job).map_or(&[][..], Vec::as_slice);
    let result = format!("jobs/{job}/result.json");
    if evidence.end(job).is_none() && !evidence.objects.contains_key(&result) {
        violations.harm(Harm::Lost, job, "LOST: it was sent again after a power cut and has no end");
    }
    let results: BTreeSet<_> = events
        .iter()
        .filter(|event| event.name == "complete")
        .map(|event| Evidence::sums(&event.value))
        .collect();
    if results.len() > 1 {
        violations.harm(Harm::Doubled, job, format!("has {} results: {results:?}", results.len()));
    }
}

/// A reader has every stored event once, in order, up to the end of the job.
pub fn check_readers(evidence: &Evidence, violations: &mut Violations) {
    // A reader was told of events that a power cut took, and others have their numbers now.
    for read in evidence.read.iter().filter(|read| !evidence.is_taken(&read.job)) {
        let job = &read.job;
        let Some(stored) = evidence.events.get(job) else {
            violations.of(job, "a reader follows it and no event is stored");
            continue;
        };
        if read.ended.is_none() {
            violations.of(job, format!("a reader was not told of the end: {:?}", read.events));
        }
        if read.events.windows(2).any(|pair| pair[0].0 >= pair[1].0) {
            violations.of(job, format!("a reader has events twice or out of order: {:?}", read.events));
        }
        let Some((last, _)) = read.events.last() else { continue };
        let seen: BTreeSet<(u64, &str)> = read
            .events
            .iter()
            .map(|(seq, name)| (*seq, name.as_str()))
            .filter(|(_, name)| *name != "preview")
            .collect();
        let there: BTreeSet<(u64, &str)> = stored
            .iter()
            .filter(|event| event.seq <= *last)
            .map(|event| (event.seq, event.name.as_str()))
            .collect();
        if seen != there {
            let missed: Vec<_> = there.difference(&seen).collect();
            let made_up: Vec<_> = seen.difference(&there).collect();
            let (read, connections) = (&read.events, read.connections);
            violations.of(
                job,
                format!(
                    "a reader missed {missed:?} and has what is not stored: {made_up:?}; it read {read:?} over \
                     {connections} connections"
                ),
            );
        }
        let end = stored.iter().find(|event| event.seq == *last);
        let line = end.map_or("", |end| match end.name.as_str() {
            "complete" => "[DONE]",
            "cancelled" => "[CANCELLED]",
            "error" => "[ERROR]",
            _ => "nothing",
        });
        if read.ended.as_ref().is_some_and(|ended| !ended.starts_with(line)) {
            violations.of(job, format!("a reader was told {:?} at the end, and it is {line}", read.ended));
        }
    }
}

/// Every queen tells of the end that is stored.
pub fn check_views(evidence: &Evidence, violations: &mut Violations) {
    for view in &evidence.views {
        let (job, queen) = (&view.job, view.queen);
        let Some(end) = evidence.end(job) else { continue };
        let status = match end.name.as_str() {
            "complete" => "completed",
            "cancelled" => "cancelled",
            _ => "failed",
        };
        let event = &view.body["event"];
        let same = event["type"] == end.name.as_str() && event["code"] == end.value["code"];
        if view.http != 200 || view.body["status"] != status || !same {
            let told = format!("queen {queen} says {} {}", view.http, view.body);
            violations.of(job, format!("has ended: {status}, event {}; {told}", end.seq));
        }
    }
}
