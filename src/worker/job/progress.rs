//! Which progress is told: at most four events a second, and the last step always.

use std::time::Duration;

use tokio::time::Instant;

use crate::contract::EventKind;

/// The shortest time between two progress events.
const AT_MOST_EVERY: Duration = Duration::from_millis(250);
/// The progress of one job.
#[derive(Debug)]
pub struct Progress {
    step: u32,
    total: u32,
    /// Steps that another worker has done.
    earlier: u32,
    /// The first pass here.
    first: Option<First>,
    told: Option<Instant>,
}

/// The first pass of a job through the network.
#[derive(Debug, Clone, Copy)]
struct First {
    /// When it was done.
    at: Instant,
    /// The step that it led to.
    step: u32,
    took: Duration,
}

impl Progress {
    /// Nothing done; `total` is what the request lets expect.
    pub fn new(total: u32) -> Self {
        Self { step: 0, total, earlier: 0, first: None, told: None }
    }

    /// The steps to this one were done by another worker.
    pub fn goes_on_from(&mut self, step: u32) {
        (self.step, self.earlier) = (step, step);
    }

    /// A step was done by a pass of this length; the event, if it is to be told.
    pub fn step(&mut self, step: u32, total: u32, took: Duration) -> Option<EventKind> {
        (self.step, self.total) = (step, total);
        let now = Instant::now();
        self.first.get_or_insert(First { at: now, step, took });
        let due = self.told.is_none_or(|told| now - told >= AT_MOST_EVERY);
        (due || step >= total).then(|| self.tell())
    }

    /// The last step.
    pub fn at(&self) -> u32 {
        self.step
    }

    /// The event of the last step.
    fn tell(&mut self) -> EventKind {
        let now = Instant::now();
        self.told = Some(now);
        EventKind::Progress {
            step: self.step,
            total: self.total,
            percent: percent(self.step, self.total),
            eta_ms: self.eta_ms(now),
        }
    }

    fn eta_ms(&self, now: Instant) -> u64 {
        let Some(first) = self.first else { return 0 };
        // The end of the first pass is the start of the clock: what came before it was the queue and the text encoder.
        let (time, steps) = match self.step.saturating_sub(first.step) {
            0 => (first.took, first.step.saturating_sub(self.earlier).max(1)),
            since => (now - first.at, since),
        };
        let pace = time.as_secs_f64() / f64::from(steps);
        (pace * f64::from(self.total.saturating_sub(self.step)) * 1e3) as u64
    }
}

/// 0 to 100.
pub fn percent(step: u32, total: u32) -> f32 {
    if total == 0 { 0.0 } else { (f64::from(step) * 100.0 / f64::from(total)) as f32 }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn progress_is_told_four_times_a_second_and_at_the_last_step() {
        let mut progress = Progress::new(100);
        let mut told = vec![];
        for step in 1..=100 {
            tokio::time::advance(Duration::from_millis(10)).await;
            told.extend(progress.step(step, 100, Duration::from_millis(10)));
        }
        let steps: Vec<_> = told
            .iter()
            .map(|kind| match kind {
                EventKind::Progress { step, .. } => *step,
                other => panic!("{other:?}"),
            })
            .collect();
        assert_eq!(steps, [1, 26, 51, 76, 100]);
        assert!(matches!(told[1], EventKind::Progress { eta_ms: 740, percent: 26.0, .. }), "{:?}", told[1]);
    }

    fn eta(kind: Option<EventKind>) -> u64 {
        match kind {
            Some(EventKind::Progress { eta_ms, .. }) => eta_ms,
            other => panic!("{other:?}"),
        }
    }

    #[tokio::test(start_paused = true)]
    async fn the_first_step_tells_how_long_the_others_will_take() {
        let took = Duration::from_secs(6);
        assert_eq!(eta(Progress::new(20).step(1, 20, took)), 19 * 6000);
        assert_eq!(eta(Progress::new(1).step(1, 1, took)), 0);
        // A pass of four pictures is four steps, and so are those of the steps after it.
        let mut together = Progress::new(80);
        assert_eq!(eta(together.step(4, 80, took)), 19 * 6000);
        tokio::time::advance(Duration::from_secs(8)).await;
        assert_eq!(eta(together.step(8, 80, took)), 18 * 8000);
        // What another worker has done was at its pace.
        let mut resumed = Progress::new(20);
        resumed.goes_on_from(15);
        assert_eq!(eta(resumed.step(16, 20, took)), 4 * 6000);
    }
}
