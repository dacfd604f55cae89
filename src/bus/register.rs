//! The durable jobs of a pool as their tickets tell of them: what queen lists, and who is before whom in line.
//!
//! It is read from the stream of events, where any queen finds the same: from its beginning, and then as it grows. So many
//! jobs are remembered, the newest ones.

use std::{
    collections::{BTreeMap, HashMap},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, SystemTime},
};

use async_nats::jetstream::message::StreamMessage;

use super::{
    BusError, Streams,
    ordered::{Live, News, Range},
};
use crate::contract::{Capability, Event, JobId, JobStatus, Ticket, Webhook, model_token};

/// Jobs that are remembered; the oldest are forgotten for newer ones. With its prompt each takes half a kilobyte.
const MAX_JOBS: usize = 50_000;
/// How long the stream has to deliver the next ticket while all are read.
const NEXT_WITHIN: Duration = Duration::from_secs(5);
/// The pause after the tickets could not be read.
const PAUSE: Duration = Duration::from_secs(1);

/// The jobs. Cheap to clone; clones are the same.
#[derive(Debug, Clone, Default)]
pub struct Register {
    jobs: Arc<Mutex<Jobs>>,
    /// Every ticket that there is has been read.
    whole: Arc<AtomicBool>,
}

/// A job.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entered {
    /// What was written of it.
    pub ticket: Ticket,
    /// When it was taken, in milliseconds since 1970.
    pub created_ms: u64,
    /// How it ended, if that was heard.
    pub ended: Option<JobStatus>,
}

/// Newer jobs are above older ones; of two of one moment the ids decide.
type Age = (u64, JobId);

#[derive(Debug, Default)]
struct Jobs {
    by_age: BTreeMap<Age, Entered>,
    created: HashMap<JobId, u64>,
    /// By capability and model: the numbers in the stream of jobs of those that have not ended, in order.
    lines: HashMap<(Capability, String), Vec<u64>>,
}

impl Register {
    /// Follows the tickets in these streams until the connection is closed for good.
    pub async fn follow(self, streams: Streams) {
        let subject = streams.subjects.ticket_any();
        let mut live = Live::listen(streams.context.clone(), streams.events.clone(), subject);
        while let Some(news) = live.next().await {
            match news {
                News::Message(message) => self.read(&message),
                News::Gap => {
                    while let Err(error) = self.read_all(&streams).await {
                        tracing::debug!(%error, "the tickets of jobs cannot be read at present");
                        tokio::time::sleep(PAUSE).await;
                    }
                    self.whole.store(true, Ordering::Relaxed);
                }
            }
        }
    }

    /// Enters a job, or its new sending.
    pub fn enter(&self, ticket: Ticket) {
        let created_ms = ticket.about.as_ref().map_or_else(now_ms, |about| about.created_ms);
        self.lock().enter(ticket, created_ms);
    }

    /// Takes note of the event that ended a job.
    pub fn ended(&self, event: &Event) {
        self.lock().ended(event);
    }

    /// Whether the job is one of them.
    pub fn knows(&self, job: &JobId) -> bool {
        self.lock().created.contains_key(job)
    }

    /// Where it is posted how a job goes, and whose the job is.
    pub fn progress_of(&self, job: &JobId) -> Option<(Webhook, Option<String>)> {
        let jobs = self.lock();
        let ticket = &jobs.by_age.get(&(*jobs.created.get(job)?, job.clone()))?.ticket;
        Some((ticket.webhook.clone()?, ticket.owner.clone()))
    }

    /// The newest jobs that are `wanted` and older than `before`, at most `limit`.
    pub fn newest(
        &self,
        before: Option<&Age>,
        limit: usize,
        wanted: impl Fn(Option<&str>) -> bool,
    ) -> Vec<Entered> {
        let jobs = self.lock();
        let older = match before {
            Some(age) => jobs.by_age.range(..age.clone()),
            None => jobs.by_age.range(..),
        };
        let wanted = |(_, job): &(&Age, &Entered)| wanted(job.ticket.owner.as_deref());
        older.rev().filter(wanted).take(limit).map(|(_, job)| job.clone()).collect()
    }

    /// How many jobs of a capability and model are before the one of number `sequence` in the stream of jobs, of which no
    /// worker has got any up to number `given`. `None`: not all are known yet.
    pub fn before(&self, capability: Capability, model: &str, sequence: u64, given: u64) -> Option<u64> {
        if !self.whole.load(Ordering::Relaxed) {
            return None;
        }
        let jobs = self.lock();
        let line = jobs.lines.get(&(capability, model_token(model)))?;
        let [first, own] =
            [given.saturating_add(1), sequence].map(|from| line.partition_point(|n| *n < from));
        Some(own.saturating_sub(first) as u64)
    }

