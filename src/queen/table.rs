//! The jobs that queen remembers: so many and no more, finished ones forgotten oldest first.

use std::{
    collections::{HashMap, VecDeque},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use super::record::Record;
use crate::contract::{About, JobId};

/// The jobs.
pub struct Table {
    limit: usize,
    jobs: Mutex<Jobs>,
}

#[derive(Default)]
struct Jobs {
    records: HashMap<JobId, Arc<Record>>,
    /// In the order in which they came; an id may be here without a record.
    order: VecDeque<JobId>,
}

/// What became of a job that came in.
pub enum Claimed<'a> {
    /// It is new, and is forgotten again unless the claim is kept.
    New(Claim<'a>),
    /// It is known.
    Known,
    /// Its id is that of another job.
    Other,
    /// No place: every job that is remembered is under way.
    Full,
}

/// A job that was just entered.
pub struct Claim<'a> {
    table: &'a Table,
    record: Arc<Record>,
    kept: bool,
}

impl Table {
    /// A table of at most `limit` jobs.
    pub fn new(limit: usize) -> Self {
        Self { limit, jobs: Mutex::default() }
    }

    /// Enters a job of this owner, or finds it. A job that ended in an error which another run may avoid is entered anew, and
    /// stays its owner's. `finds`: whether a job of another owner is one that whoever sends this may see.
    pub fn claim(
        &self,
        id: &JobId,
        fingerprint: &str,
        owner: Option<String>,
        about: About,
        finds: impl Fn(Option<&str>) -> bool,
    ) -> Claimed<'_> {
        let mut jobs = self.lock();
        let (mut first_seq, mut owner) = (0, owner);
        if let Some(known) = jobs.records.get(id) {
            if known.fingerprint != fingerprint || !finds(known.owner.as_deref()) {
                return Claimed::Other;
            }
            match known.may_run_again() {
                None => return Claimed::Known,
                Some(next) => first_seq = next,
            }
            owner = known.owner.clone().or(owner);
        } else {
            if jobs.records.len() >= self.limit && !jobs.forget_one() {
                return Claimed::Full;
            }
            jobs.order.push_back(id.clone());
        }
        let record = Arc::new(Record::new(id.clone(), fingerprint.to_owned(), owner, about, first_seq));
        jobs.records.insert(id.clone(), record.clone());
        Claimed::New(Claim { table: self, record, kept: false })
    }

    /// The jobs that are remembered.
    pub fn all(&self) -> Vec<Arc<Record>> {
        self.lock().records.values().cloned().collect()
    }

    /// A job that is remembered.
    pub fn get(&self, id: &JobId) -> Option<Arc<Record>> {
        self.lock().records.get(id).cloned()
    }

    fn lock(&self) -> MutexGuard<'_, Jobs> {
        self.jobs.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Jobs {
    /// Forgets the oldest finished job; whether there was one.
    fn forget_one(&mut self) -> bool {
        let ended = |id: &JobId| self.records.get(id).is_none_or(|record| record.has_ended());
        let Some(oldest) = self.order.iter().position(ended) else { return false };
        let id = self.order.remove(oldest).expect("the position was found in it");
        self.records.remove(&id);
        true
    }
}

impl Claim<'_> {
    /// The job.
    pub fn record(&self) -> &Arc<Record> {
        &self.record
    }

    /// Keeps it.
    pub fn keep(mut self) {
        self.kept = true;
    }
}

impl Drop for Claim<'_> {
    fn drop(&mut self) {
        if !self.kept {
            let mut jobs = self.table.lock();
            jobs.records.remove(&self.record.id);
            jobs.order.retain(|id| *id != self.record.id);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::contract::{ErrorCode, EventKind, Operation};

    fn claim<'a>(table: &'a Table, id: &str, fingerprint: &str, owner: Option<&str>) -> Claimed<'a> {
        let operation = Operation::parse(None, br#"{"operation":"image_generation","prompt":"a"}"#).unwrap();
        let finds = |of: Option<&str>| of.is_none() || of == owner;
        let owner = owner.map(str::to_owned);
        table.claim(&JobId::new(id).unwrap(), fingerprint, owner, About::of(&operation), finds)
    }

    fn enter(table: &Table, id: &str) -> bool {
        match claim(table, id, "f", None) {
            Claimed::New(claim) => {
                claim.keep();
                true
            }
            _ => false,
        }
    }

    fn get(table: &Table, id: &str) -> Option<Arc<Record>> {
        table.get(&JobId::new(id).unwrap())
    }

    #[test]
    fn the_oldest_finished_job_makes_room() {
        let table = Table::new(2);
        assert!(enter(&table, "a") && enter(&table, "b"));
        assert!(matches!(claim(&table, "c", "f", None), Claimed::Full));
        get(&table, "b").unwrap().push_own(None, EventKind::Cancelled { step: 0 });
        assert!(enter(&table, "c"));
        assert!(get(&table, "a").is_some() && get(&table, "b").is_none());
    }

    #[test]
    fn an_id_is_one_job() {
        let table = Table::new(2);
        assert!(enter(&table, "a"));
        assert!(matches!(claim(&table, "a", "f", None), Claimed::Known));
        assert!(matches!(claim(&table, "a", "g", None), Claimed::Other));
    }

    #[test]
    fn a_job_that_failed_for_now_may_come_again() {
        let table = Table::new(2);
        assert!(enter(&table, "a"));
        get(&table, "a").unwrap().fail(None, ErrorCode::Busy, "no");
        assert!(enter(&table, "a"));
        assert!(!get(&table, "a").unwrap().has_ended());
        get(&table, "a").unwrap().fail(None, ErrorCode::InvalidRequest, "no");
        assert!(!enter(&table, "a"));
    }

    #[test]
    fn anothers_job_is_another_request_though_it_says_the_same_and_failed_for_now() {
        let table = Table::new(2);
        let Claimed::New(alices) = claim(&table, "a", "f", Some("alice")) else { panic!("it is new") };
        alices.keep();
        assert!(matches!(claim(&table, "a", "f", Some("bob")), Claimed::Other));
        get(&table, "a").unwrap().fail(None, ErrorCode::Busy, "no");
        assert!(matches!(claim(&table, "a", "f", Some("bob")), Claimed::Other));
        let Claimed::New(again) = claim(&table, "a", "f", Some("alice")) else { panic!("it comes again") };
        again.keep();
        assert_eq!(get(&table, "a").unwrap().owner.as_deref(), Some("alice"));
    }

    #[test]
    fn a_claim_that_is_not_kept_is_gone() {
        let table = Table::new(2);
        drop(claim(&table, "a", "f", None));
        assert!(get(&table, "a").is_none());
        assert!(enter(&table, "a"));
    }
}
