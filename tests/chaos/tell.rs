//! All that is known of what went wrong: for whoever has only this run's output.

use std::{collections::BTreeMap, time::Duration};

use super::{evidence::Evidence, log_lines, verify::Violation, world::World};

/// Jobs of which everything known is told when they went wrong.
const TOLD: usize = 6;
/// Violations of one kind of which each is told.
const TOLD_OF_A_KIND: usize = 40;
/// What is told of logs, beside the lines of those jobs: what the server, or somebody of it, complains of.
const COMPLAINTS: [&str; 4] = ["[WRN]", "[ERR]", "are passed over", "is made again"];
/// Lines of a log with complaints that are told.
const MAX_COMPLAINTS: usize = 120;

/// Prints what is known of what went wrong. `times`: when which fault was applied, since 1970.
pub fn tell(world: &World, evidence: &Evidence, violations: &[Violation], times: &[(Duration, String)]) {
    let mut kinds: BTreeMap<String, usize> = BTreeMap::new();
    for violation in violations {
        let kind = violation.to_string();
        // Without the job and its numbers.
        let kind: String = kind
            .split_once(": ")
            .map_or(&*kind, |(_, kind)| kind)
            .chars()
            .filter(|c| !c.is_ascii_digit())
            .collect();
        let seen = kinds.entry(kind).or_default();
        *seen += 1;
        if *seen <= TOLD_OF_A_KIND {
            println!("VIOLATION {violation}");
        }
    }
    for (kind, count) in kinds {
        println!("{count} times: {kind}");
    }
    for (at, fault) in times {
        println!("  {:.1} s since 1970: {fault}", at.as_secs_f64());
    }
    let mut jobs: Vec<&str> = violations.iter().filter_map(|violation| violation.job.as_deref()).collect();
    jobs.dedup();
    for job in jobs.into_iter().take(TOLD) {
        println!("--- {job}");
        if let Some(sent) = evidence.sent.get(job) {
            println!(
                "  sent {} times, {:?}, cancel {:?}: {}",
                sent.posts, sent.answer, sent.cancel, sent.wish.body
            );
        }
        println!("  ticket {:?}", evidence.tickets.get(job).map(ToString::to_string));
        for event in evidence.events.get(job).into_iter().flatten() {
            println!("  {}", event.value);
        }
        for key in evidence.objects.keys().filter(|key| key.contains(&format!("/{job}/"))) {
            println!("  {key}");
        }
        print!("{}", world.log_lines(job));
    }
    println!("{}", world.last_lines());
}

impl World {
    /// What every log says of a job.
    pub fn log_lines(&self, job: &str) -> String {
        let mut text = String::new();
        for target in self.targets() {
            let process = self.process(target);
            for line in log_lines::of_job(&process.log(), job) {
                text.push_str(&format!("  {}: {line}\n", process.name));
            }
        }
        text
    }

    /// The ends of all logs.
    pub fn last_lines(&self) -> String {
        let mut text = String::new();
        for target in self.targets() {
            let process = self.process(target);
            let log = process.log();
            let lines: Vec<_> = log.lines().rev().take(8).collect();
            text.push_str(&format!("--- {} (exits {:?})\n", process.name, process.exits()));
            let complains = |line: &&str| COMPLAINTS.iter().any(|complaint| line.contains(complaint));
            text.extend(log.lines().filter(complains).take(MAX_COMPLAINTS).map(|line| format!("{line}\n")));
            text.push_str("...\n");
            text.extend(lines.iter().rev().map(|line| format!("{line}\n")));
        }
        text
    }
}
