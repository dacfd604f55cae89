//! What must hold when a run has settled. Nothing here talks to anybody: evidence in, violations out.

use std::collections::{BTreeMap, BTreeSet};

use super::{
    evidence::{Answer, Evidence, Sent, Stored},
    verify_events,
    wishes::Kind,
};

/// Codes of errors after which a durable job is tried again, and ends in a dead letter when it was tried often enough.
const RETRYABLE: [&str; 4] = ["internal", "storage", "out_of_memory", "non_finite"];
/// Codes that say that the request itself is wrong.
const WRONG: [&str; 5] =
    ["invalid_request", "image_invalid", "unsupported_model", "unsupported_operation", "payload_too_large"];
/// Failures that a job is allowed before it is a dead letter.
pub const FAILURES: u64 = 3;

/// Something that must not be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Violation {
    pub job: Option<String>,
    pub what: String,
    pub harm: Harm,
}

/// What a violation means to whoever sent the job.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Harm {
    /// It was accepted and has no end.
    Lost,
    /// It was done twice, with two results.
    Doubled,
    /// It is said to have ended as it has not.
    FalseEnd,
    /// Anything else that must not be.
    Other,
}

impl std::fmt::Display for Violation {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match &self.job {
            Some(job) => write!(f, "{job}: {}", self.what),
            None => write!(f, "{}", self.what),
        }
    }
}

#[derive(Default)]
pub struct Violations(pub Vec<Violation>);

impl Violations {
    pub fn of(&mut self, job: &str, what: impl Into<String>) {
        self.harm(Harm::Other, job, what);
    }

    pub fn harm(&mut self, harm: Harm, job: &str, what: impl Into<String>) {
        self.0.push(Violation { job: Some(job.to_owned()), what: what.into(), harm });
    }

    pub fn all(&mut self, what: impl Into<String>) {
        self.0.push(Violation { job: None, what: what.into(), harm: Harm::Other });
    }
}

/// Everything that is wrong.
pub fn verify(evidence: &Evidence) -> Vec<Violation> {
    let mut violations = Violations::default();
    let of_taken =
        |complaint: &&String| complaint.split_once(": ").is_some_and(|(job, _)| evidence.is_taken(job));
    for complaint in evidence.complaints.iter().filter(|complaint| !of_taken(complaint)) {
        violations.all(complaint.clone());
    }
    for (job, sent) in &evidence.sent {
        check_job(evidence, job, sent, &mut violations);
    }
    check_strangers(evidence, &mut violations);
    check_twins(evidence, &mut violations);
    check_objects(evidence, &mut violations);
    check_letters(evidence, &mut violations);
    verify_events::check_readers(evidence, &mut violations);
    verify_events::check_views(evidence, &mut violations);
    for left in &evidence.jobs_left {
        let how = evidence.end(&left.job).map_or("has not ended", |end| &end.name);
        let what = format!("message {} of the stream of jobs is left, and the job: {how}", left.sequence);
        violations.of(&left.job, what);
    }
    if evidence.ack_pending != 0 && !evidence.nats_was_killed {
        violations.all(format!("{} jobs are given out and not acknowledged", evidence.ack_pending));
    }
    violations.0
}

fn check_job(evidence: &Evidence, job: &str, sent: &Sent, violations: &mut Violations) {
    let there = evidence.events.contains_key(job) || evidence.tickets.contains_key(job);
    match &sent.answer {
        Answer::Refused(status, body) => {
            if there {
                violations.of(job, "was refused and is there");
            }
            if sent.wish.kind != Kind::Bad {
                violations.of(job, format!("is a good request and was refused: {status} {body}"));
            }
            return;
        }
        Answer::Unknown if !there => return,
        Answer::Unknown | Answer::Accepted => {}
    }
    match evidence.is_taken(job) {
        true => verify_events::check_taken(evidence, job, violations),
        false => verify_events::check_events(evidence, job, sent, violations),
    }
    let Some(end) = evidence.end(job) else { return };
    if !is_allowed(sent, end) {
        let kind = sent.wish.kind;
        violations.harm(Harm::FalseEnd, job, format!("{kind:?} ended in {} {}", end.name, end.value));
    }
    if end.name == "complete" {
        check_complete(evidence, job, sent, end, violations);
    }
}

/// Whether such a job may end so. With faults about, any job may fail three times.
fn is_allowed(sent: &Sent, end: &Stored) -> bool {
    let code = end.code();
    let failed = RETRYABLE.contains(&code);
    match (sent.wish.kind, end.name.as_str()) {
        (Kind::Bad, "error") => failed || WRONG.contains(&code),
        (Kind::Bad | Kind::Poison, _) => end.name == "error" && failed,
        (Kind::Deadline, "error") => failed || code == "deadline_exceeded",
        (_, "error") => failed,
        (kind, "cancelled") => kind == Kind::Cancel,
        (_, name) => name == "complete",
    }
}

