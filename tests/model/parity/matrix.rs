//! Every family with every scheduler: where the latents end, and the pictures that both ends decode to.
//!
//! `cargo test --test model parity::every_family -- --nocapture` prints the table of `docs/models.md`.

use std::collections::BTreeMap;

use candle_core::{Device, Tensor};
use sd_worker_rbee::diffusion::StableDiffusion;
use serde::Deserialize;

use super::{
    runs::{LATENTS, PICTURE_LARGEST, PICTURE_MEAN, Run, cases, spec},
    support::{Golden, model, relative_l2},
};

#[derive(Deserialize)]
struct Case {
    family: String,
    /// Of the network, as diffusers made them.
    evaluations: u32,
    #[serde(flatten)]
    run: Run,
}

/// How far ours is from diffusers'.
struct Difference {
    latents: f64,
    mean: f64,
    largest: u8,
}

#[test]
fn every_family_with_every_scheduler_ends_where_diffusers_ends() {
    let golden = Golden::read("matrix.safetensors");
    let cases: Vec<Case> = cases("matrix");
    let schedulers = StableDiffusion::schedulers();
    let mut models = BTreeMap::new();
    let mut table: BTreeMap<&str, Vec<(&str, Difference)>> = BTreeMap::new();
    for Case { family, evaluations, run } in &cases {
        let model = models.entry(&run.checkpoint).or_insert_with(|| model(&run.checkpoint));
        let scheduler = run.scheduler.as_deref().unwrap();
        let difference = difference(model, run, *evaluations, &golden);
        table.entry(family).or_default().push((scheduler, difference));
    }
    for (family, rows) in &table {
        println!(
            "\n{family}: relative L2 of the latents; mean and largest difference of the picture, of 255"
        );
        for (scheduler, d) in rows {
            println!("  {scheduler:26} {:.1e}  {:.4}  {}", d.latents, d.mean, d.largest);
        }
        assert_eq!(rows.len(), schedulers.len(), "{family}");
    }
    assert_eq!(table.len(), 14, "9 families, 5 rows with masks");
    for (family, rows) in &table {
        for (scheduler, d) in rows {
            let fits =
                d.latents <= LATENTS && d.mean <= PICTURE_MEAN && i32::from(d.largest) <= PICTURE_LARGEST;
            assert!(fits, "{family} {scheduler}: {:e} {} {}", d.latents, d.mean, d.largest);
        }
    }
}

fn difference(model: &StableDiffusion, run: &Run, evaluations: u32, golden: &Golden) -> Difference {
    let mut job = model.begin(&spec(run, golden, &run.checkpoint)).unwrap();
    assert_eq!(job.total(), evaluations, "{}", run.name);
    while !job.is_done() {
        model.advance(&mut [&mut job]).unwrap();
    }
    let theirs = golden.get(&format!("{}.end", run.name));
    let shape = theirs.dims3().unwrap();
    let ours = Tensor::from_slice(job.latents(), shape, &Device::Cpu).unwrap();
    let pixels = |latents: &Tensor| -> Vec<u8> {
        let latents: Vec<f32> = latents.flatten_all().unwrap().to_vec1().unwrap();
        let (planes, _) = model.vae().draw(&latents, shape, &Device::Cpu).unwrap();
        planes.iter().map(|x| ((x * 0.5 + 0.5).clamp(0.0, 1.0) * 255.0).round() as u8).collect()
    };
    let (a, b) = (pixels(&ours), pixels(theirs));
    let differences: Vec<u8> = a.iter().zip(&b).map(|(a, b)| a.abs_diff(*b)).collect();
    Difference {
        latents: relative_l2(&ours, theirs),
        mean: differences.iter().map(|d| f64::from(*d)).sum::<f64>() / differences.len() as f64,
        largest: differences.into_iter().max().unwrap(),
    }
}
