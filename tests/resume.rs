//! A job put down between two steps goes on in another worker, bit for bit, and computes no step twice.
#![cfg(feature = "worker")]

#[path = "support/parity.rs"]
mod support;

use std::{
    cell::Cell,
    io::Write,
    sync::{Arc, Mutex, OnceLock},
    time::{Duration, Instant},
};

use candle_core::{DType, Device};
use image::{GrayImage, Luma, Rgb, RgbImage};
use proptest::{prelude::*, sample::Index, test_runner::TestRunner};
use sd_worker_rbee::{
    contract::{JobId, PromptSyntax},
    diffusion::{ImageSpec, Precision, Source, StableDiffusion},
    engine::{
        CancelFlag, Checkpoint, EngineHandle, Generated, GenerationEngine, GenerationRequest,
        GenerationResponse, InferencePipeline, RequestQueue,
    },
    models::{ModelSource, Progress},
    storage::{Store, StoreOptions},
    worker::checkpoint::{self, Origin},
};
use serde_json::{Value, json};
use tokio::sync::{Semaphore, mpsc};

/// The model, and beside it a simulation that takes its time.
const MODEL: &str = "m";
const SLOW: &str = "slow=sim://?step_ms=60&size=64";

fn source(name: &str) -> String {
    if name.starts_with("sim:") { name.to_owned() } else { data(name) }
}

fn data(name: &str) -> String {
    support::data(name).display().to_string()
}

/// A pipeline that no other picture has seen.
fn open(model: &str) -> InferencePipeline {
    let sources = [format!("{MODEL}={}", source(model)), SLOW.to_owned()];
    let sources: Vec<ModelSource> = sources.iter().map(|source| source.parse().unwrap()).collect();
    InferencePipeline::load(&sources, &Device::Cpu).unwrap()
}

fn spec(source: Source) -> ImageSpec {
    ImageSpec {
        prompt: "a red circle".into(),
        negative_prompt: None,
        prompt_syntax: PromptSyntax::Plain,
        clip_skip: 0,
        steps: 4,
        guidance_scale: 5.0,
        seed: 11,
        scheduler: None,
        loras: Vec::new(),
        source,
    }
}

fn text() -> ImageSpec {
    spec(Source::Text { width: 64, height: 64 })
}

fn transform() -> ImageSpec {
    spec(Source::Image { image: gradient(), strength: 0.8 })
}

fn inpaint(strength: f64) -> ImageSpec {
    let mask = GrayImage::from_fn(64, 64, |x, _| Luma([if x > 30 { 255 } else { 0 }]));
    spec(Source::Inpaint { image: gradient(), mask, strength })
}

fn gradient() -> RgbImage {
    RgbImage::from_fn(64, 64, |x, y| Rgb([(3 * x) as u8, (2 * y) as u8, 90]))
}

/// As a worker writes it and another one reads it.
async fn carried(checkpoint: Checkpoint) -> Checkpoint {
    let store = Store::open(&StoreOptions::new("memory://")).unwrap();
    let origin = Origin::new("f00d", MODEL, "cpu", Precision::all(DType::F32));
    let job = JobId::generate();
    checkpoint::write(&store, &job, &origin, checkpoint).await.unwrap();
    checkpoint::read(&store, &job, &origin).await.unwrap()
}

