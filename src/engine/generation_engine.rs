//! The engine: one long-lived blocking loop per device that advances running jobs step by step, in turns.

use std::{collections::VecDeque, sync::Arc, thread};

use tokio::task::JoinHandle;

use super::{
    EngineError, GenerationRequest, GenerationResponse, InferencePipeline, Lookout, RequestReceiver, Stuck,
    loading::{LOOK_EVERY, Loading, Look},
    request_queue::Next,
    running_job::{RunningJob, end, end_early, guarded},
    turns::Turns,
};
use crate::models::{Held, Reserved};

/// Owns the pipeline and the receiving end of the queue.
///
/// It works in turns. At the beginning of a turn, free slots are given to the jobs that wait, in the order they came; a
/// job whose model has no room beside running ones keeps those behind it waiting. A model that is not in memory is loaded
/// on a thread of its own, one at a time, and jobs whose models are there go on meanwhile, those behind it too. Then every
/// picture that is being drawn goes exactly one step, whatever its size and however many steps it has left: none is passed
/// over, and none goes twice. Pictures that the pipeline takes together share a pass, each at its own timestep, whether
/// they are of one job or of several; others have passes of their own in the same turn. Cancel and deadline are looked at
/// before each pass. At the end of a turn one picture that has gone its last step is decoded, and a job whose last
/// picture that was leaves its slot.
///
/// A pass that fails is gone again by each of its pictures alone, so that a job fails by its own fault only. What runs out
/// of memory is done once more when idle models are out of it. A device that fails, and not a job on it, ends the engine: all
/// its jobs are told so, and have not failed.
pub struct GenerationEngine {
    pipeline: InferencePipeline,
    requests: RequestReceiver,
    slots: usize,
}

/// The running engine. It ends when every [`RequestQueue`](super::RequestQueue) was dropped and its jobs are done.
#[derive(Debug)]
pub struct EngineHandle {
    thread: JoinHandle<Result<(), EngineLost>>,
    lookout: Lookout,
}

