//! What holds for every scheduler, whatever the numbers: identities, that a job put down at any step goes on from there
//! bit for bit, and that a state which is not the job's does no harm.

use proptest::{prelude::*, sample::Index};
use serde_json::{Value, json};

use super::{Place, Scheduler, SchedulerConfig, SchedulerKind, SchedulerState, scheduler};
use crate::diffusion::{checkpoint::ConfigFile, noise::TorchRng};

const SPACINGS: [&str; 3] = ["leading", "trailing", "linspace"];
/// Those that draw noise at each step: where they end is not decided by the latents alone.
const RANDOM: [&str; 6] =
    ["ddpm", "euler_a", "lcm", "dpmpp_2m_sde", "dpmpp_2m_sde_karras", "dpmpp_2m_sde_exponential"];

fn config(spacing: &str, more: Value) -> SchedulerConfig {
    let mut config = json!({
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

/// Numbers in the latents.
const SIZE: usize = 5;

/// A scheduler that has come to a place, the latents there and the generator.
fn come_to(
    (kind, config, steps): (usize, &SchedulerConfig, u32),
    skip: usize,
    stop: f64,
    seed: u64,
) -> (Box<dyn Scheduler>, Place, Vec<f32>, TorchRng) {
    let mut scheduler = fresh(kind, config, steps);
    let first = skip * scheduler.order();
    let done = ((scheduler.timesteps().len() - first) as f64 * stop) as usize;
    let mut rng = TorchRng::new(seed);
    let mut x = rng.normal(SIZE);
    for step in first..first + done {
        advance(&mut *scheduler, step, &mut x, &mut rng);
    }
    (scheduler, Place { first, done, size: SIZE }, x, rng)
}

fn fresh(kind: usize, config: &SchedulerConfig, steps: u32) -> Box<dyn Scheduler> {
    scheduler(SchedulerKind::from_name(SchedulerKind::NAMES[kind]).unwrap(), config, steps).unwrap()
}

/// Changes the shape of a state, so that it can be no scheduler's there: a vector or a counter, which one by `at`.
fn deform(state: Value, how: usize, at: Index, by: u64) -> Option<SchedulerState> {
    let mut state = state;
    let part = if how < 4 { "vectors" } else { "counters" };
    let parts = state[part].as_object_mut().unwrap();
    let name = match parts.keys().count() {
        0 => None,
        count => parts.keys().nth(at.index(count)).cloned(),
    };
    match (how, name) {
        (0, _) => drop(parts.insert("more".into(), json!(vec![0; SIZE]))),
        (4, _) => drop(parts.insert("more".into(), json!(by))),
        (1 | 5, Some(name)) => drop(parts.remove(&name)),
        (2, Some(name)) => drop(parts[&name].as_array_mut().unwrap().pop()),
        (3, Some(name)) => parts[&name].as_array_mut().unwrap().push(json!(by)),
        (6, Some(name)) => parts[&name] = json!(parts[&name].as_u64().unwrap() + by),
        (_, Some(name)) => parts[&name] = json!(parts[&name].as_u64().unwrap().checked_sub(by)?),
        (_, None) => return None,
    }
    Some(serde_json::from_value(state).unwrap())
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
        skip in 0_usize..3,
        stop in 0.0..=1.0_f64,
        seed in any::<u64>(),
    ) {
        let more = json!({"solver_order": order, "skip_prk_steps": !runge_kutta});
        let config = config(SPACINGS[spacing], more);
        let (mut whole, place, mut x, mut rng) = come_to((kind, &config, steps), skip, stop, seed);
        let written = serde_json::to_string(&(whole.state(), &rng)).unwrap();
        let mut y = x.clone();
        let (state, mut other_rng): (SchedulerState, TorchRng) = serde_json::from_str(&written).unwrap();
        let mut other = fresh(kind, &config, steps);
        other.restore(state, place).unwrap();
        prop_assert_eq!(other.state(), whole.state());
        for step in place.first + place.done..whole.timesteps().len() {
            let clean = advance(&mut *whole, step, &mut x, &mut rng);
            prop_assert_eq!(&advance(&mut *other, step, &mut y, &mut other_rng), &clean);
            prop_assert_eq!(&x, &y);
        }
        prop_assert!(x.iter().all(|x| x.is_finite()));
    }

    #[test]
    fn a_memory_of_another_shape_is_refused_and_changes_nothing(
        kind in 0..SchedulerKind::NAMES.len(),
        steps in 4_u32..24,
        order in 1..=3,
        runge_kutta in any::<bool>(),
        (skip, stop) in (0_usize..3, 0.0..=1.0_f64),
        (how, at, by) in (0_usize..8, any::<Index>(), 1_u64..4),
    ) {
        let more = json!({"solver_order": order, "skip_prk_steps": !runge_kutta});
        let config = config("leading", more);
        let (mut scheduler, place, ..) = come_to((kind, &config, steps), skip, stop, 1);
        let before = scheduler.state();
        if let Some(deformed) = deform(serde_json::to_value(&before).unwrap(), how, at, by) {
            prop_assert!(scheduler.restore(deformed, place).is_err());
            prop_assert_eq!(scheduler.state(), before);
        }
    }

    #[test]
    fn a_memory_of_another_scheduler_place_or_size_is_refused_or_the_steps_go_on(
        (kind, other) in (0..SchedulerKind::NAMES.len(), 0..SchedulerKind::NAMES.len()),
        (steps, other_steps) in (4_u32..24, 4_u32..24),
        (order, other_order) in (1..=3, 1..=3),
        (runge_kutta, other_runge_kutta) in (any::<bool>(), any::<bool>()),
        (skip, other_skip) in (0_usize..3, 0_usize..3),
        (stop, other_stop) in (0.0..=1.0_f64, 0.0..=1.0_f64),
        size in 4_usize..7,
    ) {
        let config = |order: i32, runge_kutta: bool| {
            config("leading", json!({"solver_order": order, "skip_prk_steps": !runge_kutta}))
        };
        let foreign = config(other_order, other_runge_kutta);
        let (foreign, ..) = come_to((other, &foreign, other_steps), other_skip, other_stop, 1);
        let config = config(order, runge_kutta);
        let (_, place, _, mut rng) = come_to((kind, &config, steps), skip, stop, 2);
        let mut scheduler = fresh(kind, &config, steps);
        if scheduler.restore(foreign.state(), Place { size, ..place }).is_ok() {
            let mut x = rng.normal(size);
            for step in place.first + place.done..scheduler.timesteps().len() {
                advance(&mut *scheduler, step, &mut x, &mut rng);
            }
        }
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
        let config = config(spacing, json!({"set_alpha_to_one": true}));
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
        let config = config("leading", json!({}));
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
fn a_memory_of_another_scheduler_is_refused_and_says_why() {
    let config = config("leading", json!({}));
    let build = |name| scheduler(SchedulerKind::from_name(name).unwrap(), &config, 6).unwrap();
    let (mut pndm, mut dpm) = (build("pndm"), build("dpmpp_2m"));
    let (mut rng, mut x) = (TorchRng::new(1), vec![0.5; 3]);
    for step in 0..3 {
        advance(&mut *pndm, step, &mut x, &mut rng);
        advance(&mut *dpm, step, &mut x, &mut rng);
    }
    let place = Place { first: 0, done: 3, size: 3 };
    let refusal = |name, state, place| build(name).restore(state, place).unwrap_err().to_string();
    assert!(refusal("dpmpp_2m", pndm.state(), place).contains("lacks `clean`"));
    assert!(refusal("euler", dpm.state(), place).contains("holds `clean.0`"));
    assert!(refusal("dpmpp_2m", dpm.state(), Place { done: 1, ..place }).contains("counts 2 of `clean`"));
    let smaller = refusal("dpmpp_2m", dpm.state(), Place { size: 2, ..place });
    assert!(smaller.contains("3 numbers in `clean.0`; the picture's latents have 2"), "{smaller}");
}

#[test]
fn every_evaluation_is_of_a_step_that_was_asked_for_and_every_step_has_one() {
    for (kind, runge_kutta) in (0..SchedulerKind::NAMES.len()).flat_map(|kind| [(kind, false), (kind, true)])
    {
        let config = config("leading", json!({"skip_prk_steps": !runge_kutta}));
        let least = if runge_kutta { 4 } else { 1 };
        for (steps, skip) in
            (least..24_u32).flat_map(|steps| (0..steps.min(3)).map(move |skip| (steps, skip)))
        {
            let (scheduler, skip) = (fresh(kind, &config, steps), skip as usize);
            let first = skip * scheduler.order();
            let of = |done| scheduler.asked_step(first, done);
            let places: Vec<_> = (0..scheduler.timesteps().len() - first).map(of).collect();
            let what = format!("{} {steps} steps from {skip}: {places:?}", SchedulerKind::NAMES[kind]);
            assert!(places.iter().all(|(_, all)| *all == steps as usize), "{what}");
            assert_eq!((places[0].0, places[places.len() - 1].0), (skip, steps as usize - 1), "{what}");
            assert!(places.windows(2).all(|pair| (0..=1).contains(&(pair[1].0 - pair[0].0))), "{what}");
        }
    }
}
