//! Turns of the engine: in each, every picture that is being drawn goes one step, those that fit together share a pass,
//! and one picture at most is decoded.

use std::time::Instant;

use super::{
    EngineError, InferencePipeline,
    running_job::{RunningJob, guarded, with_room},
    sharing::Sharing,
};
use crate::{
    contract::ErrorCode,
    models::{Picture, Progress},
};

/// What was learned of passes in earlier turns.
pub(super) struct Turns {
    sharing: Sharing,
}

/// A picture of a running job: which job, and which of the pictures that it draws together.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Member {
    job: usize,
    picture: usize,
}

/// The running jobs; those that ended in this turn are gone.
type Jobs = [Option<RunningJob>];

impl Turns {
    /// Nothing is known as yet.
    pub(super) fn new() -> Self {
        Self { sharing: Sharing::default() }
    }

    /// One step of each picture, and one picture decoded where one is drawn; the jobs that go on are returned.
    pub(super) fn next(&mut self, pipeline: &InferencePipeline, running: Vec<RunningJob>) -> Vec<RunningJob> {
        let passes = self.passes(pipeline, &running);
        let mut jobs: Vec<Option<RunningJob>> = running.into_iter().map(Some).collect();
        for pass in passes {
            self.advance(pipeline, &mut jobs, pass);
        }
        // Decoding takes as long as several steps: the other drawn pictures wait for the next turns, so that jobs with
        // steps left go theirs in between.
        if let Some(job) = jobs.iter_mut().find(|job| job.as_ref().is_some_and(RunningJob::is_drawn)) {
            *job = job
                .take()
                .and_then(RunningJob::unless_cancelled)
                .and_then(|job| job.finish_picture(pipeline));
        }
        jobs.into_iter().flatten().collect()
    }

    /// The pictures of each pass, in the order of the first of each.
    fn passes(&self, pipeline: &InferencePipeline, running: &[RunningJob]) -> Vec<Vec<Member>> {
        let mut models: Vec<(&str, Vec<(Member, &Picture)>)> = Vec::new();
        for (job, of) in running.iter().enumerate() {
            let waiting = of.pictures().iter().enumerate().filter(|(_, picture)| !picture.is_done());
            let own = waiting.map(|(picture, denoising)| (Member { job, picture }, denoising));
            match models.iter_mut().find(|(model, _)| *model == of.model()) {
                Some((_, members)) => members.extend(own),
                None => models.push((of.model(), own.collect())),
            }
        }
        let mut passes = Vec::new();
        for (model, members) in models {
            let pictures: Vec<&Picture> = members.iter().map(|(_, picture)| *picture).collect();
            let alone = |_| (0..pictures.len()).map(|index| vec![index]).collect();
            // What is wrong with a picture is told by its own step.
            let shared: Vec<Vec<usize>> = guarded(|| pipeline.passes(model, &pictures)).unwrap_or_else(alone);
            for pass in shared {
                let size = pass.first().map_or((0, 0), |index| pictures[*index].size());
                let most = self.sharing.most(model, size);
                passes.extend(
                    pass.chunks(most).map(|pass| pass.iter().map(|index| members[*index].0).collect()),
                );
            }
        }
        passes
    }

    fn advance(&mut self, pipeline: &InferencePipeline, jobs: &mut Jobs, pass: Vec<Member>) {
        let mut own: Vec<usize> = pass.iter().map(|member| member.job).collect();
        own.dedup();
        for job in &own {
            jobs[*job] = jobs[*job].take().and_then(RunningJob::unless_stopped);
        }
        let pass: Vec<Member> = pass.into_iter().filter(|member| jobs[member.job].is_some()).collect();
        let begun = Instant::now();
        let steps = self.steps(pipeline, jobs, &pass);
        let took = begun.elapsed();
        let mut results = pass.iter().zip(steps).peekable();
        while let Some((Member { job, .. }, mut result)) = results.next() {
            // A job fails when one of its pictures does.
            while let Some((_, other)) = results.next_if(|(member, _)| member.job == *job) {
                result = result.and(other);
            }
            jobs[*job] = jobs[*job].take().and_then(|job| job.after_step(pipeline, result, took));
        }
    }

