//! What a run says at its end.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
};

use super::{
    evidence::{Answer, Evidence},
    log_lines,
    memory::Life,
    s3_faults::S3Fault,
    verify::{Harm, Violation},
};

/// The numbers of a run.
#[derive(Debug, Clone, Default)]
pub struct Report {
    /// Accepted jobs by how they ended.
    pub ends: BTreeMap<String, u64>,
    pub accepted: u64,
    pub refused: u64,
    pub unknown: u64,
    pub faults: BTreeMap<String, u64>,
    /// Requests to the store that were struck.
    pub struck: u64,
    /// Attempts beyond a job's first.
    pub redeliveries: u64,
    pub resumes: u64,
    pub duplicates: u64,
    pub letters: u64,
    /// Events that readers have read, over connections.
    pub read: (u64, u64),
    /// Accepted jobs that have ended.
    pub ended: u64,
    /// Jobs of which power cuts took something, and those of them that were sent again for it.
    pub taken: (u64, u64),
    pub lost: u64,
    pub doubled: u64,
    pub false_ends: u64,
    pub lives: Vec<Life>,
}

impl Report {
    pub fn new(
        evidence: &Evidence,
        faults: BTreeMap<String, u64>,
        struck: &BTreeMap<S3Fault, u64>,
        worker_logs: &[String],
        lives: Vec<Life>,
        violations: &[Violation],
    ) -> Self {
        // Jobs, and not what was found of each.
        let harmed = |harm: Harm| {
            let of = violations.iter().filter(|violation| violation.harm == harm);
            of.map(|violation| &violation.job).collect::<BTreeSet<_>>().len() as u64
        };
        let ended = evidence
            .sent
            .iter()
            .filter(|(job, sent)| sent.answer == Answer::Accepted && evidence.end(job).is_some());
        let answered = |wanted: fn(&Answer) -> bool| {
            evidence.sent.values().filter(|sent| wanted(&sent.answer)).count() as u64
        };
        let in_logs = |text| worker_logs.iter().map(|log| log_lines::count(log, text)).sum::<u64>();
        let mut ends: BTreeMap<String, u64> = BTreeMap::new();
        for (job, sent) in &evidence.sent {
            let Some(end) = evidence.end(job) else { continue };
            let kind = format!("{:?}", sent.wish.kind).to_lowercase();
            let how = if end.name == "error" { end.code() } else { &end.name };
            *ends.entry(format!("{kind}: {how}")).or_default() += 1;
        }
        let first_of_attempt = |events: &Vec<super::evidence::Stored>| {
            events.iter().filter(|event| event.name == "accepted" && event.attempt > 1).count() as u64
        };
        Self {
            ends,
            accepted: answered(|answer| *answer == Answer::Accepted),
            refused: answered(|answer| matches!(answer, Answer::Refused(..))),
            unknown: answered(|answer| *answer == Answer::Unknown),
            faults,
            struck: struck.values().sum(),
            redeliveries: evidence.events.values().map(first_of_attempt).sum(),
            resumes: in_logs(log_lines::RESUMED),
            duplicates: log_lines::DUPLICATES.into_iter().map(in_logs).sum(),
            letters: evidence.letters.len() as u64,
            read: (
                evidence.read.iter().map(|read| read.events.len() as u64).sum(),
                evidence.read.iter().map(|read| u64::from(read.connections)).sum(),
            ),
            ended: ended.count() as u64,
            taken: (
                evidence.taken.len() as u64,
                evidence.sent.values().filter(|sent| sent.restored).count() as u64,
            ),
            lost: harmed(Harm::Lost),
            doubled: harmed(Harm::Doubled),
            false_ends: harmed(Harm::FalseEnd),
            lives,
        }
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let list = |counts: &BTreeMap<String, u64>| -> String {
            counts.iter().map(|(name, count)| format!("\n    {count:>6}  {name}")).collect()
        };
        writeln!(
            f,
            "jobs: {} accepted, {} refused, {} unanswered; {} of those accepted have ended",
            self.accepted, self.refused, self.unknown, self.ended
        )?;
        writeln!(f, "  ends:{}", list(&self.ends))?;
        writeln!(f, "faults: {}{}", self.faults.values().sum::<u64>(), list(&self.faults))?;
        writeln!(f, "store requests struck: {}", self.struck)?;
        writeln!(f, "redeliveries: {}", self.redeliveries)?;
        writeln!(f, "resumes: {}", self.resumes)?;
        writeln!(f, "duplicates suppressed: {}", self.duplicates)?;
        writeln!(f, "dead letters: {}", self.letters)?;
        writeln!(f, "events read by followers: {} over {} connections", self.read.0, self.read.1)?;
        let (taken, again) = self.taken;
        writeln!(f, "jobs that power cuts took something of: {taken}, sent again for it: {again}")?;
        for life in &self.lives {
            writeln!(f, "memory of {life}")?;
        }
        write!(f, "lost {}, doubled {}, false ends {}", self.lost, self.doubled, self.false_ends)
    }
}
