//! Whole runs of a family against diffusers': latents after each step, and the picture.

use candle_core::{DType, Device, Tensor};
use sd_worker_rbee::diffusion::{self, ImageSpec, LoraSpec, Model, Picture, Source};
use serde::Deserialize;

use crate::support::{Golden, data, picture, relative_l2};

/// Relative L2 error of latents after several steps.
const LATENTS: f64 = 1e-4;
/// Of 255: mean and largest difference of a picture.
const PICTURE_MEAN: f64 = 0.02;
const PICTURE_LARGEST: i32 = 2;

#[derive(Deserialize)]
struct Run {
    name: String,
    checkpoint: String,
    source: String,
    prompt: String,
    negative_prompt: Option<String>,
    guidance_scale: f64,
    seed: u64,
    steps: u32,
    strength: f64,
    width: u32,
    height: u32,
    /// Names below `loras`, and strengths.
    #[serde(default)]
    loras: Vec<(String, f64)>,
}

/// A tensor is what it should be, within a relative L2 error.
pub fn close(what: &str, ours: &Tensor, theirs: &Tensor, limit: f64) {
    let error = relative_l2(ours, theirs);
    println!("{what}: relative L2 {error:.2e}");
    assert!(error <= limit, "{what}: relative L2 {error:e}, at most {limit:e}");
}

/// What a tool has written down of a family as JSON.
pub fn json<T: for<'a> Deserialize<'a>>(family: &str, name: &str) -> T {
    serde_json::from_slice(&std::fs::read(data(&format!("{family}/{name}.json"))).unwrap()).unwrap()
}

/// Draws the runs of `family` whose names begin with `kind`: text, image, inpaint, and lora.
pub fn check(family: &str, kind: &str) {
    check_of(family, "runs", kind);
}

/// As [`check`], of the runs that are in files of this name.
pub fn check_of(family: &str, file: &str, kind: &str) {
    let golden = Golden::read(&format!("{family}/{file}.safetensors"));
    let runs: Vec<Run> = json(family, file);
    let runs: Vec<Run> = runs.into_iter().filter(|run| run.name.starts_with(kind)).collect();
    assert!(runs.len() >= 2, "{kind}");
    for run in &runs {
        let opened = diffusion::open(&data(&format!("{family}/{}", run.checkpoint))).unwrap();
        let model = opened.load(&Device::Cpu, DType::F32.into()).unwrap();
        let mut job = model.begin(&spec(family, run, &golden)).unwrap();
        let theirs = golden.get(&format!("{}.latents", run.name));
        assert_eq!(job.total() as usize, theirs.dim(0).unwrap(), "{}: steps", run.name);
        while !job.is_done() {
            model.advance(&mut [&mut job]).unwrap();
            let theirs = theirs.get(job.step() as usize - 1).unwrap();
            let ours = Tensor::from_slice(job.latents(), theirs.shape(), &Device::Cpu).unwrap();
            close(&format!("{} step {}", run.name, job.step()), &ours, &theirs, LATENTS);
        }
        compare_pictures(run, &model, &job, &golden);
    }
}

/// A LoRA that a tool has made for a family.
pub fn lora(family: &str, name: &str, strength: f64) -> LoraSpec {
    LoraSpec { name: name.into(), file: data(&format!("{family}/loras/{name}.safetensors")), strength }
}

fn spec(family: &str, run: &Run, golden: &Golden) -> ImageSpec {
    let input = || golden.rgb(&format!("{}.input", run.name));
    let source = match run.source.as_str() {
        "text" => Source::Text { width: run.width, height: run.height },
        "image" => Source::Image { image: input(), strength: run.strength },
        _ => Source::Inpaint {
            image: input(),
            mask: golden.grey(&format!("{}.mask", run.name)),
            strength: run.strength,
            overlay: None,
        },
    };
    ImageSpec {
        negative_prompt: run.negative_prompt.clone(),
        steps: run.steps,
        guidance_scale: run.guidance_scale,
        seed: run.seed,
        loras: run.loras.iter().map(|(name, strength)| lora(family, name, *strength)).collect(),
        ..ImageSpec::new(run.prompt.clone(), source)
    }
}

fn compare_pictures(run: &Run, model: &Model, job: &Picture, golden: &Golden) {
    let ours = model.finish(job).unwrap();
    let (mean, largest) = picture::difference(&ours, &golden.rgb(&format!("{}.image", run.name)));
    println!("{}: picture differs by {mean:.5} in the mean, {largest} at most", run.name);
    assert!(mean <= PICTURE_MEAN && largest <= PICTURE_LARGEST, "{}: {mean} {largest}", run.name);
}