    /// How the step of each went. Where a pass that is shared fails, each of its pictures goes its step alone, from where
    /// it was before: only those fail that fail by themselves.
    fn steps(
        &mut self,
        pipeline: &InferencePipeline,
        jobs: &mut Jobs,
        pass: &[Member],
    ) -> Vec<Result<(), EngineError>> {
        let Some((model, size)) = pass.first().and_then(|first| {
            let job = jobs[first.job].as_ref()?;
            Some((job.model().to_owned(), job.pictures()[first.picture].size()))
        }) else {
            return Vec::new();
        };
        pipeline.tally().passed(pass.len());
        let mut pictures = members(jobs, pass);
        let before: Vec<Progress> = pictures.iter().map(|picture| picture.progress()).collect();
        let Err(error) = step(pipeline, &model, &mut pictures, &before) else {
            self.sharing.went_well(&model, size, pass.len());
            return pass.iter().map(|_| Ok(())).collect();
        };
        if pass.len() == 1 {
            return vec![Err(error)];
        }
        if error.is_of_device() {
            // Each alone would fail alike.
            let failed = || Err(EngineError::Device(error.to_string()));
            return pass.iter().map(|_| failed()).collect();
        }
        tracing::warn!(
            pictures = pass.len(), %error, "a shared pass failed; each of its pictures goes its step alone"
        );
        let again = |(picture, before): (&mut &mut Picture, &Progress)| {
            go_back(picture, before)?;
            step(pipeline, &model, std::slice::from_mut(picture), std::slice::from_ref(before))
        };
        let steps: Vec<_> = pictures.iter_mut().zip(&before).map(again).collect();
        if error.code() == ErrorCode::OutOfMemory && steps.iter().all(Result::is_ok) {
            self.sharing.ran_out(&model, size, pass.len());
        }
        steps
    }
}

/// The pictures of a pass, whose members are in the order of the jobs.
fn members<'a>(jobs: &'a mut Jobs, pass: &[Member]) -> Vec<&'a mut Picture> {
    let all = jobs.iter_mut().enumerate().flat_map(|(job, of)| {
        let pictures = of.as_mut().map_or(&mut [][..], RunningJob::pictures_mut);
        pictures.iter_mut().enumerate().map(move |(picture, denoising)| (Member { job, picture }, denoising))
    });
    all.filter(|(member, _)| pass.contains(member)).map(|(_, picture)| picture).collect()
}

/// One step of pictures that share a pass; where memory runs out, once more with what can be put out of it gone.
fn step(
    pipeline: &InferencePipeline,
    model: &str,
    pictures: &mut [&mut Picture],
    before: &[Progress],
) -> Result<(), EngineError> {
    let mut again = false;
    with_room(pipeline, || {
        if std::mem::replace(&mut again, true) {
            pictures.iter_mut().zip(before).for_each(|(picture, before)| back_to(picture, before));
        }
        pipeline.advance(model, pictures)
    })
}

fn go_back(picture: &mut Picture, before: &Progress) -> Result<(), EngineError> {
    guarded(|| {
        back_to(picture, before);
        Ok(())
    })
}

