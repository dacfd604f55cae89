//! Resident memory of a pool's processes over a run, and whether it stays where it was.

use std::{collections::BTreeMap, fmt, time::Duration};

use super::world::World;

/// Between two samples.
const EVERY: Duration = Duration::from_millis(500);
/// What a process may grow by between the middle of its life and its end, in KiB: allocators and thread stacks settle
/// within this, and so does what is used again after the first picture of a real model (25 MiB); what is kept of each job
/// shows beyond it.
pub const GROWTH_KIB: u64 = 40 << 10;

/// Samples by process and by its life.
#[derive(Debug, Clone, Default)]
pub struct Memory(BTreeMap<(String, u32), Vec<u64>>);

/// One life of a process, in KiB.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Life {
    pub name: String,
    pub samples: usize,
    /// Medians of the first, the middle and the last fifth of the samples.
    pub start: u64,
    pub middle: u64,
    pub end: u64,
    pub most: u64,
}

impl Memory {
    /// Takes samples until the future is dropped.
    pub async fn watch(&mut self, world: &World) {
        loop {
            for target in world.targets() {
                let process = world.process(target);
                if let Some((pid, kib)) = process.memory_kib() {
                    self.add(&process.name, pid, kib);
                }
            }
            tokio::time::sleep(EVERY).await;
        }
    }

    pub fn add(&mut self, name: &str, pid: u32, kib: u64) {
        self.0.entry((name.to_owned(), pid)).or_default().push(kib);
    }

    /// Lives with at least `samples` samples.
    pub fn lives(&self, samples: usize) -> Vec<Life> {
        let long = self.0.iter().filter(|(_, values)| values.len() >= samples.max(5));
        long.map(|((name, _), values)| Life::of(name, values)).collect()
    }
}

impl Life {
    fn of(name: &str, values: &[u64]) -> Self {
        let fifth = values.len() / 5;
        let median = |from: usize| {
            let mut part = values[from..from + fifth].to_vec();
            part.sort_unstable();
            part[fifth / 2]
        };
        Self {
            name: name.to_owned(),
            samples: values.len(),
            start: median(0),
            middle: median(2 * fifth),
            end: median(values.len() - fifth),
            most: values.iter().copied().max().unwrap_or(0),
        }
    }

    /// By how much it grew in its second half.
    pub fn growth(&self) -> u64 {
        self.end.saturating_sub(self.middle)
    }
}

impl fmt::Display for Life {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mib = |kib: u64| kib as f64 / 1024.0;
        write!(
            f,
            "{}: {:.1} MiB at the start, {:.1} in the middle, {:.1} at the end, {:.1} at most",
            self.name,
            mib(self.start),
            mib(self.middle),
            mib(self.end),
            mib(self.most)
        )
    }
}

#[test]
fn a_life_that_grows_is_told_from_one_that_settles() {
    let mut memory = Memory::default();
    for sample in 0..100 {
        memory.add("settles", 1, 10_000 + 200 * sample.min(30));
        memory.add("grows", 2, 10_000 + 2_000 * sample);
        memory.add("short", 3, 1);
        if sample == 2 {
            memory.0.remove(&("short".into(), 3));
        }
    }
    let lives = memory.lives(99);
    let growth: Vec<_> = lives.iter().map(|life| (life.name.as_str(), life.growth() > GROWTH_KIB)).collect();
    assert_eq!(growth, [("grows", true), ("settles", false)]);
}
