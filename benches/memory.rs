//! Seconds and peak memory of one picture, part by part: loading, prompts, steps, previews, the decoder. By hand, with
//! any checkpoint; the peaks are those of this process, which Linux tells. Large blocks are those of 1 MiB or more: all
//! that were allocated, and those that were not used before. The last line sets the estimate that `--memory-limit` goes
//! by beside the highest peak; `RAYON_NUM_THREADS` says how many threads compute.
//!
//! `cargo bench --bench memory -- CHECKPOINT [f32|f16|bf16] [SIDE] [all|load|decode]`

use std::{path::PathBuf, time::Instant};

use candle_core::{DType, Device, Tensor};
use sd_worker_rbee::{
    allocator,
    diffusion::{ImageSpec, Precision, Source, StableDiffusion, inspect},
};

/// MiB of the process: now, and at most until now, or zeros where the system does not tell.
fn memory() -> (u64, u64) {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let mib = |key: &str| {
        let line = status.lines().find_map(|line| line.strip_prefix(key))?;
        line.split_whitespace().next()?.parse::<u64>().ok()
    };
    (mib("VmRSS:").unwrap_or(0) / 1024, mib("VmHWM:").unwrap_or(0) / 1024)
}

/// Runs one part and prints what it took, with the peak of this part alone, which is returned.
fn part<T>(name: &str, run: impl FnOnce() -> T) -> (T, u64) {
    // 5 sets the peak back to what there is now; where that cannot be done, peaks are of all parts so far.
    let _ = std::fs::write("/proc/self/clear_refs", "5");
    let (before, begun) = (allocator::counts(), Instant::now());
    let result = run();
    let seconds = begun.elapsed().as_secs_f64();
    let (now, peak) = memory();
    let after = allocator::counts();
    let (asked, fresh) = ((after.asked - before.asked) >> 20, (after.fresh - before.fresh) >> 20);
    println!(
        "{name:<8} {seconds:8.2} s, {now:6} MiB now, {peak:6} MiB at most; in large blocks {asked:6} MiB, {fresh:6} MiB of \
         them from the system"
    );
    (result, peak)
}

fn main() {
    let args: Vec<String> = std::env::args().skip(1).filter(|arg| arg != "--bench").collect();
    let Some(folder) = args.first().map(PathBuf::from) else {
        return println!("memory: give a checkpoint, see the head of benches/memory.rs");
    };
    let dtype = match args.get(1).map(String::as_str) {
        Some("f16") => DType::F16,
        Some("bf16") => DType::BF16,
        _ => DType::F32,
    };
    let side: u32 = args.get(2).and_then(|side| side.parse().ok()).unwrap_or(512);
    let parts = args.get(3).map_or("all", String::as_str);
    part("start", || ());
    let (model, _) = part("load", || {
        StableDiffusion::load(&folder, &Device::Cpu, dtype).expect("a checkpoint that can be loaded")
    });
    let loaded = memory().0;
    println!("weights {} MiB", model.weight_bytes() >> 20);
    if parts == "decode" {
        let side = side as usize / model.vae().factor();
        let latents = Tensor::randn(0f32, 1.0, (1, model.vae().latent_channels(), side, side), &Device::Cpu);
        let latents = latents.expect("values for a benchmark");
        part("decode", || model.vae().decode(&latents).expect("the decoder decodes"));
    }
    if parts != "all" {
        return;
    }
    let spec = ImageSpec {
        steps: 3,
        seed: 1,
        ..ImageSpec::new("a red circle on the blue", Source::Text { width: side, height: side })
    };
    let (mut job, begun) = part("begin", || model.begin(&spec).expect("the checkpoint takes the job"));
    let peaks = [
        begun,
        part("step", || model.advance(&mut [&mut job]).expect("the checkpoint draws")).1,
        part("step 2", || model.advance(&mut [&mut job]).expect("the checkpoint draws")).1,
        part("preview", || model.preview(&job).expect("the checkpoint shows a preview")).1,
        part("again", || model.preview(&job).expect("the checkpoint shows a preview")).1,
        part("decode", || model.finish(&job).expect("the checkpoint decodes")).1,
        part("decode 2", || model.finish(&job).expect("the checkpoint decodes")).1,
    ];
    part("left", || drop(job));
    let needs = inspect(&folder, &Device::Cpu, Precision::all(dtype)).expect("a checkpoint that was loaded");
    let estimate = needs.activations.bytes(u64::from(side).pow(2)) >> 20;
    let measured = peaks.into_iter().max().unwrap_or(0).saturating_sub(loaded);
    println!(
        "beside the weights {measured} MiB at most; the estimate is {estimate} MiB, {:.2} of that",
        estimate as f64 / measured as f64
    );
}
