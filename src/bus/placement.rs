//! Which queue a worker asks first: those of the models in its memory, and those of others when they have been passed over
//! for long enough. Nobody is asked here, and no worker knows of another: the server gives a job to who stands first in
//! its line, and who has the model asks earlier and stands there for longer.

use std::{cmp::Reverse, time::Duration};

/// How long a request for a job stands,
const ASK_FOR: Duration = Duration::from_secs(30);
/// and one for a job of a model that is not in memory: whoever has the model, and waits for longer than this, is before it
/// in the server's line.
const ASK_OTHERS_FOR: Duration = Duration::from_secs(2);
/// How long a worker that has nothing to do asks for jobs of the models in its memory alone.
const HEAD_START: Duration = Duration::from_millis(500);

/// The names of the models that are in memory.
type InMemory = Box<dyn Fn() -> Vec<String> + Send + Sync>;

/// Which jobs a worker likes best.
pub(super) struct Placement {
    in_memory: InMemory,
    /// For how long jobs of a model that is not in memory are passed over, while those of others wait.
    switch_after: Duration,
}

/// A queue, as it is chosen by.
pub(super) struct Choice<'a> {
    /// The model of its jobs.
    pub model: &'a str,
    /// How long ago it was asked.
    pub passed_over: Duration,
}

impl Placement {
    /// As `in_memory` says at each time; a `switch_after` of zero makes all models alike.
    pub fn new(in_memory: InMemory, switch_after: Duration) -> Self {
        Self { in_memory, switch_after }
    }

    /// All models are alike.
    pub fn none() -> Self {
        Self::new(Box::new(Vec::new), Duration::ZERO)
    }

    /// The queues to look into, in this order: those that were passed over for too long, the longest first, and those of the
    /// models in memory in turn, from `first` on. Others are left out.
    pub fn order(&self, queues: &[Choice<'_>], first: usize) -> Vec<usize> {
        let own = self.own(queues);
        let is_due = |index: &usize| !own[*index] && queues[*index].passed_over >= self.switch_after;
        let mut order: Vec<usize> = (0..queues.len()).filter(is_due).collect();
        order.sort_by_key(|index| Reverse(queues[*index].passed_over));
        let turn = (0..queues.len()).map(|turn| (first + turn) % queues.len());
        order.extend(turn.filter(|index| own[*index]));
        order
    }

    /// For how long a request to each queue stands, of a worker that has had nothing to do for this long; none: it is not
    /// asked yet.
    pub fn ask_for(&self, queues: &[Choice<'_>], idle: Duration) -> Vec<Option<Duration>> {
        let others = self.head_start_left(idle).is_zero().then_some(ASK_OTHERS_FOR);
        self.own(queues).into_iter().map(|own| if own { Some(ASK_FOR) } else { others }).collect()
    }

    /// How much longer the queues of other models are not asked.
    pub fn head_start_left(&self, idle: Duration) -> Duration {
        HEAD_START.min(self.switch_after).saturating_sub(idle)
    }

    /// Which queues are of models in memory; all where none is.
    fn own(&self, queues: &[Choice<'_>]) -> Vec<bool> {
        // Of one model alone nothing is to be chosen: this is asked several times a second.
        let one = queues.windows(2).all(|two| two[0].model == two[1].model);
        let in_memory = if one || self.switch_after.is_zero() { vec![] } else { (self.in_memory)() };
        let own: Vec<bool> =
            queues.iter().map(|queue| in_memory.iter().any(|model| model == queue.model)).collect();
        if own.contains(&true) { own } else { vec![true; queues.len()] }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SWITCH_AFTER: Duration = Duration::from_secs(30);

    fn placement(in_memory: &'static [&'static str], switch_after: Duration) -> Placement {
        let names = move || in_memory.iter().map(|&name| name.to_owned()).collect();
        Placement::new(Box::new(names), switch_after)
    }

    /// Queues by their models, and seconds since they were asked.
    fn queues(of: &[(&'static str, u64)]) -> Vec<Choice<'static>> {
        let queue = |&(model, seconds)| Choice { model, passed_over: Duration::from_secs(seconds) };
        of.iter().map(queue).collect()
    }

    #[test]
    fn queues_of_models_in_memory_are_looked_into_in_turn_and_others_are_not() {
        let queues = queues(&[("a", 0), ("a", 40), ("b", 29), ("c", 0), ("a", 0)]);
        let placement = placement(&["a", "elsewhere"], SWITCH_AFTER);
        assert_eq!(placement.order(&queues, 0), [0, 1, 4]);
        assert_eq!(placement.order(&queues, 4), [4, 0, 1]);
        assert_eq!(placement.order(&queues, 6), [1, 4, 0]);
    }

    #[test]
    fn who_was_passed_over_for_too_long_comes_first_and_the_longest_before_others() {
        let queues = queues(&[("a", 0), ("b", 30), ("c", 31), ("d", 29), ("a", 0)]);
        assert_eq!(placement(&["a"], SWITCH_AFTER).order(&queues, 0), [2, 1, 0, 4]);
    }

    #[test]
    fn all_are_alike_where_no_model_is_in_memory_and_where_it_was_said_so() {
        let queues = queues(&[("a", 9), ("b", 99), ("c", 0)]);
        for alike in [placement(&[], SWITCH_AFTER), placement(&["b"], Duration::ZERO), Placement::none()] {
            assert_eq!(alike.order(&queues, 1), [1, 2, 0]);
            assert_eq!(alike.ask_for(&queues, Duration::ZERO), [Some(ASK_FOR); 3]);
        }
    }

    #[test]
    fn an_idle_worker_asks_for_jobs_of_other_models_a_moment_later_and_for_a_shorter_time() {
        let queues = queues(&[("a", 0), ("b", 0)]);
        let placement = placement(&["b"], SWITCH_AFTER);
        assert_eq!(placement.ask_for(&queues, Duration::ZERO), [None, Some(ASK_FOR)]);
        assert_eq!(placement.head_start_left(HEAD_START / 2), HEAD_START / 2);
        assert_eq!(placement.ask_for(&queues, HEAD_START), [Some(ASK_OTHERS_FOR), Some(ASK_FOR)]);
        // Not later than they would come first.
        let placement = super::tests::placement(&["b"], Duration::from_millis(100));
        assert_eq!(placement.head_start_left(Duration::ZERO), Duration::from_millis(100));
    }

    #[test]
    fn a_worker_without_a_queue_looks_into_none() {
        assert!(placement(&["a"], SWITCH_AFTER).order(&[], 3).is_empty());
    }
}
