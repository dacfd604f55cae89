//! Pictures of every scheduler, operation and family, put down between their steps.

use sd_worker_rbee::{
    diffusion::{ImageSpec, StableDiffusion},
    engine::{InferencePipeline, Snapshot},
};

use super::{MODEL, carried, inpaint, open, text, transform};

/// Which steps a picture is put down before.
#[derive(Clone, Copy, PartialEq)]
enum At {
    Each,
    Last,
}

/// Draws a picture undisturbed, and then what is left of it from where it was put down, on another pipeline.
async fn goes_on_bit_for_bit(pipelines: [&InferencePipeline; 2], spec: &ImageSpec, at: At) {
    let [one, other] = pipelines;
    let mut job = one.begin(MODEL, spec).unwrap();
    let mut put_down = vec![];
    while !job.is_done() {
        put_down.push((job.step(), job.progress()));
        one.advance(MODEL, &mut [&mut job]).unwrap();
    }
    let (end, picture) = (job.progress(), one.finish(MODEL, &job).unwrap());
    if at == At::Last {
        put_down.drain(..put_down.len() - 1);
        assert!(put_down[0].0 > 0, "it had begun");
    }
    for (step, progress) in put_down {
        let what = format!("{} from step {step} of {}", job.scheduler_name(), job.total());
        let snapshot = carried(Snapshot { index: 0, pictures: vec![progress] }).await;
        let mut job = other.begin(MODEL, spec).unwrap();
        let [progress] = <[_; 1]>::try_from(snapshot.pictures).unwrap();
        job.resume(progress).unwrap();
        assert_eq!(job.step(), step, "{what}");
        while !job.is_done() {
            other.advance(MODEL, &mut [&mut job]).unwrap();
        }
        assert!(job.progress() == end, "{what}: other latents");
        if at == At::Last {
            assert!(other.finish(MODEL, &job).unwrap() == picture, "{what}: another picture");
        }
    }
}

#[tokio::test]
async fn a_picture_of_every_scheduler_and_operation_goes_on_bit_for_bit() {
    let one = open("text");
    for name in StableDiffusion::schedulers() {
        let other = open("text");
        let with = |spec| ImageSpec { scheduler: Some((*name).into()), ..spec };
        goes_on_bit_for_bit([&one, &other], &with(text()), At::Each).await;
        for spec in [text(), transform(), inpaint(0.8)] {
            goes_on_bit_for_bit([&one, &other], &with(spec), At::Last).await;
        }
    }
}

#[tokio::test]
async fn a_picture_of_another_family_goes_on_bit_for_bit() {
    let families = [
        ("inpaint", vec![inpaint(1.0)]),
        ("xl", vec![text()]),
        ("flux/dev", vec![text(), transform(), inpaint(1.0), inpaint(0.8)]),
        ("flux/schnell", vec![text()]),
        ("sim://?step_ms=0&size=64", vec![text(), transform(), inpaint(1.0)]),
    ];
    for (model, specs) in families {
        let (one, other) = (open(model), open(model));
        for spec in specs {
            goes_on_bit_for_bit([&one, &other], &spec, At::Each).await;
            goes_on_bit_for_bit([&one, &other], &spec, At::Last).await;
        }
    }
}
