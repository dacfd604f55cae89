//! Turns of the engine: in each, every running job goes one step, and jobs that fit together share a pass.

use std::time::Instant;

use super::{
    EngineError, InferencePipeline,
    running_job::{RunningJob, guarded},
};
use crate::{
    contract::ErrorCode,
    models::{Denoising, Progress},
};

/// What was learned of passes in earlier turns.
pub(super) struct Turns {
    /// Jobs that share a pass at most. It is less than the slots after a pass of more ran out of memory, and stays so:
    /// what a device has room for is not known beforehand.
    most: usize,
}

impl Turns {
    /// Of up to `slots` jobs.
    pub(super) fn new(slots: usize) -> Self {
        Self { most: slots }
    }

    /// One step of each job; those that go on are returned.
    pub(super) fn next(&mut self, pipeline: &InferencePipeline, running: Vec<RunningJob>) -> Vec<RunningJob> {
        let passes = self.passes(pipeline, running);
        passes.into_iter().flat_map(|pass| self.advance(pipeline, pass)).collect()
    }

    /// The jobs of each pass, in the order of the first of each.
    fn passes(&self, pipeline: &InferencePipeline, running: Vec<RunningJob>) -> Vec<Vec<RunningJob>> {
        let mut models: Vec<Vec<RunningJob>> = Vec::new();
        for job in running {
            match models.iter_mut().find(|jobs| jobs[0].model() == job.model()) {
                Some(jobs) => jobs.push(job),
                None => models.push(vec![job]),
            }
        }
        let mut passes = Vec::new();
        for jobs in models {
            let pictures: Vec<&Denoising> = jobs.iter().map(RunningJob::picture).collect();
            let alone = |_| (0..pictures.len()).map(|index| vec![index]).collect();
            // What is wrong with a picture is told by its own step.
            let members: Vec<Vec<usize>> =
                guarded(|| pipeline.passes(jobs[0].model(), &pictures)).unwrap_or_else(alone);
            let mut jobs: Vec<Option<RunningJob>> = jobs.into_iter().map(Some).collect();
            for pass in members.iter().flat_map(|members| members.chunks(self.most)) {
                passes.push(pass.iter().filter_map(|index| jobs[*index].take()).collect());
            }
        }
        passes
    }

    fn advance(&mut self, pipeline: &InferencePipeline, pass: Vec<RunningJob>) -> Vec<RunningJob> {
        let mut pass: Vec<RunningJob> = pass.into_iter().filter_map(RunningJob::unless_stopped).collect();
        let begun = Instant::now();
        let steps = self.steps(pipeline, &mut pass);
        let took = begun.elapsed();
        pass.into_iter().zip(steps).filter_map(|(job, step)| job.after_step(pipeline, step, took)).collect()
    }

    /// How the step of each went. Where a pass that is shared fails, each of its jobs goes its step alone, from where it
    /// was before: only those fail that fail by themselves.
    fn steps(
        &mut self,
        pipeline: &InferencePipeline,
        pass: &mut [RunningJob],
    ) -> Vec<Result<(), EngineError>> {
        if pass.len() < 2 {
            return pass.iter_mut().map(|job| step(pipeline, std::slice::from_mut(job))).collect();
        }
        let before: Vec<Progress> = pass.iter().map(|job| job.picture().progress()).collect();
        let Err(error) = step(pipeline, pass) else { return pass.iter().map(|_| Ok(())).collect() };
        tracing::warn!(jobs = pass.len(), %error, "a shared pass failed; each of its jobs goes its step alone");
        let again = |(job, before): (&mut RunningJob, Progress)| {
            guarded(|| {
                job.picture_mut().resume(before).expect("a picture's own progress is of this picture");
                Ok(())
            })?;
            step(pipeline, std::slice::from_mut(job))
        };
        let steps: Vec<_> = pass.iter_mut().zip(before).map(again).collect();
        if error.code() == ErrorCode::OutOfMemory && steps.iter().all(Result::is_ok) {
            self.most = pass.len() / 2;
            tracing::warn!(jobs = self.most, "from now on a pass is shared by so many jobs at most");
        }
        steps
    }
}

/// One step of jobs of one model, guarded.
fn step(pipeline: &InferencePipeline, jobs: &mut [RunningJob]) -> Result<(), EngineError> {
    let Some(model) = jobs.first().map(|job| job.model().to_owned()) else { return Ok(()) };
    let mut pictures: Vec<&mut Denoising> = jobs.iter_mut().map(RunningJob::picture_mut).collect();
    guarded(|| pipeline.advance(&model, &mut pictures))
}

#[cfg(test)]
mod tests {
    use tokio::sync::mpsc::UnboundedReceiver;

    use super::*;
    use crate::{
        diffusion::Source,
        engine::{GenerationRequest, GenerationResponse, request::tests::request_with_responses},
    };

    type Responses = UnboundedReceiver<GenerationResponse>;

    fn pipeline(sources: &[&str]) -> InferencePipeline {
        let sources: Vec<_> = sources.iter().map(|source| source.parse().unwrap()).collect();
        InferencePipeline::load(&sources, &candle_core::Device::Cpu).unwrap()
    }

