//! Random numbers that a seed repeats: SplitMix64.

use std::time::Duration;

/// A generator. Parts of a run that go on side by side have one each, so that none disturbs another's draws.
#[derive(Debug, Clone)]
pub struct Random(u64);

impl Random {
    pub fn new(seed: u64) -> Self {
        Self(seed)
    }

    /// A generator of its own for the part of this name.
    pub fn of(seed: u64, part: &str) -> Self {
        let mut random = Self(seed);
        for byte in part.bytes() {
            random.0 ^= u64::from(byte);
            random.next();
        }
        Self(random.next())
    }

    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// 0 up to, not including, `n`.
    pub fn below(&mut self, n: usize) -> usize {
        usize::try_from(self.next() % n as u64).expect("below a usize")
    }

    /// `from` up to and including `to`.
    pub fn between(&mut self, from: u64, to: u64) -> u64 {
        from + self.next() % (to - from + 1)
    }

    pub fn millis(&mut self, from: u64, to: u64) -> Duration {
        Duration::from_millis(self.between(from, to))
    }

    /// True `percent` times in a hundred.
    pub fn chance(&mut self, percent: u64) -> bool {
        self.next() % 100 < percent
    }

    pub fn pick<'a, T>(&mut self, from: &'a [T]) -> &'a T {
        &from[self.below(from.len())]
    }

    /// One of the entries, each as often as its weight says.
    pub fn weighted<'a, T>(&mut self, from: &'a [(u64, T)]) -> &'a T {
        let mut at = self.next() % from.iter().map(|(weight, _)| weight).sum::<u64>();
        for (weight, entry) in from {
            if at < *weight {
                return entry;
            }
            at -= weight;
        }
        unreachable!("below the sum of the weights")
    }
}

#[test]
fn a_seed_repeats_its_numbers_and_each_part_has_its_own() {
    let draw = |mut random: Random| [random.next(), random.next()];
    assert_eq!(draw(Random::of(7, "faults")), draw(Random::of(7, "faults")));
    assert_ne!(draw(Random::of(7, "faults")), draw(Random::of(7, "load")));
    assert_ne!(draw(Random::of(7, "faults")), draw(Random::of(8, "faults")));
    let mut random = Random::new(1);
    let mut drawn = [0; 3];
    for _ in 0..4000 {
        drawn[*random.weighted(&[(1, 0), (3, 1), (0, 2)])] += 1;
    }
    assert_eq!(drawn[2], 0);
    assert!((800..1200).contains(&drawn[0]), "{drawn:?}");
}