/// Draws the picture undisturbed, and then from each of its steps on a pipeline that was opened for it.
async fn goes_on_bit_for_bit(model: &str, spec: &ImageSpec) {
    let pipeline = open(model);
    let mut job = pipeline.begin(MODEL, spec).unwrap();
    let mut put_down = vec![];
    while !job.is_done() {
        put_down.push(job.progress());
        pipeline.advance(MODEL, &mut [&mut job]).unwrap();
    }
    let (end, picture) = (job.progress(), pipeline.finish(MODEL, &job).unwrap());
    assert!(put_down.len() >= 2, "there is a step to put it down at");
    let other = open(model);
    for (step, progress) in put_down.into_iter().enumerate() {
        let what = format!("{model}, {:?} from step {step}", spec.scheduler);
        let checkpoint = carried(Checkpoint { index: 0, progress }).await;
        let mut job = other.begin(MODEL, spec).unwrap();
        job.resume(checkpoint.progress).unwrap();
        assert_eq!(job.step(), step as u32, "{what}");
        while !job.is_done() {
            other.advance(MODEL, &mut [&mut job]).unwrap();
        }
        assert!(job.progress() == end, "{what}: other latents");
        assert!(other.finish(MODEL, &job).unwrap() == picture, "{what}: another picture");
    }
}

#[tokio::test]
async fn a_picture_of_every_scheduler_and_operation_goes_on_bit_for_bit() {
    for name in StableDiffusion::schedulers() {
        for spec in [text(), transform(), inpaint(1.0), inpaint(0.8)] {
            goes_on_bit_for_bit("text", &ImageSpec { scheduler: Some((*name).into()), ..spec }).await;
        }
    }
}

#[tokio::test]
async fn a_picture_of_another_family_goes_on_bit_for_bit() {
    for scheduler in ["dpmpp_2m_sde_karras", "unipc"] {
        let with = |spec| ImageSpec { scheduler: Some(scheduler.into()), ..spec };
        goes_on_bit_for_bit("inpaint", &with(inpaint(1.0))).await;
        goes_on_bit_for_bit("xl", &with(text())).await;
    }
    for spec in [text(), transform(), inpaint(1.0), inpaint(0.8)] {
        goes_on_bit_for_bit("flux/dev", &spec).await;
    }
    goes_on_bit_for_bit("flux/schnell", &text()).await;
    goes_on_bit_for_bit("sim://?step_ms=0&size=64", &inpaint(1.0)).await;
}

/// A job for an engine, its responses and what stops it.
fn request(
    model: &str,
    spec: ImageSpec,
    n: u32,
) -> (GenerationRequest, mpsc::UnboundedReceiver<GenerationResponse>, CancelFlag) {
    let permit = Arc::new(Semaphore::new(1)).try_acquire_owned().unwrap();
    let (response_tx, responses) = mpsc::unbounded_channel();
    let request = GenerationRequest {
        job_id: JobId::generate(),
        model: model.into(),
        spec,
        n,
        preview_every: 0,
        checkpoint_every: None,
        resume: None,
        received: Instant::now(),
        deadline: Instant::now() + Duration::from_secs(600),
        cancel: CancelFlag::default(),
        permit,
        response_tx,
    };
    let cancel = request.cancel.clone();
    (request, responses, cancel)
}

fn engine(model: &str) -> (RequestQueue, EngineHandle) {
    let (queue, receiver) = RequestQueue::new();
    (queue, GenerationEngine::new(open(model), receiver).with_slots(2).start())
}

/// All that is said of a job, on an engine of its own.
async fn all(
    model: &str,
    (request, mut responses, _): (
        GenerationRequest,
        mpsc::UnboundedReceiver<GenerationResponse>,
        CancelFlag,
    ),
) -> Vec<GenerationResponse> {
    let (queue, mut engine) = engine(model);
    queue.add(request).unwrap();
    drop(queue);
    let mut got = vec![];
    while let Some(response) = responses.recv().await {
        got.push(response);
    }
    engine.join().await.unwrap();
    got
}

fn steps(got: &[GenerationResponse]) -> Vec<u32> {
    let step = |response: &GenerationResponse| match response {
        GenerationResponse::Progress { step, .. } => Some(*step),
        _ => None,
    };
    got.iter().filter_map(step).collect()
}

fn pictures(got: Vec<GenerationResponse>) -> Vec<Generated> {
    let picture = |response| match response {
        GenerationResponse::Image(picture) => Some(picture),
        _ => None,
    };
    got.into_iter().filter_map(picture).collect()
}

