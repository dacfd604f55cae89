//! A checkpoint of real size with random weights, beside diffusers (`tools/parity/real_size.py` makes it): by hand, it
//! takes gigabytes and minutes.

use std::{path::PathBuf, time::Instant};

use candle_core::{DType, Device, Tensor};
use sd_worker_rbee::diffusion::{ImageSpec, Source, StableDiffusion};

use super::{
    runs::{LATENTS, PICTURE_LARGEST, PICTURE_MEAN, close},
    support::{Golden, picture},
};

/// The run of `real_size.py`.
fn spec(width: u32, height: u32) -> ImageSpec {
    ImageSpec {
        negative_prompt: Some("the circle".into()),
        steps: 2,
        seed: 42,
        ..ImageSpec::new("a red circle on the blue", Source::Text { width, height })
    }
}

/// Peak of the process' memory, in GiB.
fn peak() -> f64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find(|line| line.starts_with("VmHWM:")).unwrap();
    let kib: f64 = line.split_whitespace().nth(1).unwrap().parse().unwrap();
    kib / 1024.0 / 1024.0
}

#[test]
#[ignore = "needs a checkpoint of gigabytes: see tools/parity/real_size.py"]
fn real_size_checkpoints_end_in_diffusers_pictures() {
    let folder = PathBuf::from(std::env::var_os("PARITY_REAL").expect("PARITY_REAL names the folder"));
    let kept = match std::env::var("PARITY_DTYPE").as_deref() {
        Ok("f32") => DType::F32,
        _ => DType::F16,
    };
    let golden = Golden::read(folder.join("reference.safetensors").to_str().unwrap());
    let started = Instant::now();
    let model = StableDiffusion::load(&folder, &Device::Cpu, kept).unwrap();
    println!(
        "load {:.1} s, weights {:.2} GiB",
        started.elapsed().as_secs_f64(),
        model.weight_bytes() as f64 / (1u64 << 30) as f64
    );
    let started = Instant::now();
    let reference = golden.rgb("image");
    let mut job = model.begin(&spec(reference.width(), reference.height())).unwrap();
    println!("prompts {:.1} s", started.elapsed().as_secs_f64());
    let theirs = golden.get("latents");
    while !job.is_done() {
        let started = Instant::now();
        model.advance(&mut [&mut job]).unwrap();
        println!("step {:.1} s", started.elapsed().as_secs_f64());
        let theirs = theirs.get(job.step() as usize - 1).unwrap();
        let ours = Tensor::from_slice(job.latents(), theirs.shape(), &Device::Cpu).unwrap();
        close(&format!("step {}", job.step()), &ours, &theirs, LATENTS);
    }
    let started = Instant::now();
    let ours = model.finish(&job).unwrap();
    let (mean, largest) = picture::difference(&ours, &reference);
    println!("decode {:.1} s, peak {:.1} GiB", started.elapsed().as_secs_f64(), peak());
    println!("picture differs by {mean:.5} in the mean, {largest} at most");
    assert!(mean <= PICTURE_MEAN && largest <= PICTURE_LARGEST);
}
