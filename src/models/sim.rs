//! `sim://`: a model that draws a flat picture and only takes time, for load tests of a pool and of its error handling.
//!
//! `sim://?step_ms=5&size=64` sleeps 5 ms a step and is 64 x 64 natively. `load_ms=500&memory=4GiB` sleeps half a second
//! while it is loaded and counts as 4 GiB of weights, of which nothing is allocated. The colour follows from prompt, steps and
//! seed, so that the same request gives the same bytes. Pictures of one size share a pass, which takes one step's time, as
//! on a GPU with room for them.
//!
//! `fail=panic|out_of_memory|non_finite|exit|device|hang` with `fail_step=N` (default 1) makes every job fail at step N that
//! gets so far, or with `fail_prompt=WORD` those whose prompt has it; `exit` ends the whole process there, with status 9, as
//! a job does that brings down whichever worker takes it; `device` is an error of the device, and `hang` a step that never
//! ends. A pass ends where a job fails, like that of a scheduler that panics: who comes before it has gone the step.
//! `room=N` is a device on which a pass of more than N pictures runs out of memory. `fail_step=end` fails where the picture
//! is decoded. `fail_times=N` fails N times and no more. `together=N` draws N pictures of a job together.
//!
//! `fail=...&fail_after=N` is a device that breaks: N steps go well, of whichever job, and every one after them fails. The
//! test of the device is such a step, at the start the first; a failure of jobs does not touch it.

use std::{
    str::FromStr,
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    },
    time::Duration,
};

use image::{Rgb, RgbImage};
use sha2::{Digest, Sha256};

use crate::{
    contract::limits::{MAX_SIDE, MIN_SIDE, SIDE_MULTIPLE},
    diffusion::{Fit, ImageSpec, Source, passes},
    units::parse_size,
};

/// Milliseconds of a step when the URL names none.
const DEFAULT_STEP_MS: u64 = 5;
/// Native side in pixels when the URL names none.
const DEFAULT_SIZE: u32 = 64;
/// The longest step, in milliseconds.
const MAX_STEP_MS: u64 = 60_000;
/// The status of a process that was told to end.
const EXIT_STATUS: i32 = 9;
/// The longest side of a preview, in pixels.
const PREVIEW_SIDE: u32 = 256;

/// Stands for the end of a picture where a step is named.
const AT_THE_END: u32 = u32::MAX;

/// A simulated model.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sim {
    step: Duration,
    size: u32,
    load: Duration,
    memory: u64,
    room: usize,
    together: usize,
    failure: Option<Fails>,
}

/// How a simulated job fails.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Failure {
    Panic,
    OutOfMemory,
    NonFinite,
    Exit,
    Device,
    Hang,
}

/// Which simulated jobs fail, and how.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Fails {
    how: Failure,
    step: u32,
    /// What is in the prompt of those that fail.
    prompt: String,
    /// How often it fails yet.
    times: Times,
    /// How many steps go well yet, before all fail; none: jobs fail, and the device does not.
    after: Option<Times>,
}

/// A number that counts down, shared by all that is cloned of it.
#[derive(Debug, Clone)]
struct Times(Arc<AtomicU32>);

impl Times {
    fn new(times: u32) -> Self {
        Self(Arc::new(AtomicU32::new(times)))
    }

    /// Whether one was left, which is taken.
    fn take(&self) -> bool {
        self.0.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| left.checked_sub(1)).is_ok()
    }
}

impl PartialEq for Times {
    fn eq(&self, other: &Self) -> bool {
        self.0.load(Ordering::Relaxed) == other.0.load(Ordering::Relaxed)
    }
}

impl Eq for Times {}

/// A simulated job.
#[derive(Debug, Clone)]
pub struct SimPicture {
    step: u32,
    total: u32,
    source: Source,
    colour: Rgb<u8>,
    fails: bool,
    /// It is a test of the device, and no job.
    is_test: bool,
}

