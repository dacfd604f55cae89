//! How many webhooks are under way, in all and to each host: a receiver that is dead or slow keeps its own from being
//! told, and nobody else's.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use super::poster::Outcome;

/// Hosts that failed last and are remembered for it; beyond them all are forgiven.
const MAX_FAILING: usize = 10_000;

/// The places. Nobody waits for one: who finds none comes again.
#[derive(Debug)]
pub struct Places {
    all: usize,
    of_a_host: usize,
    taken: Arc<Mutex<Taken>>,
}

#[derive(Debug, Default)]
struct Taken {
    all: usize,
    hosts: HashMap<String, Host>,
}

#[derive(Debug, Default)]
struct Host {
    taken: usize,
    /// It did not answer, or not in time: the next that is sent there may wait as long.
    is_failing: bool,
}

/// A place, until it is dropped.
#[derive(Debug)]
pub struct Place {
    host: String,
    taken: Arc<Mutex<Taken>>,
}

impl Places {
    /// So many in all, and of these so many for one host.
    pub fn new(all: usize, of_a_host: usize) -> Self {
        Self { all, of_a_host, taken: Arc::default() }
    }

    /// A place for what goes to a host. One that failed last has one alone, and what failing hosts have is half of all.
    pub fn take(&self, host: &str) -> Option<Place> {
        let mut taken = lock(&self.taken);
        let (own, is_failing) =
            taken.hosts.get(host).map_or((0, false), |host| (host.taken, host.is_failing));
        let most = if is_failing { 1 } else { self.of_a_host };
        let room = if is_failing { self.all.div_ceil(2) } else { self.all };
        if own >= most || taken.all >= room {
            return None;
        }
        taken.all += 1;
        taken.hosts.entry(host.to_owned()).or_default().taken += 1;
        Some(Place { host: host.to_owned(), taken: self.taken.clone() })
    }
}

impl Place {
    /// Gives the place back, and remembers how its host is.
    pub fn done(self, outcome: &Outcome) {
        let mut taken = lock(&self.taken);
        if taken.hosts.len() > MAX_FAILING {
            taken.hosts.values_mut().for_each(|host| host.is_failing = false);
            taken.hosts.retain(|_, host| host.taken > 0);
        }
        if let Some(host) = taken.hosts.get_mut(&self.host) {
            host.is_failing = matches!(outcome, Outcome::Failed { .. });
        }
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut taken = lock(&self.taken);
        taken.all -= 1;
        if let Some(host) = taken.hosts.get_mut(&self.host) {
            host.taken -= 1;
            if host.taken == 0 && !host.is_failing {
                taken.hosts.remove(&self.host);
            }
        }
    }
}

fn lock(taken: &Mutex<Taken>) -> MutexGuard<'_, Taken> {
    // Nothing in here can leave the numbers half changed.
    taken.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_host_has_its_share_and_one_that_fails_a_single_place() {
        let places = Places::new(8, 3);
        let mut held: Vec<Place> = (0..3).map(|_| places.take("dead").unwrap()).collect();
        assert!(places.take("dead").is_none());
        assert!(places.take("other").is_some());
        held.pop().unwrap().done(&Outcome::failed("no answer"));
        assert!(places.take("dead").is_none(), "two are under way, and it fails");
        held.clear();
        let one = places.take("dead").unwrap();
        assert!(places.take("dead").is_none());
        one.done(&Outcome::Taken);
        assert_eq!((0..4).map_while(|_| places.take("dead")).collect::<Vec<_>>().len(), 3);
        assert_eq!(lock(&places.taken).all, 0);
        assert!(lock(&places.taken).hosts.is_empty(), "what is well leaves nothing behind");
    }

    #[test]
    fn hosts_that_fail_leave_half_of_all_places_to_those_that_do_not() {
        let places = Places::new(4, 2);
        for host in ["a", "b", "c"] {
            places.take(host).unwrap().done(&Outcome::failed("no answer"));
        }
        let held: Vec<_> = ["a", "b", "c"].into_iter().filter_map(|host| places.take(host)).collect();
        assert_eq!(held.len(), 2);
        let others: Vec<_> = ["d", "e", "f"].into_iter().filter_map(|host| places.take(host)).collect();
        assert_eq!(others.len(), 2, "and all has an end");
    }

    #[test]
    fn hosts_that_are_remembered_are_bounded() {
        let places = Places::new(4, 2);
        for number in 0..=MAX_FAILING + 5 {
            places.take(&number.to_string()).unwrap().done(&Outcome::failed("no answer"));
        }
        assert!(lock(&places.taken).hosts.len() <= MAX_FAILING + 1);
    }
}