/// Runs a job of two pictures until a step of the second, and stops it: its checkpoint, and the steps done.
async fn stopped_in_the_second(model: &str) -> (Checkpoint, u32) {
    let (queue, mut engine) = engine(model);
    // Each step of the job waits for one of the simulation's: there is time to stop it.
    let (slow, _slow_responses, stop_slow) =
        request("slow", ImageSpec { steps: 10_000, ..text() }, 1);
    let (mut job, mut responses, cancel) = request(MODEL, ImageSpec { steps: 6, ..text() }, 2);
    job.checkpoint_every = Some(Duration::from_secs(3600));
    queue.add(slow).unwrap();
    queue.add(job).unwrap();
    drop(queue);
    let mut got = vec![];
    while let Some(response) = responses.recv().await {
        if matches!(response, GenerationResponse::Progress { step: 8, .. }) {
            cancel.set();
        }
        got.push(response);
    }
    stop_slow.set();
    engine.join().await.unwrap();
    let checkpoints = got.iter().filter(|said| matches!(said, GenerationResponse::Checkpoint(_))).count();
    assert_eq!(checkpoints, 1, "{model}: the hour had not passed");
    match (got.pop(), got.pop()) {
        (Some(GenerationResponse::Cancelled { step }), Some(GenerationResponse::Checkpoint(checkpoint))) => {
            assert_eq!(checkpoint.index, 1, "{model}");
            (checkpoint, step)
        }
        said => panic!("{model}: the checkpoint does not come before the end: {said:?}"),
    }
}

#[tokio::test]
async fn a_job_stopped_in_its_second_picture_is_ended_by_another_engine_that_computes_the_rest() {
    for model in ["sim://?step_ms=0&size=64", "text", "flux/dev"] {
        let spec = ImageSpec { steps: 6, ..text() };
        let whole = all(model, request(MODEL, spec.clone(), 2)).await;
        assert_eq!(steps(&whole), (1..=12).collect::<Vec<_>>());
        let whole = pictures(whole);
        assert_ne!(whole[0].image, whole[1].image);

        let (checkpoint, step) = stopped_in_the_second(model).await;
        assert!((8..12).contains(&step), "{model}: {step}");
        let (mut job, responses, cancel) = request(MODEL, spec, 2);
        job.resume = Some(carried(checkpoint).await);
        let rest = all(model, (job, responses, cancel)).await;
        assert!(
            matches!(rest[0], GenerationResponse::Resumed { step: at } if at == step),
            "{model}: {:?}",
            rest[0]
        );
        assert_eq!(steps(&rest), (step + 1..=12).collect::<Vec<_>>(), "{model}");
        assert!(matches!(rest.last(), Some(GenerationResponse::Done { .. })), "{model}");
        let rest = pictures(rest);
        assert_eq!(rest.len(), 1, "{model}");
        assert_eq!((rest[0].index, rest[0].seed), (1, 12), "{model}");
        assert!(rest[0].image == whole[1].image, "{model}: another picture");
    }
}

#[tokio::test]
async fn every_step_but_a_picture_s_last_gives_a_checkpoint_when_its_time_has_passed() {
    let model = "sim://?step_ms=0&size=64";
    let at = |said: &GenerationResponse| match said {
        GenerationResponse::Checkpoint(Checkpoint { index, progress: Progress::Sim { step } }) => {
            Some((*index, *step))
        }
        _ => None,
    };
    for (every, expected) in [
        (Some(Duration::ZERO), vec![(0, 1), (0, 2), (0, 3), (1, 1), (1, 2), (1, 3)]),
        (Some(Duration::from_secs(3600)), vec![]),
        (None, vec![]),
    ] {
        let (mut job, responses, cancel) = request(MODEL, text(), 2);
        job.checkpoint_every = every;
        let got = all(model, (job, responses, cancel)).await;
        assert_eq!(got.iter().filter_map(at).collect::<Vec<_>>(), expected, "{every:?}");
    }
}