    /// Reads every ticket that there is now.
    async fn read_all(&self, streams: &Streams) -> Result<(), BusError> {
        let subject = streams.subjects.ticket_any();
        let Some(last) = streams.last_on(&subject).await? else { return Ok(()) };
        let range = Range { stream: streams.events.clone(), subject: subject.clone(), headers_only: false };
        let mut tickets = streams.read(range).await?;
        loop {
            // None within the time: the last ones are gone by now, or JetStream is away.
            let Ok(Some(delivered)) = tokio::time::timeout(NEXT_WITHIN, tickets.next()).await else {
                let reason = format!("no ticket came within {NEXT_WITHIN:?}");
                return Err(BusError::JetStream { doing: format!("reading {subject}"), reason });
            };
            self.read(&delivered.message);
            if delivered.pending == 0 || delivered.message.sequence >= last.sequence {
                return Ok(());
            }
        }
    }

    fn read(&self, message: &StreamMessage) {
        let Ok(ticket) = serde_json::from_slice::<Ticket>(&message.payload) else {
            return tracing::debug!(subject = %message.subject, "a ticket that cannot be read is left out");
        };
        let stored =
            SystemTime::from(message.time).duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        let stored_ms = u64::try_from(stored.as_millis()).unwrap_or(u64::MAX);
        let created_ms = ticket.about.as_ref().map_or(stored_ms, |about| about.created_ms);
        self.lock().enter(ticket, created_ms);
    }

