//! The events of all jobs, handed to whoever reads one of them: by the job's id, in memory, without waiting for a reader.
//!
//! A reader that falls behind, or whose events were missed, is told of a gap, and reads on from the stream.

use std::{
    collections::{BTreeMap, HashMap, VecDeque},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use tokio::sync::Notify;

use super::Logged;
use crate::contract::{Event, EventKind, JobId};

/// Previews that are kept for readers to come, each the newest of its job,
const MAX_PREVIEWS: usize = 4096;
/// and so many bytes of them; beyond either the one that has not changed for the longest time is forgotten.
const MAX_PREVIEW_BYTES: usize = 64 << 20;
/// Events that wait for a reader. One that is further behind reads on from the stream.
const AHEAD: usize = 16;

/// What a reader is told of its job.
#[derive(Debug, Clone, PartialEq)]
pub enum Told {
    /// An event that is stored.
    Stored(Arc<Logged>),
    /// A preview, which is not; of several that wait the newest.
    Preview(Arc<Event>),
}

/// What waits for a reader.
#[derive(Debug, PartialEq)]
pub(super) enum Waiting {
    Told(Told),
    /// Stored events may have been missed. Those that are stored from the moment on in which this is taken wait again.
    Gap,
}

/// The readers of all jobs. Cheap to clone; clones are the same.
#[derive(Debug, Clone, Default)]
pub(super) struct FanOut {
    readers: Arc<Mutex<Readers>>,
    previews: Arc<Mutex<Previews>>,
}

/// The newest preview of each job that is being drawn.
#[derive(Debug, Default)]
struct Previews {
    of: HashMap<String, (u64, Arc<Event>)>,
    /// By when they came: the number of each, and its job.
    order: BTreeMap<u64, String>,
    came: u64,
    bytes: usize,
}

#[derive(Debug, Default)]
struct Readers {
    of: HashMap<String, Vec<Arc<Mailbox>>>,
    closed: bool,
}

#[derive(Debug, Default)]
struct Mailbox {
    waiting: Mutex<Letters>,
    changed: Notify,
}

#[derive(Debug, Default)]
struct Letters {
    stored: VecDeque<Arc<Logged>>,
    /// Comes after what is in `stored`; nothing is put there until it was taken.
    gap: bool,
    preview: Option<Arc<Event>>,
    closed: bool,
}

/// A reader's place. Dropped, nothing waits for it any more.
#[derive(Debug)]
pub(super) struct Place {
    fan_out: FanOut,
    job: String,
    mailbox: Arc<Mailbox>,
}

impl FanOut {
    /// A place at the events of a job, which begins with a gap.
    pub fn open(&self, job: &JobId) -> Place {
        let mailbox = Arc::new(Mailbox::default());
        let mut readers = self.lock();
        {
            let mut letters = mailbox.lock();
            letters.gap = true;
            letters.closed = readers.closed;
            letters.preview = self.previews().of.get(job.as_str()).map(|(_, event)| event.clone());
        }
        readers.of.entry(job.as_str().to_owned()).or_default().push(mailbox.clone());
        drop(readers);
        Place { fan_out: self.clone(), job: job.as_str().to_owned(), mailbox }
    }

    /// Whether somebody reads this job.
    pub fn is_read(&self, job: &str) -> bool {
        self.lock().of.contains_key(job)
    }

    /// Hands on an event that was stored.
    pub fn stored(&self, job: &str, logged: &Arc<Logged>) {
        self.each_of(job, |letters| {
            if letters.gap {
                // It is found in the stream.
            } else if letters.stored.len() >= AHEAD {
                letters.gap = true;
            } else {
                letters.stored.push_back(logged.clone());
            }
        });
    }

    /// Hands on a preview, and keeps it for readers to come.
    pub fn preview(&self, job: &str, event: &Arc<Event>) {
        self.previews().keep(job, event.clone());
        self.each_of(job, |letters| letters.preview = Some(event.clone()));
    }

    /// A job has ended: its preview is for nobody any more.
    pub fn forget_preview(&self, job: &str) {
        self.previews().forget(job);
    }

    /// Tells every reader that events may have been missed.
    pub fn gap(&self) {
        self.each(|letters| letters.gap = true);
    }

    /// Tells every reader, also those to come, that there is nothing more.
    pub fn close(&self) {
        self.lock().closed = true;
        self.each(|letters| letters.closed = true);
    }

    fn each_of(&self, job: &str, change: impl Fn(&mut Letters)) {
        for mailbox in self.lock().of.get(job).into_iter().flatten() {
            mailbox.change(&change);
        }
    }

    fn each(&self, change: impl Fn(&mut Letters)) {
        for mailbox in self.lock().of.values().flatten() {
            mailbox.change(&change);
        }
    }

    fn lock(&self) -> MutexGuard<'_, Readers> {
        // Nothing in here can leave the map half changed.
        self.readers.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn previews(&self) -> MutexGuard<'_, Previews> {
        self.previews.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Previews {
    fn keep(&mut self, job: &str, event: Arc<Event>) {
        self.forget(job);
        self.came += 1;
        self.bytes += size(&event);
        self.order.insert(self.came, job.to_owned());
        self.of.insert(job.to_owned(), (self.came, event));
        while self.of.len() > MAX_PREVIEWS || self.bytes > MAX_PREVIEW_BYTES {
            let Some((_, oldest)) = self.order.pop_first() else { return };
            self.forget(&oldest);
        }
    }

    fn forget(&mut self, job: &str) {
        if let Some((came, event)) = self.of.remove(job) {
            self.order.remove(&came);
            self.bytes -= size(&event);
        }
    }
}

fn size(event: &Event) -> usize {
    match &event.kind {
        EventKind::Preview { image, .. } => image.len(),
        _ => 0,
    }
}

impl Mailbox {
    fn change(&self, change: impl Fn(&mut Letters)) {
        change(&mut self.lock());
        self.changed.notify_one();
    }

    fn lock(&self) -> MutexGuard<'_, Letters> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Letters {
    fn take(&mut self) -> Option<Waiting> {
        if let Some(logged) = self.stored.pop_front() {
            return Some(Waiting::Told(Told::Stored(logged)));
        }
        if std::mem::take(&mut self.gap) {
            return Some(Waiting::Gap);
        }
        self.preview.take().map(|event| Waiting::Told(Told::Preview(event)))
    }
}

impl Place {
    /// What is next; `None` when there is nothing more. Can be dropped and called again.
    pub async fn next(&self) -> Option<Waiting> {
        loop {
            {
                let mut letters = self.mailbox.lock();
                if letters.closed {
                    return None;
                }
                if let Some(waiting) = letters.take() {
                    return Some(waiting);
                }
            }
            self.mailbox.changed.notified().await;
        }
    }

    /// Whether there is nothing more to come.
    pub fn is_closed(&self) -> bool {
        self.mailbox.lock().closed
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut readers = self.fan_out.lock();
        if let Some(mailboxes) = readers.of.get_mut(&self.job) {
            mailboxes.retain(|mailbox| !Arc::ptr_eq(mailbox, &self.mailbox));
            if mailboxes.is_empty() {
                readers.of.remove(&self.job);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use futures::FutureExt;

    use super::*;
    use crate::contract::{OutputFormat, WorkerId};

    fn job(id: &str) -> JobId {
        JobId::new(id).unwrap()
    }

    fn event(seq: u64) -> Event {
        let kind = EventKind::Progress { step: 1, total: 2, percent: 50.0, eta_ms: 0 };
        Event { job_id: job("j"), worker_id: WorkerId::new("w").unwrap(), attempt: 1, seq, kind }
    }

    fn logged(sequence: u64) -> Arc<Logged> {
        Arc::new(Logged {
            event: event(sequence),
            is_read: true,
            sequence,
            failures: 0,
            given_back: false,
            queued: None,
            request: None,
            traceparent: None,
            stored_at: std::time::SystemTime::UNIX_EPOCH,
        })
    }

    /// What waits now: numbers, and 0 for a gap.
    fn waiting(place: &Place) -> Vec<u64> {
        let mut all = vec![];
        while let Some(Some(next)) = place.next().now_or_never() {
            all.push(match next {
                Waiting::Told(Told::Stored(logged)) => logged.sequence,
                Waiting::Told(Told::Preview(event)) => 1000 + event.seq,
                Waiting::Gap => 0,
            });
        }
        all
    }

    #[test]
    fn each_reader_of_a_job_gets_its_events_and_no_others() {
        let fan_out = FanOut::default();
        let (one, two, other) =
            (fan_out.open(&job("j")), fan_out.open(&job("j")), fan_out.open(&job("other")));
        for place in [&one, &two, &other] {
            assert_eq!(waiting(place), [0], "it begins with what is stored already");
        }
        fan_out.stored("j", &logged(1));
        fan_out.stored("nobody", &logged(2));
        fan_out.stored("j", &logged(3));
        assert_eq!((waiting(&one), waiting(&two), waiting(&other)), (vec![1, 3], vec![1, 3], vec![]));
        assert!(fan_out.is_read("j") && !fan_out.is_read("nobody"));
        drop(one);
        assert!(fan_out.is_read("j"));
        drop(two);
        assert!(!fan_out.is_read("j"), "what nobody reads leaves nothing behind");
    }

    #[test]
    fn a_slow_reader_is_bounded_and_reads_on_from_the_stream() {
        let fan_out = FanOut::default();
        let place = fan_out.open(&job("j"));
        assert_eq!(waiting(&place), [0]);
        for sequence in 1..=100_000 {
            fan_out.stored("j", &logged(sequence));
        }
        assert_eq!(place.mailbox.lock().stored.len(), AHEAD);
        let ahead: Vec<u64> = (1..=AHEAD as u64).chain([0]).collect();
        assert_eq!(waiting(&place), ahead, "what waited, in order, and then the gap");
        fan_out.stored("j", &logged(100_001));
        assert_eq!(waiting(&place), [100_001], "from when it was taken events wait again");
    }

    #[test]
    fn a_gap_comes_after_what_waits_and_before_what_follows() {
        let fan_out = FanOut::default();
        let place = fan_out.open(&job("j"));
        waiting(&place);
        fan_out.stored("j", &logged(1));
        fan_out.gap();
        fan_out.stored("j", &logged(9));
        assert_eq!(
            waiting(&place),
            [1, 0],
            "9 was stored before the gap is taken, and is read from the stream"
        );
    }

    #[test]
    fn of_previews_the_newest_is_kept_and_what_is_stored_goes_first() {
        let fan_out = FanOut::default();
        let place = fan_out.open(&job("j"));
        waiting(&place);
        for seq in 1..=3 {
            fan_out.preview("j", &Arc::new(event(seq)));
        }
        fan_out.stored("j", &logged(4));
        assert_eq!(waiting(&place), [4, 1003]);
    }

    #[test]
    fn who_comes_late_gets_the_newest_preview_of_a_job_that_is_being_drawn() {
        let fan_out = FanOut::default();
        fan_out.preview("j", &Arc::new(event(1)));
        fan_out.preview("j", &Arc::new(event(2)));
        assert_eq!(waiting(&fan_out.open(&job("j"))), [0, 1002], "behind what is stored");
        assert_eq!(waiting(&fan_out.open(&job("k"))), [0]);
        fan_out.forget_preview("j");
        assert_eq!(waiting(&fan_out.open(&job("j"))), [0]);
    }

    #[test]
    fn previews_that_are_kept_are_bounded_in_number_and_in_bytes() {
        let fan_out = FanOut::default();
        let preview = |bytes| {
            let (image, format) = ("A".repeat(bytes), OutputFormat::Jpeg);
            let kind = EventKind::Preview { step: 1, total: 2, percent: 50.0, image, format };
            Arc::new(Event { kind, ..event(1) })
        };
        for number in 0..MAX_PREVIEWS + 10 {
            fan_out.preview(&format!("j{number}"), &preview(10));
        }
        let kept = || {
            let previews = fan_out.previews();
            (previews.of.len(), previews.order.len(), previews.bytes)
        };
        let is_kept = |job: &str| fan_out.previews().of.contains_key(job);
        assert_eq!(kept(), (MAX_PREVIEWS, MAX_PREVIEWS, MAX_PREVIEWS * 10));
        assert!(!is_kept("j9"));
        assert!(is_kept("j10"));
        for name in ["x", "y", "z"] {
            fan_out.preview(name, &preview(MAX_PREVIEW_BYTES / 2));
        }
        assert_eq!(kept(), (2, 2, MAX_PREVIEW_BYTES));
        fan_out.preview("huge", &preview(MAX_PREVIEW_BYTES + 1));
        assert_eq!(kept(), (0, 0, 0), "what is larger than all may be is not kept");
    }

    #[tokio::test]
    async fn a_reader_that_waits_is_woken_and_one_that_comes_too_late_ends() {
        let fan_out = FanOut::default();
        let place = fan_out.open(&job("j"));
        waiting(&place);
        let (heard, ()) = tokio::join!(place.next(), async { fan_out.stored("j", &logged(7)) });
        assert_eq!(heard, Some(Waiting::Told(Told::Stored(logged(7)))));
        let (heard, ()) = tokio::join!(place.next(), async { fan_out.close() });
        assert_eq!(heard, None);
        assert_eq!(fan_out.open(&job("k")).next().await, None);
    }
}
