//! Each scheduler against diffusers, over the configurations that `tools/parity/samplers.py` wrote down.

use std::{collections::BTreeMap, path::Path};

use serde::Deserialize;

use super::{SchedulerConfig, SchedulerKind, scheduler};
use crate::diffusion::{checkpoint::ConfigFile, noise::TorchRng};

#[derive(Deserialize)]
struct Golden {
    start: Vec<f32>,
    noise: Vec<f32>,
    outputs: Vec<Vec<f32>>,
    configs: Vec<serde_json::Value>,
    schedules: Vec<Vec<f32>>,
    cases: Vec<Case>,
    refused: Vec<(String, usize, u32)>,
}

/// Scheduler, place of its configuration, steps, first evaluation, place of its timesteps; initial scale, latents at
/// the beginning, the network's last input, latents at the end.
#[derive(Deserialize)]
struct Case(String, usize, u32, usize, usize, Vec<f32>);

/// The golden file and its configurations, read.
fn golden() -> (Golden, Vec<SchedulerConfig>) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/parity/samplers.json");
    let golden: Golden = serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap();
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("scheduler_config.json");
    let read = |config: &serde_json::Value| {
        let mut config = config.clone();
        config["_class_name"] = "DDIMScheduler".into();
        std::fs::write(&file, config.to_string()).unwrap();
        SchedulerConfig::read(ConfigFile::read(&file).unwrap()).unwrap()
    };
    let configs = golden.configs.iter().map(read).collect();
    (golden, configs)
}

/// Largest difference, relative to the size of the numbers.
fn difference(ours: &[f32], theirs: &[f32]) -> f32 {
    assert_eq!(ours.len(), theirs.len());
    let size = theirs.iter().fold(1e-6_f32, |size, x| size.max(x.abs()));
    ours.iter().zip(theirs).fold(0.0, |worst: f32, (a, b)| match (a - b).abs() / size {
        error if error.is_nan() => f32::INFINITY,
        error => worst.max(error),
    })
}

#[test]
fn every_scheduler_goes_where_diffusers_goes() {
    let (golden, configs) = golden();
    let mut worst: BTreeMap<&str, (f32, usize)> = BTreeMap::new();
    let mut wrong = Vec::new();
    for Case(name, config, steps, first, schedule, numbers) in &golden.cases {
        let what = format!("{name} {steps} steps from {first}, {}", golden.configs[*config]);
        let kind = SchedulerKind::from_name(name).unwrap();
        let mut scheduler = match scheduler(kind, &configs[*config], *steps) {
            Ok(scheduler) => scheduler,
            Err(error) => {
                wrong.push(format!("{what}: {error}"));
                continue;
            }
        };
        let timesteps = &golden.schedules[*schedule];
        if scheduler.timesteps().len() != timesteps.len() {
            wrong.push(format!("{what}: timesteps {:?}, expected {timesteps:?}", scheduler.timesteps()));
            continue;
        }
        let times = difference(scheduler.timesteps(), timesteps);
        let scale = difference(&[scheduler.initial_scale()], &numbers[..1]);
        let size = golden.start.len();
        let mut x = scheduler.add_noise(*first, &golden.start, &golden.noise);
        let begun = difference(&x, &numbers[1..=size]);
        let mut rng = TorchRng::new(3);
        let mut scaled = Vec::new();
        for step in *first..timesteps.len() {
            scaled = scheduler.scale_input(step, &x);
            scheduler.step(step, &golden.outputs[step], &mut x, &mut rng);
        }
        let scaled = difference(&scaled, &numbers[1 + size..1 + 2 * size]);
        let end = difference(&x, &numbers[1 + 2 * size..]);
        let parts = [
            ("timesteps", times),
            ("initial scale", scale),
            ("begun", begun),
            ("input", scaled),
            ("end", end),
        ];
        for (part, error) in parts {
            let of_kind = worst.entry(kind.name()).or_default();
            of_kind.0 = of_kind.0.max(error);
            if error > 1e-5 {
                wrong.push(format!("{what}: {part}: relative error {error:e}"));
            }
        }
        worst.entry(kind.name()).or_default().1 += 1;
    }
    for (name, (error, cases)) in &worst {
        println!("{name}: worst relative error {error:.1e} over {cases} cases");
    }
    assert!(wrong.is_empty(), "{} wrong:\n{}", wrong.len(), wrong.join("\n"));
    assert_eq!(worst.len(), SchedulerKind::NAMES.len(), "every kind is compared");
}

#[test]
fn what_diffusers_cannot_compute_is_refused_before_the_first_step() {
    let (golden, configs) = golden();
    assert!(!golden.refused.is_empty());
    let taken: Vec<String> = golden
        .refused
        .iter()
        .filter(|(name, config, steps)| {
            let kind = SchedulerKind::from_name(name).unwrap();
            scheduler(kind, &configs[*config], *steps).is_ok()
        })
        .map(|(name, config, steps)| format!("{name} {steps} steps, {}", golden.configs[*config]))
        .collect();
    assert!(taken.is_empty(), "{} taken:\n{}", taken.len(), taken.join("\n"));
}
