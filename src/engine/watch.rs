//! How long the engine has been at one piece of work, and how long that may take: a device that hangs never comes back, and
//! its thread cannot be stopped. Loading a model is not watched; it takes as long as the disk does.

use std::{
    collections::VecDeque,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

/// The least time that a piece of work may take, for a picture of up to a million pixels.
pub const STEP_LIMIT: Duration = Duration::from_secs(60);
/// How many times the slowest of its shape a piece of work may take.
const TIMES_THE_SLOWEST: u32 = 20;
/// Pixels for which [`STEP_LIMIT`] is meant, while nothing of their shape was done.
const PIXELS_OF_A_FLOOR: u64 = 1024 * 1024;
/// How many times the least limit the first work of a model may take on a CPU: how fast it is, is not known yet.
const FIRST_ON_CPU: u32 = 30;
/// How many times the least limit work may take in which the files of LoRAs are read.
const WITH_FILES: u32 = 10;
/// Shapes whose times are remembered; the one that came first is forgotten for another.
const REMEMBERED: usize = 256;
/// How often the work is looked at, unless the limit is shorter than a few looks.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// Looks within the shortest limit.
const LOOKS: u32 = 8;

/// What the engine does for a picture.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Work {
    /// The prompt is read.
    Begin,
    /// The prompt and pictures are read.
    Encode,
    /// Files of LoRAs are read, and the rest.
    ReadFiles,
    Step,
    Preview,
    Decode,
    /// Memory of the device is given back, or asked for.
    Memory,
}

impl Work {
    fn name(self) -> &'static str {
        match self {
            Self::Begin | Self::Encode | Self::ReadFiles => "reading the inputs",
            Self::Step => "a step",
            Self::Preview => "a preview",
            Self::Decode => "decoding",
            Self::Memory => "making room",
        }
    }
}

/// What decides how long a piece of work takes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Shape {
    pub work: Work,
    pub model: String,
    /// Of all the pictures that share it.
    pub pixels: u64,
}

/// What the engine does now, told by its thread and read by others.
#[derive(Debug)]
pub struct StepWatch {
    floor: Duration,
    on_cpu: bool,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    /// The number of the last piece of work, from 1.
    number: u64,
    now: Option<Doing>,
    slowest: VecDeque<(Shape, Duration)>,
}

#[derive(Debug, Clone)]
struct Doing {
    number: u64,
    shape: Shape,
    limit: Duration,
    begun: Instant,
}

/// A piece of work that takes longer than it may.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("the device is stuck: {} of `{model}` took longer than {limit:?}", work.name())]
pub struct Stuck {
    work: Work,
    model: String,
    limit: Duration,
}

impl StepWatch {
    /// Nothing is known of any shape; `floor` is the least limit.
    pub(super) fn new(floor: Duration, on_cpu: bool) -> Self {
        Self { floor, on_cpu, state: Mutex::default() }
    }

    /// With another least limit, and nothing known.
    pub(super) fn with_floor(&self, floor: Duration) -> Self {
        Self::new(floor, self.on_cpu)
    }

    /// Does a piece of work, and takes note of when it began and how long it took. Not to be called within itself.
    pub(super) fn during<T>(&self, shape: Shape, work: impl FnOnce() -> T) -> T {
        let begun = Instant::now();
        {
            let mut state = self.lock();
            state.number += 1;
            let limit = self.limit(&shape, &state.slowest);
            state.now = Some(Doing { number: state.number, shape: shape.clone(), limit, begun });
        }
        // A panic in it ends it as well.
        let ends = Ends(self);
        let done = work();
        drop(ends);
        self.lock().note(shape, begun.elapsed());
        done
    }