    /// Jobs for `sim`, one for each prompt, changed by `change`.
    fn jobs(
        pipeline: &InferencePipeline,
        prompts: &[&str],
        change: impl Fn(usize, &mut GenerationRequest),
    ) -> (Vec<RunningJob>, Vec<Responses>) {
        let begin = |(index, prompt): (usize, &&str)| {
            let (mut request, _, responses) = request_with_responses(index as u64);
            request.spec.prompt = (*prompt).to_owned();
            change(index, &mut request);
            (RunningJob::begin(pipeline, request).unwrap(), responses)
        };
        prompts.iter().enumerate().map(begin).unzip()
    }

    fn seeds(passes: &[Vec<RunningJob>]) -> Vec<Vec<u64>> {
        passes.iter().map(|pass| pass.iter().map(RunningJob::seed).collect()).collect()
    }

    /// The steps that were told, and the last word but for those.
    fn told(responses: &mut Responses) -> (Vec<u32>, Option<GenerationResponse>) {
        let (mut steps, mut last) = (Vec::new(), None);
        while let Ok(response) = responses.try_recv() {
            match response {
                GenerationResponse::Progress { step, .. } => steps.push(step),
                other => last = Some(other),
            }
        }
        (steps, last)
    }

    fn run(turns: &mut Turns, pipeline: &InferencePipeline, mut running: Vec<RunningJob>) {
        while !running.is_empty() {
            running = turns.next(pipeline, running);
        }
    }

    #[test]
    fn jobs_of_a_model_and_a_size_share_a_pass_in_the_order_they_came() {
        let pipeline = pipeline(&["sim=sim://?step_ms=0", "other=sim://?step_ms=0"]);
        let change = |index: usize, request: &mut GenerationRequest| match index {
            1 | 4 => request.model = "other".into(),
            2 => request.spec.source = Source::Text { width: 128, height: 64 },
            _ => {}
        };
        let six = || jobs(&pipeline, &["a"; 6], change).0;
        assert_eq!(seeds(&Turns::new(6).passes(&pipeline, six())), [vec![0, 3, 5], vec![2], vec![1, 4]]);
        assert_eq!(
            seeds(&Turns::new(2).passes(&pipeline, six())),
            [vec![0, 3], vec![5], vec![2], vec![1, 4]]
        );
    }

    #[test]
    fn every_job_goes_one_step_in_a_turn() {
        let pipeline = pipeline(&["sim=sim://?step_ms=0"]);
        let change = |index: usize, request: &mut GenerationRequest| request.spec.steps = 1 + index as u32;
        let (mut running, mut responses) = jobs(&pipeline, &["a"; 4], change);
        let mut turns = Turns::new(4);
        for turn in 1..=4 {
            running = turns.next(&pipeline, running);
            assert_eq!(running.len(), 4 - turn);
            for (index, responses) in responses.iter_mut().enumerate().skip(turn - 1) {
                let (steps, last) = told(responses);
                assert_eq!(steps, [turn as u32]);
                assert_eq!(matches!(last, Some(GenerationResponse::Done { .. })), index + 1 == turn);
            }
        }
    }

    #[test]
    fn a_panic_in_a_shared_pass_fails_its_job_alone_and_no_step_is_gone_twice() {
        let pipeline = pipeline(&["sim=sim://?step_ms=0&fail=panic&fail_step=3&fail_prompt=bad"]);
        let (running, mut responses) = jobs(&pipeline, &["a", "a bad one", "b"], |_, _| {});
        let mut turns = Turns::new(3);
        run(&mut turns, &pipeline, running);
        for (index, responses) in responses.iter_mut().enumerate() {
            match (index, told(responses)) {
                (1, (steps, Some(GenerationResponse::Failed(error)))) => {
                    assert_eq!((steps, error.code()), (vec![1, 2], ErrorCode::Internal));
                }
                (_, (steps, last)) => {
                    assert_eq!(steps, [1, 2, 3, 4]);
                    assert!(matches!(last, Some(GenerationResponse::Done { .. })), "{last:?}");
                }
            }
        }
        assert_eq!(turns.most, 3, "a panic says nothing of memory");
    }

    #[test]
    fn jobs_whose_shared_pass_runs_out_of_memory_go_on_in_smaller_ones() {
        let pipeline = pipeline(&["sim=sim://?step_ms=0&room=2"]);
        let (running, mut responses) = jobs(&pipeline, &["a"; 4], |_, _| {});
        let mut turns = Turns::new(4);
        run(&mut turns, &pipeline, running);
        for responses in &mut responses {
            let (steps, last) = told(responses);
            assert_eq!(steps, [1, 2, 3, 4]);
            assert!(matches!(last, Some(GenerationResponse::Done { .. })), "{last:?}");
        }
        assert_eq!(turns.most, 2);
    }

    #[test]
    fn a_job_that_was_cancelled_between_two_passes_of_a_turn_is_in_neither() {
        let pipeline = pipeline(&["sim=sim://?step_ms=0"]);
        let change = |index: usize, request: &mut GenerationRequest| {
            request.spec.source = Source::Text { width: 64 * (1 + index as u32), height: 64 };
        };
        let (running, mut responses) = jobs(&pipeline, &["a"; 2], change);
        let mut turns = Turns::new(2);
        let mut passes = turns.passes(&pipeline, running);
        let second = passes.pop().unwrap();
        let cancel = second[0].cancel();
        turns.advance(&pipeline, passes.pop().unwrap());
        cancel.set();
        assert!(turns.advance(&pipeline, second).is_empty());
        assert_eq!(told(&mut responses[0]).0, [1]);
        assert!(matches!(told(&mut responses[1]).1, Some(GenerationResponse::Cancelled { step: 0 })));
    }
}