/// What a simulation says when it fails, or is asked for what it has not.
#[derive(Debug, thiserror::Error)]
pub enum SimError {
    /// The URL has an option that there is not, or a value out of bounds.
    #[error(
        "`{option}` in {url}: step_ms=0..={MAX_STEP_MS}, size={MIN_SIDE}..={MAX_SIDE} (a multiple of \
         {SIDE_MULTIPLE}), load_ms=0..={MAX_STEP_MS}, memory=4GiB, room=1.., together=1.., \
         fail=panic|out_of_memory|non_finite|exit|device|hang, fail_step=1..|end, fail_times=1.., fail_after=0.. and \
         fail_prompt=WORD are allowed"
    )]
    Option {
        /// The whole URL.
        url: String,
        /// The part that is wrong.
        option: String,
    },
    /// It was told to.
    #[error("the simulation ran out of memory, as it was told to")]
    OutOfMemory,
    /// It was told to.
    #[error("the simulation made NaN, as it was told to")]
    NonFinite,
    /// It was told to.
    #[error("the simulation's device failed, as it was told to")]
    Device,
}

impl FromStr for Sim {
    type Err = SimError;

    fn from_str(url: &str) -> Result<Self, SimError> {
        let bad = |option: &str| SimError::Option { url: url.to_owned(), option: option.to_owned() };
        let rest = url.strip_prefix("sim://").ok_or_else(|| bad(url))?;
        let query = match rest.strip_prefix('?') {
            Some(query) => query,
            None if rest.is_empty() => "",
            None => return Err(bad(rest)),
        };
        let mut sim = Self {
            step: Duration::from_millis(DEFAULT_STEP_MS),
            size: DEFAULT_SIZE,
            load: Duration::ZERO,
            memory: 0,
            room: usize::MAX,
            together: 1,
            failure: None,
        };
        let (mut failure, mut fail_step, mut fail_times, mut fail_prompt) = (None, 1, u32::MAX, "");
        let mut fail_after = None;
        for option in query.split('&').filter(|option| !option.is_empty()) {
            let (key, value) = option.split_once('=').ok_or_else(|| bad(option))?;
            let number = || value.parse::<u64>().map_err(|_| bad(option));
            match key {
                "step_ms" if number()? <= MAX_STEP_MS => sim.step = Duration::from_millis(number()?),
                "load_ms" if number()? <= MAX_STEP_MS => sim.load = Duration::from_millis(number()?),
                "room" => sim.room = usize::try_from(number()?).map_err(|_| bad(option))?.max(1),
                "together" => sim.together = usize::try_from(number()?).map_err(|_| bad(option))?.max(1),
                "memory" => sim.memory = parse_size(value).map_err(|_| bad(option))?,
                "size" => {
                    sim.size = u32::try_from(number()?)
                        .ok()
                        .filter(|s| (MIN_SIDE..=MAX_SIDE).contains(s) && s.is_multiple_of(SIDE_MULTIPLE))
                        .ok_or_else(|| bad(option))?;
                }
                "fail" => {
                    failure = Some(match value {
                        "panic" => Failure::Panic,
                        "out_of_memory" => Failure::OutOfMemory,
                        "non_finite" => Failure::NonFinite,
                        "exit" => Failure::Exit,
                        "device" => Failure::Device,
                        "hang" => Failure::Hang,
                        _ => return Err(bad(option)),
                    });
                }
                "fail_prompt" => fail_prompt = value,
                "fail_step" if value == "end" => fail_step = AT_THE_END,
                "fail_step" => fail_step = u32::try_from(number()?).map_err(|_| bad(option))?,
                "fail_after" => fail_after = Some(u32::try_from(number()?).map_err(|_| bad(option))?),
                "fail_times" => fail_times = u32::try_from(number()?).map_err(|_| bad(option))?,
                _ => return Err(bad(option)),
            }
        }
        sim.failure = failure.map(|how| Fails {
            how,
            step: fail_step,
            prompt: fail_prompt.to_owned(),
            times: Times::new(fail_times),
            after: fail_after.map(Times::new),
        });
        Ok(sim)
    }
}

impl Sim {
    /// Width and height of a picture that names none, in pixels.
    pub fn native_size(&self) -> (u32, u32) {
        (self.size, self.size)
    }