fn check_complete(evidence: &Evidence, job: &str, sent: &Sent, end: &Stored, violations: &mut Violations) {
    let images = end.value["images"].as_array().map_or(&[][..], Vec::as_slice);
    if images.len() != sent.wish.images as usize {
        let what = format!("has {} pictures, {} were asked for", images.len(), sent.wish.images);
        violations.harm(Harm::FalseEnd, job, what);
    }
    for image in images {
        let key = image["key"].as_str().unwrap_or_default();
        if !key.starts_with(&format!("jobs/{job}/")) {
            violations.of(job, format!("`{key}` is not a picture of its own"));
        }
        match evidence.objects.get(key) {
            None => {
                violations.harm(Harm::FalseEnd, job, format!("`{key}` is said to be stored and is not"));
            }
            Some(object) if image["sha256"] != object.sha256 || image["bytes"] != object.bytes => {
                let (bytes, sha256) = (object.bytes, &object.sha256);
                let what = format!("`{key}` has {bytes} bytes of sha256 {sha256}, and not as said: {image}");
                violations.harm(Harm::FalseEnd, job, what);
            }
            Some(_) => {}
        }
    }
    let result =
        evidence.objects.get(&format!("jobs/{job}/result.json")).and_then(|object| object.json.as_ref());
    match result {
        None => violations.of(job, "is complete and has no result.json"),
        Some(result) if Evidence::sums(&result["event"]) != Evidence::sums(&end.value) => {
            violations.harm(Harm::Doubled, job, "result.json is of other pictures than the event");
        }
        Some(_) => {}
    }
}

/// Events and tickets of jobs that nobody sent.
fn check_strangers(evidence: &Evidence, violations: &mut Violations) {
    let jobs: BTreeSet<&String> = evidence.events.keys().chain(evidence.tickets.keys()).collect();
    for job in jobs.into_iter().filter(|job| !evidence.sent.contains_key(*job)) {
        violations.of(job, "nobody has sent it");
    }
}

/// The same request gives the same bytes, in one go or in several, on whichever worker.
fn check_twins(evidence: &Evidence, violations: &mut Violations) {
    let mut first: BTreeMap<&str, (&str, Vec<String>)> = BTreeMap::new();
    for (job, sent) in &evidence.sent {
        let Some(end) = evidence.end(job).filter(|end| end.name == "complete") else { continue };
        let sums = Evidence::sums(&end.value);
        let (twin, expected) = first.entry(&sent.wish.twin).or_insert_with(|| (job, sums.clone()));
        if *expected != sums {
            violations.harm(
                Harm::FalseEnd,
                job,
                format!("the same request as {twin} has given other pictures"),
            );
        }
    }
}

/// An object is of a job that was accepted, and of a job that has ended nothing but results are kept.
fn check_objects(evidence: &Evidence, violations: &mut Violations) {
    for key in evidence.objects.keys() {
        let (place, rest) = key.split_once('/').unwrap_or((key, ""));
        if place == "inputs" || key == "store-check.txt" {
            continue;
        }
        let (job, name) = rest.split_once('/').unwrap_or((rest, ""));
        match evidence.sent.get(job).map(|sent| &sent.answer) {
            None | Some(Answer::Refused(..)) => violations.all(format!("object `{key}` has no job")),
            // Whatever was kept of a lost job may be what it goes on from.
            Some(_) if evidence.end(job).is_none() => {}
            Some(_) if place == "jobs" && is_result(name) => {}
            Some(_) if place == "jobs" && name == "checkpoint" && evidence.not_removed.contains(job) => {}
            // A write that an attempt gave up, or was killed in, may be made by the store after another attempt has ended.
            Some(_) if place == "jobs" && name == "checkpoint" && evidence.lost_an_attempt(job) => {}
            Some(_) => violations.of(job, format!("has ended, and `{key}` was left")),
        }
    }
}

fn is_result(name: &str) -> bool {
    let is_picture = || {
        let (index, extension) = name.split_once('.')?;
        // Of an attempt that was lost, too: it may have been stored after the job had ended.
        let (index, attempt) = index.split_once('-').unwrap_or((index, "2"));
        let are_numbers = index.parse::<u32>().is_ok() && attempt.parse::<u32>().is_ok();
        (are_numbers && ["png", "jpg", "webp"].contains(&extension)).then_some(())
    };
    ["result.json", "cancelled"].contains(&name) || is_picture().is_some()
}

/// A dead letter is of a job that failed often enough, and each such job has one.
fn check_letters(evidence: &Evidence, violations: &mut Violations) {
    let mut letters: BTreeMap<&str, u64> = BTreeMap::new();
    for letter in &evidence.letters {
        *letters.entry(&letter.job).or_default() += 1;
        if !RETRYABLE.contains(&letter.code.as_str()) {
            violations.of(&letter.job, format!("a dead letter of code `{}`", letter.code));
        }
    }
    let mut failed: BTreeMap<&str, u64> = BTreeMap::new();
    for (job, events) in &evidence.events {
        let ends = events.iter().filter(|event| event.name == "error" && RETRYABLE.contains(&event.code()));
        failed.insert(job, ends.clone().count() as u64);
        if let Some(end) = ends.into_iter().find(|end| end.attempt < FAILURES) {
            violations.of(job, format!("was given up in attempt {}: {}", end.attempt, end.value));
        }
    }
    let jobs: BTreeSet<&str> = letters.keys().chain(failed.keys()).copied().collect();
    // The end of a job that a power cut took is another than that of which the letter tells.
    for job in jobs.into_iter().filter(|job| !evidence.is_taken(job)) {
        let of = |counts: &BTreeMap<&str, u64>| counts.get(job).copied().unwrap_or(0);
        if of(&letters) != of(&failed) {
            violations
                .of(job, format!("failed for good {} times, {} dead letters", of(&failed), of(&letters)));
        }
    }
}
