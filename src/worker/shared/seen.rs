//! Since when something has been the same, as this process saw it: no clock of another machine is compared with ours.

use std::{
    collections::HashMap,
    sync::{Mutex, PoisonError},
    time::{Duration, Instant},
};

use crate::contract::JobId;

/// The most jobs that are remembered.
const MOST: usize = 10_000;
/// What was not seen for this long is forgotten when there is no room.
const FORGOTTEN_AFTER: Duration = Duration::from_secs(600);

/// What is seen of a job.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Sight {
    /// The last event of its log, by its number in the stream.
    LastEvent(u64),
    /// Its message of the queue, by its number in the stream.
    Message(u64),
}

#[derive(Debug, Clone, Copy)]
struct Entry {
    sight: Sight,
    since: Instant,
    last: Instant,
}

/// What this process saw of jobs that it does not hold.
#[derive(Debug, Default)]
pub struct Seen(Mutex<HashMap<(JobId, bool), Entry>>);

impl Seen {
    /// How long ago this was first seen of the job, with nothing else seen since.
    pub fn since(&self, job: &JobId, sight: Sight) -> Duration {
        let now = Instant::now();
        let mut seen = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let key = (job.clone(), matches!(sight, Sight::Message(_)));
        if seen.len() >= MOST && !seen.contains_key(&key) {
            seen.retain(|_, entry| now.duration_since(entry.last) < FORGOTTEN_AFTER);
            if seen.len() >= MOST {
                // It is seen for the first time again and again, and waits for longer.
                return Duration::ZERO;
            }
        }
        let entry = seen.entry(key).or_insert(Entry { sight, since: now, last: now });
        if entry.sight != sight {
            (entry.sight, entry.since) = (sight, now);
        }
        entry.last = now;
        now.duration_since(entry.since)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn another_event_begins_anew_and_the_number_of_jobs_is_bounded() {
        let (seen, job) = (Seen::default(), JobId::new("j").unwrap());
        assert!(seen.since(&job, Sight::LastEvent(7)) < Duration::from_millis(20));
        std::thread::sleep(Duration::from_millis(30));
        assert!(seen.since(&job, Sight::LastEvent(7)) >= Duration::from_millis(30));
        assert!(seen.since(&job, Sight::Message(7)) < Duration::from_millis(20));
        assert!(seen.since(&job, Sight::LastEvent(8)) < Duration::from_millis(20));
        for number in 0..2 * MOST {
            seen.since(&JobId::new(number.to_string()).unwrap(), Sight::LastEvent(1));
        }
        assert!(seen.0.lock().unwrap().len() <= MOST);
    }
}
