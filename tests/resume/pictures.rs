//! Pictures of every scheduler, operation and family, put down at each of their steps.

use sd_worker_rbee::{
    diffusion::{ImageSpec, StableDiffusion},
    engine::Checkpoint,
};

use super::{MODEL, carried, inpaint, open, text, transform};

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