#[tokio::test]
async fn a_job_that_was_cancelled_before_its_first_step_gives_no_checkpoint() {
    let (mut job, responses, cancel) = request(MODEL, text(), 1);
    job.checkpoint_every = Some(Duration::ZERO);
    cancel.set();
    let got = all("sim://?step_ms=0&size=64", (job, responses, cancel)).await;
    assert!(matches!(got[..], [GenerationResponse::Cancelled { step: 0 }]), "{got:?}");
}

#[tokio::test]
async fn a_checkpoint_that_is_not_of_the_job_is_logged_and_the_job_starts_over() {
    let log = log();
    let pipeline = open("text");
    let progress = |spec: &ImageSpec, steps: u32| {
        let mut job = pipeline.begin(MODEL, spec).unwrap();
        (0..steps).for_each(|_| pipeline.advance(MODEL, &mut [&mut job]).unwrap());
        job.progress()
    };
    let scheduler = |name: &str| ImageSpec { scheduler: Some(name.into()), ..text() };
    let wide = spec(Source::Text { width: 128, height: 64 });
    let cases = [
        (2, progress(&text(), 2), "picture 2"),
        (u32::MAX, progress(&text(), 2), "picture 4294967295"),
        (1, progress(&wide, 2), "512 numbers in `latents`"),
        (1, progress(&ImageSpec { steps: 5, ..text() }, 2), "step 2 of 5"),
        (1, progress(&scheduler("unipc"), 2), "scheduler `unipc`"),
        (0, progress(&text(), 4), "no step left"),
        (0, Progress::Sim { step: 1 }, "another family"),
    ];
    let whole = pictures(all("text", request(MODEL, text(), 2)).await);
    for (index, progress, reason) in cases {
        let (mut job, responses, cancel) = request(MODEL, text(), 2);
        let id = job.job_id.clone();
        job.resume = Some(Checkpoint { index, progress });
        let got = all("text", (job, responses, cancel)).await;
        assert!(!got.iter().any(|said| matches!(said, GenerationResponse::Resumed { .. })), "{reason}");
        assert_eq!(steps(&got), (1..=8).collect::<Vec<_>>(), "{reason}");
        for (ours, whole) in pictures(got).iter().zip(&whole) {
            assert!((ours.index, &ours.image) == (whole.index, &whole.image), "{reason}");
        }
        let log = String::from_utf8(log.lock().unwrap().clone()).unwrap();
        let line = log.lines().find(|line| line.contains(id.as_str())).unwrap_or_default();
        assert!(line.contains("WARN") && line.contains(reason), "{reason}: {line}");
    }
}

/// All that this process logs.
fn log() -> Arc<Mutex<Vec<u8>>> {
    static LOG: OnceLock<Arc<Mutex<Vec<u8>>>> = OnceLock::new();
    #[derive(Clone)]
    struct Writer(Arc<Mutex<Vec<u8>>>);
    impl Write for Writer {
        fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
            self.0.lock().unwrap().write(bytes)
        }
        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }
    let begin = || {
        let log = Arc::default();
        let writer = Writer(Arc::clone(&log));
        tracing_subscriber::fmt().with_ansi(false).with_writer(move || writer.clone()).init();
        log
    };
    LOG.get_or_init(begin).clone()
}