/// The engine is of no use any more.
#[derive(Debug, thiserror::Error)]
pub enum EngineLost {
    /// Its thread ended by a panic that no job can be blamed for.
    #[error("the engine was lost: {0}")]
    Panic(#[from] tokio::task::JoinError),
    /// The device failed, or its test.
    #[error("the device failed: {0}")]
    Device(String),
    /// Its thread is in the device and does not come back. It cannot be stopped.
    #[error(transparent)]
    Stuck(#[from] Stuck),
}

impl EngineHandle {
    /// Waits until the engine has ended, or is stuck. May be called again after it was cancelled.
    ///
    /// # Errors
    /// [`EngineLost`] when it ended although it was needed, or does not end.
    pub async fn join(&mut self) -> Result<(), EngineLost> {
        tokio::select! {
            ended = &mut self.thread => ended?,
            stuck = self.lookout.stuck() => Err(stuck.into()),
        }
    }
}

impl GenerationEngine {
    /// An engine that runs one job at a time; see [`with_slots`](Self::with_slots).
    pub fn new(pipeline: InferencePipeline, requests: RequestReceiver) -> Self {
        Self { pipeline, requests, slots: 1 }
    }

    /// Runs up to `slots` jobs together (at least one); more wait in the order they came.
    #[must_use]
    pub fn with_slots(mut self, slots: usize) -> Self {
        self.slots = slots.max(1);
        self
    }

    /// Starts the loop on a blocking thread of the current tokio runtime.
    pub fn start(self) -> EngineHandle {
        let lookout = self.pipeline.lookout();
        EngineHandle { thread: tokio::task::spawn_blocking(move || self.run()), lookout }
    }

    fn run(self) -> Result<(), EngineLost> {
        let Self { pipeline, mut requests, slots } = self;
        let pipeline = Arc::new(pipeline);
        let mut waiting: VecDeque<GenerationRequest> = VecDeque::new();
        let mut running: Vec<RunningJob> = Vec::with_capacity(slots);
        let mut loading: Option<Loading> = None;
        let mut turns = Turns::new();
        loop {
            pipeline.let_go();
            if running.is_empty() && waiting.is_empty() && loading.is_none() {
                match requests.wait() {
                    Some(request) => waiting.push_back(request),
                    None => return Ok(()),
                }
            }
            while let Next::Request(request) = requests.look() {
                waiting.push_back(*request);
            }
            // A job that was cancelled, or whose time ran out, ends here even while every slot is busy.
            waiting = waiting.into_iter().filter_map(end_early).collect();
            loading = match loading.map(|loading| loading.look(running.is_empty())) {
                Some(Look::Goes(loading)) => Some(loading),
                Some(Look::Done(request, held)) => {
                    running.extend(RunningJob::begin(&pipeline, request, held));
                    None
                }
                Some(Look::Ended) | None => None,
            };
            while running.len() + usize::from(loading.is_some()) < slots {
                let is_loading = loading.is_some() || pipeline.is_loading();
                match next(&pipeline, &mut waiting, running.is_empty(), is_loading) {
                    Some(Start::Begin(request, held)) => {
                        running.extend(RunningJob::begin(&pipeline, request, held));
                    }
                    Some(Start::Load(request, reserved)) => {
                        loading = Some(Loading::begin(&pipeline, request, reserved));
                    }
                    None => break,
                }
            }
            if running.is_empty() && loading.is_none() && !waiting.is_empty() {
                // The next job waits for a model that is brought into memory by hand.
                thread::sleep(LOOK_EVERY);
            }
            running = turns.next(&pipeline, running);
            if let Some(reason) = pipeline.lost() {
                running.into_iter().for_each(|job| job.leave(&reason));
                let load = loading.and_then(Loading::abandon);
                while let Next::Request(request) = requests.look() {
                    waiting.push_back(*request);
                }
                for request in load.into_iter().chain(waiting) {
                    end(request, GenerationResponse::Failed(EngineError::Device(reason.clone())));
                }
                return Err(EngineLost::Device(reason));
            }
        }
    }
}

/// What is to be done for the next waiting job.
enum Start {
    /// It begins: its model is in memory, or cannot be.
    Begin(GenerationRequest, Result<Held, EngineError>),
    /// Its model is loaded first.
    Load(GenerationRequest, Reserved),
}

/// Takes the next job that has all it needs out of `waiting`. A job whose model has no room beside those of running jobs
/// waits for them, and who came later waits too. A job whose model would be loaded while another is waits for that alone.
fn next(
    pipeline: &InferencePipeline,
    waiting: &mut VecDeque<GenerationRequest>,
    nothing_runs: bool,
    is_loading: bool,
) -> Option<Start> {
    for at in 0..waiting.len() {
        let model = waiting[at].model.clone();
        let begin = match guarded(|| pipeline.hold_loaded(&model)) {
            Ok(Some(held)) => Ok(held),
            Err(error) => Err(error),
            Ok(None) if is_loading => continue,
            Ok(None) if !nothing_runs && !pipeline.has_room_for(&model) => return None,
            Ok(None) => match guarded(|| pipeline.reserve(&model)) {
                Ok(Some(reserved)) => {
                    return waiting.remove(at).map(|request| Start::Load(request, reserved));
                }
                Ok(None) => continue,
                // Running jobs were looked at before: another is brought into memory by hand since.
                Err(error) if error.is_for_now() => continue,
                Err(error) => Err(error),
            },
        };
        return waiting.remove(at).map(|request| Start::Begin(request, begin));
    }
    None
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, Instant};

    use tokio::sync::mpsc::UnboundedReceiver;

    use super::*;
    use crate::{
        contract::ErrorCode,
        engine::{GenerationResponse, RequestQueue, request::tests::request_with_responses},
        models::{ModelOptions, ModelSource},
    };

    fn engine(source: &str, slots: usize) -> (RequestQueue, EngineHandle) {
        let source: ModelSource = format!("sim={source}").parse().unwrap();
        let pipeline = InferencePipeline::load(&[source], &candle_core::Device::Cpu).unwrap();
        let (queue, receiver) = RequestQueue::new();
        (queue, GenerationEngine::new(pipeline, receiver).with_slots(slots).start())
    }

    async fn all(mut responses: UnboundedReceiver<GenerationResponse>) -> Vec<GenerationResponse> {
        let mut got = vec![];
        while let Some(response) = responses.recv().await {
            got.push(response);
        }
        got
    }

    #[tokio::test]
    async fn a_job_reports_each_step_and_then_its_picture() {
        let (queue, mut handle) = engine("sim://?step_ms=0&size=64", 1);
        let (request, slots, responses) = request_with_responses(5);
        queue.add(request).unwrap();
        let got = all(responses).await;
        let steps: Vec<_> = got
            .iter()
            .filter_map(|r| match r {
                GenerationResponse::Progress { step, total, .. } => Some((*step, *total)),
                _ => None,
            })
            .collect();
        assert_eq!(steps, [(1, 4), (2, 4), (3, 4), (4, 4)]);
        assert!(matches!(&got[4], GenerationResponse::Image(image) if image.seed == 5 && image.index == 0));
        assert!(matches!(got.last(), Some(GenerationResponse::Done { .. })));
        assert_eq!(slots.available_permits(), 1);
        drop(queue);
        handle.join().await.unwrap();
    }

    #[tokio::test]
    async fn picture_i_is_the_single_job_with_seed_plus_i() {
        let (queue, _handle) = engine("sim://?step_ms=0&size=64", 1);
        let pictures = |got: Vec<GenerationResponse>| -> Vec<_> {
            got.into_iter()
                .filter_map(|r| match r {
                    GenerationResponse::Image(image) => Some((image.seed, image.image)),
                    _ => None,
                })
                .collect()
        };
        let (mut three, _, responses) = request_with_responses(u64::MAX - 1);
        three.n = 3;
        queue.add(three).unwrap();
        let three = pictures(all(responses).await);
        assert_eq!(three.iter().map(|p| p.0).collect::<Vec<_>>(), [u64::MAX - 1, u64::MAX, 0]);
        for (seed, image) in three {
            let (single, _, responses) = request_with_responses(seed);
            queue.add(single).unwrap();
            assert_eq!(pictures(all(responses).await), [(seed, image)]);
        }
    }

    #[tokio::test]
    async fn cancel_ends_a_job_at_the_next_step_and_no_other() {
        let (queue, _handle) = engine("sim://?step_ms=20&size=64", 2);
        let (mut first, _, mut first_responses) = request_with_responses(1);
        first.spec.steps = 100;
        let cancel = first.cancel.clone();
        let (second, _, second_responses) = request_with_responses(2);
        queue.add(first).unwrap();
        queue.add(second).unwrap();
        first_responses.recv().await.unwrap();
        cancel.set();
        let got = all(first_responses).await;
        assert!(matches!(got.last(), Some(GenerationResponse::Cancelled { step }) if *step <= 3), "{got:?}");
        assert!(matches!(all(second_responses).await.last(), Some(GenerationResponse::Done { .. })));
    }

    #[tokio::test]
    async fn a_job_that_waits_can_be_cancelled_while_another_runs() {
        let (queue, _handle) = engine("sim://?step_ms=20&size=64", 1);
        let (mut long, _, long_responses) = request_with_responses(1);
        long.spec.steps = 100;
        let stop = long.cancel.clone();
        let (waits, _, waiting_responses) = request_with_responses(2);
        waits.cancel.set();
        queue.add(long).unwrap();
        queue.add(waits).unwrap();
        let got = tokio::time::timeout(Duration::from_secs(1), all(waiting_responses)).await.unwrap();
        assert!(matches!(got[..], [GenerationResponse::Cancelled { step: 0 }]), "{got:?}");
        stop.set();
        all(long_responses).await;
    }

    #[tokio::test]
    async fn a_job_past_its_deadline_is_not_computed() {
        let (queue, _handle) = engine("sim://?step_ms=0&size=64", 1);
        let (mut late, slots, responses) = request_with_responses(1);
        late.deadline = Instant::now();
        queue.add(late).unwrap();
        let got = all(responses).await;
        let [GenerationResponse::Failed(error)] = &got[..] else { panic!("{got:?}") };
        assert_eq!(error.code(), ErrorCode::DeadlineExceeded);
        assert_eq!(slots.available_permits(), 1);
    }

    #[tokio::test]
    async fn models_take_turns_in_a_memory_for_one_and_the_switch_is_measured() {
        let sources = ["a=sim://?step_ms=20&memory=6MiB&load_ms=60", "b=sim://?memory=6MiB&load_ms=60"];
        let sources = sources.map(|source| source.parse().unwrap());
        let options = ModelOptions { memory: Some(8 << 20), ..ModelOptions::new(&candle_core::Device::Cpu) };
        let pipeline = InferencePipeline::open(&sources, options).unwrap();
        let (queue, receiver) = RequestQueue::new();
        let _handle = GenerationEngine::new(pipeline, receiver).with_slots(2).start();
        // Two slots: b waits until a is done, for they have no room side by side; the second a waits for b.
        let mut responses = vec![];
        for model in ["a", "b", "a"] {
            let (mut request, _, job_responses) = request_with_responses(1);
            request.model = model.into();
            queue.add(request).unwrap();
            responses.push(job_responses);
        }
        let mut loads = vec![];
        for job_responses in responses {
            let got = all(job_responses).await;
            let Some(GenerationResponse::Done { timings, .. }) = got.last() else { panic!("{got:?}") };
            loads.push(timings.load);
        }
        assert_eq!(loads[0], Duration::ZERO);
        for load in &loads[1..] {
            assert!((Duration::from_millis(60)..Duration::from_secs(5)).contains(load), "{loads:?}");
        }
    }

    /// Two slots: `quick` is in memory at the start, `slow` takes its time and has no room beside `idle`.
    fn engine_that_loads(load_ms: u32) -> RequestQueue {
        let slow = format!("slow=sim://?step_ms=0&memory=6MiB&load_ms={load_ms}");
        let sources = ["idle=sim://?memory=6MiB", "quick=sim://?step_ms=5&memory=1MiB", &slow];
        let sources = sources.map(|source| source.parse().unwrap());
        let options = ModelOptions { memory: Some(8 << 20), ..ModelOptions::new(&candle_core::Device::Cpu) };
        let pipeline = InferencePipeline::open(&sources, options).unwrap();
        let (queue, receiver) = RequestQueue::new();
        GenerationEngine::new(pipeline, receiver).with_slots(2).start();
        queue
    }

    #[tokio::test]
    async fn a_model_is_loaded_while_jobs_of_others_begin_and_end() {
        let queue = engine_that_loads(1000);
        let (mut slow, _, mut slow_responses) = request_with_responses(1);
        slow.model = "slow".into();
        let begun = Instant::now();
        queue.add(slow).unwrap();
        // Behind the one that loads, and done before it.
        for seed in 2..4 {
            let (mut quick, _, responses) = request_with_responses(seed);
            quick.model = "quick".into();
            queue.add(quick).unwrap();
            let got = all(responses).await;
            assert!(matches!(got.last(), Some(GenerationResponse::Done { .. })), "{got:?}");
        }
        assert!(slow_responses.try_recv().is_err(), "its model is not there yet");
        let got = all(slow_responses).await;
        assert!(begun.elapsed() >= Duration::from_millis(1000));
        let Some(GenerationResponse::Done { timings, .. }) = got.last() else { panic!("{got:?}") };
        assert!(timings.load >= Duration::from_millis(1000), "{timings:?}");
        assert!(timings.queue < Duration::from_millis(1000), "{timings:?}");
    }

    #[tokio::test]
    async fn a_job_whose_model_is_being_loaded_can_be_cancelled() {
        let queue = engine_that_loads(2000);
        let (mut slow, slots, responses) = request_with_responses(1);
        slow.model = "slow".into();
        let (cancel, begun) = (slow.cancel.clone(), Instant::now());
        queue.add(slow).unwrap();
        tokio::time::sleep(Duration::from_millis(50)).await;
        cancel.set();
        let got = all(responses).await;
        assert!(matches!(got[..], [GenerationResponse::Cancelled { step: 0 }]), "{got:?}");
        assert!(begun.elapsed() < Duration::from_millis(1500));
        assert_eq!(slots.available_permits(), 1);
    }

    #[tokio::test]
    async fn a_panic_fails_its_job_and_the_engine_goes_on() {
        let (queue, mut handle) = engine("sim://?step_ms=0&size=64&fail=panic&fail_step=3", 2);
        let (bad, slots, responses) = request_with_responses(1);
        queue.add(bad).unwrap();
        let got = all(responses).await;
        let Some(GenerationResponse::Failed(error)) = got.last() else { panic!("{got:?}") };
        assert_eq!(error.code(), ErrorCode::Internal);
        assert_eq!(slots.available_permits(), 1);

        let (mut good, _, responses) = request_with_responses(2);
        good.spec.steps = 2;
        queue.add(good).unwrap();
        assert!(matches!(all(responses).await.last(), Some(GenerationResponse::Done { .. })));
        drop(queue);
        handle.join().await.unwrap();
    }
}