    /// Takes the time that loading it takes.
    pub(super) fn load(&self) {
        std::thread::sleep(self.load);
    }

    /// Bytes of weights that it counts as.
    pub(super) fn weight_bytes(&self) -> u64 {
        self.memory
    }

    pub(super) fn begin(&self, spec: &ImageSpec) -> SimPicture {
        let mut hash = Sha256::new();
        hash.update(&spec.prompt);
        hash.update(spec.seed.to_le_bytes());
        hash.update(spec.steps.to_le_bytes());
        let digest = hash.finalize();
        SimPicture {
            step: 0,
            total: spec.steps,
            source: spec.source.clone(),
            colour: Rgb([digest[0], digest[1], digest[2]]),
            fails: self.failure.as_ref().is_some_and(|fails| spec.prompt.contains(&fails.prompt)),
            is_test: false,
        }
    }

    /// A test of the device: it takes no time.
    pub(super) fn begin_test(&self, spec: &ImageSpec) -> SimPicture {
        SimPicture { fails: false, is_test: true, ..self.begin(spec) }
    }

    /// Pictures of one job that are drawn together.
    pub(super) fn pictures_together(&self) -> usize {
        self.together
    }

    /// By size.
    pub(super) fn passes(&self, jobs: &[&SimPicture]) -> Vec<Vec<usize>> {
        passes(jobs.iter().map(|job| Fit { key: job.source.drawn_size(), size: 1 }), usize::MAX)
    }

    /// In one pass, whatever their sizes.
    pub(super) fn advance(&self, jobs: &mut [&mut SimPicture]) -> Result<(), SimError> {
        if jobs.len() > self.room {
            return Err(SimError::OutOfMemory);
        }
        if !jobs.iter().all(|job| job.is_test) {
            std::thread::sleep(self.step);
        }
        for job in jobs {
            job.step += 1;
            self.fail_at(job, job.step)?;
        }
        Ok(())
    }

    /// Fails, if it was told to fail this job at this step, or its device is broken by now.
    fn fail_at(&self, job: &SimPicture, at: u32) -> Result<(), SimError> {
        let Some(Fails { how, step, times, after, .. }) = &self.failure else { return Ok(()) };
        let due = match after {
            Some(left) => !left.take(),
            None => job.fails && *step == at,
        };
        if !due || !times.take() {
            return Ok(());
        }
        match how {
            Failure::Panic => panic!("the simulation panicked, as it was told to"),
            Failure::OutOfMemory => Err(SimError::OutOfMemory),
            Failure::NonFinite => Err(SimError::NonFinite),
            Failure::Exit => std::process::exit(EXIT_STATUS),
            Failure::Device => Err(SimError::Device),
            Failure::Hang => loop {
                std::thread::park();
            },
        }
    }

    /// The picture, after the last step.
    pub(super) fn finish(&self, job: &SimPicture) -> Result<RgbImage, SimError> {
        let breaks = self.failure.as_ref().is_some_and(|fails| fails.after.is_some());
        if !breaks {
            self.fail_at(job, AT_THE_END)?;
        }
        Ok(job.picture())
    }
}

impl SimPicture {
    pub(super) fn step(&self) -> u32 {
        self.step
    }

    pub(super) fn total(&self) -> u32 {
        self.total
    }

    pub(super) fn size(&self) -> (u32, u32) {
        self.source.drawn_size()
    }

    /// Goes on from a step that it has; false for any other, which changes nothing.
    pub(super) fn resume(&mut self, step: u32) -> bool {
        let fits = step <= self.total;
        if fits {
            self.step = step;
        }
        fits
    }

    pub(super) fn preview(&self) -> RgbImage {
        let (width, height) = self.source.drawn_size();
        RgbImage::from_pixel(width.min(PREVIEW_SIDE), height.min(PREVIEW_SIDE), self.colour)
    }

    /// Flat; what a mask keeps stays as it was.
    fn picture(&self) -> RgbImage {
        let (width, height) = self.source.drawn_size();
        self.source.finished(RgbImage::from_pixel(width, height, self.colour))
    }
}

#[cfg(test)]
#[path = "sim_tests.rs"]
mod tests;