/// Changes one thing: what is in an object, the length of an array or a number of it.
fn mutate(value: &mut Value, at: &[Index], how: usize, by: u64) {
    let (next, rest) = at.split_first().map_or((None, at), |(next, rest)| (Some(next), rest));
    match value {
        Value::Object(entries) => {
            let Some(next) = next.filter(|_| !entries.is_empty()) else { return };
            let name = entries.keys().nth(next.index(entries.len())).cloned().unwrap();
            match how {
                0 => drop(entries.remove(&name)),
                1 => {
                    let moved = entries.remove(&name).unwrap();
                    entries.insert(format!("{name}.{by}"), moved);
                }
                _ => mutate(entries.get_mut(&name).unwrap(), rest, how, by),
            }
        }
        Value::Array(numbers) if how % 3 == 0 => numbers.truncate(numbers.len().saturating_sub(by as usize)),
        Value::Array(numbers) if how % 3 == 1 => numbers.extend((0..by).map(|i| json!(i))),
        Value::Array(numbers) => {
            if let (Some(next), false) = (next, numbers.is_empty()) {
                let place = next.index(numbers.len());
                // Infinity, NaN, the largest number, nothing.
                numbers[place] = json!([0x7f80_0000_u32, 0x7fc0_0001, 0x7f7f_ffff, 0][by as usize % 4]);
            }
        }
        Value::Number(_) | Value::Null => {
            let number = value.as_u64().unwrap_or(0);
            *value = json!([number.wrapping_add(by), number.wrapping_sub(by), u64::MAX, 0][how % 4]);
        }
        Value::String(name) => *name = StableDiffusion::schedulers()[by as usize].to_owned(),
        Value::Bool(_) => {}
    }
}

#[test]
fn progress_that_was_tampered_with_is_refused_or_drawn_to_the_end_and_never_panics() {
    let picture = |model: &str, scheduler: Option<&str>| {
        let pipeline = Arc::new(open(model));
        (pipeline, ImageSpec { scheduler: scheduler.map(Into::into), ..transform() })
    };
    let text_pipeline = picture("text", None).0;
    let mut specs = vec![picture("flux/dev", None), picture("sim://?step_ms=0", None)];
    for name in StableDiffusion::schedulers() {
        specs.push((text_pipeline.clone(), ImageSpec { scheduler: Some((*name).into()), ..transform() }));
    }
    let put_down: Vec<Vec<Progress>> = specs
        .iter()
        .map(|(pipeline, spec)| {
            let mut job = pipeline.begin(MODEL, spec).unwrap();
            let mut put_down = vec![job.progress()];
            while !job.is_done() {
                pipeline.advance(MODEL, &mut [&mut job]).unwrap();
                put_down.push(job.progress());
            }
            put_down
        })
        .collect();
    let which = (0..specs.len(), any::<Index>(), 0..specs.len());
    let change = (proptest::collection::vec(any::<Index>(), 6), 0_usize..8, 1_u64..8);
    let mut runner = TestRunner::new(ProptestConfig { cases: 1500, ..ProptestConfig::default() });
    let (refused, taken) = (Cell::new(0), Cell::new(0));
    let checked = runner.run(&(which, change), |((own, step, other), (at, how, by))| {
        let (pipeline, spec) = &specs[own];
        // One in eight is whole and of another picture.
        let from = if how == 7 { other } else { own };
        let mut progress = serde_json::to_value(&put_down[from][step.index(put_down[from].len())]).unwrap();
        if how != 7 {
            mutate(&mut progress, &at, how, by);
        }
        let mut job = pipeline.begin(MODEL, spec).unwrap();
        let before = job.progress();
        let Ok(progress) = serde_json::from_value::<Progress>(progress) else { return Ok(()) };
        match job.resume(progress) {
            Err(_) => {
                refused.set(refused.get() + 1);
                prop_assert_eq!(job.progress(), before);
            }
            Ok(()) => {
                taken.set(taken.get() + 1);
                while !job.is_done() {
                    pipeline.advance(MODEL, &mut [&mut job]).unwrap();
                }
                // NaN in what a scheduler keeps is found by the picture's end, which says so.
                drop(pipeline.finish(MODEL, &job));
            }
        }
        Ok(())
    });
    checked.unwrap();
    assert!(refused.get() > 100 && taken.get() > 100, "{} {}", refused.get(), taken.get());
}
