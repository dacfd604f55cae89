//! The schedule against diffusers' FlowMatchEulerDiscreteScheduler as FluxPipeline calls it.

use serde::Deserialize;
use serde_json::Value;

use super::{FlowConfig, FlowEuler, Scheduler};
use crate::diffusion::checkpoint::ConfigFile;

/// Differences of a last bit or two in f32.
const LIMIT: f32 = 3e-7;

#[derive(Deserialize)]
struct Case {
    config: Value,
    tokens: usize,
    steps: u32,
    sigmas: Vec<f32>,
    timesteps: Vec<f32>,
}

fn config(values: &Value) -> Result<FlowConfig, String> {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("scheduler_config.json");
    std::fs::write(&path, values.to_string()).unwrap();
    FlowConfig::read(&ConfigFile::read(&path).unwrap()).map_err(|error| error.to_string())
}

#[test]
fn sigmas_and_timesteps_are_those_of_diffusers() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/data/parity/flux/schedules.json");
    let cases: Vec<Case> = serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap();
    assert!(cases.len() > 80);
    for case in cases {
        let what = format!("{} {} tokens {} steps", case.config, case.tokens, case.steps);
        let schedule = FlowEuler::new(&config(&case.config).unwrap(), case.steps, case.tokens).unwrap();
        assert_eq!(schedule.sigmas.len(), case.sigmas.len(), "{what}");
        for (ours, theirs) in schedule.sigmas.iter().zip(&case.sigmas) {
            assert!((ours - theirs).abs() <= LIMIT, "{what}: {ours} {theirs}");
        }
        for (step, theirs) in case.timesteps.iter().enumerate() {
            assert!((schedule.timesteps()[step] - theirs).abs() <= 1000.0 * LIMIT, "{what}: step {step}");
        }
    }
}

#[test]
fn what_flux_does_not_use_is_refused_by_name() {
    for (key, value) in [
        ("use_karras_sigmas", Value::from(true)),
        ("stochastic_sampling", true.into()),
        ("invert_sigmas", true.into()),
        ("time_shift_type", "cubic".into()),
        ("shift_terminal", 1.into()),
        ("shift", (-1).into()),
        ("max_image_seq_len", 256.into()),
    ] {
        let error = config(&serde_json::json!({ key: value })).unwrap_err();
        assert!(error.contains("scheduler_config.json") && error.contains(key), "{error}");
    }
}

#[test]
fn no_steps_and_more_than_in_training_are_refused() {
    let config = config(&serde_json::json!({})).unwrap();
    for steps in [0, 1001] {
        let error = FlowEuler::new(&config, steps, 16).unwrap_err().to_string();
        assert!(error.contains("`steps`") && error.contains("1 to 1000"), "{error}");
    }
}