    fn limit(&self, shape: &Shape, slowest: &VecDeque<(Shape, Duration)>) -> Duration {
        let floor = match shape.work {
            Work::ReadFiles => self.floor.saturating_mul(WITH_FILES),
            _ => self.floor,
        };
        if let Some((_, slowest)) = slowest.iter().find(|(of, _)| of == shape) {
            return floor.max(slowest.saturating_mul(TIMES_THE_SLOWEST));
        }
        if !self.on_cpu {
            let floors = u32::try_from(shape.pixels.div_ceil(PIXELS_OF_A_FLOOR)).unwrap_or(u32::MAX);
            return floor.saturating_mul(floors.max(1));
        }
        // A CPU may take minutes for a step of a large picture: what it took for others is a measure.
        let alike = |of: &&(Shape, Duration)| of.0.work == shape.work && of.0.model == shape.model;
        let scaled = |(of, took): &(Shape, Duration)| {
            let larger = shape.pixels.div_ceil(of.pixels.max(1)).max(1);
            took.saturating_mul(u32::try_from(larger).unwrap_or(u32::MAX))
        };
        match slowest.iter().filter(alike).map(scaled).min() {
            Some(expected) => floor.max(expected.saturating_mul(TIMES_THE_SLOWEST)),
            None if shape.work == Work::Memory => floor,
            None => floor.saturating_mul(FIRST_ON_CPU),
        }
    }

    /// How long the engine has been at its present piece of work; none: it is at none.
    pub(super) fn age(&self) -> Option<Duration> {
        self.lock().now.as_ref().map(|doing| doing.begun.elapsed())
    }

    fn now(&self) -> Option<Doing> {
        self.lock().now.clone()
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn note(&mut self, shape: Shape, took: Duration) {
        if let Some((_, slowest)) = self.slowest.iter_mut().find(|(of, _)| *of == shape) {
            *slowest = took.max(*slowest);
            return;
        }
        if self.slowest.len() == REMEMBERED {
            self.slowest.pop_front();
        }
        self.slowest.push_back((shape, took));
    }
}

/// Ends a piece of work, however it ends.
struct Ends<'a>(&'a StepWatch);

impl Drop for Ends<'_> {
    fn drop(&mut self) {
        self.0.lock().now = None;
    }
}

/// Whoever waits for the device to be stuck.
#[derive(Debug)]
pub struct Lookout {
    watch: Arc<StepWatch>,
    /// The piece of work that was seen last, and for how long.
    number: u64,
    seen_for: Duration,
    looked: Instant,
}

impl Lookout {
    /// Has seen nothing yet.
    pub fn new(watch: Arc<StepWatch>) -> Self {
        Self { watch, number: 0, seen_for: Duration::ZERO, looked: Instant::now() }
    }

    /// Resolves when a piece of work takes longer than it may. May be called again after it was cancelled.
    pub async fn stuck(&mut self) -> Stuck {
        let every = LOOK_EVERY.min(self.watch.floor / LOOKS).max(Duration::from_millis(1));
        loop {
            tokio::time::sleep(every).await;
            if let Some(stuck) = self.look(every) {
                return stuck;
            }
        }
    }

