//! Memory that operations work in, kept from one to the next: asking the system for it each time costs as much as some
//! operations do.

use std::{
    ops::{Deref, DerefMut},
    sync::Mutex,
};

static FREE: Mutex<Vec<Vec<f32>>> = Mutex::new(Vec::new());

/// Values that are whatever was left in them, returned when this is dropped.
pub struct Scratch {
    values: Vec<f32>,
    len: usize,
}

impl Scratch {
    /// Of `len` values.
    pub fn of(len: usize) -> Self {
        let mut free = FREE.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        let best = (0..free.len()).filter(|i| free[*i].len() >= len).min_by_key(|i| free[*i].len());
        let largest = || (0..free.len()).max_by_key(|i| free[*i].len());
        let mut values = match best.or_else(largest) {
            Some(i) => free.swap_remove(i),
            None => Vec::new(),
        };
        drop(free);
        if values.len() < len {
            values = vec![0.0; len];
        }
        Self { values, len }
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        FREE.lock().unwrap_or_else(std::sync::PoisonError::into_inner).push(std::mem::take(&mut self.values));
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

    #[test]
    fn memory_that_was_given_back_is_used_again_and_two_at_once_are_apart() {
        let mut first = Scratch::of(1000);
        let mut second = Scratch::of(1000);
        first.fill(1.0);
        second.fill(2.0);
        assert!(first.iter().all(|x| *x == 1.0));
        assert_eq!((first.len(), Scratch::of(0).len()), (1000, 0));
        drop((first, second));
        assert!(Scratch::of(10).values.len() >= 10);
    }
}