    fn lock(&self) -> MutexGuard<'_, Jobs> {
        // Nothing in here can leave the jobs half changed.
        self.jobs.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Jobs {
    fn enter(&mut self, mut ticket: Ticket, created_ms: u64) {
        let id = ticket.job_id.clone();
        let mut ended = None;
        if let Some(before) = self.created.get(&id).and_then(|at| self.by_age.remove(&(*at, id.clone()))) {
            // Tickets are read again after an outage: an older one does not undo what came since.
            if before.ticket.sequence > ticket.sequence {
                self.by_age.insert((before.created_ms, id), before);
                return;
            }
            if before.ticket.sequence == ticket.sequence {
                ended = before.ended;
            }
            self.leave_line(&before.ticket);
        }
        if ended.is_none() {
            self.join_line(&ticket);
        }
        // A URL may be long, and what is told once is told by the ticket itself.
        ticket.webhook.take_if(|webhook| ended.is_some() || !webhook.wants_progress());
        self.created.insert(id.clone(), created_ms);
        self.by_age.insert((created_ms, id), Entered { ticket, created_ms, ended });
        if self.by_age.len() > MAX_JOBS
            && let Some((_, oldest)) = self.by_age.pop_first()
        {
            self.created.remove(&oldest.ticket.job_id);
            self.leave_line(&oldest.ticket);
        }
    }

    fn ended(&mut self, event: &Event) {
        let Some(created_ms) = self.created.get(&event.job_id) else { return };
        let Some(job) = self.by_age.get_mut(&(*created_ms, event.job_id.clone())) else { return };
        if job.ticket.is_past(event.seq) {
            return;
        }
        job.ended = Some(event.kind.status());
        job.ticket.webhook = None;
        let ticket = job.ticket.clone();
        self.leave_line(&ticket);
    }

    fn join_line(&mut self, ticket: &Ticket) {
        let Some(line) = line_of(ticket) else { return };
        let line = self.lines.entry(line).or_default();
        if let Err(place) = line.binary_search(&ticket.sequence) {
            line.insert(place, ticket.sequence);
        }
    }

    fn leave_line(&mut self, ticket: &Ticket) {
        let Some(name) = line_of(ticket) else { return };
        let Some(line) = self.lines.get_mut(&name) else { return };
        if let Ok(place) = line.binary_search(&ticket.sequence) {
            line.remove(place);
        }
        if line.is_empty() {
            self.lines.remove(&name);
        }
    }
}

fn line_of(ticket: &Ticket) -> Option<(Capability, String)> {
    let about = ticket.about.as_ref()?;
    Some((about.capability, model_token(about.model.as_deref()?)))
}

fn now_ms() -> u64 {
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    u64::try_from(now.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::contract::{About, EventKind, WorkerId};

    fn job(id: &str) -> JobId {
        JobId::new(id).unwrap()
    }

    fn ticket(id: &str, owner: &str, sequence: u64, created_ms: u64) -> Ticket {
        let (capability, model) = (Capability::Generate, Some("m".to_owned()));
        Ticket {
            job_id: job(id),
            fingerprint: "f".into(),
            plain: None,
            sequence,
            after: None,
            owner: Some(owner.into()),
            about: Some(About { capability, model, prompt: "p".into(), created_ms }),
            webhook: None,
        }
    }

    fn end(id: &str, seq: u64) -> Event {
        let kind = EventKind::Cancelled { step: 0 };
        Event { job_id: job(id), worker_id: WorkerId::new("w").unwrap(), attempt: 1, seq, kind }
    }

    fn whole() -> Register {
        let register = Register::default();
        register.whole.store(true, Ordering::Relaxed);
        register
    }

    fn names(jobs: Vec<Entered>) -> Vec<String> {
        jobs.iter().map(|job| job.ticket.job_id.to_string()).collect()
    }

    #[test]
    fn a_list_is_of_one_owner_newest_first_in_pages() {
        let register = whole();
        for (number, id) in ["a", "b", "c", "d"].into_iter().enumerate() {
            let owner = if id == "b" { "bob" } else { "alice" };
            register.enter(ticket(id, owner, number as u64 + 1, 100 + number as u64 / 2));
        }
        let alices = |before: Option<&Age>, limit| {
            names(register.newest(before, limit, |owner| owner == Some("alice")))
        };
        assert_eq!(alices(None, 10), ["d", "c", "a"]);
        assert_eq!(alices(None, 2), ["d", "c"]);
        assert_eq!(alices(Some(&(101, job("c"))), 2), ["a"]);
        assert_eq!(register.newest(None, 10, |_| true).len(), 4);
    }

    #[test]
    fn who_is_before_whom_is_counted_without_those_that_ended_or_were_given_out() {
        let register = whole();
        for sequence in [4, 2, 7, 9] {
            register.enter(ticket(&format!("j{sequence}"), "alice", sequence, sequence));
        }
        let before = |sequence, given| register.before(Capability::Generate, "m", sequence, given);
        assert_eq!([2, 4, 7, 9].map(|n| before(n, 0)), [Some(0), Some(1), Some(2), Some(3)]);
        assert_eq!((before(9, 2), before(9, 8), before(4, 8)), (Some(2), Some(0), Some(0)));
        register.ended(&end("j4", 1));
        assert_eq!(before(9, 0), Some(2));
        register.enter(ticket("j4", "alice", 4, 4));
        assert_eq!(before(9, 0), Some(2), "a ticket that is read again brings nobody back");
        register.enter(Ticket { after: Some(1), ..ticket("j4", "alice", 12, 4) });
        register.ended(&end("j4", 1));
        assert_eq!(before(13, 0), Some(4), "it was sent again, behind that end");
        assert_eq!(register.before(Capability::Inpaint, "m", 3, 0), None);
        assert_eq!(Register::default().before(Capability::Generate, "m", 3, 0), None);
    }

    #[test]
    fn the_oldest_are_forgotten() {
        let register = whole();
        for number in 0..MAX_JOBS as u64 + 3 {
            register.enter(ticket(&format!("j{number}"), "alice", number + 1, number));
        }
        assert_eq!(names(register.newest(None, 1, |_| true)), [format!("j{}", MAX_JOBS + 2)]);
        let jobs = register.lock();
        assert_eq!((jobs.by_age.len(), jobs.created.len()), (MAX_JOBS, MAX_JOBS));
        assert_eq!(jobs.lines.values().map(Vec::len).sum::<usize>(), MAX_JOBS);
    }

    #[test]
    fn a_url_is_kept_for_jobs_that_are_drawn_and_tell_how_they_go() {
        let register = whole();
        let with = |id: &str, event: &str| {
            let webhook = Webhook { url: "https://me.example/".into(), events: vec![event.into()] };
            Ticket { webhook: Some(webhook), ..ticket(id, "alice", 3, 3) }
        };
        register.enter(with("goes", "progress"));
        register.enter(with("ends", "complete"));
        let told = |id: &str| register.progress_of(&job(id)).map(|(hook, owner)| (hook.url, owner));
        assert_eq!(told("goes"), Some(("https://me.example/".into(), Some("alice".into()))));
        assert_eq!((told("ends"), told("unknown")), (None, None));
        register.ended(&end("goes", 1));
        register.enter(with("goes", "progress"));
        assert_eq!(told("goes"), None);
    }
}
