//! When a webhook that was not taken is posted again, and when it is given up.
//!
//! It follows from how long ago its event was, and so is the same at every queen, whichever made the attempts before: the
//! first pause, then as long again as has gone by, up to the longest pause. 0 s, 5 s, 10 s, 20 s, 40 s ... 1 h, 2 h, 3 h.

use std::time::Duration;

use super::poster::Outcome;

/// The first pause,
pub const FIRST_PAUSE: Duration = Duration::from_secs(5);
/// and the longest; of what a receiver asks for (`Retry-After`) too.
pub const LONGEST_PAUSE: Duration = Duration::from_secs(3600);
/// Nothing is given up before it came so often: queens may have been away, and clocks may be wrong.
const LEAST_TRIES: u64 = 5;
/// How long a webhook is posted again while so many wait that there is soon no room for new ones.
const RETRY_FOR_IN_A_CROWD: Duration = Duration::from_secs(600);

/// What follows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Next {
    /// It was taken.
    Done,
    /// It is posted again after this long.
    Again(Duration),
    /// It is not.
    GiveUp,
}

/// How an event stands.
#[derive(Debug, Clone, Copy)]
pub struct Standing {
    /// How long ago it was.
    pub age: Duration,
    /// How often it came to a queen.
    pub times: u64,
    /// How long it is posted again and again.
    pub retry_for: Duration,
    /// Too many wait.
    pub is_crowded: bool,
}

impl Standing {
    /// What follows from an attempt.
    pub fn after(self, outcome: &Outcome) -> Next {
        let asked = match outcome {
            Outcome::Taken => return Next::Done,
            Outcome::Gone | Outcome::Forbidden(_) => return Next::GiveUp,
            Outcome::Failed { retry_after, .. } => retry_after.unwrap_or_default(),
        };
        let in_a_crowd = self.is_crowded && self.age >= RETRY_FOR_IN_A_CROWD;
        if in_a_crowd || self.age >= self.retry_for && self.times >= LEAST_TRIES {
            return Next::GiveUp;
        }
        Next::Again(self.age.max(asked).clamp(FIRST_PAUSE, LONGEST_PAUSE))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const DAY: Duration = Duration::from_secs(24 * 3600);

    fn standing(age: Duration, times: u64) -> Standing {
        Standing { age, times, retry_for: DAY, is_crowded: false }
    }

    #[test]
    fn a_receiver_that_is_away_for_a_day_is_tried_some_thirty_times() {
        let (mut age, mut times, mut ages) = (Duration::ZERO, 1, vec![]);
        while let Next::Again(pause) = standing(age, times).after(&Outcome::failed("no answer")) {
            ages.push(age.as_secs());
            (age, times) = (age + pause, times + 1);
        }
        assert_eq!(ages[..6], [0, 5, 10, 20, 40, 80]);
        assert!((30..40).contains(&times), "{times}");
        assert!(age >= DAY);
    }

    #[test]
    fn what_is_taken_gone_or_forbidden_is_not_posted_again() {
        let fresh = standing(Duration::ZERO, 1);
        assert_eq!(fresh.after(&Outcome::Taken), Next::Done);
        assert_eq!(fresh.after(&Outcome::Gone), Next::GiveUp);
        assert_eq!(fresh.after(&Outcome::Forbidden("private".into())), Next::GiveUp);
    }

    #[test]
    fn a_receiver_may_ask_for_more_time_within_bounds() {
        let asked = |seconds| Outcome::Failed {
            reason: "503".into(),
            retry_after: Some(Duration::from_secs(seconds)),
        };
        let after = |seconds| standing(Duration::from_secs(60), 3).after(&asked(seconds));
        assert_eq!(after(300), Next::Again(Duration::from_secs(300)));
        assert_eq!(after(1), Next::Again(Duration::from_secs(60)));
        assert_eq!(after(1_000_000), Next::Again(LONGEST_PAUSE));
    }

    #[test]
    fn what_is_first_seen_after_days_has_its_tries_and_a_crowd_has_fewer() {
        let failed = Outcome::failed("no answer");
        assert_eq!(standing(3 * DAY, 1).after(&failed), Next::Again(LONGEST_PAUSE));
        assert_eq!(standing(3 * DAY, 5).after(&failed), Next::GiveUp);
        let crowd = |seconds| Standing { is_crowded: true, ..standing(Duration::from_secs(seconds), 9) };
        assert_eq!(crowd(599).after(&failed), Next::Again(Duration::from_secs(599)));
        assert_eq!(crowd(600).after(&failed), Next::GiveUp);
    }
}
