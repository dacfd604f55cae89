//! Models that are brought into memory and let go because somebody said so, beside the engine: its jobs go on.

use std::sync::Arc;

use super::{EngineError, running_job::guarded};
use crate::models::ModelSet;

/// The models of a worker, for whoever commands it. Cheap to clone.
#[derive(Clone)]
pub struct ByHand {
    models: Arc<ModelSet>,
}

impl ByHand {
    pub(super) fn new(models: Arc<ModelSet>) -> Self {
        Self { models }
    }

    /// Brings a model into memory if it is not there, for as long as no other needs its room. Idle models go for it. It
    /// takes as long as reading the weights does.
    ///
    /// # Errors
    /// When there is no such model, no room for it beside those that jobs run with, or when loading fails.
    pub fn load(&self, model: &str) -> Result<(), EngineError> {
        self.models.stay(model);
        guarded(|| Ok(self.models.hold(model)?)).map(drop)
    }

    /// Lets a model go that is in memory: now, or as soon as no job runs with it.
    ///
    /// # Errors
    /// When there is no such model.
    pub fn unload(&self, model: &str) -> Result<(), EngineError> {
        guarded(|| Ok(self.models.unload(model)?))
    }
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, Instant};

    use super::*;
    use crate::{
        contract::ErrorCode,
        engine::{
            GenerationEngine, GenerationResponse, InferencePipeline, RequestQueue,
            request::tests::request_with_responses,
        },
        models::ModelOptions,
    };

    /// Models of 6 MiB each in a memory of `memory` MiB, with two slots.
    fn engine(memory: u64, sources: &[&str]) -> (RequestQueue, ByHand, impl Fn() -> Vec<String>) {
        let sources: Vec<_> = sources.iter().map(|source| source.parse().unwrap()).collect();
        let options =
            ModelOptions { memory: Some(memory << 20), ..ModelOptions::new(&candle_core::Device::Cpu) };
        let pipeline = InferencePipeline::open(&sources, options).unwrap();
        let (by_hand, view) = (pipeline.by_hand(), pipeline.view());
        let (queue, receiver) = RequestQueue::new();
        GenerationEngine::new(pipeline, receiver).with_slots(2).start();
        (queue, by_hand, move || view.resident())
    }

    /// How a job of this model ends.
    async fn draw(queue: &RequestQueue, model: &str, steps: u32) -> GenerationResponse {
        let (mut request, _, mut responses) = request_with_responses(1);
        request.model = model.into();
        request.spec.steps = steps;
        queue.add(request).unwrap();
        let mut last = None;
        while let Some(response) = responses.recv().await {
            last = Some(response);
        }
        last.unwrap()
    }

    #[tokio::test]
    async fn a_model_is_let_go_when_its_job_has_ended_and_a_job_brings_it_back() {
        let (queue, by_hand, resident) =
            engine(20, &["a=sim://?step_ms=20&memory=6MiB", "b=sim://?memory=6MiB"]);
        by_hand.unload("b").unwrap();
        assert_eq!(resident(), ["a"]);
        let job = tokio::spawn({
            let queue = queue.clone();
            async move { draw(&queue, "a", 10).await }
        });
        tokio::time::sleep(Duration::from_millis(60)).await;
        by_hand.unload("a").unwrap();
        assert_eq!(resident(), ["a"], "a job runs with it");
        assert!(matches!(job.await.unwrap(), GenerationResponse::Done { .. }));
        let until = Instant::now() + Duration::from_secs(5);
        while !resident().is_empty() {
            assert!(Instant::now() < until);
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        assert!(matches!(draw(&queue, "a", 1).await, GenerationResponse::Done { .. }));
        assert_eq!(resident(), ["a"], "it stays, for that it was to go is over");
        by_hand.unload("a").unwrap();
        by_hand.load("a").unwrap();
        assert_eq!(resident(), ["a"]);
        assert_eq!(by_hand.load("none").unwrap_err().code(), ErrorCode::UnsupportedModel);
        assert_eq!(by_hand.unload("none").unwrap_err().code(), ErrorCode::UnsupportedModel);
    }

    #[tokio::test]
    async fn jobs_go_on_while_a_model_is_loaded_by_hand_and_those_without_room_wait_for_it() {
        let (queue, by_hand, resident) = engine(
            14,
            &[
                "a=sim://?step_ms=1&memory=6MiB",
                "b=sim://?step_ms=1&memory=6MiB",
                "c=sim://?memory=8MiB&load_ms=400",
            ],
        );
        let begun = Instant::now();
        let load = tokio::task::spawn_blocking({
            let by_hand = by_hand.clone();
            move || by_hand.load("c")
        });
        tokio::time::sleep(Duration::from_millis(50)).await;
        // One of both went for it, which leaves room for the other.
        let stays = resident().pop().unwrap();
        assert!(matches!(draw(&queue, &stays, 2).await, GenerationResponse::Done { .. }));
        assert!(begun.elapsed() < Duration::from_millis(350), "{:?}", begun.elapsed());
        // A model of which there is room only beside the one that is loaded, and the one that is loaded itself.
        let waits = if stays == "a" { "b" } else { "a" };
        let (other, same) = tokio::join!(draw(&queue, waits, 2), draw(&queue, "c", 2));
        assert!(matches!(other, GenerationResponse::Done { .. }), "{other:?}");
        assert!(matches!(same, GenerationResponse::Done { .. }), "{same:?}");
        load.await.unwrap().unwrap();
    }

    #[tokio::test]
    async fn a_model_has_no_room_beside_those_that_jobs_run_with() {
        let (queue, by_hand, resident) =
            engine(8, &["a=sim://?step_ms=20&memory=6MiB", "b=sim://?memory=6MiB"]);
        let job = tokio::spawn(async move { draw(&queue, "a", 20).await });
        tokio::time::sleep(Duration::from_millis(60)).await;
        let error = by_hand.load("b").unwrap_err();
        assert_eq!(error.code(), ErrorCode::OutOfMemory);
        assert!(error.to_string().contains("jobs run with a"), "{error}");
        assert_eq!(resident(), ["a"]);
        assert!(matches!(job.await.unwrap(), GenerationResponse::Done { .. }));
        // It is told its end before it lets go.
        let until = Instant::now() + Duration::from_secs(5);
        while by_hand.load("b").is_err() {
            assert!(Instant::now() < until);
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        assert_eq!(resident(), ["b"]);
    }
}
