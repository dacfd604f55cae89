//! What holds for every scheduler, whatever the numbers: identities, and that a job put down at any step goes on from
//! there bit for bit.

use proptest::prelude::*;

use super::{Memory, Scheduler, SchedulerConfig, SchedulerKind, scheduler};
use crate::diffusion::{config::ConfigFile, noise::TorchRng};

const SPACINGS: [&str; 3] = ["leading", "trailing", "linspace"];
/// Those that draw noise at each step: where they end is not decided by the latents alone.
const RANDOM: [&str; 6] =
    ["ddpm", "euler_a", "lcm", "dpmpp_2m_sde", "dpmpp_2m_sde_karras", "dpmpp_2m_sde_exponential"];

fn config(spacing: &str, more: serde_json::Value) -> SchedulerConfig {
    let mut config = serde_json::json!({
        "_class_name": "DDIMScheduler", "beta_schedule": "scaled_linear", "beta_start": 0.00085, "beta_end": 0.012,
        "steps_offset": 1, "clip_sample": false, "skip_prk_steps": true, "timestep_spacing": spacing,
    });
    for (key, value) in more.as_object().unwrap() {
        config[key] = value.clone();
    }
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("scheduler_config.json");
    std::fs::write(&path, config.to_string()).unwrap();
    SchedulerConfig::read(ConfigFile::read(&path).unwrap()).unwrap()
}

/// One step with an output that depends on latents and step.
fn advance(scheduler: &mut dyn Scheduler, step: usize, x: &mut [f32], rng: &mut TorchRng) -> Vec<f32> {
    let input = scheduler.scale_input(step, x);
    let output: Vec<f32> = input.iter().map(|x| (x + step as f32).sin()).collect();
    scheduler.step(step, &output, x, rng)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, ..ProptestConfig::default() })]

    #[test]
    fn a_job_put_down_at_any_step_goes_on_bit_for_bit(
        kind in 0..SchedulerKind::NAMES.len(),
        spacing in 0..SPACINGS.len(),
        steps in 4_u32..24,
        order in 1..=3,
        runge_kutta in any::<bool>(),
        stop in 0.0..1.0_f64,
        seed in any::<u64>(),
    ) {
        let more = serde_json::json!({"solver_order": order, "skip_prk_steps": !runge_kutta});
        let config = config(SPACINGS[spacing], more);
        let kind = SchedulerKind::from_name(SchedulerKind::NAMES[kind]).unwrap();
        let mut whole = scheduler(kind, &config, steps).unwrap();
        let total = whole.timesteps().len();
        let stop = (total as f64 * stop) as usize;
        let mut rng = TorchRng::new(seed);
        let mut x = rng.normal(5);
        for step in 0..stop {
            advance(&mut *whole, step, &mut x, &mut rng);
        }
        let written = serde_json::to_string(&(whole.memory(), &rng)).unwrap();
        let mut y = x.clone();
        let (memory, mut other_rng): (Memory, TorchRng) = serde_json::from_str(&written).unwrap();
        let mut other = scheduler(kind, &config, steps).unwrap();
        other.recall(memory).unwrap();
        for step in stop..total {
            let clean = advance(&mut *whole, step, &mut x, &mut rng);
            prop_assert_eq!(&advance(&mut *other, step, &mut y, &mut other_rng), &clean);
            prop_assert_eq!(&x, &y);
        }
        prop_assert!(x.iter().all(|x| x.is_finite()));
    }

    #[test]
    fn the_true_noise_predicted_leads_back_to_the_clean_latents(
        kind in 0..SchedulerKind::NAMES.len(),
        spacing in 0..SPACINGS.len(),
        steps in 1_u32..30,
        seed in any::<u64>(),
    ) {
        let name = SchedulerKind::NAMES[kind];
        prop_assume!(!RANDOM.contains(&name));
        // DDIM and PNDM go by even strides whatever the spacing: only from leading timesteps do they arrive.
        let spacing = if ["ddim", "pndm"].contains(&name) { "leading" } else { SPACINGS[spacing] };
        let config = config(spacing, serde_json::json!({"set_alpha_to_one": true}));
        let mut scheduler = scheduler(SchedulerKind::from_name(name).unwrap(), &config, steps).unwrap();
        let mut rng = TorchRng::new(seed);
        let (clean, noise) = (rng.normal(6), rng.normal(6));
        let mut x = scheduler.add_noise(0, &clean, &noise);
        for step in 0..scheduler.timesteps().len() {
            let implied = scheduler.step(step, &noise, &mut x, &mut rng);
            for (implied, clean) in implied.iter().zip(&clean) {
                prop_assert!((implied - clean).abs() < 1e-2, "{name}, step {step}: {implied} for {clean}");
            }
        }
        for (x, clean) in x.iter().zip(&clean) {
            prop_assert!((x - clean).abs() < 1e-2, "{name}: {x} for {clean}");
        }
    }

    #[test]
    fn noise_falls_from_almost_all_to_almost_none(
        kind in 0..SchedulerKind::NAMES.len(),
        seed in any::<u64>(),
    ) {
        let name = SchedulerKind::NAMES[kind];
        let config = config("leading", serde_json::json!({}));
        let scheduler = scheduler(SchedulerKind::from_name(name).unwrap(), &config, 50).unwrap();
        let mut rng = TorchRng::new(seed);
        let (clean, noise) = (rng.normal(64), rng.normal(64));
        // Without noise what is left of the signal, without signal the strength of the noise.
        let nothing = vec![0.0; 64];
        let share = |step: usize| {
            let signal = scheduler.add_noise(step, &clean, &nothing)[0] / clean[0];
            let strength = scheduler.add_noise(step, &nothing, &noise)[0] / noise[0];
            strength / signal
        };
        let shares: Vec<f32> = (0..scheduler.timesteps().len()).map(share).collect();
        prop_assert!(shares.windows(2).all(|pair| pair[0] >= pair[1] * 0.999), "{name}: {shares:?}");
        prop_assert!(shares[0] > 9.0 && shares[shares.len() - 1] < 0.3, "{name}: {shares:?}");
        let last = scheduler.timesteps().len() - 1;
        let noised = scheduler.add_noise(last, &clean, &noise);
        prop_assert!(noised.iter().zip(&clean).all(|(x, clean)| (x - clean).abs() < 1.3), "{name}: nearly clean");
    }
}

#[test]
fn a_memory_of_another_scheduler_is_refused_and_changes_nothing() {
    let config = config("leading", serde_json::json!({}));
    let build = |name| scheduler(SchedulerKind::from_name(name).unwrap(), &config, 6).unwrap();
    let (mut pndm, mut dpm) = (build("pndm"), build("dpmpp_2m"));
    let (mut rng, mut x) = (TorchRng::new(1), vec![0.5; 3]);
    for step in 0..3 {
        advance(&mut *pndm, step, &mut x, &mut rng);
        advance(&mut *dpm, step, &mut x, &mut rng);
    }
    let before = dpm.memory();
    assert!(dpm.recall(pndm.memory()).is_err());
    assert_eq!(dpm.memory(), before);
    assert!(build("euler").recall(before).is_err());
}
