//! Each scheduler against diffusers, over the configurations that `tools/parity/samplers.py` wrote down.

use std::path::Path;

use serde::Deserialize;

use super::{SchedulerConfig, SchedulerKind, scheduler};
use crate::diffusion::{config::ConfigFile, noise::TorchRng};

#[derive(Deserialize)]
struct Golden {
    start: Vec<f32>,
    noise: Vec<f32>,
    outputs: Vec<Vec<f32>>,
    cases: Vec<Case>,
}

#[derive(Deserialize)]
struct Case {
    scheduler: String,
    config: serde_json::Value,
    steps: u32,
    first: usize,
    timesteps: Vec<f32>,
    initial_scale: f32,
    begun: Vec<f32>,
    scaled_last: Vec<f32>,
    end: Vec<f32>,
}

/// Largest difference, relative to the size of the numbers.
fn difference(ours: &[f32], theirs: &[f32]) -> f32 {
    assert_eq!(ours.len(), theirs.len());
    let size = theirs.iter().fold(1e-6_f32, |size, x| size.max(x.abs()));
    ours.iter().zip(theirs).fold(0.0, |worst: f32, (a, b)| worst.max((a - b).abs() / size))
}

#[test]
fn every_scheduler_goes_where_diffusers_goes() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/parity/samplers.json");
    let golden: Golden = serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap();
    assert!(golden.cases.len() > 100);
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("scheduler_config.json");
    let mut worst = 0.0_f32;
    for case in &golden.cases {
        let what = format!("{} {} steps {}", case.scheduler, case.steps, case.config);
        std::fs::write(&file, case.config.to_string()).unwrap();
        let config = SchedulerConfig::read(ConfigFile::read(&file).unwrap()).unwrap();
        let kind = SchedulerKind::from_name(&case.scheduler).unwrap();
        assert_eq!(config.kind().unwrap(), kind);
        let mut scheduler = scheduler(kind, &config, case.steps).unwrap();
        assert!(difference(scheduler.timesteps(), &case.timesteps) < 1e-6, "{what}: timesteps");
        let scale = difference(&[scheduler.initial_scale()], &[case.initial_scale]);
        let mut x = scheduler.add_noise(case.first, &golden.start, &golden.noise);
        let begun = difference(&x, &case.begun);
        let mut rng = TorchRng::new(3);
        let mut scaled = Vec::new();
        for step in case.first..case.steps as usize {
            scaled = scheduler.scale_input(step, &x);
            scheduler.step(step, &golden.outputs[step], &mut x, &mut rng);
        }
        let (scaled, end) = (difference(&scaled, &case.scaled_last), difference(&x, &case.end));
        for (part, error) in [("initial scale", scale), ("begun", begun), ("input", scaled), ("end", end)] {
            assert!(error < 2e-5, "{what}: {part}: relative error {error}");
            worst = worst.max(error);
        }
    }
    println!("worst relative error {worst:e} over {} cases", golden.cases.len());
}
