//! How many jobs a worker holds. A slot is held from receipt to the end of compute; a finish permit from receipt until
//! the end was published, so that uploads are bounded and the device waits for none of them. Jobs that run together may
//! end together: each slot may be computed in while what it had before is on its way into the store.

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};

/// The permits of one worker. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Slots {
    slot: Arc<Semaphore>,
    finish: Arc<Semaphore>,
    slots: usize,
    capacity: usize,
    changes: Arc<watch::Sender<u64>>,
    /// How long the last job of the queue ran that gave its slot back since somebody asked.
    queue_ran: Arc<Mutex<Option<Duration>>>,
}

/// What a job holds.
#[derive(Debug)]
pub struct Permits {
    slot: Option<OwnedSemaphorePermit>,
    finish: Option<OwnedSemaphorePermit>,
    position: usize,
    slots: Slots,
}

impl Slots {
    /// `slots` jobs run together and `prefetch` more wait; `slots` more may be on their way into the store.
    pub fn new(slots: usize, prefetch: usize) -> Self {
        let capacity = slots + prefetch;
        Self {
            slot: Arc::new(Semaphore::new(capacity)),
            finish: Arc::new(Semaphore::new(capacity + slots)),
            slots,
            capacity,
            changes: Arc::new(watch::Sender::new(0)),
            queue_ran: Arc::default(),
        }
    }

    /// Jobs that would be taken now.
    pub fn free(&self) -> usize {
        self.slot.available_permits().min(self.finish.available_permits())
    }

    /// Jobs that may run together.
    pub fn slots(&self) -> usize {
        self.slots
    }

    /// Both permits, or neither.
    pub fn try_take(&self) -> Option<Permits> {
        let finish = self.finish.clone().try_acquire_owned().ok()?;
        let slot = self.slot.clone().try_acquire_owned().ok()?;
        self.changed();
        let position = (self.capacity - self.slot.available_permits()).saturating_sub(self.slots);
        Some(Permits { slot: Some(slot), finish: Some(finish), position, slots: self.clone() })
    }

    /// Says that a permit was taken or given back. The engine gives slots back without a word, so whoever hears that
    /// a job has left it says so.
    pub fn changed(&self) {
        self.changes.send_modify(|number| *number = number.wrapping_add(1));
    }

    /// Says that a job of the queue gave its slot back after it ran for this long.
    pub fn queue_ran(&self, took: Duration) {
        *self.queue_ran.lock().unwrap_or_else(PoisonError::into_inner) = Some(took);
        self.changed();
    }

    /// How long the last job of the queue ran that gave its slot back since this was asked.
    pub fn take_queue_ran(&self) -> Option<Duration> {
        self.queue_ran.lock().unwrap_or_else(PoisonError::into_inner).take()
    }

    /// Changes whenever a permit was taken or given back.
    pub fn changes(&self) -> watch::Receiver<u64> {
        self.changes.subscribe()
    }
}

impl Permits {
    /// Jobs that have to end before this one is run, as it was when it came.
    pub fn position(&self) -> u32 {
        u32::try_from(self.position).unwrap_or(u32::MAX)
    }

    /// The slot, for the engine to give back. `None` the second time.
    pub fn take_slot(&mut self) -> Option<OwnedSemaphorePermit> {
        self.slot.take()
    }
}

impl Drop for Permits {
    fn drop(&mut self) {
        drop(self.slot.take());
        drop(self.finish.take());
        self.slots.changed();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_worker_holds_slots_and_prefetch_and_no_more() {
        let slots = Slots::new(1, 1);
        let first = slots.try_take().unwrap();
        let second = slots.try_take().unwrap();
        assert_eq!((first.position(), second.position(), slots.free()), (0, 1, 0));
        assert!(slots.try_take().is_none());
        drop(first);
        assert_eq!(slots.free(), 1);
    }

    #[test]
    fn uploads_that_pile_up_stop_new_jobs() {
        for (slots, prefetch, held) in [(1, 0, 2), (1, 1, 3), (8, 0, 16)] {
            let slots = Slots::new(slots, prefetch);
            let mut uploading: Vec<_> = (0..held)
                .map(|_| {
                    let mut permits = slots.try_take().unwrap();
                    drop(permits.take_slot());
                    permits
                })
                .collect();
            assert!(slots.try_take().is_none());
            uploading.pop();
            assert!(slots.try_take().is_some());
        }
    }

    #[test]
    fn jobs_that_end_together_leave_room_for_as_many() {
        let slots = Slots::new(4, 0);
        let mut uploading: Vec<_> = (0..4).map(|_| slots.try_take().unwrap()).collect();
        uploading.iter_mut().for_each(|permits| drop(permits.take_slot()));
        assert_eq!(slots.free(), 4);
    }
}
