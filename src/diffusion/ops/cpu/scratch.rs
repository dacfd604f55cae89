//! Memory that operations work in, kept from one to the next: asking the system for it each time costs as much as some
//! operations do. What is kept is bounded by the threads that work, and all of it goes with the last picture.

use std::{
    ops::{Deref, DerefMut},
    sync::{Mutex, MutexGuard, PoisonError},
};

/// Bytes that are kept at most: what all threads read at a time, and what each of them works in.
pub const SHARED: usize = 64 << 20;
/// See [`SHARED`]; the operations see to it that a thread needs no more at once.
pub const PER_THREAD: usize = 6 << 20;
/// A buffer of more than so many times what is asked for is left to those who need one.
const WASTE: usize = 4;
/// Values of the smallest buffers.
const SMALLEST: usize = 1 << 10;

static FREE: Mutex<Free> = Mutex::new(Free { buffers: Vec::new(), bytes: 0, holders: 0 });

/// Buffers that nobody uses, the one that was given back last at the end.
struct Free {
    buffers: Vec<Vec<f32>>,
    bytes: usize,
    /// Who may ask again soon.
    holders: usize,
}

impl Free {
    /// The smallest that fits and is not much too large.
    fn take(&mut self, len: usize) -> Option<Vec<f32>> {
        let fits = |i: &usize| (len..=WASTE * len.max(SMALLEST)).contains(&self.buffers[*i].len());
        let best = (0..self.buffers.len()).filter(fits).min_by_key(|i| self.buffers[*i].len())?;
        let buffer = self.buffers.remove(best);
        self.bytes -= bytes(&buffer);
        Some(buffer)
    }

    /// Keeps one. Returns what is over `most` bytes for that: the oldest, or it itself.
    fn keep(&mut self, buffer: Vec<f32>, most: usize) -> Vec<Vec<f32>> {
        if bytes(&buffer) > most {
            return vec![buffer];
        }
        self.bytes += bytes(&buffer);
        self.buffers.push(buffer);
        let mut over = 0;
        while self.bytes > most {
            self.bytes -= bytes(&self.buffers[over]);
            over += 1;
        }
        self.buffers.drain(..over).collect()
    }
}

fn bytes(buffer: &[f32]) -> usize {
    size_of_val(buffer)
}

fn free() -> MutexGuard<'static, Free> {
    FREE.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Says that operations will follow each other; with the last of these all that is kept goes.
#[derive(Debug)]
pub struct Holder(());

impl Holder {
    /// One more.
    pub fn begin() -> Self {
        free().holders += 1;
        Self(())
    }
}

impl Drop for Holder {
    fn drop(&mut self) {
        let mut free = free();
        free.holders -= 1;
        if free.holders == 0 {
            free.bytes = 0;
            let buffers = std::mem::take(&mut free.buffers);
            // Freed without the lock; so below.
            drop(free);
            drop(buffers);
        }
    }
}

/// Values that are whatever was left in them, returned when this is dropped.
pub struct Scratch {
    values: Vec<f32>,
    len: usize,
}

impl Scratch {
    /// Of `len` values.
    pub fn of(len: usize) -> Self {
        let found = { free().take(len) };
        Self { values: found.unwrap_or_else(|| vec![0.0; rounded(len)]), len }
    }
}

/// Sizes are few, so that buffers fit again; at most an eighth of one is not used.
fn rounded(len: usize) -> usize {
    let len = len.max(SMALLEST);
    len.next_multiple_of(len.next_power_of_two() / 16)
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let most = SHARED + PER_THREAD * rayon::current_num_threads();
        let over = { free().keep(std::mem::take(&mut self.values), most) };
        drop(over);
    }
}

impl Deref for Scratch {
    type Target = [f32];
    fn deref(&self) -> &[f32] {
        &self.values[..self.len]
    }
}

impl DerefMut for Scratch {
    fn deref_mut(&mut self) -> &mut [f32] {
        &mut self.values[..self.len]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lens(buffers: &[Vec<f32>]) -> Vec<usize> {
        buffers.iter().map(Vec::len).collect()
    }

    #[test]
    fn the_smallest_that_fits_is_used_again_and_a_much_larger_one_is_left() {
        let mut free = Free { buffers: Vec::new(), bytes: 0, holders: 0 };
        for len in [9000, 2000, 3000, 40_000] {
            assert!(free.keep(vec![0.0; len], usize::MAX).is_empty());
        }
        assert_eq!(free.take(1500).map(|buffer| buffer.len()), Some(2000));
        assert_eq!(free.take(1500).map(|buffer| buffer.len()), Some(3000));
        // 9,000 are more than 4 times as many; a small one asks for 1,024 at least.
        assert!(free.take(1500).is_none() && free.take(10).is_none());
        assert_eq!(free.take(9000).map(|buffer| buffer.len()), Some(9000));
        assert_eq!((lens(&free.buffers), free.bytes), (vec![40_000], 4 * 40_000));
    }

    #[test]
    fn no_more_than_the_limit_is_kept_and_the_oldest_go_first() {
        let mut free = Free { buffers: Vec::new(), bytes: 0, holders: 0 };
        for len in [1000, 2000, 3000] {
            assert!(free.keep(vec![0.0; len], 4 * 6000).is_empty());
        }
        assert_eq!(lens(&free.keep(vec![0.0; 1500], 4 * 6000)), [1000, 2000]);
        assert_eq!(lens(&free.keep(vec![0.0; 7000], 4 * 6000)), [7000], "it would put out all others");
        assert_eq!((lens(&free.buffers), free.bytes), (vec![3000, 1500], 4 * 4500));
    }

    #[test]
    fn two_at_once_are_apart_and_have_what_was_asked_for() {
        let (mut first, mut second) = (Scratch::of(1000), Scratch::of(1000));
        first.fill(1.0);
        second.fill(2.0);
        assert!(first.iter().all(|x| *x == 1.0));
        assert_eq!((first.len(), Scratch::of(0).len(), Scratch::of(3_000_001).len()), (1000, 0, 3_000_001));
    }

    #[test]
    fn sizes_are_rounded_by_an_eighth_at_most_and_only_up() {
        for len in (0..5_000_000).step_by(7_777) {
            let rounded = rounded(len);
            assert!(rounded >= SMALLEST && rounded >= len && rounded <= len.max(SMALLEST) * 9 / 8, "{len}");
        }
    }
}
