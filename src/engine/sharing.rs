//! How many pictures share a pass: as many as there are, until a device ran out of memory. What it has room for is not
//! known beforehand, and changes: it is learned for each model and size, and tried again.

use std::collections::VecDeque;

/// Passes that go well at the limit before twice as many pictures are tried.
const PATIENCE: u32 = 64;
/// The most passes before it is tried again, when trying has failed time after time.
const MOST_PATIENCE: u32 = 64 * PATIENCE;
/// Models and sizes that are remembered; the one that ran out first is forgotten for another.
const REMEMBERED: usize = 64;

/// What was learned of each model and size that ran out of memory.
#[derive(Debug, Default)]
pub(super) struct Sharing {
    limits: VecDeque<Limit>,
}

#[derive(Debug)]
struct Limit {
    model: String,
    /// Width and height in pixels.
    size: (u32, u32),
    /// Pictures that share a pass at most.
    most: usize,
    /// Passes of `most` pictures since it was set.
    good: u32,
    /// Passes before more are tried.
    patience: u32,
}

impl Sharing {
    /// Pictures of this model and size that share a pass at most: one at least.
    pub(super) fn most(&self, model: &str, size: (u32, u32)) -> usize {
        self.limits.iter().find(|limit| limit.is_of(model, size)).map_or(usize::MAX, |limit| limit.most)
    }

    /// A pass of so many pictures ran out of memory, and each went its step alone.
    pub(super) fn ran_out(&mut self, model: &str, size: (u32, u32), pictures: usize) {
        let most = (pictures / 2).max(1);
        tracing::warn!(
            model,
            width = size.0,
            height = size.1,
            pictures = most,
            "fewer pictures share a pass from now on"
        );
        if let Some(limit) = self.limits.iter_mut().find(|limit| limit.is_of(model, size)) {
            limit.patience = (2 * limit.patience).min(MOST_PATIENCE);
            (limit.most, limit.good) = (most, 0);
            return;
        }
        if self.limits.len() == REMEMBERED {
            self.limits.pop_front();
        }
        self.limits.push_back(Limit { model: model.to_owned(), size, most, good: 0, patience: PATIENCE });
    }

    /// A pass that so many pictures shared went well.
    pub(super) fn went_well(&mut self, model: &str, size: (u32, u32), pictures: usize) {
        let Some(limit) = self.limits.iter_mut().find(|limit| limit.is_of(model, size)) else { return };
        if pictures < limit.most {
            return;
        }
        limit.good += 1;
        if limit.good >= limit.patience {
            limit.most = limit.most.saturating_mul(2);
            limit.good = 0;
        }
    }
}

impl Limit {
    fn is_of(&self, model: &str, size: (u32, u32)) -> bool {
        self.size == size && self.model == model
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SIZE: (u32, u32) = (512, 512);

    #[test]
    fn a_limit_is_of_the_model_and_size_that_ran_out() {
        let mut sharing = Sharing::default();
        sharing.ran_out("a", SIZE, 8);
        assert_eq!(sharing.most("a", SIZE), 4);
        assert_eq!(sharing.most("a", (512, 768)), usize::MAX);
        assert_eq!(sharing.most("b", SIZE), usize::MAX);
        sharing.ran_out("a", SIZE, 1);
        assert_eq!(sharing.most("a", SIZE), 1);
    }

    #[test]
    fn it_grows_again_after_passes_at_the_limit_and_waits_longer_each_time_that_fails() {
        let mut sharing = Sharing::default();
        sharing.ran_out("a", SIZE, 8);
        for patience in [PATIENCE, 2 * PATIENCE, 4 * PATIENCE] {
            for _ in 0..patience {
                assert_eq!(sharing.most("a", SIZE), 4);
                sharing.went_well("a", SIZE, 3);
                sharing.went_well("a", SIZE, 4);
            }
            assert_eq!(sharing.most("a", SIZE), 8);
            sharing.ran_out("a", SIZE, 8);
        }
        for _ in 0..20 {
            sharing.ran_out("a", SIZE, 8);
        }
        (0..MOST_PATIENCE).for_each(|_| sharing.went_well("a", SIZE, 4));
        assert_eq!(sharing.most("a", SIZE), 8);
    }

    #[test]
    fn a_pass_of_one_that_is_tried_as_two_can_grow_too() {
        let mut sharing = Sharing::default();
        sharing.ran_out("a", SIZE, 2);
        (0..PATIENCE).for_each(|_| sharing.went_well("a", SIZE, 1));
        assert_eq!(sharing.most("a", SIZE), 2);
    }

    #[test]
    fn so_many_are_remembered_and_no_more() {
        let mut sharing = Sharing::default();
        for width in 0..=REMEMBERED as u32 {
            sharing.ran_out("a", (width, 64), 4);
        }
        assert_eq!(sharing.limits.len(), REMEMBERED);
        assert_eq!(sharing.most("a", (0, 64)), usize::MAX);
        assert_eq!(sharing.most("a", (1, 64)), 2);
    }
}
