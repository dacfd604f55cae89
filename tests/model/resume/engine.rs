//! Engines that give snapshots and engines that go on from them.

use std::{
    io::Write,
    sync::{Arc, Mutex, OnceLock},
    time::{Duration, Instant},
};

use sd_worker_rbee::{
    contract::JobId,
    diffusion::{ImageSpec, Source},
    engine::{
        CancelFlag, EngineHandle, Generated, GenerationEngine, GenerationRequest, GenerationResponse,
        RequestQueue, Snapshot,
    },
    models::Progress,
};
use tokio::sync::{Semaphore, mpsc};

use super::{MODEL, carried, open, spec, text};

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
        snapshot_every: None,
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
    (request, mut responses, _): (GenerationRequest, mpsc::UnboundedReceiver<GenerationResponse>, CancelFlag),
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

/// Runs a job of two pictures until a step of the second, and stops it: its snapshot, and the steps done.
async fn stopped_in_the_second(model: &str) -> (Snapshot, u32) {
    let (queue, mut engine) = engine(model);
    // Each step of the job waits for one of the simulation's: there is time to stop it.
    let (slow, _slow_responses, stop_slow) = request("slow", ImageSpec { steps: 10_000, ..text() }, 1);
    let (mut job, mut responses, cancel) = request(MODEL, ImageSpec { steps: 6, ..text() }, 2);
    job.snapshot_every = Some(Duration::from_secs(3600));
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
    let snapshots = got.iter().filter(|said| matches!(said, GenerationResponse::Snapshot(_))).count();
    assert_eq!(snapshots, 1, "{model}: the hour had not passed");
    match (got.pop(), got.pop()) {
        (Some(GenerationResponse::Cancelled { step }), Some(GenerationResponse::Snapshot(snapshot))) => {
            assert_eq!(snapshot.index, 1, "{model}");
            (snapshot, step)
        }
        said => panic!("{model}: the snapshot does not come before the end: {said:?}"),
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

        let (snapshot, step) = stopped_in_the_second(model).await;
        assert!((8..12).contains(&step), "{model}: {step}");
        let (mut job, responses, cancel) = request(MODEL, spec, 2);
        job.resume = Some(carried(snapshot).await);
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
async fn every_step_but_a_picture_s_last_gives_a_snapshot_when_its_time_has_passed() {
    let model = "sim://?step_ms=0&size=64";
    let at = |said: &GenerationResponse| match said {
        GenerationResponse::Snapshot(Snapshot { index, pictures }) => match pictures[..] {
            [Progress::Sim { step }] => Some((*index, step)),
            _ => panic!("{pictures:?}"),
        },
        _ => None,
    };
    for (every, expected) in [
        (Some(Duration::ZERO), vec![(0, 1), (0, 2), (0, 3), (1, 1), (1, 2), (1, 3)]),
        (Some(Duration::from_secs(3600)), vec![]),
        (None, vec![]),
    ] {
        let (mut job, responses, cancel) = request(MODEL, text(), 2);
        job.snapshot_every = every;
        let got = all(model, (job, responses, cancel)).await;
        assert_eq!(got.iter().filter_map(at).collect::<Vec<_>>(), expected, "{every:?}");
    }
}

#[tokio::test]
async fn a_picture_that_was_put_down_after_its_last_step_is_decoded_and_not_drawn_again() {
    let pipeline = open("text");
    let mut drawn = pipeline.begin(MODEL, &text()).unwrap();
    (0..4).for_each(|_| pipeline.advance(MODEL, &mut [&mut drawn]).unwrap());
    let whole = pictures(all("text", request(MODEL, text(), 2)).await);
    let (mut job, responses, cancel) = request(MODEL, text(), 2);
    job.resume = Some(carried(Snapshot { index: 0, pictures: vec![drawn.progress()] }).await);
    let got = all("text", (job, responses, cancel)).await;
    assert!(matches!(got[0], GenerationResponse::Resumed { step: 4 }), "{:?}", got[0]);
    assert_eq!(steps(&got), [5, 6, 7, 8]);
    for (ours, whole) in pictures(got).iter().zip(&whole) {
        assert!((ours.index, &ours.image) == (whole.index, &whole.image));
    }
}

#[tokio::test]
async fn pictures_that_are_drawn_together_are_put_down_together_and_each_goes_on() {
    let model = "sim://?step_ms=0&size=64&together=3";
    let whole = all(model, request(MODEL, text(), 5)).await;
    // Three a step, and then the other two.
    assert_eq!(steps(&whole), [3, 6, 9, 12, 14, 16, 18, 20]);
    let whole = pictures(whole);
    assert_eq!(whole.iter().map(|picture| picture.index).collect::<Vec<_>>(), [0, 1, 2, 3, 4]);
    let (mut job, responses, cancel) = request(MODEL, text(), 5);
    job.snapshot_every = Some(Duration::ZERO);
    let put_down = all(model, (job, responses, cancel)).await.into_iter().filter_map(|said| match said {
        GenerationResponse::Snapshot(snapshot) => Some(snapshot),
        _ => None,
    });
    let put_down: Vec<Snapshot> = put_down.collect();
    let sizes: Vec<_> = put_down.iter().map(|at| (at.index, at.pictures.len())).collect();
    assert_eq!(sizes, [(0, 3), (0, 3), (0, 3), (3, 2), (3, 2), (3, 2)]);
    for snapshot in put_down {
        let first = snapshot.index as usize;
        let (mut job, responses, cancel) = request(MODEL, text(), 5);
        job.resume = Some(carried(snapshot).await);
        let rest = all(model, (job, responses, cancel)).await;
        assert!(matches!(rest[0], GenerationResponse::Resumed { .. }), "{first}");
        let rest = pictures(rest);
        assert_eq!(rest.len(), 5 - first);
        for (ours, whole) in rest.iter().zip(&whole[first..]) {
            assert!((ours.index, &ours.image) == (whole.index, &whole.image), "{first}");
        }
    }
    let nine = Snapshot { index: 0, pictures: vec![Progress::Sim { step: 1 }; 9] };
    let none = Snapshot { index: 0, pictures: vec![] };
    let beyond = Snapshot { index: 3, pictures: vec![Progress::Sim { step: 1 }; 3] };
    for snapshot in [nine, none, beyond] {
        let (mut job, responses, cancel) = request(MODEL, text(), 5);
        job.resume = Some(snapshot);
        let got = all(model, (job, responses, cancel)).await;
        assert!(!got.iter().any(|said| matches!(said, GenerationResponse::Resumed { .. })));
        assert_eq!(pictures(got).len(), 5);
    }
}

#[tokio::test]
async fn a_job_that_was_cancelled_before_its_first_step_gives_no_snapshot() {
    let (mut job, responses, cancel) = request(MODEL, text(), 1);
    job.snapshot_every = Some(Duration::ZERO);
    cancel.set();
    let got = all("sim://?step_ms=0&size=64", (job, responses, cancel)).await;
    assert!(matches!(got[..], [GenerationResponse::Cancelled { step: 0 }]), "{got:?}");
}

#[tokio::test]
async fn a_snapshot_that_is_not_of_the_job_is_logged_and_the_job_starts_over() {
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
        (0, Progress::Sim { step: 1 }, "another family"),
    ];
    let whole = pictures(all("text", request(MODEL, text(), 2)).await);
    for (index, progress, reason) in cases {
        let (mut job, responses, cancel) = request(MODEL, text(), 2);
        let id = job.job_id.clone();
        job.resume = Some(Snapshot { index, pictures: vec![progress] });
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
