//! Distilled LoRAs as their makers mean them: options of schedulers in a job, as diffusers' `from_config` takes them.

use crate::parity::runs::check_runs;
use crate::support::{data, model};
use candle_core::{DType, Device};
use sd_worker_rbee::{
    contract::{ErrorCode, PredictionType, SchedulerOptions, TimestepSpacing},
    diffusion::{self, DiffusionError, ImageSpec, Source},
};

fn spec(scheduler: &str, options: SchedulerOptions) -> ImageSpec {
    ImageSpec {
        steps: 4,
        guidance_scale: 1.0,
        scheduler: Some(scheduler.into()),
        scheduler_options: options,
        ..ImageSpec::new("a red circle", Source::Text { width: 64, height: 64 })
    }
}

#[test]
fn lightning_hyper_and_lcm_end_in_diffusers_pictures() {
    for run in ["lightning", "hyper", "lcm"] {
        check_runs("few_steps", run);
    }
}

#[test]
fn a_prediction_and_a_schedule_that_a_checkpoint_does_not_name_are_drawn_as_diffusers_draws_them() {
    check_runs("few_steps", "velocity");
}

#[test]
fn options_that_a_scheduler_does_not_read_are_told() {
    let begun = |scheduler, options| model("text").begin(&spec(scheduler, options)).unwrap().warnings();
    let trailing =
        SchedulerOptions { timestep_spacing: Some(TimestepSpacing::Trailing), ..Default::default() };
    let original = SchedulerOptions { original_inference_steps: Some(25), ..Default::default() };
    assert!(begun("lcm", trailing)[0].contains("`scheduler_options.timestep_spacing` was not used"));
    assert!(begun("ddim", original)[0].contains("`scheduler_options.original_inference_steps` was not used"));
    assert!(begun("ddim", trailing).is_empty() && begun("lcm", original).is_empty());
}

#[test]
fn options_that_cannot_be_used_are_refused_by_their_names() {
    let refused = |error: DiffusionError, part: &str| {
        assert_eq!(error.code(), ErrorCode::InvalidRequest, "{error}");
        assert!(error.to_string().contains(part), "{part} is not in: {error}");
    };
    let begin = |scheduler, options| model("text").begin(&spec(scheduler, options)).err().unwrap();
    let more = SchedulerOptions { original_inference_steps: Some(1000), ..Default::default() };
    assert!(model("text").begin(&spec("lcm", more)).is_ok());
    let few = SchedulerOptions { original_inference_steps: Some(3), ..Default::default() };
    refused(begin("lcm", few), "`steps`: 4; lcm takes 1 to 3");
    let no_signal = SchedulerOptions {
        rescale_betas_zero_snr: Some(true),
        prediction_type: Some(PredictionType::Epsilon),
        timestep_spacing: Some(TimestepSpacing::Trailing),
        ..Default::default()
    };
    refused(begin("ddim", no_signal), "`scheduler_options.prediction_type`");
    for family in ["flux/schnell", "z_image/turbo"] {
        let opened = diffusion::open(&data(family)).unwrap();
        let model = opened.load(&Device::Cpu, DType::F32.into()).unwrap();
        let spec = ImageSpec { scheduler: None, ..spec("flow_euler", few) };
        refused(model.begin(&spec).err().unwrap(), "`scheduler_options`");
    }
}
