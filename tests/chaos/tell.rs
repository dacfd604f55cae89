//! All that is known of what went wrong: for whoever has only this run's output.

use super::{evidence::Evidence, log_lines, verify::Violation, world::World};

/// Jobs of which everything known is told when they went wrong.
const TOLD: usize = 6;

/// Prints what is known of what went wrong.
pub fn tell(world: &World, evidence: &Evidence, violations: &[Violation]) {
    for violation in violations.iter().take(100) {
        println!("VIOLATION {violation}");
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
            text.extend(lines.iter().rev().map(|line| format!("{line}\n")));
        }
        text
    }
}