fn back_to(picture: &mut Picture, before: &Progress) {
    picture.resume(before.clone()).expect("a picture's own progress is of this picture");
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
            let held = pipeline.hold(&request.model).map_err(EngineError::from);
            (RunningJob::begin(pipeline, request, held).unwrap(), responses)
        };
        prompts.iter().enumerate().map(begin).unzip()
    }

    /// The jobs of each pass, by their seeds, which are their indices.
    fn seeds(passes: &[Vec<Member>], running: &[RunningJob]) -> Vec<Vec<u64>> {
        passes.iter().map(|pass| pass.iter().map(|member| running[member.job].seed()).collect()).collect()
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
        let six = jobs(&pipeline, &["a"; 6], change).0;
        let mut turns = Turns::new();
        assert_eq!(seeds(&turns.passes(&pipeline, &six), &six), [vec![0, 3, 5], vec![2], vec![1, 4]]);
        turns.sharing.ran_out("sim", (64, 64), 4);
        assert_eq!(seeds(&turns.passes(&pipeline, &six), &six), [vec![0, 3], vec![5], vec![2], vec![1, 4]]);
    }

    #[test]
    fn the_pictures_of_a_job_share_a_pass_with_those_of_others() {
        let pipeline = pipeline(&["sim=sim://?step_ms=0&together=3"]);
        let change = |index: usize, request: &mut GenerationRequest| request.n = 1 + 3 * index as u32;
        let (mut running, mut responses) = jobs(&pipeline, &["a"; 2], change);
        let mut turns = Turns::new();
        assert_eq!(seeds(&turns.passes(&pipeline, &running), &running), [vec![0, 1, 1, 1]]);
        // Four steps; then a picture a turn is decoded, and the last of the second job's four begins.
        for _ in 0..4 {
            running = turns.next(&pipeline, running);
        }
        assert_eq!(told(&mut responses[0]).0, [1, 2, 3, 4]);
        assert_eq!(told(&mut responses[1]).0, [3, 6, 9, 12]);
        run(&mut turns, &pipeline, running);
        let (steps, last) = told(&mut responses[1]);
        assert_eq!(steps, [13, 14, 15, 16]);
        assert!(matches!(last, Some(GenerationResponse::Done { .. })), "{last:?}");
    }

    #[test]
    fn a_turn_decodes_one_picture_and_others_go_their_steps_meanwhile() {
        let pipeline = pipeline(&["sim=sim://?step_ms=0"]);
        let change = |index: usize, request: &mut GenerationRequest| {
            request.spec.steps = if index < 3 { 1 } else { 4 };
        };
        let (mut running, mut responses) = jobs(&pipeline, &["a"; 4], change);
        let mut turns = Turns::new();
        for left in [3, 2, 1] {
            running = turns.next(&pipeline, running);
            assert_eq!(running.len(), left);
        }
        assert_eq!(told(&mut responses[3]).0, [1, 2, 3]);
    }

    #[test]
    fn what_runs_out_of_memory_is_done_once_more_when_idle_models_are_out_of_it() {
        // The first step, the third, and the end of the picture.
        for step in ["1", "3", "end"] {
            let full = format!("sim=sim://?step_ms=0&fail=out_of_memory&fail_step={step}&fail_times=1");
            let pipeline = pipeline(&[&full, "idle=sim://?memory=1MiB"]);
            assert!(pipeline.hold_loaded("idle").unwrap().is_some());
            let (running, mut responses) = jobs(&pipeline, &["a"], |_, _| {});
            run(&mut Turns::new(), &pipeline, running);
            let (steps, last) = told(&mut responses[0]);
            assert_eq!(steps, [1, 2, 3, 4], "{step}");
            assert!(matches!(last, Some(GenerationResponse::Done { .. })), "{step}: {last:?}");
            assert!(pipeline.hold_loaded("idle").unwrap().is_none(), "{step}");
        }
    }

    #[test]
    fn a_job_that_runs_out_of_memory_twice_fails_alone() {
        let pipeline = pipeline(&[
            "sim=sim://?step_ms=0&fail=out_of_memory&fail_step=2&fail_prompt=large",
            "idle=sim://",
        ]);
        let (running, mut responses) = jobs(&pipeline, &["a", "a large one"], |_, _| {});
        run(&mut Turns::new(), &pipeline, running);
        assert!(matches!(told(&mut responses[0]).1, Some(GenerationResponse::Done { .. })));
        let (steps, last) = told(&mut responses[1]);
        let Some(GenerationResponse::Failed(error)) = last else { panic!("{last:?}") };
        assert_eq!((steps, error.code()), (vec![1], ErrorCode::OutOfMemory));
    }

    #[test]
    fn every_job_goes_one_step_in_a_turn() {
        let pipeline = pipeline(&["sim=sim://?step_ms=0"]);
        let change = |index: usize, request: &mut GenerationRequest| request.spec.steps = 1 + index as u32;
        let (mut running, mut responses) = jobs(&pipeline, &["a"; 4], change);
        let mut turns = Turns::new();
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
        let mut turns = Turns::new();
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
        assert_eq!(turns.sharing.most("sim", (64, 64)), usize::MAX, "a panic says nothing of memory");
    }

    #[test]
    fn jobs_whose_shared_pass_runs_out_of_memory_go_on_in_smaller_ones() {
        let pipeline = pipeline(&["sim=sim://?step_ms=0&room=2"]);
        let (running, mut responses) = jobs(&pipeline, &["a"; 4], |_, _| {});
        let mut turns = Turns::new();
        run(&mut turns, &pipeline, running);
        for responses in &mut responses {
            let (steps, last) = told(responses);
            assert_eq!(steps, [1, 2, 3, 4]);
            assert!(matches!(last, Some(GenerationResponse::Done { .. })), "{last:?}");
        }
        assert_eq!(turns.sharing.most("sim", (64, 64)), 2);
    }

    #[test]
    fn a_job_that_was_cancelled_between_two_passes_of_a_turn_is_in_neither() {
        let pipeline = pipeline(&["sim=sim://?step_ms=0"]);
        let change = |index: usize, request: &mut GenerationRequest| {
            request.spec.source = Source::Text { width: 64 * (1 + index as u32), height: 64 };
        };
        let (running, mut responses) = jobs(&pipeline, &["a"; 2], change);
        let mut turns = Turns::new();
        let mut passes = turns.passes(&pipeline, &running);
        let cancel = running[1].cancel();
        let mut jobs: Vec<_> = running.into_iter().map(Some).collect();
        let second = passes.pop().unwrap();
        turns.advance(&pipeline, &mut jobs, passes.pop().unwrap());
        cancel.set();
        turns.advance(&pipeline, &mut jobs, second);
        assert!(jobs[0].is_some() && jobs[1].is_none());
        assert_eq!(told(&mut responses[0]).0, [1]);
        assert!(matches!(told(&mut responses[1]).1, Some(GenerationResponse::Cancelled { step: 0 })));
    }
}
