//! Whole runs of diffusers' pipelines, done again here: latents after every step, and the picture.

use candle_core::{Device, Tensor};
use sd_worker_rbee::{
    contract::{PromptSyntax, SchedulerOptions},
    diffusion::{EmbeddingSpec, ImageSpec, LoraSpec, Picture, Source, StableDiffusion},
};
use serde::{Deserialize, de::DeserializeOwned};

use crate::support::{Golden, data, model, model_of_class, picture, relative_l2};

/// Relative L2 error of one module, and of latents after several steps with guidance.
pub const MODULE: f64 = 1e-4;
pub const LATENTS: f64 = 1e-4;
/// Of 255: mean and largest difference of a picture.
pub const PICTURE_MEAN: f64 = 0.02;
pub const PICTURE_LARGEST: i32 = 2;

#[derive(Deserialize)]
pub struct Run {
    pub name: String,
    pub checkpoint: String,
    source: String,
    pub scheduler: Option<String>,
    prompt: String,
    negative_prompt: Option<String>,
    guidance_scale: f64,
    seed: u64,
    steps: u32,
    clip_skip: u32,
    strength: f64,
    width: u32,
    height: u32,
    /// diffusers' class that the checkpoint is read as; none: its own.
    pipeline: Option<String>,
    #[serde(default)]
    loras: Vec<(String, f64)>,
    #[serde(default)]
    guidance_rescale: f64,
    #[serde(default)]
    scheduler_options: SchedulerOptions,
    /// Files whose words the prompts have, which are then read as `a1111`.
    #[serde(default)]
    embeddings: Vec<String>,
}

impl Run {
    /// Width and height that are drawn.
    pub fn size(&self) -> (u32, u32) {
        (self.width, self.height)
    }

    pub fn strength(&self) -> f64 {
        self.strength
    }
}

/// One of the LoRAs that were written down.
pub fn lora(name: &str, strength: f64) -> LoraSpec {
    LoraSpec { name: name.into(), file: data(&format!("loras/{name}.safetensors")), strength }
}

/// One of the textual inversions that were written down, by the last part of its path.
pub fn embedding(path: &str) -> EmbeddingSpec {
    let name = path.rsplit('/').next().unwrap().to_owned();
    EmbeddingSpec { name, field: "prompt", file: data(&format!("embeddings/{path}.safetensors")) }
}

pub fn close(what: &str, ours: &Tensor, theirs: &Tensor, limit: f64) {
    let error = relative_l2(ours, theirs);
    println!("{what}: relative L2 {error:.2e}");
    assert!(error <= limit, "{what}: relative L2 {error:e}, at most {limit:e}");
}

/// The request of a run; its pictures are in `golden` under the name `inputs`.
pub fn spec(run: &Run, golden: &Golden, inputs: &str) -> ImageSpec {
    let input = || golden.rgb(&format!("{inputs}.input"));
    let source = match run.source.as_str() {
        "text" => Source::Text { width: run.width, height: run.height },
        "image" => Source::Image { image: input(), strength: run.strength },
        _ => Source::Inpaint {
            image: input(),
            mask: golden.grey(&format!("{inputs}.mask")),
            strength: run.strength,
            overlay: None,
        },
    };
    spec_of(run, source)
}

/// The request of a run that starts from `source`.
pub fn spec_of(run: &Run, source: Source) -> ImageSpec {
    ImageSpec {
        negative_prompt: run.negative_prompt.clone(),
        clip_skip: run.clip_skip,
        steps: run.steps,
        guidance_scale: run.guidance_scale,
        guidance_rescale: run.guidance_rescale,
        seed: run.seed,
        scheduler: run.scheduler.clone(),
        scheduler_options: run.scheduler_options,
        loras: run.loras.iter().map(|(name, strength)| lora(name, *strength)).collect(),
        prompt_syntax: match run.embeddings.is_empty() {
            true => PromptSyntax::Plain,
            false => PromptSyntax::A1111,
        },
        embeddings: run.embeddings.iter().map(|path| embedding(path)).collect(),
        ..ImageSpec::new(run.prompt.clone(), source)
    }
}

/// The cases of a golden file.
pub fn cases<T: DeserializeOwned>(file: &str) -> Vec<T> {
    serde_json::from_slice(&std::fs::read(data(&format!("{file}.json"))).unwrap()).unwrap()
}

/// Runs every case of a golden file whose name begins with `kind`.
pub fn check_runs(file: &str, kind: &str) {
    let golden = Golden::read(&format!("{file}.safetensors"));
    let runs: Vec<Run> = cases(file);
    let runs: Vec<Run> = runs.into_iter().filter(|run| run.name.starts_with(kind)).collect();
    assert!(!runs.is_empty(), "{kind}");
    for run in &runs {
        let model = match &run.pipeline {
            Some(class) => model_of_class(&run.checkpoint, class),
            None => model(&run.checkpoint),
        };
        check_run(run, &model, &golden);
    }
}

/// Runs one case with this model.
pub fn check_run(run: &Run, model: &StableDiffusion, golden: &Golden) {
    let mut job = model.begin(&spec(run, golden, &run.name)).unwrap();
    let theirs = golden.get(&format!("{}.latents", run.name));
    assert_eq!(job.total() as usize, theirs.dim(0).unwrap(), "{}: steps", run.name);
    while !job.is_done() {
        model.advance(&mut [&mut job]).unwrap();
        let theirs = theirs.get(job.step() as usize - 1).unwrap();
        let ours = Tensor::from_slice(job.latents(), theirs.shape(), &Device::Cpu).unwrap();
        close(&format!("{} step {}", run.name, job.step()), &ours, &theirs, LATENTS);
    }
    compare_pictures(run, model, &job, golden);
}

fn compare_pictures(run: &Run, model: &StableDiffusion, job: &Picture, golden: &Golden) {
    let ours = model.finish(job).unwrap();
    let (mean, largest) = picture::difference(&ours, &golden.rgb(&format!("{}.image", run.name)));
    println!("{}: picture differs by {mean:.5} in the mean, {largest} at most", run.name);
    assert!(mean <= PICTURE_MEAN && largest <= PICTURE_LARGEST, "{}: {mean} {largest}", run.name);
}
