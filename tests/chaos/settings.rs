//! How large a run is: `CHAOS_SEED`, `CHAOS_JOBS`, `CHAOS_SECONDS`, `CHAOS_WORKERS`, `CHAOS_FAULTS_PER_SECOND`,
//! `CHAOS_WITHOUT`.

use std::{str::FromStr, time::Duration};

/// Queens of a run.
pub const QUEENS: usize = 2;

#[derive(Debug, Clone)]
pub struct Settings {
    /// Every draw follows from it.
    pub seed: u64,
    /// Jobs that are sent.
    pub jobs: u32,
    /// The time over which they are sent.
    pub load: Duration,
    /// Workers, of one slot and two by turns.
    pub workers: usize,
    /// Faults a second while jobs are sent.
    pub faults_per_second: f64,
    /// Kinds of faults that are drawn and left out, to narrow a failure down.
    pub without: Vec<String>,
    /// Jobs in a hundred that models/tiny-shapes draws, and not the simulation.
    pub shapes: u64,
}

impl Settings {
    /// What fits into a minute on two busy cores.
    pub fn short() -> Self {
        Self::from_environment(300, 40, 4, 1.0)
    }

    /// By hand: half an hour.
    pub fn long() -> Self {
        Self::from_environment(10_000, 30 * 60, 4, 1.0)
    }

    /// By hand: no faults, as fast as the workers can.
    pub fn soak() -> Self {
        Self::from_environment(u32::MAX, 30 * 60, 2, 0.0)
    }

    fn from_environment(jobs: u32, seconds: u64, workers: usize, faults: f64) -> Self {
        Self {
            seed: read("CHAOS_SEED", None).unwrap_or_else(|| getrandom::u64().expect("randomness")),
            jobs: read("CHAOS_JOBS", Some(jobs)).expect("a default"),
            load: Duration::from_secs(read("CHAOS_SECONDS", Some(seconds)).expect("a default")),
            workers: read("CHAOS_WORKERS", Some(workers)).expect("a default"),
            faults_per_second: read("CHAOS_FAULTS_PER_SECOND", Some(faults)).expect("a default"),
            without: read("CHAOS_WITHOUT", Some(String::new()))
                .map(|kinds| kinds.split(',').map(|kind| kind.trim().to_owned()).collect())
                .expect("a default"),
            shapes: 4,
        }
    }

    /// The line that repeats a run.
    pub fn line(&self) -> String {
        format!(
            "CHAOS_SEED={} CHAOS_JOBS={} CHAOS_SECONDS={} CHAOS_WORKERS={} CHAOS_FAULTS_PER_SECOND={} \
             CHAOS_WITHOUT='{}'",
            self.seed,
            self.jobs,
            self.load.as_secs(),
            self.workers,
            self.faults_per_second,
            self.without.join(",")
        )
    }
}

fn read<T: FromStr>(name: &str, default: Option<T>) -> Option<T> {
    match std::env::var(name) {
        Ok(text) => Some(text.parse().unwrap_or_else(|_| panic!("{name}: `{text}` is no such number"))),
        Err(_) => default,
    }
}