    /// A process that was stopped for a while has seen nothing of it: of a long pause between two looks little counts.
    fn look(&mut self, every: Duration) -> Option<Stuck> {
        let since = self.looked.elapsed().min(2 * every);
        self.looked = Instant::now();
        let doing = self.watch.now();
        match doing {
            Some(Doing { number, shape, limit, .. }) if number == self.number => {
                self.seen_for += since;
                (self.seen_for > limit).then_some(Stuck { work: shape.work, model: shape.model, limit })
            }
            other => {
                self.number = other.map_or(0, |doing| doing.number);
                self.seen_for = Duration::ZERO;
                None
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn step(model: &str, side: u64) -> Shape {
        Shape { work: Work::Step, model: model.into(), pixels: side * side }
    }

    fn limit(watch: &StepWatch, shape: &Shape) -> Duration {
        watch.limit(shape, &watch.lock().slowest)
    }

    #[test]
    fn work_may_take_a_minute_or_20_times_the_slowest_of_its_shape() {
        let watch = StepWatch::new(STEP_LIMIT, false);
        for took in [SECOND, 5 * SECOND, 2 * SECOND] {
            watch.lock().note(step("a", 512), took);
        }
        assert_eq!(limit(&watch, &step("a", 512)), 100 * SECOND);
        watch.lock().note(step("b", 512), SECOND);
        assert_eq!(limit(&watch, &step("b", 512)), STEP_LIMIT);
        // A device that computes fast has a minute for each started million of pixels of a shape that is new.
        assert_eq!(limit(&watch, &step("a", 1024)), STEP_LIMIT);
        assert_eq!(limit(&watch, &step("a", 2048)), 4 * STEP_LIMIT);
    }

    #[test]
    fn on_a_cpu_a_new_shape_may_take_what_smaller_ones_let_expect() {
        let watch = StepWatch::new(STEP_LIMIT, true);
        assert_eq!(limit(&watch, &step("a", 512)), FIRST_ON_CPU * STEP_LIMIT);
        watch.lock().note(step("a", 64), SECOND);
        assert_eq!(limit(&watch, &step("a", 512)), 64 * 20 * SECOND);
        watch.lock().note(step("a", 512), 10 * SECOND);
        assert_eq!(limit(&watch, &step("a", 1024)), 4 * 20 * 10 * SECOND);
        assert_eq!(limit(&watch, &step("a", 512)), 20 * 10 * SECOND);
        // Another model, and other work, say nothing of it.
        assert_eq!(limit(&watch, &step("b", 64)), FIRST_ON_CPU * STEP_LIMIT);
        assert_eq!(limit(&watch, &Shape { work: Work::Decode, ..step("a", 64) }), FIRST_ON_CPU * STEP_LIMIT);
        watch.lock().note(step("sim", 64), Duration::ZERO);
        assert_eq!(limit(&watch, &step("sim", 2048)), STEP_LIMIT);
    }

    #[test]
    fn files_of_loras_have_time_to_be_read() {
        let watch = StepWatch::new(SECOND, false);
        let begin = Shape { work: Work::ReadFiles, ..step("a", 64) };
        watch.lock().note(begin.clone(), SECOND / 10);
        assert_eq!(limit(&watch, &begin), WITH_FILES * SECOND);
    }

    #[test]
    fn so_many_shapes_are_remembered_and_no_more() {
        let watch = StepWatch::new(STEP_LIMIT, false);
        for side in 0..=REMEMBERED as u64 {
            watch.lock().note(step("a", side), 100 * SECOND);
        }
        assert_eq!(watch.lock().slowest.len(), REMEMBERED);
        assert_eq!(limit(&watch, &step("a", 0)), STEP_LIMIT);
        assert_eq!(limit(&watch, &step("a", 1)), 2000 * SECOND);
    }

    #[test]
    fn work_that_panicked_has_ended() {
        let watch = StepWatch::new(STEP_LIMIT, false);
        let work = || watch.during(step("a", 64), || panic!("as it was told to"));
        std::panic::catch_unwind(std::panic::AssertUnwindSafe(work)).unwrap_err();
        assert!(watch.now().is_none());
    }

    #[tokio::test]
    async fn work_that_does_not_end_is_stuck_and_work_that_follows_other_work_is_not() {
        let watch = Arc::new(StepWatch::new(Duration::from_millis(200), false));
        let mut lookout = Lookout::new(watch.clone());
        let (go_on, wait) = std::sync::mpsc::channel::<()>();
        let at_work = watch.clone();
        let thread = std::thread::spawn(move || {
            let until = Instant::now() + Duration::from_millis(600);
            while Instant::now() < until {
                at_work.during(step("a", 64), || std::thread::sleep(Duration::from_millis(1)));
            }
            at_work.during(step("a", 128), || wait.recv().unwrap());
        });
        let stuck = lookout.stuck().await;
        assert_eq!((stuck.work, stuck.model.as_str()), (Work::Step, "a"));
        assert_eq!(watch.now().unwrap().shape, step("a", 128));
        assert!(watch.age().unwrap() >= Duration::from_millis(200));
        go_on.send(()).unwrap();
        thread.join().unwrap();
        assert_eq!(watch.age(), None, "it is at nothing");
    }

    #[test]
    fn a_pause_of_the_whole_process_is_no_work_of_the_device() {
        let watch = Arc::new(StepWatch::new(STEP_LIMIT, false));
        let mut lookout = Lookout::new(watch.clone());
        watch.during(step("a", 64), || {
            assert_eq!(lookout.look(SECOND), None);
            // As after half a minute in which nothing of this process ran.
            lookout.looked = Instant::now().checked_sub(Duration::from_secs(30)).unwrap();
            assert_eq!(lookout.look(SECOND), None);
            assert_eq!(lookout.seen_for, 2 * SECOND);
            lookout.seen_for = STEP_LIMIT;
            lookout.looked = Instant::now().checked_sub(SECOND).unwrap();
            assert!(lookout.look(SECOND).is_some());
        });
    }
}
